"""Storage: a folder and a bucket alike, whole files or none, conditions, retries within bounds, no
wrong byte under faults.
"""

from __future__ import annotations

import hashlib
import os
import random
import resource
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults import LOCAL_IO, Crash, FaultProxy, crash_at

from clippo_core import storage
from clippo_core.errors import ConflictError, NotFoundError, StorageError
from clippo_core.storage import bucket as bucket_module

MIB = 1 << 20


@pytest.fixture
def bucket(s3: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty bucket on a local server."""
    monkeypatch.setattr(bucket_module, "FIRST_PAUSE_SECONDS", 0.005)
    return s3


@pytest.fixture(params=["folder", "bucket"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The same tests run on a folder and on a bucket."""
    return (
        str(tmp_path / "store") if request.param == "folder" else request.getfixturevalue("bucket")
    )


def test_a_file_that_is_too_large_is_refused(root: str) -> None:
    uri = storage.join(root, "a.txt")
    storage.write_bytes(uri, b"1234")
    assert storage.read_bytes(uri, 4) == storage.read_bytes(uri) == b"1234"
    with pytest.raises(StorageError, match=r"a\.txt.* more than 3"):
        storage.read_bytes(uri, 3)


def test_write_read_list_delete(root: str) -> None:
    names = ["a.txt", "step-1/x", "step-1/y/z", "step-10/x", "step-1-other"]
    for name in names:
        storage.write_text(storage.join(root, name), f"content of {name} ä")
    assert storage.read_text(f"{root}/step-1/y/z") == "content of step-1/y/z ä"
    assert [stat.name for stat in storage.list_files(root)] == sorted(names)
    assert [stat.name for stat in storage.list_files(f"{root}/step-1")] == ["x", "y/z"]
    assert [stat.name for stat in storage.list_files(f"{root}/a.txt")] == ["a.txt"]
    assert [stat.name for stat in storage.list_files(f"{root}/*.txt")] == ["a.txt"]
    assert storage.list_files(f"{root}/a.txt")[0].bytes == len("content of a.txt ä".encode())
    assert (
        storage.exists(f"{root}/step-1")
        and storage.exists(f"{root}/a.txt")
        and not storage.exists(f"{root}/step")
    )
    storage.delete(f"{root}/step-1")
    storage.delete(f"{root}/never-there")
    assert [stat.name for stat in storage.list_files(root)] == [
        "a.txt",
        "step-1-other",
        "step-10/x",
    ]
    with pytest.raises(NotFoundError, match="check the"):
        storage.read_bytes(f"{root}/step-1/x")
    with pytest.raises(NotFoundError):
        storage.list_files(f"{root}/step-1")


def test_etag_follows_the_content(root: str) -> None:
    uri = f"{root}/file"
    first = storage.write_text(uri, "one")
    assert (
        first
        == storage.etag(uri)
        == storage.list_files(root)[0].etag
        == storage.read_with_etag(uri)[1]
    )
    assert storage.write_text(uri, "two") == storage.etag(uri) != first


def test_conditions_decide_between_writers(root: str) -> None:
    uri = f"{root}/pointer"
    first = storage.write_text(uri, "first", if_absent=True)
    with pytest.raises(ConflictError, match="somebody else"):
        storage.write_text(uri, "second", if_absent=True)
    second = storage.write_text(uri, "second", if_match=first)
    with pytest.raises(ConflictError, match="somebody else"):
        storage.write_text(uri, "third", if_match=first)
    assert storage.read_text(uri) == "second" and storage.etag(uri) == second


def test_of_many_writers_exactly_one_wins(root: str) -> None:
    uri, won, start = f"{root}/lock", [], threading.Barrier(8)

    def write(number: int) -> None:
        start.wait()
        try:
            storage.write_text(uri, f"writer {number}", if_absent=True)
            won.append(number)
        except ConflictError:
            pass

    threads = [threading.Thread(target=write, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1 and storage.read_text(uri) == f"writer {won[0]}"


def test_fetch_verifies(root: str, tmp_path: Path) -> None:
    uri, data = f"{root}/weights.bin", random.Random(0).randbytes(3 * MIB)
    storage.write_bytes(uri, data)
    right = hashlib.sha256(data).hexdigest()
    path = storage.fetch(uri, tmp_path / "cache", right)
    assert path.read_bytes() == data
    assert storage.fetch(uri, tmp_path / "cache") == path
    with pytest.raises(StorageError, match="sha256"):
        storage.fetch(uri, tmp_path / "cache", "0" * 64)
    with pytest.raises(NotFoundError):
        storage.fetch(f"{root}/absent", tmp_path / "cache")


def test_damaged_cache_is_fetched_again(bucket: str, tmp_path: Path) -> None:
    uri, data = f"{bucket}/file", b"right content"
    storage.write_bytes(uri, data)
    path = storage.fetch(uri, tmp_path)
    path.write_bytes(b"wrong content")
    assert storage.fetch(uri, tmp_path, hashlib.sha256(data).hexdigest()).read_bytes() == data
    path.write_bytes(b"cut")
    assert storage.fetch(uri, tmp_path).read_bytes() == data


def test_names_cannot_climb() -> None:
    assert (
        storage.join("s3://b/p/", "x", "y/z") == "s3://b/p/x/y/z"
        and storage.join("runs", "") == "runs"
        and storage.join("/", "x") == "/x"
    )
    for part in ("../x", "a/../../x", "/etc/passwd"):
        with pytest.raises(StorageError, match="leads out"):
            storage.join("runs", part)
    with pytest.raises(StorageError, match="gs://"):
        storage.read_bytes("gs://bucket/key")
    assert (
        storage.local_path("file:///tmp/a%20b") == Path("/tmp/a b")
        and storage.is_local("file:///x")
        and not storage.is_local("s3://b/k")
    )


@pytest.mark.parametrize(
    ("uri", "fault"),
    [
        ("", "an address: it is empty"),
        ("s3://", "it names no bucket"),
        ("s3:///key", "it names no bucket"),
        ("s3://bu cket/key", "no bucket can have"),
        ("s3://bu..cket/key", "no bucket can have"),
        ("s3://-bucket/key", "no bucket can have"),
        ("s3://bucket/a/../b", "its key has a part '.' or '..'"),
        ("s3://bucket/..", "its key has a part '.' or '..'"),
        ("s3://bucket/./b", "its key has a part '.' or '..'"),
        ("s3://bucket/a\nb", "it holds a control character"),
        ("s3://bucket/a\x7fb", "it holds a control character"),
        ("s3://bucket/\ud800", "it holds a lone surrogate"),
        ("s3://bucket/" + "é" * 600, "its key has more than 1,024 bytes"),
        ("s3:/bucket/key", "addresses of the kind s3:/ are not supported"),
        ("S3://bucket/key", "addresses of the kind S3:// are not supported"),
        ("http://bucket/key", "addresses of the kind http:// are not supported"),
        ("javascript:/x", "addresses of the kind javascript:/ are not supported"),
        ("file://host/x", "files of another machine are not supported"),
        ("file:///a%00b", "it holds a control character"),
        ("file://[x", "files of another machine are not supported"),
        ("folder/a\0b", "it holds a control character"),
        ("folder/a\x1b[31m", "it holds a control character"),
        ("folder/\udcff", "it holds a lone surrogate"),
    ],
)
def test_addresses_that_cannot_be_used(uri: str, fault: str, tmp_path: Path) -> None:
    verbs = [storage.read_bytes, storage.fetch, storage.list_files, storage.exists, storage.etag]
    verbs += [storage.delete, lambda uri: storage.write_bytes(uri, b"x")]
    for verb in verbs:
        with pytest.raises(StorageError) as error:
            verb(uri)
        words = str(error.value)
        assert fault in words and words.isprintable() and words.endswith("s3://bucket/prefix."), (
            verb
        )


@pytest.mark.parametrize(
    "uri",
    [
        "https://AKIA123:SECRET@host/x?X-Amz-Signature=SECRET",
        "s3://AKIA123:SECRET@bucket/key",
        "s3://AKIA123:SEC/RET@bucket",
        "ftp://AKIA123:SECRET@host",
        "file://AKIA123:SECRET@host/x",
    ],
)
def test_no_password_stands_in_an_error(uri: str) -> None:
    with pytest.raises(StorageError) as error:
        storage.read_bytes(uri)
    assert "SECRET" not in str(error.value) and "SEC/" not in str(error.value)


def test_no_password_of_an_endpoint_stands_in_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://user:SECRET@127.0.0.1:1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "SECRET")
    monkeypatch.setattr(bucket_module, "ATTEMPTS", 2)
    with pytest.raises(StorageError, match="could not be reached") as error:
        storage.read_bytes("s3://bucket/key")
    assert "SECRET" not in str(error.value) and "127.0.0.1" in str(error.value)


def test_local_names_that_are_no_utf8_are_listed_and_refused(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for name in (b"\xff.jpg", "é.jpg".encode()):
        Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), b"folder", name))).write_bytes(b"x")
    found = storage.list_files(str(tmp_path / "folder"))
    assert [stat.name for stat in found] == ["\\xff.jpg", "é.jpg"]
    assert found[0].etag == hashlib.sha256(b"x").hexdigest()
    with pytest.raises(StorageError, match="it holds a lone surrogate"):
        storage.read_bytes(found[0].uri)


def test_crash_at_every_call_leaves_old_or_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new, seen = b"old" * 1000, b"new" * 1000, set()
    for index in range(100):
        uri = str(tmp_path / f"run{index}" / "file")
        storage.write_bytes(uri, old)
        with crash_at(index, monkeypatch, LOCAL_IO) as calls:
            storage.write_bytes(uri, new)
        content = storage.read_bytes(uri)
        assert content in (old, new), f"crash at call {index}: {calls}"
        seen.add(content)
        assert [stat.name for stat in storage.list_files(os.path.dirname(uri))] == ["file"]
        if len(calls) <= index:
            break
    assert seen == {old, new} and content == new


def test_power_cut_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The data reach the disk before the name does, and the name before the call returns."""
    (tmp_path / "folder").mkdir()
    with crash_at(10**6, monkeypatch, LOCAL_IO) as calls:
        storage.write_bytes(str(tmp_path / "folder" / "file"), b"x")
    order = [call for call in calls if call in ("write", "fsync", "replace")]
    assert order == ["write", "fsync", "replace", "fsync"]


def test_disk_full_keeps_the_old_file(tmp_path: Path) -> None:
    uri = str(tmp_path / "file")
    storage.write_bytes(uri, b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, limits[1]))
    try:
        with pytest.raises(StorageError, match="no room left"):
            storage.write_bytes(uri, bytes(2 * MIB))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert storage.read_bytes(uri) == b"old" and os.listdir(tmp_path) == ["file"]


def test_denied_and_missing_are_not_retried(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    client = storage._bucket()._client
    bad = client.exceptions.ClientError
    for status, code in ((404, "NoSuchKey"), (403, "AccessDenied")):
        calls: list[str] = []

        def refuse(
            operation: str,
            uri: str,
            _status: int = status,
            _code: str = code,
            _calls: list[str] = calls,
            **_: object,
        ) -> None:
            _calls.append(operation)
            raise bad(
                {"Error": {"Code": _code}, "ResponseMetadata": {"HTTPStatusCode": _status}},
                operation,
            )

        with monkeypatch.context() as patch:
            patch.setattr(storage._bucket(), "_call", refuse)
            with pytest.raises(NotFoundError, match=str(status)):
                storage.read_bytes(f"{bucket}/key")
            with pytest.raises(NotFoundError, match=str(status)):
                storage.write_bytes(f"{bucket}/key", b"x")
        assert calls == ["get_object", "put_object"]


def test_retries_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    clock = [0.0]

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        clock[0] += seconds

    monkeypatch.setattr(time, "sleep", sleep)
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    calls: list[int] = []

    def fail(attempt: int) -> None:
        calls.append(attempt)
        clock[0] += cost
        raise ConnectionError("down")

    for cost, most in ((0.0, 10), (30.0, 4)):
        calls.clear()
        pauses.clear()
        started = clock[0]
        with pytest.raises(ConnectionError):
            bucket_module.retried(fail, lambda error: isinstance(error, ConnectionError))
        assert len(calls) <= most and clock[0] - started <= bucket_module.TOTAL_SECONDS + cost
        assert len(set(pauses)) == len(pauses), "pauses are random"
    with pytest.raises(ConnectionError):
        bucket_module.retried(fail, lambda error: False)


def test_objects_have_the_type_by_which_a_browser_shows_them(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage.bucket, "PART_BYTES", 5 << 20)
    (tmp_path / "large").write_bytes(b"x" * (6 << 20))
    kinds = {
        "report.html": "text/html; charset=utf-8",
        "a.b/large.html": "text/html; charset=utf-8",
        "x.json": "application/json",
        "journal.jsonl": "text/plain; charset=utf-8",
        "x.png": "image/png",
        "x.safetensors": "application/octet-stream",
        "html": "application/octet-stream",
    }
    for name in kinds:
        if "large" in name:
            storage.upload(tmp_path / "large", f"{bucket}/{name}")
        else:
            storage.write_text(f"{bucket}/{name}", "x")
    found = {name: storage._bucket().head(f"{bucket}/{name}")["ContentType"] for name in kinds}
    assert found == kinds


def test_multipart_appears_whole_and_is_cleaned_up(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket_module, "PART_BYTES", 5 * MIB)
    data = random.Random(1).randbytes(12 * MIB)
    (tmp_path / "big").write_bytes(data)
    uri, client = f"{bucket}/big", storage._bucket()._client
    name = bucket.removeprefix("s3://").partition("/")[0]
    client.create_multipart_upload(Bucket=name, Key="big")  # what a killed process leaves behind
    monkeypatch.setattr(bucket_module, "STALE_UPLOAD_SECONDS", -1.0)
    storage.upload(tmp_path / "big", uri)
    assert not client.list_multipart_uploads(Bucket=name).get("Uploads")
    assert storage.etag(uri).strip('"').endswith("-3")
    assert (
        storage.fetch(uri, tmp_path / "cache", hashlib.sha256(data).hexdigest()).read_bytes()
        == data
    )
    assert storage.read_bytes(uri) == data

    def refuse(operation: str, address: str, **arguments: object) -> object:
        if operation == "upload_part" and arguments["PartNumber"] == 2:
            raise client.exceptions.ClientError(
                {"Error": {"Code": "AccessDenied"}, "ResponseMetadata": {"HTTPStatusCode": 403}},
                operation,
            )
        return call(operation, address, **arguments)

    call = storage._bucket()._call
    monkeypatch.setattr(storage._bucket(), "_call", refuse)
    with pytest.raises(NotFoundError):
        storage.write_bytes(f"{bucket}/second", data)
    assert not storage.exists(f"{bucket}/second") and not client.list_multipart_uploads(
        Bucket=name
    ).get("Uploads")


def test_completing_an_upload_is_tried_again_while_the_object_is_not_there(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket_module, "PART_BYTES", 5 * MIB)
    proxy = FaultProxy(os.environ["AWS_ENDPOINT_URL_S3"], share=0, seed=0)
    faults = iter(["500", "503", "500"])

    def choose(command: str, body: bytes) -> str:
        return next(faults, "none") if command == "POST" and body else "none"

    monkeypatch.setattr(proxy, "choose", choose)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
    data = random.Random(3).randbytes(6 * MIB)
    storage.write_bytes(f"{bucket}/big", data)
    assert next(faults, None) is None and storage.read_bytes(f"{bucket}/big") == data
    proxy.close()


def test_crash_at_every_request_of_an_upload(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bucket_module, "PART_BYTES", 5 * MIB)
    monkeypatch.setattr(bucket_module, "PARALLEL_PARTS", 1)
    uri, old, new = f"{bucket}/file", b"old", bytes(6 * MIB)
    for index in range(20):
        storage.write_bytes(uri, old)
        with crash_at(index, monkeypatch, [(storage._bucket(), "_call")]) as calls:
            storage.write_bytes(uri, new)
        content = storage.read_bytes(uri)
        assert content in (old, new), f"crash at request {index}: {calls}"
        if len(calls) <= index:
            break
    assert content == new and index >= 4


@pytest.fixture
def proxy(bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """A proxy that spoils 10 % of the requests, between us and the bucket."""
    faulty = FaultProxy(os.environ["AWS_ENDPOINT_URL_S3"], share=0.1, seed=0, slow_seconds=1.2)
    monkeypatch.setattr(storage, "READ_SECONDS", 1.0)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", faulty.url)
    yield faulty
    faulty.close()


def test_no_wrong_byte_under_faults(
    bucket: str, proxy: FaultProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket_module, "PART_BYTES", 5 * MIB)
    source = random.Random(2)
    contents = {
        f"{bucket}/small-{n}": source.randbytes(source.randrange(1, 2000)) for n in range(60)
    }
    for uri, data in contents.items():
        storage.write_bytes(uri, data, if_absent=True)
    large = source.randbytes(11 * MIB)
    (tmp_path / "large").write_bytes(large)
    for n in range(3):
        storage.upload(tmp_path / "large", f"{bucket}/large-{n}")
        assert storage.fetch(f"{bucket}/large-{n}", tmp_path / f"cache{n}").read_bytes() == large
    assert {uri: storage.read_bytes(uri) for uri in contents} == contents
    pointer = storage.write_text(f"{bucket}/pointer", "0", if_absent=True)
    for n in range(1, 30):
        pointer = storage.write_text(f"{bucket}/pointer", str(n), if_match=pointer)
    assert len(storage.list_files(bucket)) == 64
    monkeypatch.setenv(
        "AWS_ENDPOINT_URL_S3", proxy.target
    )  # and without the proxy, from the server itself
    for uri, data in contents.items():
        assert storage.read_bytes(uri) == data
    spoilt = {kind: proxy.counts[kind] for kind in FaultProxy.KINDS}
    assert min(spoilt.values()) > 0, spoilt


def test_flyte_environment(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint = os.environ["AWS_ENDPOINT_URL_S3"]
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("FLYTE_AWS_ENDPOINT", endpoint)
    monkeypatch.setenv("FLYTE_AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("FLYTE_AWS_SECRET_ACCESS_KEY", "secret-canary")
    storage.write_text(f"{bucket}/x", "y")
    assert storage.read_text(f"{bucket}/x") == "y"
    with pytest.raises(NotFoundError) as caught:
        storage.read_text(f"{bucket}/absent")
    assert "canary" not in str(caught.value) + repr(caught.value.__cause__)


def test_crash_is_no_error_of_ours() -> None:
    assert not issubclass(Crash, Exception)
