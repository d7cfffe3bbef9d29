"""The search page's server: the standard library's, on 127.0.0.1 and for this machine alone.

    GET  /                       the page
    GET  /draw?text=…            the text as the tower reads it
    GET  /text?text=…&k=60       the nearest photos; /row?row=7, /first: by a photo, unasked
    POST /picture?k=60           the nearest to the photo in the body
    GET  /photo?row=7            a thumbnail

What a stranger's page in the same browser could try is refused: another Host (a name that was made
to point here), another Origin, a cross-site request. A request names rows and never a path; photos
are decoded within bounds and written anew; texts and bodies are bounded. Every other user of this
machine can ask, too: the server has no password.
"""

from __future__ import annotations

import base64
import functools
import json
import secrets
import sys
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from clippo_core.errors import ClippoError, ConfigError
from clippo_core.search import page
from clippo_core.search.gallery import Gallery
from clippo_core.untrusted.names import is_unicode
from clippo_core.untrusted.numbers import whole_number

HOST = "127.0.0.1"
_POLICY = (
    "default-src 'none'; img-src 'self' data:; connect-src 'self'; style-src 'nonce-{nonce}';"
    " script-src 'nonce-{nonce}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_SILENCE_SECONDS = 30
_THUMBNAILS = 1_000


class _Refused(Exception):
    """A request that gets a status and a sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class SearchServer(ThreadingHTTPServer):
    """A server of one gallery; `serve_forever` runs it. port: 0 = any free one."""

    daemon_threads = True

    def __init__(self, gallery: Gallery, port: int = 0) -> None:
        page.check_photos(gallery)
        self.gallery = gallery
        self.thumbnail = functools.lru_cache(_THUMBNAILS)(self._thumbnail)
        try:
            super().__init__((HOST, port), _Handler)
        except (OSError, OverflowError) as error:
            raise ConfigError(f"port {port} cannot be used ({error}); choose another.") from error

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://{HOST}:{self.server_port}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that has lost interest is no error; anything else is shown."""
        if not isinstance(sys.exception(), (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)

    def _thumbnail(self, row: int) -> bytes:
        return base64.b64decode(page.thumbnail(self.gallery, row).partition(",")[2])


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "clippo", ""
    timeout = _SILENCE_SECONDS
    server: SearchServer

    def do_GET(self) -> None:
        self._answer(_GET)

    def do_POST(self) -> None:
        self._answer(_POST)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing: what is asked is the user's own affair."""

    def _answer(self, table: dict[str, Callable[[_Handler], tuple[bytes, str]]]) -> None:
        status, kind = 200, "application/json"
        try:
            self._check_sender()
            answer = table.get(urlsplit(self.path).path)
            if answer is None:
                raise _Refused(404, "there is no such page.")
            content, kind = answer(self)
        except _Refused as refused:
            status, content = refused.status, _json({"error": str(refused)})
        except ClippoError as error:
            status, content = 400, _json({"error": str(error)})
        except IndexError:
            status, content = 404, _json({"error": "there is no such row."})
        if status != 200:
            self.close_connection = True  # what is left of a body is not read
        self.send_response(status)
        closing = {"Connection": "close"} if self.close_connection else {}
        for name, value in {**_HEADERS, **self._policy(kind, status), **closing}.items():
            self.send_header(name, value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _check_sender(self) -> None:
        """Refuse what does not come from this server's own page on this machine."""
        port = self.server.server_port
        hosts = {f"{HOST}:{port}", f"localhost:{port}"}
        if self.headers.get_all("Host", []) not in [[host] for host in hosts]:
            raise _Refused(403, f"this server answers to http://{HOST}:{port}/ only.")
        origin = self.headers.get("Origin")
        if origin is not None and origin not in {f"http://{host}" for host in hosts}:
            raise _Refused(403, "this server answers its own page only.")
        site = self.headers.get("Sec-Fetch-Site", "none")
        is_page = urlsplit(self.path).path == "/"
        if site not in ("none", "same-origin") and not is_page:
            raise _Refused(403, "this server answers its own page only.")

    def _policy(self, kind: str, status: int) -> dict[str, str]:
        if status == 200 and kind.startswith("text/html"):
            return {"Content-Security-Policy": _POLICY.format(nonce=self.nonce)}
        return {"Content-Security-Policy": "default-src 'none'"}

    @functools.cached_property
    def nonce(self) -> str:
        """Of this connection's pages."""
        return secrets.token_urlsafe(16)

    def asked(self, name: str) -> str:
        """A value of the query, once. Raises _Refused."""
        try:
            found = parse_qs(
                urlsplit(self.path).query, keep_blank_values=True, max_num_fields=8,
                errors="strict",
            ).get(name, [])  # fmt: skip
        except ValueError:  # also UnicodeDecodeError
            raise _Refused(400, "the request's query cannot be read.") from None
        if len(found) != 1:
            raise _Refused(400, f"the request needs one {name}.")
        return found[0]

    def number(self, name: str, most: int) -> int:
        """A whole number of the query, from 0. Raises."""
        return whole_number(self.asked(name), f"the request's {name}", maximum=most)

    def k(self) -> int:
        """How many answers are wanted."""
        return max(1, min(self.number("k", 10**9), page.MOST_HITS))

    def text(self) -> str:
        """The question. Raises _Refused for one that is too long."""
        text = self.asked("text")
        if len(text) > page.LONGEST_TEXT:
            raise _Refused(
                400, f"the text has {len(text):,} characters, more than {page.LONGEST_TEXT:,}."
            )
        if not is_unicode(text):
            raise _Refused(400, "the text holds half a character.")
        return text

    def body(self) -> bytes:
        """The body of a POST, bounded. Raises _Refused."""
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()) or self.headers.get("Transfer-Encoding"):
            raise _Refused(411, "the request must say how long its body is.")
        if len(length) > 12 or int(length) > page.PICTURE_BYTES:
            raise _Refused(413, f"a photo may have at most {page.PICTURE_BYTES:,} bytes.")
        data = self.rfile.read(int(length))
        if len(data) < int(length):
            raise _Refused(400, "the photo was cut short on its way.")
        return data


def _page(handler: _Handler) -> tuple[bytes, str]:
    return page.live_page(
        handler.server.gallery, handler.nonce
    ).encode(), "text/html; charset=utf-8"


def _draw(handler: _Handler) -> tuple[bytes, str]:
    return _json(page.seen_text(handler.server.gallery, handler.text())), "application/json"


def _text(handler: _Handler) -> tuple[bytes, str]:
    found = handler.server.gallery.by_text(handler.text(), handler.k())
    return _json({"hits": page.answers(found)}), "application/json"


def _row(handler: _Handler) -> tuple[bytes, str]:
    gallery = handler.server.gallery
    row = handler.number("row", len(gallery) - 1)
    found = {"hits": page.answers(gallery.by_row(row, handler.k()))}
    name = gallery.about(row).key
    seen = page.seen_picture(gallery, gallery.pixels(gallery.picture(row), name), name)
    return _json(found | seen), "application/json"


def _first(handler: _Handler) -> tuple[bytes, str]:
    gallery = handler.server.gallery
    about = [gallery.about(row) for row in range(min(handler.k(), len(gallery)))]
    hits = [{"row": row, "name": one.key, "caption": one.caption} for row, one in enumerate(about)]
    return _json({"hits": hits}), "application/json"


def _picture(handler: _Handler) -> tuple[bytes, str]:
    gallery, data = handler.server.gallery, handler.body()
    pixels = gallery.pixels(data, "the photo")
    found = {"hits": page.answers(gallery.by_picture(pixels, handler.k()))}
    return _json(found | page.seen_picture(gallery, pixels, "The photo")), "application/json"


def _photo(handler: _Handler) -> tuple[bytes, str]:
    server = handler.server
    return server.thumbnail(handler.number("row", len(server.gallery) - 1)), "image/jpeg"


_GET: dict[str, Callable[[_Handler], tuple[bytes, str]]] = {
    "/": _page,
    "/draw": _draw,
    "/text": _text,
    "/row": _row,
    "/first": _first,
    "/photo": _photo,
}
_POST: dict[str, Callable[[_Handler], tuple[bytes, str]]] = {"/picture": _picture}


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode(errors="replace")
