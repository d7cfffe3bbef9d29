"""Retention: what of many weeks is kept and why, in a folder and in a bucket; what cannot be read;
and that the disk stays bounded.
"""

from __future__ import annotations

import dataclasses
import datetime
from pathlib import Path

import numpy as np
import pytest
from tiny import tiny_plan

from clippo_core import storage
from clippo_core.__main__ import main
from clippo_core.config import GateConfig, digest
from clippo_core.data import parts
from clippo_core.engine.checkpoint import Progress, open_checkpoint, save_checkpoint
from clippo_core.errors import NotFoundError
from clippo_core.evaluate.results import write_result
from clippo_core.evaluate.scores import Scores
from clippo_core.run import history, planned, promotion
from clippo_core.run.folder import BaseFolder, PreparedFolder, RunFolder
from clippo_core.run.planned import Planned
from clippo_core.run.records import (
    CheckpointInfo,
    EvalResult,
    FileEntry,
    GatePlan,
    Manifest,
    ManifestFile,
    Metric,
    Part,
    Shard,
    ShardList,
    StagePlan,
    dumps,
)
from clippo_core.run.retention import Survey, survey

RECALL = "coco/i2t_recall@1"
GATE = GateConfig(margin=9, seed_noise=0)
SHARD_BYTES = 50_000


@pytest.fixture(params=["folder", "bucket"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty root."""
    if request.param == "folder":
        return str(tmp_path / "runs")
    bucket: str = request.getfixturevalue("s3")
    return f"{bucket}/runs"


def later(days: float = 365) -> datetime.datetime:
    """A time at which nothing that is written now is young."""
    return datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)


def look(root: str, runs: int = 2) -> Survey:
    return survey(root, runs, 30, later())


def names(root: str) -> set[str]:
    return {file.name for file in storage.list_files(root)}


def a_run(
    root: str, number: int, shards_of: int | None = None, start: str = "", done: bool = True
) -> RunFolder:
    """The folder of run `number`, without its model: it trained on the shards of another one, or on
    its own.
    """
    run = BaseFolder(root).run("weekly", digest(number))
    where = run if shards_of is None else BaseFolder(root).run("weekly", digest(shards_of))
    places = {"render": where.root, "pretrain": run.root, "retrieval": run.root}
    at = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
    planned.write(run.root, Planned("weekly", at, places, [start] if start else []))
    note = f'{{"root": "{run.root}", "generation": "g"}}'
    storage.write_text(BaseFolder(root).stage_note("pretrain", digest(number)), note)
    if where is run:
        storage.write_bytes(storage.join(run.shards, "a-00000.tar"), bytes(SHARD_BYTES))
        manifest = Manifest("", "", run.shards, 1, 1, 1, SHARD_BYTES, "", "", {})
        storage.write_text(
            storage.join(run.shards, "manifest.json"), dumps(ManifestFile(manifest, []))
        )
    if done:
        storage.write_text(run.report, "<p>a report")
    return run


def a_week(root: str, number: int, recall: float, shards_of: int | None = None) -> bool:
    """A whole run, to its verdict: whether its model was promoted."""
    run = a_run(root, number, shards_of)
    weights = {"a": np.random.default_rng(number).normal(size=99).astype(np.float32)}
    progress = Progress(step=2, pairs_seen=16, loss=1.0, world_size=1, state={}, finished=True)
    info = save_checkpoint(run.checkpoints, weights, {}, tiny_plan("runs"), progress)
    folder, scores = run.evaluation("retrieval"), Scores()
    hits = np.arange(100) < recall
    scores.add(RECALL, range(100), (100.0 * hits).tolist())
    storage.write_bytes(storage.join(folder, "features", "x.npy"), bytes(SHARD_BYTES))
    metric = Metric(recall, recall - 9, recall + 9, 1.0, 100)
    result = EvalResult(
        "retrieval", "coco", "test", "p", 100, {RECALL: metric}, main_metrics=[RECALL]
    )
    result = write_result(folder, result, scores)
    plan = GatePlan(
        StagePlan(run.root, 0, "d"),
        "weekly",
        BaseFolder(root).promoted("weekly"),
        {"retrieval": folder},
        gate=GATE,
        benchmarks={"coco": "same"},
    )
    return promotion.decide(plan, info, [result]).promoted


def kept(root: str, number: int) -> set[str]:
    """What is left of a run, by its parts."""
    top = BaseFolder(root).run("weekly", digest(number)).root.rpartition("/")[2]
    return {name.split("/")[1] for name in names(root) if name.startswith(f"{top}/")}


def test_weeks_leave_what_the_gate_needs_and_the_disk_stays_bounded(root: str) -> None:
    pointer = BaseFolder(root).promoted("weekly")
    sizes, promoted = [], []
    for week in range(10):
        # The first is the best by little, so that it stays the reference; the fifth is refused.
        promoted.append(a_week(root, week, 30 if week == 4 else 60 if week else 61))
        found = look(root)
        found.delete()
        sizes.append(sum(file.bytes for file in storage.list_files(root)))
        assert not look(root).doomed
    assert promoted == [week != 4 for week in range(10)]
    # The last two runs, the reference, the one to go back to; and small records of each week.
    assert max(sizes[4:]) - min(sizes[4:]) < SHARD_BYTES / 2
    assert kept(root, 0) == {"checkpoints", "evaluations"} and not kept(root, 3)
    assert {"shards", "checkpoints", "evaluations", "plan.json"} <= kept(root, 8)
    assert len([name for name in names(root) if name.startswith("stages/")]) <= 3
    # The next model is still compared example by example with the first, ...
    past = history.read(pointer)
    assert past[-1].references == {RECALL: 1} and not past[-1].verdict.compared[RECALL].unpaired
    # ... and each promotion that may be needed is whole.
    open_checkpoint(past[0].verdict.model_uri)
    back = promotion.rollback(pointer, "kim", "wrong colours")
    assert back.weights_sha256 == past[-2].weights_sha256


def test_without_a_deletion_everything_stays_and_is_told(
    root: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for week in range(4):
        a_week(root, week, 60)
    before = names(root)
    command = ["retain", root, "--runs", "1", "--days", "0"]
    assert main(command) == 0
    told = capsys.readouterr().out
    assert "Nothing was deleted: add --delete" in told and names(root) == before
    assert "promoted as weekly" in told and "the gate's reference for weekly" in told
    assert "a rollback of weekly goes back to it" in told and "one of the last 1 of weekly" in told
    # Of the second run all goes: its shards, its features, its model.
    gone = digest(1)[:12]
    assert f"weekly-{gone}/shards" in told and "0.1 MB" in told
    assert main([*command, "--delete"]) == 0
    assert "Deleted" in capsys.readouterr().out and not kept(root, 1)
    assert main(["retain", root, "--days", "30"]) == 0  # all that is left is young
    assert "0.0 MB of" in capsys.readouterr().out
    assert main([*command[:2], "--runs", "0"]) == 2


def test_what_a_kept_run_names_in_older_folders_is_kept(root: str) -> None:
    a_week(root, 0, 60)
    for week in (1, 2, 3):
        a_week(root, week, 60, shards_of=0)
    a_week(root, 4, 60)
    look(root, runs=2).delete()
    assert {"shards", "checkpoints"} <= kept(root, 0)
    assert not kept(root, 2) and "shards" in kept(root, 4)


def test_what_an_unfinished_run_started_from_is_kept(root: str) -> None:
    a_week(root, 0, 40)
    start = history.read(BaseFolder(root).promoted("weekly"))[0].verdict.model_uri
    for week in (1, 2, 3):
        a_week(root, week, 60 + week)
    a_run(root, 4, start=start, done=False)
    look(root, runs=1).delete()
    assert open_checkpoint(start) and "shards" not in kept(root, 0)
    a_run(root, 4, start=start, done=True)
    look(root, runs=1).delete()
    with pytest.raises(NotFoundError):
        open_checkpoint(start)


def test_what_cannot_be_read_keeps_what_it_may_name(root: str) -> None:
    for week in range(4):
        a_week(root, week, 60)
    record = storage.join(root, "promotions/weekly/0002.json")
    damaged = [
        (record, "0002.json"),
        (BaseFolder(root).run("weekly", digest(3)).plan, "plan.json"),
        (storage.join(BaseFolder(root).run("weekly", digest(3)).shards, "manifest.json"), "shards"),
    ]
    for uri, said in damaged:
        before = storage.read_bytes(uri)
        assert look(root).doomed
        storage.write_bytes(uri, b"{")
        found = look(root)
        assert not found.doomed and said in " ".join(found.unreadable)
        assert "so that everything is kept" in found.table()
        assert not found.delete()
        storage.write_bytes(uri, before)
    # A run of an earlier version has no plan: it may have used any folder that is older.
    storage.delete(BaseFolder(root).run("weekly", digest(3)).plan)
    assert not look(root).doomed


def test_only_what_this_project_made_is_looked_at(root: str) -> None:
    strange = ["data/photos.tar", "notes.txt", "mine-0123456789ab/thesis.tex", "weekly-x/a"]
    for name in strange:
        storage.write_text(storage.join(root, name), "mine")
    for week in range(4):
        a_week(root, week, 60)
    look(root, runs=1).delete()
    assert set(strange) <= names(root) and not kept(root, 1)


def test_prepared_files_are_kept_as_long_as_one_kept_run_names_them(root: str) -> None:
    store = storage.join(root, "prepared", "shards")
    generation = storage.join(root, "prepared", "generation")
    storage.write_text(generation, "1")

    def prepare(run: RunFolder, *partitions: str) -> None:
        """A shard per partition in the folder that runs share, and the run's manifest of them."""
        lists = []
        for name in partitions:
            storage.write_bytes(storage.join(store, f"{name}.tar"), bytes(SHARD_BYTES))
            storage.write_bytes(storage.join(store, f"{name}.index"), b"i")
            tar = FileEntry(f"{name}.tar", SHARD_BYTES, "", 1)
            # A foreign tar is data, wherever it lies.
            foreign = FileEntry(storage.join(root, "data/theirs.tar"), 4, "", 1)
            shards = [Shard(one, FileEntry(f"{name}.index", 1, "", 1), 1) for one in (tar, foreign)]
            storage.write_text(storage.join(store, f"list-{name}.json"), dumps(ShardList(shards)))
            lists.append(Part(f"list-{name}.json", "", 1))
        manifest = Manifest("", "", store, 1, 1, 1, SHARD_BYTES, "", "", {})
        text = dumps(ManifestFile(manifest, lists))
        storage.write_text(storage.join(run.shards, "manifest.json"), text)

    storage.write_text(storage.join(root, "data/theirs.tar"), "data")
    storage.write_text(storage.join(store, "nobody-knows.json"), "{}")
    for week in range(4):
        a_week(root, week, 60)
        prepare(BaseFolder(root).run("weekly", digest(week)), f"new-{week}", f"of-{week // 2}")
    unfinished = a_run(root, 4, shards_of=9, done=False)
    assert not [file for file in look(root).doomed if file.name.startswith("prepared/")]
    storage.delete(unfinished.root)
    look(root).delete()
    assert not storage.exists(generation)  # no cache answers for what is gone
    left = {name.split("/")[2] for name in names(root) if name.startswith("prepared/shards/")}
    expected = {"nobody-knows.json"}
    for name in ("of-1", "new-2", "new-3"):
        expected |= {f"{name}.tar", f"{name}.index", f"list-{name}.json"}
    assert left == expected
    assert storage.exists(storage.join(root, "data/theirs.tar"))


def test_what_was_noted_of_a_partition_goes_when_no_run_has_used_it_for_long(root: str) -> None:
    prepared, key = BaseFolder(root).prepared, "a" * 32
    mine = {f"facts/{key}.json", f"facts/{key}-records.parquet", f"verdicts/{key}.parquet"}
    others = {"facts/notes.txt", f"mine/{key}.json"}
    for name in (*mine, *others):
        storage.write_text(storage.join(prepared, name), "{}")
    storage.write_text(storage.join(root, f"facts/{key}.json"), "{}")
    storage.write_text(PreparedFolder(prepared).generation, "1")
    a_week(root, 0, 60)
    unfinished = a_run(root, 1, shards_of=9, done=False)
    assert not survey(root, 2, 30, later(29)).doomed
    assert not [file for file in look(root).doomed if file.name.startswith("prepared/")]
    storage.delete(unfinished.root)
    look(root).delete()
    left = {name.partition("/")[2] for name in names(root) if name.startswith("prepared/")}
    assert left == others and storage.exists(storage.join(root, f"facts/{key}.json"))
    assert not kept(root, 1) and "shards" in str(kept(root, 0))


def test_what_a_run_finds_of_a_partition_counts_as_used(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"facts/{'a' * 32}.json"
    for days, renewed in ((0.5, False), (2, True)):
        part = parts.write(root, name, Part("", "", 1), 1)
        [before] = storage.list_files(storage.join(root, name))
        written: list[str] = []
        with monkeypatch.context() as patch:
            patch.setattr(parts.time, "time", lambda at=before.modified, d=days: at + d * 86_400)
            patch.setattr(storage, "write_text", lambda uri, text, to=written: to.append(text))
            assert parts.finished(root, name, Part) == Part("", "", 1)
        assert written == ([storage.read_text(storage.join(root, name))] if renewed else [])
        assert parts.read(root, part, Part) == Part("", "", 1)


def test_evaluations_of_a_checkpoint_go_when_it_is_promoted_no_more(root: str) -> None:
    a_week(root, 0, 40)
    pointer = BaseFolder(root).promoted("weekly")
    folders = []
    for week in (1, 2):
        sha256 = history.read(pointer)[-1].weights_sha256
        folders.append(BaseFolder(root).evaluation_of(sha256))
        storage.write_text(storage.join(folders[-1], "abc", "result.json"), "{}")
        a_week(root, week, 40 + 20 * week)
    look(root).delete()
    assert not storage.exists(folders[0]) and not storage.exists(folders[1])
    sha256 = history.read(pointer)[-1].weights_sha256
    storage.write_text(storage.join(BaseFolder(root).evaluation_of(sha256), "a/b.json"), "{}")
    assert not look(root).doomed


def test_a_run_that_is_planned_between_two_looks_keeps_its_folder(root: str) -> None:
    for week in range(4):
        a_week(root, week, 60)
    found = look(root)
    assert any("/shards/" in file.name for file in found.doomed)
    a_run(root, 5, shards_of=1, done=False)
    found.delete()
    assert "shards" in kept(root, 1) and "evaluations" not in kept(root, 1)


def test_a_copy_of_a_root_is_its_own(tmp_path: Path) -> None:
    """Records name addresses of the place where the runs were: what they name is kept here, too."""
    there, here = tmp_path / "there", tmp_path / "here"
    for week in range(4):
        a_week(str(there), week, 60)
    there.rename(here)
    look(str(here)).delete()
    assert kept(str(here), 0) == {"checkpoints", "evaluations"} and not kept(str(here), 1)


def test_the_checkpoint_of_a_record_is_what_is_named(root: str) -> None:
    a_week(root, 0, 60)
    info: CheckpointInfo = open_checkpoint(
        BaseFolder(root).run("weekly", digest(0)).checkpoints
    ).info
    record = history.read(BaseFolder(root).promoted("weekly"))[0]
    assert record.verdict.model_uri == info.uri
    assert dataclasses.asdict(record)["scores"]["retrieval"]["uri"].endswith("predictions.parquet")
