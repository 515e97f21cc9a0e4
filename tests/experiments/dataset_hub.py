"""The local Hub of the download tests, for data sets: their addresses, and reading parts of a file."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.loading.hub_server import Handler, digest


class DatasetHandler(Handler):
    """GET and HEAD as in the parent; POST asks for the entries of some paths."""

    def do_POST(self) -> None:  # noqa: N802, the name that http.server calls
        self.hub.requests.append(("POST", unquote(urlsplit(self.path).path), ""))
        raw = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        wanted = json.loads(raw)["paths"] if raw.startswith("{") else parse_qs(raw).get("paths", [])
        parts = urlsplit(self.path).path.strip("/").split("/")
        commit = self.commit("/".join(parts[2:4]), unquote(parts[5]))
        if commit is None:
            self.refuse(404, "RevisionNotFound", "Revision not found")
            return
        folder = self.hub.folders["/".join(parts[2:4])][commit]
        self.send_json([self.entry(folder / name) for name in wanted if (folder / name).is_file()])

    def answer(self, *, body: bool) -> None:
        self.path = self.path.replace("/datasets/", "/", 1) if self.path.startswith("/datasets/") else self.path
        super().answer(body=body)

    def send_file(self, repository: str, revision: str, name: str, *, body: bool) -> None:
        """Parts of a file with both ends, as readers of parquet ask for them."""
        commit = self.commit(repository, revision)
        file = self.hub.folders[repository][commit] / name if commit else None
        if file is None or not file.is_file():
            self.refuse(404, "EntryNotFound", "Entry not found")
            return
        content, asked = file.read_bytes(), self.headers.get("Range")
        start, stop = 0, len(content)
        if asked:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start, stop = int(first), min(int(last) + 1, stop) if last else stop
        self.send_response(206 if asked else 200)
        headers: dict[str, Any] = {
            "ETag": f'"{digest(file)[:40]}"',
            "X-Repo-Commit": commit,
            "Accept-Ranges": "bytes",
            "Content-Length": stop - start,
        }
        if asked:
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(content)}"
        for key, value in headers.items():
            self.send_header(key, str(value))
        self.end_headers()
        if body:
            self.wfile.write(content[start:stop])
