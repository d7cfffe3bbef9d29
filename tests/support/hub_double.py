"""The Hugging Face hub, as far as one model is pushed and fetched: on loopback, in memory.

POST /api/repos/create                       a repository
     /api/validate-yaml                      the card's metadata, as sent
     /api/models/ORG/NAME/preupload/main     every file goes with the commit
     /api/models/ORG/NAME/commit/main        lines of json: files in base64
HEAD, GET /ORG/NAME/resolve/REVISION/FILE    a file, with its commit
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Hub(ThreadingHTTPServer):
    """Repositories by name and commit."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, dict[str, dict[str, bytes]]] = {}
        self.cards: list[str] = []
        self.token = ""

    @property
    def url(self) -> str:
        """Its address, for HF_ENDPOINT."""
        return f"http://127.0.0.1:{self.server_port}"


@contextlib.contextmanager
def hub() -> Iterator[Hub]:
    """A running hub."""
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        place = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/main", self.path)
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            self.server.files.setdefault(name, {})
            self._json({"url": f"{self.server.url}/{name}", "name": name})
        elif self.path == "/api/validate-yaml":
            self.server.cards.append(json.loads(body)["content"])
            self._json({"errors": [], "warnings": []})
        elif place and place[2] == "preupload":
            names = [one["path"] for one in json.loads(body)["files"]]
            modes = [
                {"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names
            ]
            self._json({"files": modes})
        elif place:
            self._commit(place[1], [json.loads(line) for line in body.splitlines()])
        else:
            self.send_error(404)

    def do_GET(self) -> None:
        found = self._found()
        if found:
            self.wfile.write(found)

    def do_HEAD(self) -> None:
        self._found()

    def _commit(self, name: str, lines: list[dict[str, Any]]) -> None:
        values = [line["value"] for line in lines if line["key"] == "file"]
        files = {one["path"]: base64.b64decode(one["content"]) for one in values}
        commit = hashlib.sha1(repr(sorted(files)).encode()).hexdigest()
        self.server.files[name] |= {commit: files, "main": files}
        url = f"{self.server.url}/{name}/commit/{commit}"
        self._json({"commitOid": commit, "commitUrl": url, "success": True})

    def _found(self) -> bytes | None:
        place = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.path)
        revisions = self.server.files.get(place[1], {}) if place else {}
        files = revisions.get(place[2]) if place else None
        if not place or not revisions or files is None or place[3] not in files:
            kind = "Repo" if not revisions else "Revision" if files is None else "Entry"
            self.send_response(404)
            self.send_header("X-Error-Code", f"{kind}NotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return None
        data = files[place[3]]
        commit = next(name for name, one in revisions.items() if one is files and name != "main")
        self.send_response(200)
        self.send_header("X-Repo-Commit", commit)
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        return data

    def _json(self, values: Any) -> None:
        data = json.dumps(values).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Nothing."""
