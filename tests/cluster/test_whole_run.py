"""The whole workflow, registered by the Makefile and run pod by pod on S3: each pod has only what
the images hold of this project. What it ends with, what the second run takes from the cache, who is
told of failures, and what a stale image does.
"""

from __future__ import annotations

import dataclasses
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
from cluster import Cluster, build_image, story
from registered import PLAN, Flyte, literal, registered, upload
from webhook import Webhook

from clippo_core.config import RunConfig, presets, replace

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def flyte(s3_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flyte]:
    folder = tmp_path_factory.mktemp("whole")
    image = build_image(folder / "image")
    tiny.write_tiny_data(folder / "data")
    with Cluster(s3_server, image) as cluster, Webhook() as webhook:
        upload(cluster, folder / "data")
        plan = tiny.tiny_plan("", cluster.store.uri("data"))
        names = ("data", "render", "model", "optim", "train")
        parts = {name: getattr(plan, name) for name in names}
        config = RunConfig("tiny", root=cluster.store.uri("runs"), **parts)
        yield registered(folder, cluster, config, webhook)


def looked_at(flyte: Flyte, task: str, seen: list[str]) -> Any:
    """A fault that does no harm: while a pod of `task` runs, it looks for the deck that the console
    would show.
    """
    store = flyte.cluster.store

    def look(process: subprocess.Popen[bytes]) -> None:
        while process.poll() is None:
            names = [name for name in store.names("metadata") if name.endswith("/deck.html")]
            for name in names:
                page = (store.read(name) or b"").decode()
                if "<h1>tiny" in page and process.poll() is None:
                    seen.append(f"{store.content_type(name)} {page}")
            time.sleep(0.02)

    def fault(name: str, _attempt: int, process: subprocess.Popen[bytes]) -> None:
        if name == task:
            threading.Thread(target=look, args=(process,), daemon=True).start()

    return fault


def test_every_stage_runs_in_its_pod_and_a_second_run_comes_from_the_cache(
    flyte: Flyte, monkeypatch: pytest.MonkeyPatch
) -> None:
    flyte.cluster.pods.oom = {"tasks.pretrain.pretrain": 1}
    running: list[str] = []
    flyte.cluster.pods.fault = looked_at(flyte, "tasks.pretrain.pretrain", running)
    first = flyte.run()
    flyte.cluster.pods.fault = None
    assert first.phase_name == "SUCCEEDED", story(first)
    attempts = {node.task: len(node.attempts) for node in first.nodes}
    assert attempts.pop("tasks.pretrain.pretrain") == 2 and set(attempts.values()) == {1}
    decks = {node.task.rpartition(".")[2] for node in first.nodes if node.deck}
    assert {"plan", "validate", "render", "pretrain", "gate", "report"} <= decks
    for node in first.nodes:
        if node.deck:
            deck = flyte.cluster.store.read(flyte.cluster.store.name(node.deck))
            assert len(deck) < 2 << 20, node.task
            name = flyte.cluster.store.name(node.deck)
            assert flyte.cluster.store.content_type(name).startswith("text/html"), node.task
    # The console can show the deck of training while it runs, and its log tells how far it is.
    assert running and running[0].startswith("text/html; charset=utf-8 ")
    assert "6 of 6" in running[-1]
    logs = {node.task.rpartition(".")[2]: node.attempts[-1].log for node in first.nodes}
    assert re.search(
        r"pretrain: 6 of 6 steps \(100 %\), loss [\d.]+, [\d,]+ pairs/s", logs["pretrain"]
    )
    version = flyte.checkout.version().encode()
    (plan,) = (node for node in first.nodes if node.task == "tasks.plan.plan")
    assert version in flyte.cluster.store.read(flyte.cluster.store.name(plan.deck))
    pages = [name for name in flyte.cluster.store.names("runs") if name.endswith(".html")]
    assert {"training.html", "report.html"} <= {name.rpartition("/")[2] for name in pages}
    kinds = {flyte.cluster.store.content_type(name) for name in pages}
    assert kinds == {"text/html; charset=utf-8"}
    # Nothing was evaluated, so nothing was promoted, and somebody was told so.
    (text,) = flyte.webhook.texts
    assert text.startswith("run tiny finished. Not promoted: ")
    address = f"projects/clippo/domains/production/executions/{first.id.name}"
    assert text.endswith(f"https://flyte.example.org/console/{address}")
    for is_struct in ("false", "true"):  # true: as the console's form sends it
        monkeypatch.setenv("FLYTE_USE_OLD_DC_FORMAT", is_struct)
        inputs = {"config": literal(flyte.config)}
        assert inputs["config"].scalar.HasField("generic") == (is_struct == "true")
        again = flyte.cluster.run(PLAN, flyte.checkout.version(), inputs, timeout=600)
        assert again.phase_name == "SUCCEEDED", story(again)
        answered = {name for name, _ in ran(again, from_cache=True)}
        assert {"validate", "render", "pretrain", *MAPPED} <= answered


def test_the_demo_brings_its_data_into_the_bucket(flyte: Flyte) -> None:
    """The first run on a fresh cluster, with all five evaluations in pods of their own."""
    flyte.webhook.texts.clear()
    config = replace(presets.demo(flyte.config.root), **tiny.QUICK_DEMO)
    inputs = {"config": literal(config)}
    execution = flyte.cluster.run("demo", flyte.checkout.version(), inputs, timeout=1800)
    assert execution.phase_name == "SUCCEEDED", story(execution)
    assert {len(node.attempts) for node in execution.nodes} == {1}
    maps = {"imagenet", "retrieval", "vqa", "glue", "xm3600"}
    assert maps <= {name for name, _ in ran(execution)}
    (text,) = flyte.webhook.texts
    assert text.startswith("run demo finished. Not promoted: ") and "failed" not in text


MAPPED = ("measure", "judge", "write")


def ran(execution: Any, from_cache: bool = False) -> set[tuple[str, int]]:
    """(task, number of its nodes or items) that ran, or that the cache answered."""
    names = [
        re.sub("map_(.*)_[0-9a-f]{32}-arraynode", r"\1", node.task.rpartition(".")[2])
        for node in execution.nodes
        if node.from_cache == from_cache
    ]
    return {(name, names.count(name)) for name in names}


def test_a_killed_item_is_named_and_then_only_it_runs(flyte: Flyte) -> None:
    """Of the partitions of a source, one item's machine dies at each attempt: the others are done,
    nothing after the map begins; once the machine is sound, only this one is measured. One more
    file then is one more item of each map.
    """
    store, source = flyte.cluster.store, flyte.config.data.sources[1]
    folder = source.path.rpartition("/")[0]
    lines = [f"left {n}\tright {n}\n" for n in range(64)]

    def add(number: int) -> None:
        text = "".join(lines[16 * number : 16 * number + 16])
        store.write(f"{store.name(folder)}/parts/{number}.tsv", text.encode())

    for number in range(3):
        add(number)
    source = dataclasses.replace(source, path=f"{folder}/parts/*.tsv", name="parts")
    changes = {
        "name": "parts",
        "data__sources": (flyte.config.data.sources[0], source),
        "data__partition_bytes": 1,
    }
    (measure,) = {key[2] for key in flyte.cluster.admin.tasks if "map_measure" in key[2]}
    flyte.cluster.pods.oom = {f"{measure}[2]": 99}
    killed = flyte.run(**changes)
    assert killed.phase_name == "FAILED" and "[2]: " in killed.error.message, story(killed)
    done = [node.task for node in killed.nodes if node.phase_name == "SUCCEEDED"]
    assert done.count(measure) == 3 and not [name for name in done if "judge" in name]
    flyte.cluster.pods.oom = {}
    again = flyte.run(**changes)
    assert again.phase_name == "SUCCEEDED", story(again)
    # The photos were measured and judged before, by the first run of all.
    assert ("measure", 1) in ran(again) and ("judge", 3) in ran(again)
    add(3)
    more = flyte.run(**changes)
    assert more.phase_name == "SUCCEEDED", story(more)
    assert {(name, 1) for name in MAPPED} <= ran(more)
    assert {(name, 4) for name in MAPPED} <= ran(more, True)


def test_a_failure_is_told_once_with_its_stage(flyte: Flyte) -> None:
    flyte.webhook.texts.clear()
    missing = dataclasses.replace(flyte.config.data.sources[1], path="s3://nowhere/sentences.tsv")
    sources = (flyte.config.data.sources[0], missing)
    execution = flyte.run(name="faulty", data__sources=sources)
    assert execution.phase_name == "FAILED", story(execution)
    (text,) = flyte.webhook.texts
    assert text.startswith("run faulty failed in plan: ") and "s3://nowhere" in text
    assert f"execution clippo/production/{execution.id.name}, https://" in text
    assert [node.task for node in execution.nodes] == ["tasks.plan.plan", "tasks.alert.alert"]


def test_a_stale_image_stops_in_the_first_pod_and_is_told(flyte: Flyte, tmp_path: Path) -> None:
    flyte.webhook.texts.clear()
    stale = build_image(tmp_path / "stale")
    (stale / "clippo_core" / "losses.py").open("a").write("# of another commit\n")
    before, flyte.cluster.pods.image = flyte.cluster.pods.image, stale
    try:
        execution = flyte.run(name="stale")
    finally:
        flyte.cluster.pods.image = before
    assert execution.phase_name == "FAILED"
    assert [node.task for node in execution.nodes] == ["tasks.plan.plan", "tasks.alert.alert"]
    (text,) = flyte.webhook.texts
    assert "run `make images register` from one commit" in text
