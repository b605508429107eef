"""One picture's bytes from an http(s) URL, within one deadline and one size for the whole exchange."""

from __future__ import annotations

import functools
import http.client
import io
import re
import socket
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import IO, Any

from vitkit.errors import ImageError

__all__ = ["fetch", "is_url"]

MAX_REDIRECTS = 5
HEADROOM_BYTES = 2**20  # status lines and headers, of redirects too, on top of the picture itself
CHUNK_BYTES = 2**16


def is_url(text: str) -> bool:
    """True for anything that starts like `scheme://`, also for the schemes that `fetch` refuses."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", text) is not None


def fetch(url: str, *, limit_bytes: int, timeout_s: float) -> bytes:
    """Returns the body behind `url`: http and https only, also after redirects (at most 5).

    `timeout_s` is a deadline for connecting, redirects and reading together, so that a server which trickles bytes is
    cut too; only looking up the host's name comes on top. `limit_bytes` bounds the body, by its Content-Length before
    reading and by count while reading. Proxies are taken from the environment, as everywhere in urllib.

    Raises ImageError, naming the URL, where the answer isn't a whole body with a 2xx status within both limits.
    """
    exchange = _Exchange(time.monotonic() + timeout_s, limit_bytes + HEADROOM_BYTES)
    try:
        _check_scheme(url)
        quoted = urllib.parse.quote(url, safe="%/:=&?~#+!$,;'@()*[]")
        request = urllib.request.Request(quoted, headers={"User-Agent": "vitkit", "Accept": "image/*"})
        with _opener(exchange).open(request, timeout=timeout_s) as response:
            return _read(response, limit_bytes)
    except _RefusedError as error:
        raise ImageError(f"{url} {error}") from None
    except urllib.error.HTTPError as error:
        error.close()
        raise ImageError(f"{url}: the server answers {error.code} {_one_line(error.reason)}; check the URL") from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(reason, TimeoutError):
            raise ImageError(f"{url}: no complete answer within {timeout_s:g} s; try again or allow more") from None
        said = _one_line(reason) or type(error).__name__
        raise ImageError(f"{url} can't be fetched: {said}; check the URL and the connection") from None


class _RefusedError(Exception):
    """Why a URL or an answer isn't taken; its text goes on after the URL."""


class _Exchange:
    """What one fetch may still spend over all of its connections; the only state here."""

    def __init__(self, deadline: float, left_bytes: int) -> None:
        self.deadline = deadline
        self.left_bytes = left_bytes

    def left_s(self) -> float:
        """Seconds to the deadline, > 0; raises TimeoutError where none are left."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left


class _MeteredRaw(io.RawIOBase):
    """A socket's bytes, charged to the exchange: the socket's own timeout would start anew at every byte."""

    def __init__(self, sock: socket.socket, raw: io.RawIOBase, exchange: _Exchange) -> None:
        self.sock = sock
        self.raw = raw
        self.exchange = exchange

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self.sock.settimeout(self.exchange.left_s())
        count: int | None = self.raw.readinto(buffer)
        self.exchange.left_bytes -= count or 0
        if self.exchange.left_bytes < 0:
            raise _RefusedError("answers with more bytes than allowed")
        return count

    def close(self) -> None:
        self.raw.close()
        super().close()


class _Response(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, exchange: _Exchange, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        self.fp = io.BufferedReader(_MeteredRaw(sock, self.fp.detach(), exchange))


class _HttpConnection(http.client.HTTPConnection):
    def __init__(self, host: str, *, exchange: _Exchange, **options: Any) -> None:
        super().__init__(host, **options)
        self.exchange = exchange
        self.response_class = functools.partial(_Response, exchange=exchange)  # type: ignore[assignment]

    def connect(self) -> None:
        self.timeout = self.exchange.left_s()
        super().connect()


class _HttpsConnection(_HttpConnection, http.client.HTTPSConnection):
    pass


class _Open(urllib.request.HTTPSHandler, urllib.request.HTTPHandler):
    def __init__(self, exchange: _Exchange) -> None:
        super().__init__()
        self.exchange = exchange

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(functools.partial(_HttpConnection, exchange=self.exchange), req)

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(functools.partial(_HttpsConnection, exchange=self.exchange), req)


class _Redirect(urllib.request.HTTPRedirectHandler):
    max_redirections = MAX_REDIRECTS
    inf_msg = f"redirects in a circle or more than {MAX_REDIRECTS} times: "

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        fp.close()  # or its body would be read to the end, however long
        try:
            _check_scheme(newurl)
        except _RefusedError as error:
            raise _RefusedError(f"redirects to {newurl}, which {error}") from None
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener(exchange: _Exchange) -> urllib.request.OpenerDirector:
    # build_opener would add readers of file:, ftp: and data: URLs.
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        _Open(exchange),
        _Redirect(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener


def _check_scheme(url: str) -> None:
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise _RefusedError("is no http:// or https:// address of a host; only these are fetched")


def _read(response: http.client.HTTPResponse, limit_bytes: int) -> bytes:
    expected = response.length  # from Content-Length; None where the server doesn't say
    body = bytearray()
    while len(body) <= limit_bytes and (expected is None or expected <= limit_bytes):
        chunk = response.read(CHUNK_BYTES)
        if not chunk:
            if expected is not None and len(body) < expected:
                raise _RefusedError(f"ends after {len(body):,} of {expected:,} bytes; try again")
            return bytes(body)
        body += chunk
    raise _RefusedError(f"holds more than the {limit_bytes:,} bytes allowed; download and shrink it, or allow more")


def _one_line(value: object) -> str:
    """What a server or the system says, short enough for an error."""
    return " ".join(str(value).split())[:200]
