"""Fetching is bound by one deadline and one size, takes http(s) only, and tells every fault in one line."""

from __future__ import annotations

import io
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vitkit.errors import ImageError
from vitkit.image.decode import Limits, decode
from vitkit.image.fetch import fetch, is_url

Answer = Callable[[BaseHTTPRequestHandler], None]


@pytest.fixture(autouse=True)
def without_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@contextmanager
def serving(answer: Answer) -> Iterator[str]:
    """The address of a loopback server whose every GET is answered by `answer`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            try:
                answer(self)
            except OSError:  # the client has hung up, as it should
                self.close_connection = True

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def body(data: bytes, *, status: int = 200, length: int | None = -1, **headers: str) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        if length is not None:
            handler.send_header("Content-Length", str(len(data) if length < 0 else length))
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(data)

    return answer


def refused(url: str, *, limit_bytes: int = 1000, timeout_s: float = 5.0) -> str:
    with pytest.raises(ImageError) as caught:
        fetch(url, limit_bytes=limit_bytes, timeout_s=timeout_s)
    text = str(caught.value)
    assert text.isprintable()
    assert text.startswith(url)
    return text


@pytest.mark.parametrize("length", [-1, None])
def test_the_body_comes_back_whole_with_and_without_a_length(length: int | None) -> None:
    data = bytes(range(256)) * 1000
    with serving(body(data, length=length)) as url:
        assert fetch(f"{url}/a", limit_bytes=len(data), timeout_s=5) == data


def test_the_request_names_us_and_quotes_what_a_url_may_not_hold() -> None:
    seen: list[tuple[str, str | None]] = []

    def answer(handler: BaseHTTPRequestHandler) -> None:
        seen.append((handler.path, handler.headers["User-Agent"]))
        body(b"x")(handler)

    with serving(answer) as url:
        fetch(f"{url}/ä b%20c.jpg?q=1&r=2", limit_bytes=10, timeout_s=5)
    assert seen == [("/%C3%A4%20b%20c.jpg?q=1&r=2", "vitkit")]


def test_a_picture_behind_a_url_decodes() -> None:
    image = Image.new("RGB", (6, 5), (1, 2, 3))
    file = io.BytesIO()
    image.save(file, "PNG")
    with serving(body(file.getvalue())) as url:
        assert np.array_equal(decode(f"{url}/a.png"), np.asarray(image))
        with pytest.raises(ImageError, match="holds more than the 10 bytes allowed"):
            decode(f"{url}/a.png", limits=Limits(max_bytes=10))
    with serving(body(b"<html>")) as url, pytest.raises(ImageError, match=f"{url}/a.png isn't a picture"):
        decode(f"{url}/a.png")


@pytest.mark.parametrize("status", [403, 404, 500, 503])
def test_the_servers_refusals_are_told(status: int) -> None:
    with serving(body(b"no", status=status)) as url:
        assert f"the server answers {status} " in refused(f"{url}/a.jpg")


def test_size_is_bound_by_the_length_said_and_by_the_bytes_that_come() -> None:
    with serving(body(b"x" * 1001)) as url:
        assert "more than the 1,000 bytes allowed" in refused(url)
        assert len(fetch(url, limit_bytes=1001, timeout_s=5)) == 1001
    with serving(body(b"", length=10**12)) as url:  # refused without waiting for it
        assert "more than the 1,000 bytes allowed" in refused(url)
    with serving(body(b"x" * 1001, length=None)) as url:
        assert "more than the 1,000 bytes allowed" in refused(url)


def test_a_flood_of_headers_is_cut() -> None:
    def flood(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            handler.wfile.write(b"X-Flood: " + b"x" * 60_000 + b"\r\n")

    with serving(flood) as url:
        assert "more bytes than allowed" in refused(url)


def test_the_body_of_a_redirect_is_not_waited_for() -> None:
    def endless(handler: BaseHTTPRequestHandler) -> None:
        if handler.path == "/there":
            body(b"there")(handler)
            return
        handler.send_response(302)
        handler.send_header("Location", "/there")
        handler.end_headers()
        while True:
            handler.wfile.write(b"x" * 2**16)

    with serving(endless) as url:
        assert fetch(url, limit_bytes=10, timeout_s=5) == b"there"


def test_a_body_that_ends_early_is_an_error() -> None:
    with serving(body(b"x" * 10, length=100)) as url:
        assert "ends after 10 of 100 bytes" in refused(url)


def trickle_body(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    while True:
        handler.wfile.write(b"x")
        time.sleep(0.05)


def trickle_headers(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    while True:
        handler.wfile.write(b"x")
        time.sleep(0.05)


def stall(handler: BaseHTTPRequestHandler) -> None:
    time.sleep(1.5)


@pytest.mark.parametrize("answer", [trickle_body, trickle_headers, stall])
def test_the_deadline_holds_however_the_server_dawdles(answer: Answer) -> None:
    with serving(answer) as url:
        start = time.monotonic()
        assert "no complete answer within 0.3 s" in refused(url, timeout_s=0.3)
        assert time.monotonic() - start < 1.2


def test_the_deadline_covers_redirects_together() -> None:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        time.sleep(0.15)
        body(b"", status=302, Location=handler.path + "a")(handler)

    with serving(answer) as url:
        assert "within 0.4 s" in refused(f"{url}/", timeout_s=0.4)


def test_redirects_are_followed_a_few_times() -> None:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        left = int(handler.path[1:])
        (body(b"", status=302, Location=f"/{left - 1}") if left else body(b"there"))(handler)

    with serving(answer) as url:
        assert fetch(f"{url}/5", limit_bytes=10, timeout_s=5) == b"there"
        assert "more than 5 times" in refused(f"{url}/6")


@pytest.mark.parametrize("target", ["file:///etc/hostname", "ftp://127.0.0.1/a.jpg", "data:image/png;base64,AA"])
def test_redirects_never_leave_http(target: str) -> None:
    with serving(body(b"", status=302, Location=target)) as url:
        text = refused(url)
        assert "only these are fetched" in text or "not allowed" in text


@pytest.mark.parametrize(
    "url", ["file:///etc/hostname", "ftp://127.0.0.1/a", "gopher://x/", "http://", "http:///a.jpg"]
)
def test_other_schemes_and_missing_hosts_are_refused(url: str) -> None:
    assert "only these are fetched" in refused(url)


def test_connections_that_fail_are_told() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert "refused" in refused(f"http://127.0.0.1:{port}/a.jpg").lower()
    assert "can't be fetched" in refused("http://127.0.0.1:99999999/a.jpg")
    assert "can't be fetched" in refused("http://[::1/a.jpg")
    with serving(body(b"x")) as url:
        assert "can't be fetched" in refused(url.replace("http://", "https://"))  # no TLS there

    def nonsense(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"SSH-2.0-OpenSSH\r\n\r\n")

    with serving(nonsense) as url:
        assert "can't be fetched" in refused(url)


def test_only_schemes_make_urls() -> None:
    assert all(map(is_url, ["http://a", "HTTPS://a", "ftp://a", "s3+x://a"]))
    assert not any(map(is_url, ["a.jpg", "/a/b.jpg", "C://a.jpg", "http:/a", "data:image/png,x", ""]))
