"""A loopback Hub: enough of the protocol for the real huggingface_hub client, with faults to order."""

import base64
import contextlib
import hashlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from urllib.parse import unquote, urlsplit

import pytest

LARGE = (".safetensors", ".bin", ".pth", ".npz")  # kept as large files: etag is the sha256, the bytes are on the CDN
TOKEN = "hf_loopback"


@dataclass
class Repo:
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)

    def resolve(self, revision: str) -> str | None:
        return revision if revision in self.commits else self.refs.get(revision)


class HubServer:
    """Two servers on 127.0.0.1: the Hub at `url` and the CDN that it redirects large files to.

    `faults` maps a file's name, or "api" for the questions before any file, to what goes wrong with it: a status
    ("503"), "stall" (silence), "kill" (half the bytes, then a closed connection, and again at every resumption),
    "kill-once", "flip" (one wrong bit). `gated` and `moved` (old id -> new id) name models; `requests` logs
    "METHOD path" in order. Only `token` is accepted, and uploads need it.
    """

    def __init__(self) -> None:
        self.token = TOKEN
        self.repos: dict[str, Repo] = {}
        self.blobs: dict[str, bytes] = {}
        self.faults: dict[str, str] = {}
        self.gated: set[str] = set()
        self.moved: dict[str, str] = {}
        self.requests: list[str] = []
        self.closing = threading.Event()
        self._servers = [self._serve(_HubHandler), self._serve(_CdnHandler)]
        self.url, self.cdn_url = (f"http://127.0.0.1:{server.server_address[1]}" for server in self._servers)

    def _serve(self, handler: type["_Handler"]) -> "_Server":
        server = _Server(("127.0.0.1", 0), type(handler.__name__, (handler,), {"hub": self}))
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return server

    def add(self, repo_id: str, files: dict[str, bytes], revision: str = "main") -> str:
        """Makes a commit that holds exactly `files` and points `revision` (a branch or tag) to it; returns its sha."""
        repo = self.repos.setdefault(repo_id, Repo())
        commit = hashlib.sha1(repr((repo_id, len(repo.commits), sorted(files.items()))).encode()).hexdigest()
        repo.commits[commit] = dict(files)
        repo.refs[revision] = commit
        return commit

    def downloads(self) -> list[str]:
        """The names of the files whose bytes were asked for, in order."""
        paths = [line.split()[1] for line in self.requests if line.startswith("GET ")]
        return [path.rsplit("/", 1)[1] for path in paths if path.startswith(("/lfs/", "/api/resolve-cache/"))]

    def environment(self, cache: Path) -> dict[str, str]:
        """Variables under which a process of its own talks to this Hub, keeps its cache in `cache` and no settings."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(cache),
            "HF_HUB_CACHE": str(cache / "hub"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_ETAG_TIMEOUT": "5",
            "HF_HUB_DOWNLOAD_TIMEOUT": "5",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }

    def close(self) -> None:
        """Ends both servers and every open connection: from now on, new ones are refused."""
        self.closing.set()
        for server in self._servers:
            server.shutdown()
            server.server_close()
            for connection in server.connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> "HubServer":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if not self.closing.is_set():
            self.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(address, handler)
        self.connections: list[socket.socket] = []

    def get_request(self) -> tuple[socket.socket, object]:
        connection, address = super().get_request()
        self.connections.append(connection)
        return connection, address


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    hub: HubServer

    def log_message(self, format: str, *args: object) -> None:
        pass

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except ConnectionError:  # the client gave up waiting: that is what some tests are about
            self.close_connection = True

    def do_HEAD(self) -> None:
        self._respond()

    def do_GET(self) -> None:
        self._respond()

    def do_POST(self) -> None:
        self._respond()

    def do_PUT(self) -> None:
        self._respond()

    def _respond(self) -> None:
        self.path = unquote(urlsplit(self.path).path)
        if self.path != "/api/agent-harnesses":  # the client's own curiosity, once a day
            self.hub.requests.append(f"{self.command} {self.path}")
        self.body = self._read_body()
        self.route()

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def route(self) -> None:
        raise NotImplementedError

    def answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def answer_json(self, value: object, status: int = 200) -> None:
        self.answer(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def refuse(self, status: int, code: str, message: str) -> None:
        headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        self.answer(status, b"", headers)

    def suffer(self, fault: str | None) -> bool:
        """Plays a fault that needs no content; returns whether it did."""
        if fault == "stall":
            self.hub.closing.wait(30)
            self.close_connection = True
        elif fault is not None and fault.isdigit():
            self.refuse(int(fault), "", "ordered by the test")
        else:
            return False
        return True

    def send_file(self, name: str, content: bytes, headers: dict[str, str]) -> None:
        """The bytes, or the part that a Range header asks for, with the faults that concern content."""
        fault = self.hub.faults.get(name)
        if self.suffer(fault):
            return
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
        if fault == "flip":
            content = bytes([content[0] ^ 1]) + content[1:]
        part = content[start:]
        headers = {"Content-Length": str(len(part)), "Accept-Ranges": "bytes", **headers}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        if fault not in ("kill", "kill-once") or self.command == "HEAD":
            self.answer(206 if start else 200, part, headers)
            return
        if fault == "kill-once":
            del self.hub.faults[name]
        self.answer(206 if start else 200, b"" if start else part[: len(part) // 2], headers)
        self.close_connection = True


class _CdnHandler(_Handler):
    """/lfs/<sha256>/<name>: the bytes of a large file, to read without a token and to write."""

    def route(self) -> None:
        _, _, digest, name = self.path.split("/")
        if self.command == "PUT":
            assert hashlib.sha256(self.body).hexdigest() == digest
            self.hub.blobs[digest] = self.body
            self.answer(200)
            return
        assert "Authorization" not in self.headers, "the token must not leave the Hub"
        self.send_file(name, self.hub.blobs[digest], {"ETag": '"the CDN\'s own"'})


class _HubHandler(_Handler):
    def route(self) -> None:
        given = self.headers.get("Authorization")
        if self.path == "/api/agent-harnesses":
            self.answer(404)
        elif given is not None and given != f"Bearer {self.hub.token}":
            self.refuse(401, "", "Invalid credentials in Authorization header")
        elif self.path.startswith("/api/resolve-cache/models/"):
            self.send_small(self.path.removeprefix("/api/resolve-cache/models/"))
        elif self.path.startswith("/api/"):
            self.route_api()
        elif self.path.endswith(".git/info/lfs/objects/batch"):
            self.offer_uploads()
        else:
            self.resolve()

    def route_api(self) -> None:
        if self.suffer(self.hub.faults.get("api")):
            return
        if self.command == "POST" and "Authorization" not in self.headers:
            self.refuse(401, "", "Invalid username or password.")
        elif self.path == "/api/repos/create":
            asked = json.loads(self.body)
            repo_id = f"{asked['organization']}/{asked['name']}"
            known = repo_id in self.hub.repos
            self.hub.repos.setdefault(repo_id, Repo(commits={"0" * 40: {}}, refs={"main": "0" * 40}))
            self.answer_json({"url": f"{self.hub.url}/{repo_id}"}, 409 if known else 200)
        elif self.path == "/api/validate-yaml":
            self.answer_json({"errors": [], "warnings": []})
        else:
            _, _, _, org, name, *rest = self.path.split("/", 6)
            verb, _, revision = "/".join(rest).partition("/")
            repo_id = f"{org}/{name}"
            if repo_id in self.hub.moved:
                moved = "/".join(["/api/models", self.hub.moved[repo_id], *rest])
                self.answer(307, b"", {"Location": moved})
            elif (repo := self.hub.repos.get(repo_id)) is None:
                self.refuse(404 if "Authorization" in self.headers else 401, "RepoNotFound", "Repository not found")
            elif verb == "preupload":
                self.choose_modes()
            elif verb == "commit":
                self.commit(repo_id, repo, revision)
            elif verb == "tree" and (commit := repo.resolve(revision)) is not None:
                self.list_tree(repo.commits[commit])
            elif (commit := repo.resolve(revision or "main")) is None:
                self.refuse(404, "RevisionNotFound", "Invalid rev id")
            else:
                self.describe(repo_id, repo, commit)

    def describe(self, repo_id: str, repo: Repo, commit: str) -> None:
        siblings: list[dict[str, object]] = []
        for name, content in repo.commits[commit].items():
            sibling: dict[str, object] = {"rfilename": name, "size": len(content), "blobId": git_sha1(content)}
            if name.endswith(LARGE):
                digest = hashlib.sha256(content).hexdigest()
                sibling["lfs"] = {"sha256": digest, "size": len(content), "pointerSize": 130}
                sibling["blobId"] = git_sha1(f"oid sha256:{digest}".encode())
            siblings.append(sibling)
        self.answer_json({"_id": "1", "id": repo_id, "modelId": repo_id, "sha": commit, "siblings": siblings})

    def list_tree(self, files: dict[str, bytes]) -> None:
        """What snapshot_download asks for: files as siblings are described, but with other keys."""
        entries: list[dict[str, object]] = []
        for name, content in files.items():
            entry: dict[str, object] = {"type": "file", "path": name, "size": len(content), "oid": git_sha1(content)}
            if name.endswith(LARGE):
                digest = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"oid": digest, "size": len(content), "pointerSize": 130}
            entries.append(entry)
        self.answer_json(entries)

    def resolve(self) -> None:
        """/<org>/<name>/resolve/<revision>/<file>: headers that describe the file, and a redirection to its bytes."""
        _, org, name, _, revision, file = self.path.split("/", 5)
        repo_id = f"{org}/{name}"
        if repo_id in self.hub.moved:
            self.answer(307, b"", {"Location": f"/{self.hub.moved[repo_id]}/resolve/{revision}/{file}"})
            return
        repo = self.hub.repos[repo_id]
        commit = repo.resolve(revision)
        if commit is None:
            self.refuse(404, "RevisionNotFound", "Invalid rev id")
        elif repo_id in self.hub.gated:
            self.refuse(403 if "Authorization" in self.headers else 401, "GatedRepo", "Access is restricted")
        elif file not in repo.commits[commit]:
            self.refuse(404, "EntryNotFound", "Entry not found")
        elif file.endswith(LARGE):
            if self.hub.faults.get(file, "").startswith("head-"):
                self.suffer(self.hub.faults[file].removeprefix("head-"))
                return
            content = repo.commits[commit][file]
            digest = hashlib.sha256(content).hexdigest()
            self.hub.blobs[digest] = content
            linked = {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(content)), "X-Repo-Commit": commit}
            self.answer(302, b"", linked | {"Location": f"{self.hub.cdn_url}/lfs/{digest}/{file}"})
        else:
            location = f"/api/resolve-cache/models/{repo_id}/{commit}/{file}"
            self.answer(307, b"", {"X-Repo-Commit": commit, "Location": location})

    def send_small(self, path: str) -> None:
        org, name, commit, file = path.split("/", 3)
        content = self.hub.repos[f"{org}/{name}"].commits[commit][file]
        self.send_file(file, content, {"X-Repo-Commit": commit, "ETag": f'"{git_sha1(content)}"'})

    def choose_modes(self) -> None:
        files = json.loads(self.body)["files"]
        modes = [
            {"path": file["path"], "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular"} for file in files
        ]
        self.answer_json({"files": [{**mode, "shouldIgnore": False} for mode in modes]})

    def offer_uploads(self) -> None:
        objects = [
            {
                "oid": wanted["oid"],
                "size": wanted["size"],
                "actions": {"upload": {"href": f"{self.hub.cdn_url}/lfs/{wanted['oid']}/upload"}},
            }
            for wanted in json.loads(self.body)["objects"]
        ]
        self.answer_json({"transfer": "basic", "objects": objects})

    def commit(self, repo_id: str, repo: Repo, revision: str) -> None:
        files = dict(repo.commits[repo.refs[revision]])
        for line in self.body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.hub.blobs[value["oid"]]
        commit = self.hub.add(repo_id, files, revision)
        url = f"{self.hub.url}/{repo_id}/commit/{commit}"
        self.answer_json({"success": True, "commitUrl": url, "commitOid": commit})


def git_sha1(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class _HurriedTime:
    """The time module for the client, but nobody waits between two attempts."""

    def __getattr__(self, name: str) -> object:
        return getattr(time, name)

    def sleep(self, seconds: float) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A running Hub that the client in this process and its children use, with an empty cache and no user settings.

    The client reads the environment when it is imported, which may be long ago: so its constants change too.
    """
    import huggingface_hub
    from huggingface_hub import constants, file_download, hf_api
    from huggingface_hub.utils import _cache_manager, _http

    home = tmp_path / "hf-home"
    with HubServer() as server:
        for name in [name for name in os.environ if name.startswith(("HF_", "HUGGING"))]:
            monkeypatch.delenv(name)
        for name, value in server.environment(home).items():
            monkeypatch.setenv(name, value)
        changed = {
            "ENDPOINT": server.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": server.url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HOME": str(home),
            "HF_HUB_CACHE": str(home / "hub"),
            "HUGGINGFACE_HUB_CACHE": str(home / "hub"),
            "HF_TOKEN_PATH": str(home / "token"),
            "HF_STORED_TOKENS_PATH": str(home / "stored_tokens"),
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_XET": True,
            "HF_HUB_DISABLE_TELEMETRY": True,
            "HF_HUB_ETAG_TIMEOUT": 5,
            "HF_HUB_DOWNLOAD_TIMEOUT": 5,
        }
        for name, constant in changed.items():
            monkeypatch.setattr(constants, name, constant)
        monkeypatch.setattr(constants, "AGENT_HARNESSES_PATH", str(home / "agents.json"), raising=False)
        monkeypatch.setattr(_cache_manager, "HF_HUB_CACHE", str(home / "hub"))
        monkeypatch.setattr(hf_api.api, "endpoint", server.url)
        for module in (file_download, _http):
            monkeypatch.setattr(module, "time", _HurriedTime())
        huggingface_hub.close_session()
        yield server
        huggingface_hub.close_session()
