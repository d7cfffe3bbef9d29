"""What a cluster would get, read out of the protobufs that `pyflyte package` writes offline:
images, resources, schedule, interfaces.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import PROJECT
from flyteidl.admin import launch_plan_pb2, task_pb2, workflow_pb2
from flyteidl.core import types_pb2
from flytekit.models.concurrency import ConcurrencyLimitBehavior

from clippo_core.evaluate.registry import EVALUATIONS
from clippo_core.run.provenance import program_digest

PYFLYTE = Path(sys.executable).with_name("pyflyte")
Package = dict[str, Any]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    """Tasks, workflows and launch plans by name, packaged for the eight-node cluster."""
    out = tmp_path_factory.mktemp("package") / "workflows.tgz"
    environment = os.environ | {"CLIPPO_CLUSTER": "h100x8x8", "HOME": str(out.parent)}
    images = [
        f"--image={name}={image}:commit"
        for name, image in yaml.safe_load((PROJECT / "flyte.yaml").read_text())["images"].items()
    ]
    command = [
        PYFLYTE,
        "-c",
        "flyte.yaml",
        "--pkgs",
        "workflows",
        "package",
        "--force",
        *images,
        "--output",
        out,
    ]
    done = subprocess.run(
        command, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return dict(_entities(out))


def _entities(archive: Path) -> Iterator[tuple[str, Any]]:
    kinds = {
        "1": task_pb2.TaskSpec,
        "2": workflow_pb2.WorkflowSpec,
        "3": launch_plan_pb2.LaunchPlan,
    }
    with tarfile.open(archive) as tar:
        for member in tar.getmembers():
            kind = kinds.get(member.name.removesuffix(".pb").rpartition("_")[2])
            content = tar.extractfile(member)
            if kind and content:
                entity = kind.FromString(content.read())
                name = (
                    entity.id.name
                    if kind is launch_plan_pb2.LaunchPlan
                    else entity.template.id.name
                )
                yield f"{kind.__name__}:{name}", entity


def tasks(package: Package) -> dict[str, Any]:
    """Task templates by name."""
    return {
        name.partition(":")[2]: spec.template
        for name, spec in package.items()
        if name.startswith("TaskSpec:")
    }


def mapped(name: str) -> str:
    """Name of the task that a map is made of; of another task its own."""
    return re.sub(r"\.map_(\w+)_[0-9a-f]{32}-arraynode$", r".\1", name)


def requests(template: Any) -> dict[str, str]:
    """What a pod of this task asks for, by resource."""
    names = template.container.resources.ResourceName
    asked = template.container.resources.requests
    return {names.Name(one.name): one.value for one in asked}


def test_every_box_is_there_with_its_image(package: Package) -> None:
    found = tasks(package)
    boxes = ["plan.plan", "plan.numbers", "validate.validate", "render.render", "pretrain.pretrain"]
    boxes += ["gate.gate", "report.report", "preflight.probe", "retain.retain"]
    boxes += ["validate.evaluated", "validate.measure", "validate.judge", "render.write"]
    boxes += [f"alert.{name}" for name in ("alert", "alert_promoted", "refused")]
    boxes += [
        f"evaluate.{name}"
        for name in (
            "imagenet",
            "retrieval",
            "vqa",
            "glue",
            "xm3600",
            "open_checkpoint",
            "open_promoted",
            "plan_evaluations",
            "conclude",
            "gather",
            "require_all",
        )
    ]
    assert {mapped(name) for name in found} == {f"tasks.{box}" for box in boxes}
    images = yaml.safe_load((PROJECT / "flyte.yaml").read_text())["images"]
    for name, template in found.items():
        trains = mapped(name).split(".")[1] in ("pretrain", "evaluate") and not name.endswith(
            (
                "open_checkpoint",
                "open_promoted",
                "plan_evaluations",
                "gather",
                "conclude",
                "require_all",
            )
        )
        image = images["train" if trains else "cpu"]
        assert template.container.image == f"{image}:commit", name
        assert {"key": "CLIPPO_CLUSTER", "value": "h100x8x8"} in [
            {"key": e.key, "value": e.value} for e in template.container.env
        ]


def test_pretraining_gets_the_cluster(package: Package) -> None:
    pretrain = tasks(package)["tasks.pretrain.pretrain"]
    assert pretrain.type == "pytorch"
    assert (
        pretrain.custom["elasticConfig"]["maxReplicas"] == 8
        and pretrain.custom["elasticConfig"]["nprocPerNode"] == 8
    )
    assert pretrain.custom["runPolicy"]["cleanPodPolicy"] == "CLEANPOD_POLICY_ALL"
    assert requests(pretrain)["GPU"] == "8"
    assert pretrain.extended_resources.gpu_accelerator.device == "nvidia-h100"
    assert pretrain.extended_resources.shared_memory.mount_path == "/dev/shm"
    assert pretrain.metadata.retries.retries == 5


def test_eight_evaluations_fit_on_a_node_and_only_they_and_training_ask_for_gpus(
    package: Package,
) -> None:
    found = tasks(package)
    share = {"CPU": "16", "GPU": "1", "MEMORY": "125Gi", "EPHEMERAL_STORAGE": "125Gi"}
    for name, template in found.items():
        is_evaluation = mapped(name).rpartition(".")[2] in EVALUATIONS
        trains = name == "tasks.pretrain.pretrain"
        assert (requests(template) == share) is is_evaluation, name
        assert ("GPU" in requests(template)) is (is_evaluation or trains), name
        template_name = "clippo-h100x8x8" if is_evaluation or trains else ""
        assert template.metadata.pod_template_name == template_name, name
        # Where there is none, Flyte takes the request for the limit.
        assert not template.container.resources.limits, name


def test_what_hangs_ends(package: Package) -> None:
    hours = {"pretrain": 21 * 24, **dict.fromkeys(EVALUATIONS, 24)}
    hours |= dict.fromkeys(("alert", "alert_promoted", "refused"), 1 / 3)
    for name, template in tasks(package).items():
        seconds = template.metadata.timeout.ToTimedelta().total_seconds()
        assert seconds == 3600 * hours.get(mapped(name).rpartition(".")[2], 12), name


def test_no_evaluation_has_to_succeed_and_one_that_nobody_asks_for_starts_no_pod(
    package: Package,
) -> None:
    whole = package["WorkflowSpec:workflows.pipeline.evaluate_all"].template
    maps = [node for node in whole.nodes if node.HasField("array_node")]
    assert len(maps) == len(EVALUATIONS)
    for node in maps:
        array = node.array_node
        assert array.WhichOneof("success_criteria") == "min_success_ratio"
        assert array.min_success_ratio == 0 and list(array.bound_inputs) == ["checkpoint"]
        assert array.node.metadata.timeout.ToTimedelta().days == 1
        assert array.node.metadata.retries.retries == 2


def test_what_is_cached_is_versioned_by_its_code(package: Package) -> None:
    found = tasks(package)
    cached = {name for name, template in found.items() if template.metadata.discoverable}
    evaluations = {f"tasks.evaluate.{name}" for name in EVALUATIONS}
    boxes = ["validate.validate", "validate.evaluated", "render.render", "pretrain.pretrain"]
    boxes += ["validate.measure", "validate.judge", "render.write"]
    assert {mapped(name) for name in cached} == {f"tasks.{box}" for box in boxes} | evaluations
    versions = {mapped(name): found[name].metadata.discovery_version for name in cached}
    assert all(versions[mapped(name)] == found[name].metadata.discovery_version for name in cached)
    assert all(len(version) == 16 for version in versions.values())
    assert len(set(versions.values())) == len(versions)


def test_every_dataclass_carries_its_schema(package: Package) -> None:
    # flytekit only logs a schema that it cannot build, and the console then shows a bare text
    # field.
    found = 0
    for name, template in tasks(package).items():
        interface = template.interface
        for variables in (interface.inputs.variables, interface.outputs.variables):
            for key, variable in variables.items():
                kind = variable.type
                while kind.WhichOneof("type") in ("collection_type", "map_value_type"):
                    kind = getattr(kind, kind.WhichOneof("type"))
                if kind.simple == types_pb2.STRUCT:
                    found += 1
                    assert "properties" in kind.metadata.fields, f"{name}: {key}"
    assert found > 30


def test_decks_are_on_where_something_is_shown(package: Package) -> None:
    shown = {
        name.split(".")[2]
        for name, template in tasks(package).items()
        if template.metadata.generates_deck.value
    }
    assert shown == {
        "plan",
        "validate",
        "render",
        "pretrain",
        "conclude",
        "gather",
        "gate",
        "report",
    }


def test_schedules_hand_over_their_kickoff_time(package: Package) -> None:
    weekly, nightly = (
        package["LaunchPlan:weekly_retraining"].spec,
        package["LaunchPlan:nightly_evaluation"].spec,
    )
    assert weekly.entity_metadata.schedule.cron_schedule.schedule == "0 2 * * 0"
    assert nightly.entity_metadata.schedule.cron_schedule.schedule == "0 4 * * *"
    for spec in (weekly, nightly):
        assert spec.entity_metadata.schedule.kickoff_time_input_arg == "kickoff_time"
        assert spec.entity_metadata.notifications[0].email.recipients_email
        # A run that takes longer than its period goes on, and the next one is left out.
        policy = spec.concurrency_policy
        assert (policy.max, policy.behavior) == (1, ConcurrencyLimitBehavior.SKIP)
    assert weekly.workflow_id.name == "workflows.pipeline.pretrain_and_evaluate"
    assert nightly.workflow_id.name == "workflows.evaluation.evaluate_promoted"


def test_deletion_is_scheduled_apart_and_told_to_delete_by_its_plan_alone(package: Package) -> None:
    spec = package["LaunchPlan:weekly_retention"].spec
    assert spec.entity_metadata.schedule.cron_schedule.schedule == "0 6 * * 3"
    plain = package["LaunchPlan:workflows.retention.retention"].spec
    chosen = [
        one.default_inputs.parameters["delete"].default.scalar.primitive.boolean
        for one in (spec, plain)
    ]
    assert chosen == [True, False]


def test_workflows_fail_whole_nodes_late_and_tell_somebody(package: Package) -> None:
    handlers = {
        "pipeline.pretrain_and_evaluate": "tasks.alert.alert",
        "evaluation.evaluate_promoted": "tasks.alert.alert_promoted",
        "pipeline.demo": "",  # the workflow inside tells
    }
    for name, handler in handlers.items():
        template = package[f"WorkflowSpec:workflows.{name}"].template
        policy = workflow_policy(template)
        assert policy == "FAIL_AFTER_EXECUTABLE_NODES_COMPLETE"
        assert template.failure_node.task_node.reference_id.name == handler
    for name in ("pretrain_and_evaluate", "demo"):
        template = package[f"WorkflowSpec:workflows.pipeline.{name}"].template
        assert set(template.interface.outputs.variables) == {"report", "model"}


def test_every_task_knows_what_it_was_registered_from(package: Package) -> None:
    for name, template in tasks(package).items():
        environment = {one.key: one.value for one in template.container.env}
        tells = name.startswith("tasks.alert.")
        assert environment.get("CLIPPO_PROGRAM") == (None if tells else program_digest()[:16]), name


def test_who_tells_somebody_gets_the_secret_and_the_console(package: Package) -> None:
    console = yaml.safe_load((PROJECT / "flyte.yaml").read_text())["console"]["endpoint"]
    for name, template in tasks(package).items():
        secrets = [(one.group, one.key) for one in template.security_context.secrets]
        environment = {one.key: one.value for one in template.container.env}
        tells = name.startswith("tasks.alert.")
        asks = tells or name == "tasks.preflight.probe"
        assert secrets == ([("clippo", "webhook")] if asks else []), name
        assert environment.get("FLYTE_PLATFORM_CONSOLE_ENDPOINT") == (console if tells else None)


def workflow_policy(template: Any) -> str:
    """Name of a workflow's failure policy."""
    field = template.metadata.DESCRIPTOR.fields_by_name["on_failure"]
    name: str = field.enum_type.values_by_number[template.metadata.on_failure].name
    return name


def test_flyte_yaml_has_only_keys_that_the_client_reads() -> None:
    from flytekit.configuration import Config

    content = yaml.safe_load((PROJECT / "flyte.yaml").read_text())
    assert set(content) <= {"admin", "console", "images", "storage"}
    config = Config.auto(str(PROJECT / "flyte.yaml"))
    assert config.platform.endpoint == content["admin"]["endpoint"].removeprefix("dns:///")
    assert str(config.platform.auth_mode).lower() == content["admin"]["authType"].lower()
    assert config.platform.console_endpoint == content["console"]["endpoint"]
