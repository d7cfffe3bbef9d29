"""Objects of an S3 bucket, through a client that is handed in: each request tried again within
bounds, each byte compared.

    put    md5 of what was sent  = ETag of what the store got
                                   (under KMS, where ETags are no md5, the client's CRC header)
    get    sha256 of what came   = sha256 in the object's metadata, or its ETag where others wrote

A request that fails for a passing reason is made again after a pause,

    pause before attempt n+1  ~  uniform(0, min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2^n)),

at most ATTEMPTS times and for TOTAL_SECONDS. Pauses are random, because a thousand workers that
fail together must not come back together. The client is made in `clippo_core/storage/__init__.py`,
whose verbs everybody else calls.
"""

from __future__ import annotations

import datetime
import functools
import hashlib
import os
import random
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from clippo_core.errors import ConflictError, NotFoundError, StorageError, TooLargeError
from clippo_core.untrusted.names import reason

PART_BYTES = 64 << 20
"""Objects larger than this travel in parts of this size (S3 wants at least 5 MiB)."""
STALE_UPLOAD_SECONDS = 24 * 3600.0
"""Unfinished multipart uploads of the same name that are older than this are aborted before a new
one: a killed process leaves them."""
CONTENT_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".json": "application/json",
    ".jsonl": "text/plain; charset=utf-8",
    ".png": "image/png",
}
"""Ending of a name -> what it is stored as; others are bytes."""
PARALLEL_PARTS = 8
ATTEMPTS = 10
TOTAL_SECONDS = 120.0
FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 10.0

_TRANSIENT_CODES = (
    "BadDigest",
    "ConditionalRequestConflict",
    "IncompleteBody",
    "InvalidPart",
    "MalformedXML",
    "OperationAborted",
    "RequestTimeout",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "XAmzContentSHA256Mismatch",
)
_CLIENT_MODULES = ("botocore", "urllib3", "http.client")
_FINAL_ERRORS = (
    "NoCredentialsError",
    "PartialCredentialsError",
    "ParamValidationError",
    "CredentialRetrievalError",
    "InvalidRegionError",
)

T = TypeVar("T")


class Object(NamedTuple):
    """One object of a listing."""

    uri: str
    bytes: int
    etag: str
    modified: float
    """Seconds since 1970."""


class _Damaged(Exception):
    """What was sent and what is there differ; another try may help."""


class Objects:
    """The objects that `client` (a boto3 S3 client) reaches, by their s3:// addresses. Every method
    raises NotFoundError, StorageError.
    """

    def __init__(self, client: Any):
        self._client = client

    def head(self, uri: str) -> dict[str, Any]:
        """Size, ETag and metadata of an object."""
        return self._tried(uri, lambda _: self._call("head_object", uri))

    def get(self, uri: str, max_bytes: int = 0) -> tuple[bytes, str]:
        """Content and ETag of an object, as it was stored; larger than `max_bytes`, it is refused
        unread (0 = any size).
        """
        return self._tried(uri, lambda _: self._get(uri, max_bytes))

    def get_range(self, uri: str, start: int, size: int, if_match: str) -> tuple[bytes, str]:
        """Some bytes of an object and its ETag, which is `if_match` where one is given."""
        condition = {"IfMatch": if_match} if if_match else {}

        def attempt(_: int) -> tuple[bytes, str]:
            span = f"bytes={start}-{start + size - 1}"
            reply = self._call("get_object", uri, Range=span, **condition)
            data: bytes = reply["Body"].read()
            if len(data) != size:
                raise _Damaged(f"{uri}: {len(data)} bytes came instead of {size}.")
            return data, str(reply["ETag"])

        return self._tried(uri, attempt)

    def download(self, uri: str, path: Path, head: dict[str, Any]) -> None:
        """The object of `head` into the new file `path`, in parts side by side, compared with what
        was stored.
        """

        def attempt(_: int) -> None:
            with open(path, "wb") as file, ThreadPoolExecutor(PARALLEL_PARTS) as pool:

                def part(start: int) -> None:
                    span = f"bytes={start}-{min(start + PART_BYTES, head['ContentLength']) - 1}"

                    def read(_: int) -> bytes:
                        body: bytes = self._call(
                            "get_object", uri, Range=span, IfMatch=head["ETag"]
                        )["Body"].read()
                        return body

                    os.pwrite(file.fileno(), self._tried(uri, read), start)

                list(pool.map(part, range(0, head["ContentLength"], PART_BYTES)))
                os.fsync(file.fileno())
            with open(path, "rb") as written:
                _check(
                    uri,
                    head,
                    path.stat().st_size,
                    lambda name: hashlib.file_digest(written, name).hexdigest(),
                )

        self._tried(uri, attempt)

    def put(
        self, uri: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None
    ) -> str:
        """One object in one request; returns its ETag. Raises ConflictError where the condition
        does not hold.
        """
        condition = (
            {"IfNoneMatch": "*"}
            if if_absent
            else {"IfMatch": if_match}
            if if_match is not None
            else {}
        )

        about = _about(uri, hashlib.sha256(data).hexdigest())

        def attempt(number: int) -> str:
            try:
                reply = self._call("put_object", uri, Body=data, **about, **condition)
            except Exception as error:
                # The reply to an earlier attempt may have been lost: what stands there now may be
                # ours.
                if number > 1 and _status(error) == 412 and (found := self._get(uri, 0))[0] == data:
                    return found[1]
                raise
            if not _arrived(reply, data):
                if condition:  # ours, but damaged on the way: only that may now be replaced
                    condition.clear()
                    condition["IfMatch"] = reply["ETag"]
                raise _Damaged(f"{uri}: what was stored is not what was sent.")
            return str(reply["ETag"])

        return self._tried(uri, attempt)

    def put_parts(
        self, uri: str, size: int, piece: Callable[[int, int], bytes], sha256: str
    ) -> str:
        """A multipart upload of `piece(start, end)`: it shows only when every part has arrived, and
        is aborted when one can't.
        """
        self._abort_stale(uri)
        opened = self._tried(
            uri, lambda _: self._call("create_multipart_upload", uri, **_about(uri, sha256))
        )["UploadId"]

        def send(number: int) -> dict[str, Any]:
            data = piece((number - 1) * PART_BYTES, min(number * PART_BYTES, size))

            def attempt(_: int) -> str:
                reply = self._call(
                    "upload_part", uri, UploadId=opened, PartNumber=number, Body=data
                )
                if not _arrived(reply, data):
                    raise _Damaged(f"{uri}: part {number} arrived damaged.")
                return str(reply["ETag"])

            return {"ETag": self._tried(uri, attempt), "PartNumber": number}

        def complete(number: int) -> str:
            try:
                return str(
                    self._call(
                        "complete_multipart_upload",
                        uri,
                        UploadId=opened,
                        MultipartUpload={"Parts": parts},
                    )["ETag"]
                )
            except Exception:  # raised again, unless it turns out to have worked
                # The reply to an earlier attempt may have been lost.
                if number > 1 and (etag := self._stored(uri, size, sha256)):
                    return etag
                raise

        try:
            with ThreadPoolExecutor(PARALLEL_PARTS) as pool:
                parts = list(pool.map(send, range(1, -(-size // PART_BYTES) + 1)))
            return self._tried(uri, complete)
        except (
            Exception
        ):  # whatever it was: an upload left open is paid for until someone aborts it
            self._abort(uri, opened)
            raise

    def list(self, prefix: str, page: int = 1000) -> Iterator[Object]:
        """Objects whose address starts with `prefix`, in S3's order (an exact match first); none is
        no error.
        """
        bucket, key = _bucket_key(prefix)
        more: dict[str, str] = {}
        while True:
            arguments = dict(Bucket=bucket, Prefix=key, MaxKeys=page, **more)
            reply = self._tried(prefix, functools.partial(self._list_page, arguments))
            for item in reply.get("Contents", []):
                changed = item["LastModified"].timestamp()
                yield Object(f"s3://{bucket}/{item['Key']}", item["Size"], item["ETag"], changed)
            if not reply.get("IsTruncated"):
                return
            more = {"ContinuationToken": reply["NextContinuationToken"]}

    def delete(self, uri: str) -> None:
        """Remove an object; one that does not exist is fine."""
        self._tried(uri, lambda _: self._call("delete_object", uri))

    def _get(self, uri: str, max_bytes: int = 0) -> tuple[bytes, str]:
        reply = self._call("get_object", uri)
        if max_bytes and reply["ContentLength"] > max_bytes:
            reply["Body"].close()
            raise TooLargeError(
                f"{uri} has {reply['ContentLength']:,} bytes, more than {max_bytes:,}; shrink or"
                " remove it."
            )
        data = reply["Body"].read()
        _check(
            uri,
            reply,
            len(data),
            lambda name: hashlib.new(name, data, usedforsecurity=False).hexdigest(),
        )
        return data, reply["ETag"]

    def _stored(self, uri: str, size: int, sha256: str) -> str | None:
        """ETag of the object, if it is there and is the one that was sent."""
        try:
            head = self._call("head_object", uri)
        except Exception as error:
            if _status(error) == 404:
                return None
            raise
        same = head["Metadata"].get("sha256") == sha256 and head["ContentLength"] == size
        return str(head["ETag"]) if same else None

    def _abort_stale(self, uri: str) -> None:
        bucket, key = _bucket_key(uri)
        reply = self._tried(
            uri, lambda _: self._client.list_multipart_uploads(Bucket=bucket, Prefix=key)
        )
        for found in reply.get("Uploads", []):
            age = datetime.datetime.now(datetime.UTC) - found["Initiated"]
            if found["Key"] == key and age.total_seconds() > STALE_UPLOAD_SECONDS:
                self._abort(uri, found["UploadId"])

    def _abort(self, uri: str, opened: str) -> None:
        self._tried(uri, lambda _: self._call("abort_multipart_upload", uri, UploadId=opened))

    def _list_page(self, arguments: dict[str, Any], _: int) -> dict[str, Any]:
        reply: dict[str, Any] = self._client.list_objects_v2(**arguments)
        return reply

    def _call(self, operation: str, uri: str, **arguments: Any) -> dict[str, Any]:
        bucket, key = _bucket_key(uri)
        reply: dict[str, Any] = getattr(self._client, operation)(
            Bucket=bucket, Key=key, **arguments
        )
        return reply

    def _tried(self, uri: str, call: Callable[[int], T]) -> T:
        """`call`, tried again within bounds; its last error becomes one of ours."""
        try:
            return retried(call, _is_transient)
        except StorageError:
            raise
        except Exception as error:
            if not _is_transient(error) and not type(error).__module__.startswith(_CLIENT_MODULES):
                raise  # of the local file, or a bug; not of the bucket
            status = _status(error)
            if status in (404, 403, 401):
                what = (
                    "there is no such object or bucket"
                    if status == 404
                    else "access is denied, or it does not exist"
                )
                raise NotFoundError(
                    f"{uri}: {what} (HTTP {status}); check the address and the credentials."
                ) from error
            if status == 412:
                raise ConflictError(
                    f"{uri}: somebody else wrote it first (HTTP 412); read it again."
                ) from error
            raise StorageError(
                f"{uri}: the bucket could not be reached or refused"
                f" ({without_password(reason(error, 300))}); check network, endpoint and keys."
            ) from error


def _about(uri: str, sha256: str) -> dict[str, Any]:
    """What is stored with an object: its content's sha256, and the type by which a browser shows
    it instead of downloading it.
    """
    kind = CONTENT_TYPES.get(os.path.splitext(uri)[1], "application/octet-stream")
    return {"Metadata": {"sha256": sha256}, "ContentType": kind}


def _arrived(reply: dict[str, Any], data: bytes) -> bool:
    """Whether the store has what was sent. Under KMS an ETag is no md5: there the store itself has
    compared the client's CRC header.
    """
    encrypted = str(reply.get("ServerSideEncryption", "")).startswith("aws:kms")
    return (
        encrypted
        or reply["ETag"].strip('"') == hashlib.md5(data, usedforsecurity=False).hexdigest()
    )


def _check(uri: str, reply: dict[str, Any], size: int, digest: Callable[[str], str]) -> None:
    """Compare what came with what was stored: its length, and its sha256 or md5 where the store
    tells one.
    """
    etag = reply["ETag"].strip('"')
    encrypted = str(reply.get("ServerSideEncryption", "")).startswith("aws:kms")
    right = size == reply["ContentLength"]
    if right and (sha256 := reply.get("Metadata", {}).get("sha256")):
        right = digest("sha256") == sha256
    elif right and len(etag) == 32 and not encrypted:
        right = digest("md5") == etag
    if not right:
        raise _Damaged(f"{uri}: what was read is not what was stored.")


def _bucket_key(uri: str) -> tuple[str, str]:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key


def without_password(text: str) -> str:
    """A text in which no address names a user or a password."""
    return re.sub(r"(:/+)\S*@", r"\1…@", text)


def _status(error: Exception) -> int:
    """HTTP status of a client's error; 0 where there is none."""
    return int(_response(error).get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _response(error: Exception) -> dict[str, Any]:
    return getattr(error, "response", None) or {}


def _is_transient(error: Exception) -> bool:
    if isinstance(error, StorageError):
        return False
    if status := _status(error):
        code = _response(error).get("Error", {}).get("Code", "")
        return status >= 500 or status == 429 or code in _TRANSIENT_CODES
    kind = type(error)
    known = kind.__module__.startswith(_CLIENT_MODULES) and kind.__name__ not in _FINAL_ERRORS
    return known or isinstance(error, (_Damaged, ConnectionError, TimeoutError))


def retried(call: Callable[[int], T], transient: Callable[[Exception], bool]) -> T:
    """`call(attempt)` with attempt = 1, 2, …, until it returns, fails with an error that is not
    `transient`, or a bound is reached.

    The last error is raised as it came. The randomness is only in the pauses, and uses a source of
    its own, not the run's seed.
    """
    started = time.monotonic()
    pauses = random.SystemRandom()
    attempt = 1
    while True:
        try:
            return call(attempt)
        except Exception as error:  # `transient` decides; what it does not know is raised
            pause = pauses.uniform(0, min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2**attempt))
            if (
                not transient(error)
                or attempt >= ATTEMPTS
                or time.monotonic() - started + pause > TOTAL_SECONDS
            ):
                raise
        time.sleep(pause)
        attempt += 1
