"""A server that speaks as much of the Hub's protocol as a download needs, and misbehaves when told to."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "a" * 40
OTHER_COMMIT = "b" * 40


@dataclass
class Hub:
    """What the server has, and how it behaves."""

    folders: dict[str, dict[str, Path]] = field(default_factory=dict)
    """Repository -> commit -> folder with its files."""
    refs: dict[str, str] = field(default_factory=lambda: {"main": COMMIT, "old": OTHER_COMMIT})
    gated: set[str] = field(default_factory=set)
    cut_after: int | None = None
    """Bytes of a weights file after which the connection is dropped, once."""
    seconds_per_chunk: float = 0.0
    damage: bool = False
    """Serve weights with one byte changed."""
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    """Method, path and Range header of everything asked for."""
    root: Path = Path()
    """Where uploads are kept."""
    made: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Repositories made by uploads, with what was asked for."""
    refuse_commits: bool = False
    """Drop the connection of every commit."""
    url: str = ""


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: Any) -> None:
        """Tests read `hub.requests` instead."""

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def do_POST(self) -> None:
        """What an upload needs: a repository made, files announced, one commit of all of them."""
        path = unquote(urlsplit(self.path).path)
        content = self.sent()
        self.hub.requests.append(("POST", path, ""))
        if not self.headers.get("Authorization", "").removeprefix("Bearer "):
            self.refuse(401, "Unauthorized", "Invalid username or password.")
            return
        parts = path.strip("/").split("/")
        if parts[:3] == ["api", "repos", "create"]:
            made = json.loads(content)
            name = f"{made.get('organization') or 'someone'}/{made['name']}"
            self.hub.made[name] = made
            self.send_json({"url": f"{self.hub.url}/{name}"})
        elif parts[:2] == ["api", "validate-yaml"]:
            self.send_json({"errors": [], "warnings": []})
        elif parts[4:5] == ["preupload"]:
            announced = json.loads(content)["files"]
            self.send_json(
                {"files": [{"path": one["path"], "uploadMode": "regular", "shouldIgnore": False} for one in announced]}
            )
        elif self.hub.refuse_commits:
            self.close_connection = True
        else:
            self.commit_files("/".join(parts[2:4]), [json.loads(line) for line in content.splitlines()])

    def sent(self) -> bytes:
        """The body of a request, of known length or in chunks."""
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def commit_files(self, repository: str, entries: list[dict[str, Any]]) -> None:
        """A commit as lines of JSON: its header, then each file in base64."""
        folder = self.hub.root / repository
        for entry in entries:
            if entry["key"] == "file":
                target = folder / entry["value"]["path"]
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(base64.b64decode(entry["value"]["content"]))
        self.hub.folders[repository] = {COMMIT: folder}
        address = f"{self.hub.url}/{repository}/commit/{COMMIT}"
        self.send_json({"success": True, "commitOid": COMMIT, "commitUrl": address, "hookOutput": ""})

    def answer(self, *, body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path, self.headers.get("Range", "")))
        parts = path.strip("/").removeprefix("datasets/").split("/")
        repository = "/".join(parts[2:4] if parts[0] == "api" else parts[:2])
        if repository in self.hub.gated:
            self.refuse(403, "GatedRepo", "Access to this model is restricted")
        elif repository not in self.hub.folders:
            self.refuse(401, "RepoNotFound", "Repository not found")
        elif parts[0] == "api":
            self.describe(repository, parts[4:])
        else:
            self.send_file(repository, parts[3], "/".join(parts[4:]), body=body)

    def refuse(self, status: int, code: str, message: str) -> None:
        self.send_json({"error": message}, status, {"X-Error-Code": code, "X-Error-Message": message})

    def commit(self, repository: str, revision: str) -> str | None:
        commit = self.hub.refs.get(revision, revision)
        return commit if commit in self.hub.folders[repository] else None

    def describe(self, repository: str, rest: list[str]) -> None:
        commit = self.commit(repository, rest[1] if len(rest) > 1 else "main")
        if commit is None:
            self.refuse(404, "RevisionNotFound", "Revision not found")
            return
        folder = self.hub.folders[repository][commit]
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        if rest[:1] == ["tree"]:
            self.send_json([self.entry(file, folder) for file in files])
            return
        siblings = [{"rfilename": file.relative_to(folder).as_posix()} for file in files]
        self.send_json({"id": repository, "modelId": repository, "sha": commit, "siblings": siblings, "tags": []})

    def entry(self, file: Path, folder: Path) -> dict[str, Any]:
        size = file.stat().st_size
        name = file.relative_to(folder).as_posix()
        entry: dict[str, Any] = {"type": "file", "path": name, "size": size, "oid": digest(file)[:40]}
        if file.suffix == ".safetensors":
            entry["lfs"] = {"oid": digest(file), "size": size, "pointerSize": 100}
        return entry

    def send_file(self, repository: str, revision: str, name: str, *, body: bool) -> None:
        commit = self.commit(repository, revision)
        file = self.hub.folders[repository][commit] / name if commit else None
        if file is None or not file.is_file():
            self.refuse(404, "EntryNotFound", "Entry not found")
            return
        content = bytearray(file.read_bytes())
        is_weights = file.suffix == ".safetensors"
        if self.hub.damage and is_weights:
            content[-1] ^= 0xFF
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{digest(file) if is_weights else digest(file)[:40]}"')
        self.send_header("X-Repo-Commit", str(commit))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if body:
            self.send_content(bytes(content[start:]), cut=is_weights)

    def send_content(self, content: bytes, *, cut: bool) -> None:
        if cut and self.hub.cut_after is not None:
            content, self.hub.cut_after = content[: self.hub.cut_after], None
            self.close_connection = True
        for at in range(0, len(content), 16384):
            time.sleep(self.hub.seconds_per_chunk)
            self.wfile.write(content[at : at + 16384])
        self.wfile.flush()

    def send_json(self, content: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        raw = json.dumps(content).encode()
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Type": "application/json"}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(raw)


@contextmanager
def serving(hub: Hub, handler: type[Handler] = Handler) -> Iterator[Hub]:
    """Serve a hub on a free port of this machine until the block ends."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("BoundHandler", (handler,), {"hub": hub}))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
