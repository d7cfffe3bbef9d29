"""Faults on purpose: a proxy that spoils S3 traffic, and a crash at the n-th I/O call of a piece of
code.

Nothing here is used outside the tests of storage, checkpoints and training.
"""

from __future__ import annotations

import contextlib
import http.client
import http.server
import os
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest


class FaultProxy:
    """Stands before an S3 server and spoils a share of the requests, chosen by a seed.

    `before` and `after` are a reset connection before the request is passed on, and after (the work
    is done, the reply lost).
    """

    KINDS = ("500", "503", "before", "after", "slow", "truncated", "flipped")

    def __init__(self, target: str, share: float, seed: int, slow_seconds: float = 1.0):
        self.counts: Counter[str] = Counter()
        self.target = target
        self.share = share
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        host = urlsplit(target)
        proxy = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                fault = proxy.choose(self.command, body)
                if fault in ("500", "503"):
                    return self.answer(int(fault), {}, b"")
                if fault == "before":
                    return self.reset()
                if fault == "slow":
                    time.sleep(slow_seconds)
                if fault == "flipped" and self.command == "PUT":
                    body = flip(body)
                connection = http.client.HTTPConnection(host.hostname or "", host.port, timeout=60)
                connection.request(self.command, self.path, body, dict(self.headers))
                reply = connection.getresponse()
                data = reply.read()
                connection.close()
                if fault == "after":
                    return self.reset()
                if fault == "flipped" and self.command == "GET" and data[:1] != b"<":
                    data = flip(data)
                return self.answer(
                    reply.status, dict(reply.getheaders()), data, cut=fault == "truncated"
                )

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_one

            def answer(
                self, status: int, headers: dict[str, str], data: bytes, cut: bool = False
            ) -> None:
                self.send_response_only(status)
                for name, value in headers.items():
                    if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                        self.send_header(name, value)
                lengths = {name.lower(): value for name, value in headers.items()}
                self.send_header(
                    "Content-Length",
                    (
                        lengths.get("content-length", str(len(data)))
                        if self.command == "HEAD"
                        else str(len(data))
                    ),
                )
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(data[: len(data) // 2] if cut else data)
                if cut:
                    self.reset()

            def reset(self) -> None:
                self.connection.setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                )
                self.connection.close()
                self.close_connection = True

            def finish(self) -> None:
                with contextlib.suppress(OSError, ValueError):
                    super().finish()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def choose(self, command: str, body: bytes) -> str:
        """The next request's fault, or `none`: which requests is random, the kinds come in turn."""
        with self._lock:
            spoil = self._random.random() < self.share
            fault = (
                self.KINDS[sum(self.counts[kind] for kind in self.KINDS) % len(self.KINDS)]
                if spoil
                else "none"
            )
            self.counts[fault] += 1
        return fault

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()


def flip(data: bytes) -> bytes:
    """`data` with one bit of its middle byte changed."""
    if not data:
        return data
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 4]) + data[middle + 1 :]


class Crash(BaseException):
    """The process is gone: no handler may do anything any more."""


@contextlib.contextmanager
def crash_at(
    index: int, monkeypatch: pytest.MonkeyPatch, targets: list[tuple[Any, str]]
) -> Iterator[list[str]]:
    """From the `index`-th call of any of `targets` (owner, function name) on, every call raises
    Crash. Yields the calls made so far.
    """
    calls: list[str] = []
    with monkeypatch.context() as patch:
        for owner, name in targets:
            original = getattr(owner, name)

            def wrapped(
                *args: Any, _original: Any = original, _name: str = name, **kwargs: Any
            ) -> Any:
                calls.append(_name)
                if len(calls) > index:
                    raise Crash(_name)
                return _original(*args, **kwargs)

            patch.setattr(owner, name, wrapped)
        with contextlib.suppress(Crash):
            yield calls


LOCAL_IO = [
    (os, name) for name in ("open", "write", "fsync", "replace", "link", "unlink", "mkdir", "rmdir")
]
"""The system calls by which our local writes change the disk. (Not close: a dead process has closed
its files and dropped its locks.)"""
