"""Partitions: where the sources are cut, and that only what is new is measured, judged and written,
once each.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from prepared import shards_of, validated, written
from web_tars import captioned_tar

from clippo_core import storage
from clippo_core.config import DataConfig, RenderConfig, SourceConfig
from clippo_core.data import parts, shards, write
from clippo_core.data.partitions import MAX_PARTITIONS, Partition, cut, make_partitions
from clippo_core.data.validate import expectations, measure
from clippo_core.data.validate.facts import Facts
from clippo_core.errors import DataError, StorageError
from clippo_core.run.folder import PreparedFolder
from clippo_core.run.records import Part, PartitionPlan
from clippo_core.storage import bucket

RENDER = RenderConfig(image_px=32)


def listing(sizes: dict[str, int]) -> Callable[[str], list[list[object]]]:
    """A folder with files of these sizes, for `cut`."""
    return lambda uri: [[name, size, f"etag of {name}"] for name, size in sizes.items()]


def named(sizes: dict[str, int], monkeypatch: pytest.MonkeyPatch, size: int) -> list[Partition]:
    """The partitions of such a folder of tars."""
    monkeypatch.setattr("clippo_core.data.sources.kinds.source_files", lambda _: [*sizes])
    source = SourceConfig("webdataset", "s3://bucket/*.tar", name="web")
    return cut(DataConfig((source,), partition_bytes=size), listing(sizes))


def test_a_file_more_or_less_moves_two_partitions_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    sizes = {f"{n:05d}.tar": int(random.integers(100, 500)) for n in range(400)}
    before = named(sizes, monkeypatch, 3000)
    assert 20 < len(before) < 80
    assert [uri for one in before for uri in one.files] == [*sizes]
    moved = Counter[int]()
    for n in range(0, 400, 7):
        name = f"{n:05d}.tar"
        for after in (
            {key: size for key, size in sizes.items() if key != name},
            dict(sorted({**sizes, f"{n:05d}a.tar": 300}.items())),
            {**sizes, name: sizes[name] + 1},
        ):
            changed = {one.key for one in named(after, monkeypatch, 3000)} - {
                one.key for one in before
            }
            moved[len(changed)] += 1
    assert max(moved) <= 2 and moved[1] > 100


def test_there_are_never_too_many_partitions(monkeypatch: pytest.MonkeyPatch) -> None:
    for n, size in ((10, 10**9), (5_000, 10**9), (30_000, 3 * 10**8)):
        found = named({f"{k:06d}.tar": size for k in range(n)}, monkeypatch, 2**30)
        assert len(found) <= MAX_PARTITIONS
        assert sum(len(one.files) for one in found) == n
        assert len(found) > min(n, 100) / 4
    data = DataConfig(tuple(SourceConfig("hf", f"org/{n}", name=f"s{n}") for n in range(1001)))
    with pytest.raises(DataError, match="1,001 sources, more than 1,000"):
        cut(data)


def test_what_cannot_be_cut_is_one_partition(tmp_path: Path) -> None:
    for n in range(3):
        (tmp_path / f"{n}.txt").write_text("a\nb\nc\nd\n")
    source = SourceConfig("sentences", str(tmp_path / "*.txt"), name="s")
    data = DataConfig((source,), text_pair_share=1.0, partition_bytes=1)
    assert [len(one.files) for one in cut(data)] == [1, 1, 1]
    limited = dataclasses.replace(data, sources=(dataclasses.replace(source, limit=5),))
    [whole] = cut(limited)
    assert not whole.files
    manifest = shards_of(tmp_path / "run", limited, RENDER)
    assert manifest.n_pairs == 5  # over the files, in their order


# ---------------------------------------------------------------- only what is new


def write_tar(folder: Path, number: int, each: int = 3) -> None:
    random = np.random.default_rng(number)
    folder.mkdir(exist_ok=True)
    records = (
        (f"{n:04d}", random.integers(0, 256, (16, 16, 3), dtype=np.uint8), f"text {number} {n}")
        for n in range(each)
    )
    (folder / f"{number:05d}.tar").write_bytes(captioned_tar(records))


def write_lines(folder: Path, number: int) -> None:
    folder.mkdir(exist_ok=True)
    rows = (f"en\tde\tfirst {number} {n}\tzweiter {number} {n}\n" for n in range(4))
    (folder / f"{number:05d}.tsv").write_text("".join(rows))


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How many partitions are really measured, judged and written from now on."""
    done = Counter[str]()

    def counted(module: object, name: str, kind: str) -> None:
        real = getattr(module, name)

        def count(*arguments: object, **options: object) -> object:
            done[kind] += 1
            return real(*arguments, **options)

        monkeypatch.setattr(module, name, count)

    counted(measure, "_measured", "measured")
    counted(expectations, "_judged", "judged")
    counted(write.parts, "finished", "looked")
    for way in ("indexed", "written"):
        counted(write._Job, way, "written")
    return done


@pytest.mark.parametrize(
    ("kind", "n_files"),
    [("webdataset", 5), ("tsv", 5), pytest.param("webdataset", 33, marks=pytest.mark.slow)],
)
def test_of_some_files_and_one_more_only_one_partition_is_new(
    tmp_path: Path, work: Counter[str], kind: str, n_files: int
) -> None:
    """Found by content in storage, with no cache but that."""
    make, ending = (write_tar, "tar") if kind == "webdataset" else (write_lines, "tsv")
    for number in range(n_files):
        make(tmp_path / "set", number)
    source = SourceConfig(kind, str(tmp_path / f"set/*.{ending}"), name="set")  # type: ignore[arg-type]
    share = 0.0 if kind == "webdataset" else 1.0
    data = DataConfig((source,), text_pair_share=share, partition_bytes=1)

    def run() -> tuple[int, shards.Manifest]:
        found = validated(tmp_path / "runs", data, RENDER)
        return len(found.judged.facts), written(tmp_path / "runs", data, RENDER, found.judged)

    n, manifest = run()
    first = shards.shard_list(manifest)
    assert n == n_files == work["measured"] == work["judged"] == work["written"]
    make(tmp_path / "set", n_files)
    work.clear()
    n, second = run()
    assert n == n_files + 1 and work["measured"] == work["judged"] == work["written"] == 1
    assert shards.shard_list(second)[:n_files] == first
    work.clear()
    assert run()[1] == second and work["measured"] == work["judged"] == work["written"] == 0


def test_one_record_less_indexes_one_partition_and_reads_no_tar(
    tmp_path: Path, work: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        write_tar(tmp_path / "set", number)
    source = SourceConfig("webdataset", str(tmp_path / "set/*.tar"), name="web")
    data = DataConfig((source,), partition_bytes=1)
    before = shards_of(tmp_path / "runs", data, RENDER)
    one = shards.shard_list(before)
    work.clear()
    for path in (tmp_path / "set").iterdir():
        path.chmod(0)
    monkeypatch.setattr(write, "_write_tar", None)
    after = shards_of(tmp_path / "runs", data, RENDER, ("web/00002/0001",))
    assert work["measured"] == 0 and work["written"] == 1
    two = shards.shard_list(after)
    assert [a == b for a, b in zip(one, two, strict=True)] == [True, True, False, True, True]
    assert (before.n_pairs, after.n_pairs) == (15, 14)


def test_what_is_left_out_is_the_same_in_any_partitions(tmp_path: Path) -> None:
    for number in range(5):
        write_tar(tmp_path / "set", number)
    source = SourceConfig("webdataset", str(tmp_path / "set/*.tar"), name="web")
    out = ("web/00002/0001", "web/00000/0002", "web/00004/0000")
    found = {}
    for size, excluded in ((1, out), (1 << 30, out[::-1]), (1, out[:2]), (1, ())):
        data = DataConfig((source,), partition_bytes=size)
        root = tmp_path / f"{size} {len(excluded)}"
        found[size, len(excluded)] = shards_of(root, data, RENDER, excluded).left_out
    assert found[1, 3] == found[1 << 30, 3]
    assert len(set(found.values())) == 3 and found[1, 0] == "0" * 16


def test_a_tar_in_a_bucket_costs_one_head_and_is_read_once(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Counter[tuple[str, str]]()
    call = bucket.Objects._call

    def counted(self: bucket.Objects, operation: str, uri: str, **arguments: object) -> object:
        asked[operation, uri.rpartition("/")[2]] += 1
        return call(self, operation, uri, **arguments)

    for number in range(3):
        write_tar(tmp_path, number, each=40)
        name = f"{number:05d}.tar"
        storage.upload(tmp_path / name, f"{s3}/set/{name}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "node"))
    monkeypatch.setattr(bucket.Objects, "_call", counted)
    source = SourceConfig("webdataset", f"{s3}/set/*.tar", name="web")
    manifest = shards_of(f"{s3}/runs", DataConfig((source,)), RENDER)
    assert manifest.n_pairs == 120
    of_tars = {key: n for key, n in asked.items() if key[1].endswith(".tar")}
    assert of_tars == {
        (operation, f"{n:05d}.tar"): 1
        for n in range(3)
        for operation in ("head_object", "get_object")
    }
    assert not list((tmp_path / "node").rglob("*.tar"))  # nor do they fill the pod's disk


# ---------------------------------------------------------------- faults


def one_partition(tmp_path: Path) -> tuple[PartitionPlan, Part]:
    write_tar(tmp_path / "set", 0)
    data = DataConfig((SourceConfig("webdataset", str(tmp_path / "set/*.tar"), name="web"),))
    prepared = str(tmp_path / "prepared")
    storage.write_text(PreparedFolder(prepared).generation, "first")
    [part] = make_partitions(data, prepared)
    return PartitionPlan(prepared, RENDER), part


def test_a_fault_of_the_machine_is_no_fact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is raised and leaves nothing behind, so that the same partition is measured again."""
    plan, part = one_partition(tmp_path)

    def unreachable(image: str) -> bytes:
        raise StorageError(f"{image}: the bucket could not be reached")

    with monkeypatch.context() as patched:
        patched.setattr(measure.tars, "picture_bytes", unreachable)
        with pytest.raises(StorageError, match="could not be reached"):
            measure.measure(plan, part, False)
    assert not (tmp_path / "prepared" / "facts").exists()
    facts = parts.read(plan.prepared, measure.measure(plan, part, False), Facts)
    assert facts.n_records == 3


def test_what_is_lost_or_changed_is_named_and_no_cache_answers_from_then_on(
    tmp_path: Path,
) -> None:
    plan, part = one_partition(tmp_path)
    facts = measure.measure(plan, part, False)
    table = Path(plan.prepared, facts.name.replace(".json", "-records.parquet"))
    whole = table.read_bytes()
    table.write_bytes(whole[:-1])
    with pytest.raises(DataError, match=r"-records.parquet: .*start the run again"):
        expectations.judge(plan, facts)
    generation = Path(PreparedFolder(plan.prepared).generation)
    assert not generation.exists()
    assert measure.measure(plan, part, False) == facts and table.read_bytes() == whole
    generation.write_text("second")
    Path(plan.prepared, facts.name).write_text("{}")
    with pytest.raises(DataError, match="not what was noted"):
        expectations.judge(plan, facts)
    assert not generation.exists()
