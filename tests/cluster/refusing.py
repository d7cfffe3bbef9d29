"""A gate before the bucket of a cluster's pods: it refuses some requests as a real store does."""

from __future__ import annotations

import http.client
import re
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Self
from urllib.parse import urlsplit

from cluster import Cluster

ERRORS = {403: "AccessDenied", 507: "XMinioStorageFull"}
Rule = Callable[[str, str], int]
"""(method, path) -> the HTTP status with which it is refused, or 0."""


class Refusing:
    """While it is entered, pods of `cluster` reach the bucket through it."""

    def __init__(self, cluster: Cluster, rule: Rule) -> None:
        self.cluster, self._real = cluster, cluster.store.endpoint
        target = urlsplit(self._real)

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                status = rule(self.command, self.path)
                if status:
                    data = f"<Error><Code>{ERRORS[status]}</Code></Error>".encode()
                    headers = {"Content-Type": "application/xml"}
                else:
                    connection = http.client.HTTPConnection(target.netloc, timeout=60)
                    connection.request(self.command, self.path, body, dict(self.headers))
                    reply = connection.getresponse()
                    status, data, headers = reply.status, reply.read(), dict(reply.getheaders())
                    connection.close()
                self.send_response_only(status)
                size = headers.pop("Content-Length", None) if self.command == "HEAD" else None
                for name, value in headers.items():
                    if not re.fullmatch("content-length|transfer-encoding|connection", name, re.I):
                        self.send_header(name, value)
                self.send_header("Content-Length", size or str(len(data)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(data)

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = answer

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True

    def __enter__(self) -> Self:
        Thread(target=self._server.serve_forever, daemon=True).start()
        self.cluster.store.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        return self

    def __exit__(self, *raised: object) -> None:
        self.cluster.store.endpoint = self._real
        self._server.shutdown()
        self._server.server_close()
