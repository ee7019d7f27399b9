"""A stand-in for the hub on 127.0.0.1: it answers what the installed huggingface_hub asks about datasets, with faults.

    GET  /api/datasets/{repo}[/revision/{rev}]             the commit and the card
    GET  /api/datasets/{repo}/tree/{rev}[/{folder}]        files in pages; `Link: <...>; rel="next"` names the next page
    HEAD|GET /datasets/{repo}/resolve/{rev}/{path}         LFS files: 302 to the CDN, with X-Repo-Commit, X-Linked-Etag
                                                           and X-Linked-Size; small files: their bytes
    HEAD|GET {cdn}/{sha256}?signature=...                  the bytes, whole or by range; the CDN is another origin

Every request is in `hub.log`. A Fault spoils the next `times` requests whose address holds `where`.
"""

import hashlib
import http.server
import json
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

CHUNK = 1 << 14


@dataclass
class Fault:
    """What goes wrong, and how often."""

    where: str  # a part of the address; "/cdn/" for the bytes of files
    times: int = 1
    status: int | None = None  # answer this and nothing else
    headers: dict[str, str] = field(default_factory=dict)  # ... with these
    drop_after: int | None = None  # close the connection after so many bytes of the body
    cut: int = 0  # send so many bytes less, as if the file ended there
    extra: bytes = b""  # send these too, as if they belonged to the file
    flip_at: int | None = None  # spoil the byte at this place of the file
    ignore_range: bool = False  # send the whole file
    stall_s: float = 0.0  # say nothing for so long


@dataclass(frozen=True)
class Request:
    """One line of the log."""

    method: str
    path: str
    range: str | None
    token: str | None
    status: int


@dataclass
class Repo:
    """A dataset: what each commit holds, and what its branches name."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    card: dict[str, Any] = field(default_factory=dict)
    gated_for: str | None = None  # only this token may read it

    def commit(self, files: dict[str, bytes], branch: str = "main") -> str:
        """Makes these files the state of a branch; returns the commit's name."""
        listing = "".join(f"{path}:{hashlib.sha256(data).hexdigest()}" for path, data in sorted(files.items()))
        sha = hashlib.sha1(f"{len(self.commits)}{listing}".encode()).hexdigest()
        self.commits[sha] = dict(files)
        self.branches[branch] = sha
        return sha


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed or told to stop leaves in the middle; that is no trouble of the hub."""


class Hub:
    """The server and its CDN; a context manager. `bytes_per_s` slows the CDN down, `page` is files in a page."""

    def __init__(self, *, page: int = 1000, bytes_per_s: float | None = None) -> None:
        self.page = page
        self.bytes_per_s = bytes_per_s
        self.repos: dict[str, Repo] = {}
        self.faults: list[Fault] = []
        self.log: list[Request] = []
        self.lock = threading.Lock()
        self._servers = [_Server(("127.0.0.1", 0), _handler(self)) for _ in range(2)]
        self.endpoint, self.cdn = (f"http://127.0.0.1:{server.server_address[1]}" for server in self._servers)

    def __enter__(self) -> "Hub":
        for server in self._servers:
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def repo(self, name: str, files: dict[str, bytes], card: dict[str, Any] | None = None) -> Repo:
        """A new dataset with one commit on main."""
        self.repos[name] = Repo(card=card or {})
        self.repos[name].commit(files)
        return self.repos[name]

    def requests(self, where: str, method: str = "GET") -> list[Request]:
        with self.lock:
            return [r for r in self.log if where in r.path and r.method == method]

    def take_fault(self, path: str) -> Fault:
        with self.lock:
            for fault in self.faults:
                if fault.where in path and fault.times > 0:
                    fault.times -= 1
                    return fault
        return Fault("", 0)

    def blob(self, sha256: str) -> bytes | None:
        files = (data for repo in self.repos.values() for commit in repo.commits.values() for data in commit.values())
        return next((data for data in files if hashlib.sha256(data).hexdigest() == sha256), None)


def is_lfs(path: str) -> bool:
    return not path.endswith((".md", ".txt", ".gitattributes"))


def git_sha1(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def tree_entry(path: str, data: bytes) -> dict[str, Any]:
    """What the tree says of a file."""
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(data), "oid": git_sha1(data)}
    if is_lfs(path):
        pointer = hashlib.sha1(path.encode()).hexdigest()
        sha256 = hashlib.sha256(data).hexdigest()
        entry |= {"oid": pointer, "lfs": {"oid": sha256, "size": len(data), "pointerSize": 134}, "xetHash": sha256}
    return entry


class _Refused(Exception):
    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


def _handler(hub: Hub) -> Callable[..., http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.answer()

        def do_GET(self) -> None:
            self.answer()

        def answer(self) -> None:
            fault = hub.take_fault(self.path)
            if fault.stall_s:
                time.sleep(fault.stall_s)
            if fault.status is not None:
                self.send(fault.status, b"", fault.headers)
                return
            address = urlsplit(self.path)
            try:
                if match := re.fullmatch(r"/cdn/([0-9a-f]{64})", address.path):
                    self.send_file(hub.blob(match[1]) or b"", match[1], {}, fault)
                elif match := re.fullmatch(r"/api/datasets/(.+?)/tree/([^/]+)(?:/(.+))?", address.path):
                    self.send_tree(match[1], unquote(match[2]), unquote(match[3] or ""), parse_qs(address.query))
                elif match := re.fullmatch(r"/datasets/(.+?)/resolve/([^/]+)/(.+)", address.path):
                    self.send_resolved(match[1], unquote(match[2]), unquote(match[3]), fault)
                elif match := re.fullmatch(r"/api/datasets/(.+?)(?:/revision/([^/]+))?", address.path):
                    self.send_info(match[1], unquote(match[2] or "main"))
                else:
                    raise _Refused(404, "", "Not Found")
            except _Refused as error:
                headers = {"X-Error-Message": str(error)} | ({"X-Error-Code": error.code} if error.code else {})
                self.send(error.status, json.dumps({"error": str(error)}).encode(), headers)

        def find(self, name: str, revision: str) -> tuple[Repo, str]:
            token = (self.headers.get("authorization") or "").removeprefix("Bearer ") or None
            if token == "hf_expired":
                raise _Refused(401, "", "Invalid credentials in Authorization header")
            repo = hub.repos.get(name)
            if repo is None:
                raise _Refused(404 if token else 401, "RepoNotFound", "Repository not found")
            if repo.gated_for not in (None, token):
                raise _Refused(403 if token else 401, "GatedRepo", f"Access to dataset {name} is restricted.")
            sha = repo.branches.get(revision, revision)
            if sha not in repo.commits:
                raise _Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return repo, sha

        def send_info(self, name: str, revision: str) -> None:
            repo, sha = self.find(name, revision)
            siblings = [{"rfilename": path} for path in repo.commits[sha]]
            self.send_json({"id": name, "sha": sha, "cardData": repo.card, "siblings": siblings, "private": False})

        def send_tree(self, name: str, revision: str, folder: str, query: dict[str, list[str]]) -> None:
            repo, sha = self.find(name, revision)
            files = {p: d for p, d in sorted(repo.commits[sha].items()) if p.startswith(f"{folder}/" if folder else "")}
            folders = sorted({"/".join(p.split("/")[:n]) for p in files for n in range(1, p.count("/") + 1)})
            entries = [{"type": "directory", "path": p, "size": 0, "oid": "0" * 40} for p in folders]
            entries += [tree_entry(path, data) for path, data in files.items()]
            if query.get("recursive", ["false"])[0].lower() not in ("true", "1"):
                entries = [e for e in entries if "/" not in e["path"].removeprefix(f"{folder}/" if folder else "")]
            start = int(query.get("cursor", ["0"])[0])
            headers = {}
            if start + hub.page < len(entries):
                here = f"{hub.endpoint}{urlsplit(self.path).path}?recursive=true&cursor={start + hub.page}"
                headers["Link"] = f'<{here}>; rel="next"'
            self.send_json(entries[start : start + hub.page], headers)

        def send_resolved(self, name: str, revision: str, path: str, fault: Fault) -> None:
            repo, sha = self.find(name, revision)
            data = repo.commits[sha].get(path)
            if data is None:
                raise _Refused(404, "EntryNotFound", "Entry not found")
            common = {"X-Repo-Commit": sha, "Accept-Ranges": "bytes"}
            if not is_lfs(path):
                self.send_file(data, git_sha1(data), common, fault)
                return
            digest = hashlib.sha256(data).hexdigest()
            location = f"{hub.cdn}/cdn/{digest}?signature={quote(path, safe='')}"
            linked = {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(data)), "Location": location}
            self.send(302, f"Found. Redirecting to {location}".encode(), common | linked)

        def send_file(self, data: bytes, etag: str, headers: dict[str, str], fault: Fault) -> None:
            if fault.flip_at is not None:
                data = data[: fault.flip_at] + bytes([data[fault.flip_at] ^ 0x55]) + data[fault.flip_at + 1 :]
            data = data[: len(data) - fault.cut] + fault.extra
            headers = headers | {"ETag": f'"{etag}"', "Accept-Ranges": "bytes"}
            match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("range") or "")
            if match is None or fault.ignore_range:
                self.send(200, data, headers, fault)
                return
            start, end = int(match[1]), min(int(match[2] or len(data)) + 1, len(data))
            if start >= len(data):
                self.send(416, b"", headers | {"Content-Range": f"bytes */{len(data)}"})
                return
            content_range = {"Content-Range": f"bytes {start}-{end - 1}/{len(data)}"}
            self.send(206, data[start:end], headers | content_range, fault)

        def send_json(self, value: Any, headers: dict[str, str] | None = None) -> None:
            self.send(200, json.dumps(value).encode(), {"Content-Type": "application/json"} | (headers or {}))

        def send(self, status: int, body: bytes, headers: dict[str, str], fault: Fault | None = None) -> None:
            token = self.headers.get("authorization")
            with hub.lock:
                hub.log.append(Request(self.command, self.path, self.headers.get("range"), token, status))
            try:
                self.send_response(status)
                for name, value in (headers | {"Content-Length": str(len(body))}).items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command == "GET":
                    self.send_body(body, fault or Fault("", 0))
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

        def send_body(self, body: bytes, fault: Fault) -> None:
            dropped = fault.drop_after is not None and fault.drop_after < len(body)
            body = body[: fault.drop_after] if dropped else body
            for start in range(0, len(body), CHUNK):
                self.wfile.write(body[start : start + CHUNK])
                if hub.bytes_per_s is not None and self.path.startswith("/cdn/"):
                    time.sleep(CHUNK / hub.bytes_per_s)
            self.wfile.flush()
            if dropped:
                self.close_connection = True

    return Handler
