"""Faults on the doubles: for each row of the table in docs/faults.md how often the node is tried,
how the execution ends, whether there are a verdict and a report, and what is told.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import psutil
import pytest
from cluster import Cluster, build_image, story
from colours import colours, write_benchmark, write_pairs
from conftest import PROJECT
from refusing import Refusing
from registered import Flyte, registered, upload
from webhook import Webhook

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
Fault = Callable[[Flyte], AbstractContextManager[Any]]


@pytest.fixture(scope="module")
def flyte(s3_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flyte]:
    """A cluster of the shape h200 (Elastic restarts lost ranks there) on which a first model is
    promoted.
    """
    folder = tmp_path_factory.mktemp("faults")
    image = build_image(folder / "image")
    write_benchmark(folder / "data" / "benchmark")
    write_pairs(folder / "data" / "pairs", 48, seed=1)
    with Cluster(s3_server, image) as cluster, Webhook() as webhook:
        upload(cluster, folder / "data")
        config = colours(cluster.store.uri("data"), cluster.store.uri("runs"))
        flyte = registered(folder, cluster, config, webhook, shape="h200")
        first = flyte.run()
        assert first.phase_name == "SUCCEEDED", story(first)
        assert not webhook.texts
        yield flyte


@contextlib.contextmanager
def calm(flyte: Flyte) -> Iterator[None]:
    """No fault."""
    yield


def oom(task: str) -> Fault:
    """Every attempt of a task runs out of memory."""

    @contextlib.contextmanager
    def fault(flyte: Flyte) -> Iterator[None]:
        flyte.cluster.pods.oom = {registered_as(flyte, task): 99}
        yield
        flyte.cluster.pods.oom = {}

    return fault


def at_work(strike: Callable[[subprocess.Popen[bytes]], None], task: str, marker: str) -> Fault:
    """`strike` the first attempt of a task, once an object whose name holds `marker` is new."""

    @contextlib.contextmanager
    def fault(flyte: Flyte) -> Iterator[None]:
        store = flyte.cluster.store
        before = set(store.names("runs/"))

        def hit(name: str, attempt: int, process: subprocess.Popen[bytes]) -> None:
            if attempt or task not in name:
                return

            def wait() -> None:
                while process.poll() is None:
                    if any(marker in one for one in set(store.names("runs/")) - before):
                        strike(process)
                        return
                    time.sleep(0.1)

            threading.Thread(target=wait, daemon=True).start()

        flyte.cluster.pods.fault = hit
        yield
        flyte.cluster.pods.fault = None

    return fault


def terminate(process: subprocess.Popen[bytes]) -> None:
    """As Kubernetes does before it takes a pod away: its first process gets SIGTERM."""
    os.kill(process.pid, signal.SIGTERM)


def lose_a_rank(process: subprocess.Popen[bytes]) -> None:
    for child in psutil.Process(process.pid).children(recursive=True):
        if any("spawn_main" in word for word in child.cmdline()):
            child.kill()


@contextlib.contextmanager
def hung(flyte: Flyte) -> Iterator[None]:
    """The evaluation's pod does nothing any more, for a timeout of 6 s instead of a day."""

    def stop(name: str, attempt: int, process: subprocess.Popen[bytes]) -> None:
        if "map_imagenet" in name:
            os.killpg(process.pid, signal.SIGSTOP)

    flyte.cluster.pods.fault, flyte.cluster.propeller.timeouts = stop, {"map_imagenet": 6}
    yield
    flyte.cluster.pods.fault, flyte.cluster.propeller.timeouts = None, {}


def refused(method: str, part: str, status: int) -> Fault:
    """The bucket refuses requests for names that hold `part`."""

    def rule(asked: str, path: str) -> int:
        return status if asked == method and part in path else 0

    return lambda flyte: Refusing(flyte.cluster, rule)


CASES: dict[str, tuple[str, Fault, dict[str, Any]]] = {
    "out of memory: plan": ("plan", oom("plan"), {}),
    "out of memory: measure": ("measure", oom("measure"), {"render__monospace": True}),
    "out of memory: judge": ("judge", oom("judge"), {"render__monospace": True}),
    "out of memory: evaluated": (
        "evaluated",
        oom("evaluated"),
        {"evaluate__imagenet__templates": "clip_best"},
    ),
    "out of memory: validate": ("validate", oom("validate"), {"data__max_bad_share": 0.04}),
    "out of memory: write": ("write", oom("write"), {"data__records_per_shard": 7}),
    "out of memory: render": ("render", oom("render"), {"data__max_bad_share": 0.03}),
    "out of memory: pretrain": ("pretrain", oom("pretrain"), {"train__steps": 61}),
    "out of memory: an evaluation": (
        "imagenet",
        oom("imagenet"),
        {"evaluate__bootstrap_samples": 101},
    ),
    "out of memory: gather": ("gather", oom("gather"), {}),
    "out of memory: gate": ("gate", oom("gate"), {}),
    "out of memory: report": ("report", oom("report"), {}),
    "out of memory: refused": ("refused", oom("refused"), {}),
    "SIGTERM to pretrain": (
        "pretrain",
        at_work(terminate, "pretrain", "/checkpoints/step-"),
        {"train__steps": 100},
    ),
    "a lost rank": (
        "pretrain",
        at_work(lose_a_rank, "pretrain", "/checkpoints/step-"),
        {"train__steps": 101},
    ),
    "a loss that is not finite": (
        "pretrain",
        calm,
        {"optim__lr": 1e30, "train__max_skipped_steps": 0},
    ),
    "a missing benchmark": ("imagenet", calm, {"evaluate__imagenet__images": "s3://nowhere/val"}),
    "a hung evaluation": ("imagenet", hung, {"evaluate__bootstrap_samples": 102}),
    "a full bucket (507) in render": (
        "render",
        refused("PUT", "/shards/", 507),
        {"data__max_bad_share": 0.02},
    ),
    "a root on the pod's own disk": ("plan", calm, {"root": "runs"}),
    "403 for a checkpoint": (
        "pretrain",
        refused("PUT", "/checkpoints/", 403),
        {"train__steps": 62},
    ),
}


NIGHTLY = {
    f"out of memory: {task}"
    for task in ("plan", "measure", "judge", "write", "render", "gather", "report", "refused")
}
"""Rows that take as long as the others and say what `gate` and `validate` say already."""


DEATHS = {"a lost rank": ["-9"], "a loss that is not finite": ["1"], "403 for a checkpoint": ["1"]}
"""Exit codes of the ranks that ended in the first pod: had Elastic started one again only for it to
end in the same way, there were more."""


def expected() -> dict[str, list[str]]:
    """The rows of the table, by their fault."""
    lines = (PROJECT / "docs" / "faults.md").read_text().splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if "|" in line]
    return {row[0]: row[1:] for row in rows[2:]}


def test_the_table_has_a_row_per_case() -> None:
    assert list(expected()) == list(CASES)


def test_each_node_runs_out_of_memory_in_a_row(flyte: Flyte) -> None:
    first = next(iter(flyte.cluster.admin.executions.values()))
    nodes = {node for name, (node, *_) in CASES.items() if name.startswith("out of memory")}
    assert {function(one.task) for one in first.nodes} == nodes


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.nightly] if name in NIGHTLY else []) for name in CASES],
)
def test_a_fault_does_what_the_table_says(flyte: Flyte, name: str) -> None:
    node, fault, changes = CASES[name]
    flyte.webhook.texts.clear()
    before = len(records(flyte))
    with fault(flyte):
        execution = flyte.run(**changes)
    nodes = {function(one.task): one for one in execution.nodes}
    succeeded = {key for key, one in nodes.items() if one.phase_name == "SUCCEEDED"}
    verdict = "none"
    if "gate" in succeeded:
        new = records(flyte)[before:]
        verdict = (
            "as before" if not new else "promoted" if '"promoted": true' in new[0] else "refused"
        )
    (*told,) = flyte.webhook.texts
    for text in told:
        assert text.endswith(f"/executions/{execution.id.name}")
    found = [
        str(len(nodes[node].attempts)),
        execution.phase_name,
        verdict,
        "yes" if "report" in succeeded else "no",
        "; ".join(text.removeprefix("run weekly ").partition(":")[0] for text in told) or "nothing",
    ]
    assert found == expected().get(name), story(execution)
    if name in DEATHS:
        log = nodes[node].attempts[0].log
        assert re.findall(r"failed \(exitcode: (-?\d+)\) local_rank", log) == DEATHS[name]


def registered_as(flyte: Flyte, task: str) -> str:
    """The name of the task that runs in this workflow; of a function that is mapped, the map's."""
    names = {key[2] for key in flyte.cluster.admin.tasks if function(key[2]) == task}
    (name,) = {one for one in names if ".map_" in one} or names
    return name


def function(task: str) -> str:
    name = task.rpartition(".")[2]
    return name.removeprefix("map_").partition("_")[0] if name.startswith("map_") else name


def records(flyte: Flyte) -> list[str]:
    """Every verdict so far."""
    store = flyte.cluster.store
    found = (store.read(name) for name in sorted(store.names("runs/promotions/weekly/")))
    return [one.decode() for one in found if one]
