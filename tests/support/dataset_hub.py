"""The Hugging Face hub, as far as data sets are read from it: on loopback, from folders of a disk.

GET  /api/datasets/ORG/NAME[/revision/REVISION]     its commit: of `v2` bbb…, of all else aaa…
GET  /api/datasets/ORG/NAME/tree/REVISION[/FOLDER]  files with sizes
POST /api/datasets/ORG/NAME/paths-info/REVISION     the same of some
HEAD, GET /datasets/ORG/NAME/resolve/REVISION/FILE  a file, or a range of it
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
import urllib.parse
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class DatasetHub(ThreadingHTTPServer):
    """Data sets ORG/NAME as folders below `home`."""

    def __init__(self, home: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.home = home
        self.sent: dict[str, int] = {}
        """Bytes sent of each file."""

    @property
    def url(self) -> str:
        """Its address, for HF_ENDPOINT."""
        return f"http://127.0.0.1:{self.server_port}"


@contextlib.contextmanager
def dataset_hub(home: Path) -> Iterator[DatasetHub]:
    """A running hub."""
    server = DatasetHub(home)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: DatasetHub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = urllib.parse.unquote(urllib.parse.urlparse(self.path).path)
        about = re.fullmatch(r"/api/datasets/([^/]+/[^/]+)(?:/revision/(.+))?", path)
        tree = re.fullmatch(r"/api/datasets/([^/]+/[^/]+)/tree/([^/]+)/?(.*)", path)
        file = re.fullmatch(r"/datasets/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        place = about or tree or file
        home = self.server.home / place[1] if place else self.server.home
        if not place or not home.is_dir():
            self._answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif file:
            self._send(home / file[3], file[2])
        elif tree:
            self._json(self._entries(home, sorted((home / tree[3]).rglob("*"))))
        elif about:
            commit = "b" * 40 if about[2] == "v2" else "a" * 40
            self._json({"id": about[1], "sha": commit, "siblings": [], "tags": []})

    do_HEAD = do_GET

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        place = re.fullmatch(r"/api/datasets/([^/]+/[^/]+)/paths-info/([^/]+)", self.path)
        if not place:
            return self._answer(404, b"{}", {})
        home = self.server.home / place[1]
        is_json = "json" in self.headers.get("Content-Type", "")
        asked = (
            json.loads(body)["paths"] if is_json else urllib.parse.parse_qs(body.decode())["paths"]
        )
        found = [home / name for name in asked if (home / name).exists()]
        return self._json(self._entries(home, found))

    def _entries(self, home: Path, paths: list[Path]) -> list[dict[str, Any]]:
        found = []
        for path in paths:
            entry = {"path": path.relative_to(home).as_posix(), "oid": "0" * 40}
            size = path.stat().st_size if path.is_file() else 0
            kind = "file" if path.is_file() else "directory"
            found.append({**entry, "size": size, "type": kind})
        return found

    def _send(self, path: Path, revision: str) -> None:
        if not path.is_file():
            return self._answer(404, b"", {"X-Error-Code": "EntryNotFound"})
        data = path.read_bytes()
        more = {"X-Repo-Commit": revision, "ETag": f'"{len(data)}"', "Accept-Ranges": "bytes"}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not asked:
            return self._answer(200, data, more)
        first, last = int(asked[1]), min(int(asked[2] or len(data)), len(data) - 1)
        if self.command == "GET":
            self.server.sent[path.name] = self.server.sent.get(path.name, 0) + last + 1 - first
        more["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
        return self._answer(206, data[first : last + 1], more)

    def _json(self, values: Any) -> None:
        self._answer(200, json.dumps(values).encode(), {"Content-Type": "application/json"})

    def _answer(self, status: int, body: bytes, more: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in more.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing."""
