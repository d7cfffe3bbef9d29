"""A folder and a bucket alike: every file of a run is read and written here, by its path or its
s3:// address.

    what is written   appears whole or not at all; conditions (`if_absent`, `if_match`) decide
                      between two writers
    what is read      has the sha256 or ETag that it was stored with, or is read again
    what fails        is tried again with random pauses, within bounds (`bucket.py`);
                      a 403 or 404 never is

Buckets are reached through boto3: endpoint from AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL or
FLYTE_AWS_ENDPOINT, credentials from FLYTE_AWS_ACCESS_KEY_ID and FLYTE_AWS_SECRET_ACCESS_KEY or
boto3's own chain. There is no append and no rename.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from clippo_core.errors import NotFoundError, StorageError
from clippo_core.extras import optional_import
from clippo_core.storage import bucket, local
from clippo_core.storage.bucket import Objects
from clippo_core.untrusted.limits import LIMITS
from clippo_core.untrusted.names import hidden_in, refusal

CONNECT_SECONDS, READ_SECONDS = 5.0, 30.0
"""How long connecting, and a silence within a reply, may last before a request to a bucket is made
again."""
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://?")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


_WILD = re.compile(r"\*|\{[0-9]+\.\.[0-9]+\}")
"""What stands for several names in the last part of an address."""


class DamagedError(StorageError):
    """A file is there, and its sha256 is not the one asked for."""


@dataclass(frozen=True)
class FileStat:
    """One file of a listing."""

    name: str
    """Relative to the folder that was listed, with `/`; bytes that are no UTF-8 are escaped."""
    bytes: int
    uri: str
    _etag: str = field(default="", repr=False)
    modified: float = field(default=0.0, compare=False)
    """When its content was last written, in seconds since 1970."""

    @functools.cached_property
    def etag(self) -> str:
        """Changes when the content changes: S3's ETag, or the sha256 of a local file, which is
        computed when asked for.
        """
        return self._etag or sha256_file(self.uri)


def is_local(uri: str) -> bool:
    """Whether `uri` is a path (or file://); otherwise it is an s3:// address. Raises StorageError
    for an address that cannot be used, without a password in it.
    """
    fault = _fault(uri)
    if fault:
        shown = uri if uri.startswith(("s3://", "file://")) else uri.partition("?")[0]
        remedy = "use a folder or s3://bucket/prefix"
        raise refusal(StorageError, bucket.without_password(shown) or "an address", fault, remedy)
    return not uri.startswith("s3://")


def local_path(uri: str) -> Path:
    """The path of a local address. Raises StorageError for s3://."""
    if not is_local(uri):
        raise StorageError(f"{uri}: this needs a local file; fetch it first.")
    return Path(unquote(uri.removeprefix("file://")) if uri.startswith("file://") else uri)


def join(root: str, *parts: str) -> str:
    """`root` and relative `parts` below it. Raises StorageError for a part that is absolute or
    climbs with `..`.
    """
    for part in parts:
        if part.startswith("/") or ".." in part.split("/"):
            raise StorageError(f"{part!r} leads out of {root}; use a relative name without '..'.")
    kept = [part.strip("/") for part in parts if part.strip("/")]
    return "/".join([root.rstrip("/"), *kept]) if kept else root


def exists(uri: str) -> bool:
    """Whether there is such a file, or a folder or prefix with something in it. Raises StorageError
    where that can't be told.
    """
    if is_local(uri):
        return local_path(uri).exists()
    return any(
        found.uri == uri or found.uri.startswith(uri.rstrip("/") + "/")
        for found in _under(uri, page=1)
    )


def read_bytes(uri: str, max_bytes: int = 0) -> bytes:
    """The content of a file of at most `max_bytes` (0 = any size). Raises NotFoundError,
    StorageError.
    """
    if not is_local(uri):
        return _bucket().get(uri, max_bytes)[0]
    with local.explained(uri, "read"), open(local_path(uri), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if max_bytes and size > max_bytes:
            fault = f"it has {size:,} bytes, more than {max_bytes:,}"
            raise refusal(StorageError, uri, fault, "shrink or remove it")
        return file.read()


def read_text(uri: str) -> str:
    """The content of a UTF-8 file. Raises NotFoundError, StorageError."""
    try:
        return read_bytes(uri).decode()
    except UnicodeDecodeError as error:
        raise StorageError(f"{uri}: it is not UTF-8 text ({error}).") from error


def read_with_etag(uri: str) -> tuple[bytes, str]:
    """The content of a file, and the etag with which `if_match` replaces exactly this content."""
    if is_local(uri):
        with local.explained(uri, "read"):
            data = local_path(uri).read_bytes()
        return data, hashlib.sha256(data).hexdigest()
    return _bucket().get(uri)


def etag(uri: str) -> str:
    """The etag of a file, for a compare-and-swap. Raises NotFoundError, StorageError."""
    return sha256_file(local_path(uri)) if is_local(uri) else str(_bucket().head(uri)["ETag"])


def write_bytes(
    uri: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None
) -> str:
    """Put `data` at `uri`, whole or not at all, and return its etag. Raises ConflictError where a
    condition does not hold, StorageError.
    """
    if is_local(uri):
        return local.write(local_path(uri), data, if_absent=if_absent, if_match=if_match)
    if len(data) > bucket.PART_BYTES and not if_absent and if_match is None:
        return _bucket().put_parts(
            uri, len(data), lambda start, end: data[start:end], hashlib.sha256(data).hexdigest()
        )
    return _bucket().put(uri, data, if_absent=if_absent, if_match=if_match)


def write_text(uri: str, text: str, *, if_absent: bool = False, if_match: str | None = None) -> str:
    """Put UTF-8 `text` at `uri`; see `write_bytes`."""
    return write_bytes(uri, text.encode(), if_absent=if_absent, if_match=if_match)


def upload(path: str | Path, uri: str) -> str:
    """Copy a local file to `uri`, in parts where it is large, and return its etag. Raises
    NotFoundError, StorageError.
    """
    with local.explained(path, "read"), open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if is_local(uri) or size <= bucket.PART_BYTES:
            return write_bytes(uri, file.read())
        return _bucket().put_parts(
            uri,
            size,
            lambda start, end: os.pread(file.fileno(), end - start, start),
            sha256_file(path),
        )


def fetch(uri: str, cache_dir: str | Path | None = None, sha256: str | None = None) -> Path:
    """A local file with the content of `uri`: itself where it is local, else a copy in `cache_dir`
    (default ~/.cache/clippo).

    A copy is found again by the object's ETag. Raises NotFoundError; DamagedError where the content
    has not the `sha256` asked for.
    """
    if is_local(uri):
        path = local_path(uri)
        with local.explained(uri, "read"):
            path.stat()
    else:
        head = _bucket().head(uri)
        path = (
            Path(cache_dir or cache_folder())
            / hashlib.sha256(f"{uri} {head['ETag']}".encode()).hexdigest()[:16]
            / uri.rpartition("/")[2]
        )
        with local.explained(path, "written"):
            local.make_folder(path.parent)
            with local.locked(path.parent):  # the processes of one machine fetch it once
                if (
                    not path.is_file()
                    or path.stat().st_size != head["ContentLength"]
                    or (sha256 and sha256_file(path) != sha256)
                ):
                    _download(uri, path, head)
    if sha256 and sha256_file(path) != sha256:
        raise DamagedError(
            f"{uri}: its sha256 is not {sha256[:12]}…, it was cut, damaged or replaced."
        )
    return path


def cache_folder() -> Path:
    """Where copies of objects lie on this machine."""
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "clippo"


def read_range(uri: str, start: int, size: int, if_match: str = "") -> tuple[bytes, str]:
    """`size` bytes of an object from `start` on, and its ETag. Raises ConflictError where it has
    not the ETag asked for, StorageError also where it is shorter.
    """
    return _bucket().get_range(uri, start, size, if_match)


def list_folders(uri: str, first: str) -> list[FileStat]:
    """Every file, at any depth, in those folders directly under `uri` whose names begin with
    `first`; nothing else under `uri` is looked at. Sorted by name; none is no error.
    """
    if is_local(uri):
        root = local_path(uri)
        with local.explained(root, "read"):
            names = [e.name for e in os.scandir(root) if e.is_dir()] if root.is_dir() else []
        found = [
            replace(stat, name=f"{name}/{stat.name}")
            for name in names
            if name.startswith(first)
            for stat in _list_local(root / name)
        ]
    else:
        base = len(uri.rstrip("/")) + 1
        found = [
            FileStat(one.uri[base:], one.bytes, one.uri, one.etag, one.modified)
            for one in _bucket().list(f"{uri.rstrip('/')}/{first}")
            if "/" in one.uri[base:]
        ]
    return sorted(found, key=lambda stat: stat.name)


def list_files(uri: str) -> list[FileStat]:
    """Every file under a folder or prefix, at any depth; the one file itself; or those that match
    `*` or ranges as `{000..999}` in the last part. Sorted by name.

    Unfinished local writes do not show, nor what vanished meanwhile. Raises NotFoundError where
    there is nothing.
    """
    folder, _, pattern = uri.rpartition("/")
    wild = bool(_WILD.search(pattern))
    folder = folder or ("/" if uri.startswith("/") else ".")
    found = (
        _list_local(local_path(folder if wild else uri))
        if is_local(uri)
        else _list_bucket(folder if wild else uri)
    )
    if wild:
        found = [stat for stat in found if "/" not in stat.name and _matches(stat.name, pattern)]
    if not found:
        raise NotFoundError(f"{uri}: there is no such file, or nothing in it; check the path.")
    return sorted(found, key=lambda stat: stat.name)


def _matches(name: str, pattern: str) -> bool:
    """Whether a name is of a pattern with `*` and ranges."""
    bounds, expression = [], ""
    for part in re.split(f"({_WILD.pattern})", pattern):
        if part.startswith("{") and _WILD.fullmatch(part):
            low, high = part[1:-1].split("..")
            bounds.append(range(int(low), int(high) + 1))
            expression += f"([0-9]{{{len(low)}}})"
        else:
            expression += ".*" if part == "*" else re.escape(part)
    found = re.fullmatch(expression, name, re.DOTALL)
    numbers = map(int, found.groups()) if found else ()
    return bool(found) and all(n in bound for n, bound in zip(numbers, bounds, strict=True))


def delete(uri: str) -> None:
    """Remove a file, or a folder or prefix with everything in it; what does not exist is fine.
    Raises StorageError.
    """
    if is_local(uri):
        path = local_path(uri)
        with local.explained(uri, "deleted"):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        return
    for found in list(_under(uri)):
        _bucket().delete(found.uri)


def delete_empty_folders(uri: str) -> None:
    """Remove the folders below a local folder, and itself, that hold nothing; a bucket has none."""
    if is_local(uri):
        for folder, _, _ in os.walk(local_path(uri), topdown=False):
            with contextlib.suppress(OSError):  # something is in it
                os.rmdir(folder)


def _fault(uri: str) -> str:
    """Why an address cannot be used, as part of a sentence; empty for one that can."""
    hidden = hidden_in(unquote(uri) if uri.startswith("file://") else uri)
    if hidden or not uri:
        return f"it holds {hidden}" if hidden else "it is empty"
    scheme = _SCHEME.match(uri)
    if not scheme:
        return ""
    if scheme[0] not in ("s3://", "file://"):
        return f"addresses of the kind {scheme[0]} are not supported"
    if scheme[0] == "file://":
        return "" if uri.startswith("file:///") else "files of another machine are not supported"
    name, _, key = uri.removeprefix("s3://").partition("/")
    if not name:
        return "it names no bucket"
    if not _BUCKET.fullmatch(name) or ".." in name:
        return "its bucket has a name that no bucket can have"
    if {".", ".."} & set(key.split("/")):
        return "its key has a part '.' or '..'"
    return "its key has more than 1,024 bytes" if len(key.encode()) > LIMITS.name_bytes else ""


def sha256_file(path: str | Path) -> str:
    """sha256 (hex) of a local file. Raises NotFoundError, StorageError."""
    with local.explained(path, "read"), open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _list_local(root: Path) -> list[FileStat]:
    if root.is_file():
        return [_stat(root, root.name)]
    found = []
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder) / name
            if not local.is_temporary(name):
                shown = os.fsencode(path.relative_to(root)).decode(errors="backslashreplace")
                with contextlib.suppress(FileNotFoundError):  # it vanished meanwhile
                    found.append(_stat(path, shown))
    return found


def _stat(path: Path, name: str) -> FileStat:
    found = path.stat()
    return FileStat(name, found.st_size, str(path), modified=found.st_mtime)


def _list_bucket(root: str) -> list[FileStat]:
    base = len(root.rstrip("/")) + 1
    return [
        FileStat(
            one.uri[base:] or root.rpartition("/")[2], one.bytes, one.uri, one.etag, one.modified
        )
        for one in _under(root)
    ]


def _under(uri: str, page: int = 1000) -> Iterator[bucket.Object]:
    """The object `uri`, and those below it as a folder; not its siblings whose names begin
    alike.
    """
    if not uri.endswith("/"):
        yield from itertools.takewhile(lambda one: one.uri == uri, _bucket().list(uri, page=1))
    yield from _bucket().list(uri.rstrip("/") + "/", page)


def _download(uri: str, path: Path, head: dict[str, Any]) -> None:
    """The object as the file `path`, which appears only when it is whole."""
    temporary = path.with_name(f".{path.name}.tmp-{secrets.token_hex(4)}")
    try:
        _bucket().download(uri, temporary, head)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _bucket() -> Objects:
    environment = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "FLYTE_AWS_ENDPOINT")
    endpoint = next((os.environ[name] for name in environment if os.environ.get(name)), "")
    return _connect(
        endpoint,
        os.environ.get("FLYTE_AWS_ACCESS_KEY_ID", ""),
        os.environ.get("FLYTE_AWS_SECRET_ACCESS_KEY", ""),
        os.getpid(),
    )


@functools.lru_cache(maxsize=4)
def _connect(endpoint: str, key_id: str, secret: str, process: int) -> Objects:
    """A connection for these settings in this process: a forked child makes its own."""
    with optional_import():
        import boto3
        from botocore.config import Config

    config = Config(
        retries={
            "total_max_attempts": 1
        },  # tried again by bucket.py, which also compares what came
        connect_timeout=CONNECT_SECONDS,
        read_timeout=READ_SECONDS,
        max_pool_connections=2 * bucket.PARALLEL_PARTS,
        s3={"addressing_style": "path"} if endpoint else {},
    )
    # A Session of its own: the default one is shared between threads, and making a client of it is
    # not thread-safe.
    session = boto3.session.Session(
        aws_access_key_id=key_id or None, aws_secret_access_key=secret or None
    )
    region = session.region_name or "us-east-1"
    return Objects(
        session.client("s3", endpoint_url=endpoint or None, region_name=region, config=config)
    )
