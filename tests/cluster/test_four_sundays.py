"""Four Sundays on the doubles, fired by the schedule: a first model above its floor, new data from
the promoted weights, nothing new, a worse model; then back to the model before, and old runs
deleted.
"""

from __future__ import annotations

import dataclasses
import datetime
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from clock import WEEK, Clock
from cluster import Cluster, build_image, story, wait
from colours import colours, write_benchmark, write_pairs
from double_admin import Execution
from double_rules import RUNNING
from flyteidl.admin import launch_plan_pb2
from flyteidl.core import identifier_pb2
from registered import Flyte, literal, registered, upload
from webhook import Webhook

from clippo_core import storage
from clippo_core.__main__ import main
from clippo_core.config import RunConfig, replace
from clippo_core.engine.checkpoint import open_checkpoint
from clippo_core.run import history, planned

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
FIRST = datetime.datetime(2026, 11, 1, 2, tzinfo=datetime.UTC)
WEEKLY = ("clippo", "production", "weekly_retraining")


@pytest.fixture
def flyte(s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Flyte]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3_server)
    image = build_image(tmp_path / "image")
    with Cluster(s3_server, image) as cluster, Webhook() as webhook:
        write_benchmark(tmp_path / "benchmark")
        upload(cluster, tmp_path / "benchmark", "data/benchmark")
        config = colours(cluster.store.uri("data"), cluster.store.uri("runs"))
        yield registered(tmp_path, cluster, config, webhook)


def schedule(flyte: Flyte, config: RunConfig) -> None:
    """Activate the weekly launch plan with a config that a test can afford for its default."""
    version = flyte.checkout.version()
    kind, name = identifier_pb2.LAUNCH_PLAN, f"{version}-{len(flyte.cluster.admin.plans)}"
    place = dict(zip(("project", "domain", "name"), WEEKLY, strict=True))
    identifier = identifier_pb2.Identifier(resource_type=kind, version=name, **place)
    request = launch_plan_pb2.LaunchPlanCreateRequest(id=identifier)
    request.spec.CopyFrom(flyte.cluster.admin.plans[(*WEEKLY, version)])
    request.spec.default_inputs.parameters["config"].default.CopyFrom(literal(config))
    flyte.cluster.client.CreateLaunchPlan(request)
    active = launch_plan_pb2.LaunchPlanUpdateRequest(id=identifier, state=launch_plan_pb2.ACTIVE)
    flyte.cluster.client.UpdateLaunchPlan(active)


def new_pairs(flyte: Flyte, folder: Path, n: int, wrong: bool = False) -> None:
    """Other pictures under the same address."""
    write_pairs(folder, n, seed=n, wrong=wrong)
    upload(flyte.cluster, folder, "data/pairs")


def ended(execution: Execution) -> dict[str, Any]:
    """Wait for the end; nodes by their task."""
    wait(lambda: execution.phase not in RUNNING, 900, lambda: story(execution))
    assert execution.phase_name == "SUCCEEDED", story(execution)
    assert all(len(node.attempts) <= 1 for node in execution.nodes), story(execution)
    return {node.task.rpartition(".")[2].split("_")[0]: node for node in execution.nodes}


def gpu_pods(flyte: Flyte, execution: Execution) -> list[str]:
    """Evaluations that had a pod."""
    found = [re.search(r"\.evaluate\.map_(\w+?)_", node.task) for node in execution.nodes]
    return [one[1] for one in found if one]


def bytes_of(root: str) -> int:
    return sum(file.bytes for file in storage.list_files(root))


def test_four_sundays(flyte: Flyte, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, webhook = flyte.config.root, flyte.webhook
    pointer = f"{root}/promoted-weekly.json"
    clock = Clock(flyte.cluster, FIRST - datetime.timedelta(days=1))

    # The first: from scratch, above its floor.
    new_pairs(flyte, tmp_path / "one", 48)
    schedule(flyte, flyte.config)
    (first,) = clock.advance(FIRST)
    ended(first)
    (record,) = history.read(pointer)
    assert record.verdict.promoted and "above chance" in record.verdict.reason
    assert gpu_pods(flyte, first) == ["imagenet"]  # the other four are not configured
    start = record.verdict.model_uri

    # The second: new pairs, and the promoted weights to start from.
    schedule(flyte, replace(flyte.config, model__initial_weights="promoted"))
    new_pairs(flyte, tmp_path / "two", 64)
    (second,) = clock.advance(FIRST + WEEK)
    ended(second)
    records = history.read(pointer)
    assert [one.verdict.promoted for one in records] == [True, True]
    assert records[1].start == start and records[1].order_seed != records[0].order_seed
    run = records[1].by.removeprefix("the gate of ")
    assert planned.read(run).starts == [start]

    # The third: nothing new, so nothing is trained.
    (third,) = clock.advance(FIRST + 2 * WEEK)
    nodes = ended(third)
    assert nodes["pretrain"].from_cache and nodes["render"].from_cache and nodes["map"].from_cache
    assert len(history.read(pointer)) == 2 and not webhook.texts

    # The fourth: wrong captions. The fifth comes before it ends, and is left out.
    new_pairs(flyte, tmp_path / "four", 64 + 4, wrong=True)
    (fourth,) = clock.advance(FIRST + 3 * WEEK)
    assert not clock.advance(FIRST + 4 * WEEK)
    assert clock.skipped == [("weekly_retraining", FIRST + 4 * WEEK)]
    ended(fourth)
    records = history.read(pointer)
    assert [one.verdict.promoted for one in records] == [True, True, False]
    (text,) = webhook.texts
    assert text.startswith("run weekly of 2026-11-22 02:00 finished. Not promoted: colours/zero_sh")
    assert text.endswith(f"/executions/{fourth.id.name}")
    assert history.promoted_uri(pointer) == records[1].verdict.model_uri

    # Back to the first, by hand.
    assert main(["rollback", pointer, "--by", "kim", "--why", "wrong colours"]) == 0
    assert history.promoted_uri(pointer) == start

    # Old runs go: those of the second and the fourth week, but for what the gate may need.
    inputs = {"root": root, "runs": 1, "days": 0.0, "delete": True}
    before, literals = bytes_of(root), {name: literal(value) for name, value in inputs.items()}
    for _ in range(2):
        version = flyte.checkout.version()
        retention = flyte.cluster.run("workflows.retention.retention", version, literals)
        assert retention.phase_name == "SUCCEEDED", story(retention)
    assert "0.0 MB of" in retention.outputs.literals["o0"].scalar.primitive.string_value
    left = {file.name.partition("/")[0] for file in storage.list_files(root)}
    runs = {one.by.removeprefix(f"the gate of {root}/") for one in records}
    assert len(runs & left) == 2 and bytes_of(root) < 0.8 * before
    open_checkpoint(start)
    assert dataclasses.asdict(history.read(pointer)[-1])["by"] == "kim"
