"""What pyflyte's own commands do not do on a cluster; the Makefile calls it.

python tools/cluster.py --configuration flyte.yaml ... run demo --version V --config run.json
python tools/cluster.py --configuration flyte.yaml ... deactivate weekly_retraining
python tools/cluster.py --configuration flyte.yaml ... abort f2c9a1b0 --why "wrong data"
python tools/cluster.py --configuration flyte.yaml ... relaunch f2c9a1b0
python tools/cluster.py --configuration flyte.yaml ... preflight --version V --root s3://b/runs
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import sys
from collections.abc import Iterator
from typing import Any

import grpc
from flytekit.configuration import Config
from flytekit.core.context_manager import FlyteEntities
from flytekit.core.python_auto_container import PythonAutoContainerTask
from flytekit.core.resources import convert_resources_to_resource_model
from flytekit.exceptions.base import FlyteException
from flytekit.exceptions.user import (
    FlyteEntityAlreadyExistsException,
    FlyteEntityNotExistException,
    FlyteInvalidInputException,
    FlyteTimeout,
)
from flytekit.models.core.identifier import Identifier, ResourceType
from flytekit.models.interface import TypedInterface
from flytekit.models.launch_plan import LaunchPlanState
from flytekit.models.literals import RetryStrategy
from flytekit.models.task import Container, RuntimeMetadata, TaskMetadata, TaskSpec, TaskTemplate
from flytekit.remote import FlyteRemote

from clippo_core import storage
from clippo_core.config import RunConfig
from clippo_core.errors import ClippoError, ConfigError

POD_MINUTES = 20
"""How long the first pod may take: its image of several gigabytes is pulled first."""


def run(remote: FlyteRemote, plan: str, version: str, config: str) -> None:
    """Start a registered launch plan with the config of a run. `pyflyte run remote-launchplan`
    cannot read its own rendering of the defaults beside it: a config, a time with a zone.
    """
    try:
        wanted = RunConfig.from_json(storage.read_text(config))
    except ConfigError as error:
        raise ConfigError(f"{config}: {error}") from error
    try:
        found = remote.fetch_launch_plan(name=plan, version=version)
    except FlyteEntityNotExistException:
        raise ConfigError(
            f"{plan} is not registered as version {version}: run `make images register` from this"
            " commit and with this CLIPPO_CLUSTER, or name another VERSION."
        ) from None
    started = remote.execute(found, {"config": wanted}, type_hints={"config": RunConfig})
    print(f"Started {started.id.name}: {remote.generate_console_url(started)}")


def deactivate(remote: FlyteRemote, plan: str) -> None:
    """Switch off the version that is active. `pyflyte launchplan --deactivate` takes the newest
    one, which leaves the schedule of an older one running.
    """
    active = remote.fetch_active_launchplan(name=plan)
    if active is None:
        print(f"{plan} is not active in {remote.default_project}/{remote.default_domain}.")
        return
    remote.client.update_launch_plan(active.id, LaunchPlanState.INACTIVE)
    print(f"Switched off {plan}, version {active.id.version}.")


def abort(remote: FlyteRemote, execution: str, why: str) -> None:
    """Stop an execution. Its pods get SIGTERM; what training saved stays."""
    remote.terminate(remote.fetch_execution(name=execution), why)
    print(f"Stopped {execution}.")


def relaunch(remote: FlyteRemote, execution: str) -> None:
    """Start an execution once more, with its launch plan, version and inputs: a scheduled run keeps
    its kickoff time, and so goes on where it stopped.
    """
    started = remote.client.relaunch_execution(remote.fetch_execution(name=execution).id)
    print(f"Started {started.name}, the same run as {execution}.")


def preflight(remote: FlyteRemote, version: str, root: str) -> None:
    """Say all that the cluster lacks for this project, at once. Ends with exit code 1 if anything
    is missing.
    """
    missing = list(_project(remote)) or [*_limits(remote), *_in_a_pod(remote, version, root)]
    for line in missing:
        print(f"- {line}")
    for line in _hints(f"{remote.default_project}-{remote.default_domain}", root):
        print(line)
    if missing:
        raise SystemExit(1)
    print(f"Nothing is missing in {remote.default_project}/{remote.default_domain}.")


def _hints(namespace: str, root: str) -> Iterator[str]:
    """What nobody can see from here, and what an operator may have forgotten."""
    from tasks.settings import SHAPE, SHAPE_NAME
    from workflows.retraining import OPERATORS, WEEKLY

    if SHAPE.nodes > 1:
        yield (
            f"Not to be seen from here: {SHAPE_NAME} has {SHAPE.nodes} nodes, and so needs"
            " Kubeflow's training operator v1 (PyTorchJob) and Flyte's plug-in `pytorch`."
        )
    if SHAPE.pod_template:
        yield (
            f"Not to be seen from here: pods of {SHAPE_NAME} start from the PodTemplate"
            f" {SHAPE.pod_template} in the namespace {namespace}; docs/cluster.md has an example."
        )
    if root and root.rstrip("/") != WEEKLY.root.rstrip("/"):
        yield (
            f"The schedules keep their runs below {WEEKLY.root}, not below {root}: see WEEKLY in"
            " workflows/retraining.py."
        )
    if any(address.endswith("@example.org") for address in OPERATORS):
        yield (
            f"Flyte's e-mails go to {', '.join(OPERATORS)}, an example: see OPERATORS in"
            " workflows/retraining.py."
        )


def _project(remote: FlyteRemote) -> Iterator[str]:
    """Whether the project is missing."""
    name = remote.default_project
    projects, _ = remote.client.list_projects_paginated(limit=1000)
    found = next((one for one in projects if one.id == name), None)
    if found is None:
        yield f"Flyte has no project {name}: `flytectl create project --id {name} --name {name}`."


def _limits(remote: FlyteRemote) -> Iterator[str]:
    """Which resources of this shape Flyte refuses: it tells its limits only to who registers, so a
    task without a program asks for what each of ours does.
    """
    import workflows  # noqa: F401  declares the tasks

    tasks = [one for one in FlyteEntities.entities if isinstance(one, PythonAutoContainerTask)]
    resources = {
        str(model.to_flyte_idl()): model
        for model in (
            convert_resources_to_resource_model(one.resources.requests, one.resources.limits)
            for one in tasks
        )
    }
    said = set()
    for text, model in resources.items():
        version = hashlib.sha256(text.encode()).hexdigest()[:16]
        identifier = Identifier(
            ResourceType.TASK,
            remote.default_project,
            remote.default_domain,
            "clippo.preflight",
            version,
        )
        try:
            remote.client.create_task(identifier, TaskSpec(_template(identifier, model)))
        except FlyteEntityAlreadyExistsException:
            continue
        except FlyteInvalidInputException as error:
            said.add(_answer(error))
    for one in sorted(said):
        yield f"{one} (`task_resources.limits` in FlyteAdmin's configuration)."


def _answer(error: FlyteException) -> str:
    """What Flyte said, which flytekit hides below an exception of its own."""
    answer = error.__cause__
    return str(answer.details() if isinstance(answer, grpc.Call) else error)


def _template(identifier: Identifier, resources: Any) -> TaskTemplate:
    """A task that only asks for resources."""
    metadata = TaskMetadata(
        discoverable=False,
        runtime=RuntimeMetadata(RuntimeMetadata.RuntimeType.OTHER, "0", "python"),
        timeout=datetime.timedelta(),
        retries=RetryStrategy(0),
        interruptible=False,
        discovery_version="",
        deprecated_error_message="",
        cache_serializable=False,
        pod_template_name="",
        cache_ignore_input_vars=(),
    )
    container = Container("none", [], [], resources, {}, {})
    interface = TypedInterface({}, {})
    return TaskTemplate(identifier, "container", metadata, interface, {}, container=container)


def _in_a_pod(remote: FlyteRemote, version: str, root: str) -> Iterator[str]:
    """What a pod of the registered version misses."""
    try:
        plan = remote.fetch_launch_plan(name="workflows.preflight.preflight", version=version)
    except FlyteEntityNotExistException:
        yield (
            f"Version {version} is not registered: run `make images register`, then `make"
            " preflight` again for what only a pod can tell (bucket, secret)."
        )
        return
    execution = remote.execute(plan, inputs={"root": root})
    try:
        timeout = datetime.timedelta(minutes=POD_MINUTES)
        poll = datetime.timedelta(seconds=2)
        ended = remote.wait(execution, timeout, poll, sync_nodes=False)
    except FlyteTimeout:
        yield (
            f"Execution {execution.id.name} did not end within {POD_MINUTES} minutes: look at its"
            " pod in the project's namespace (image, service account, room on the nodes)."
        )
        return
    if ended.error is not None:
        yield f"Execution {execution.id.name} failed: {ended.error.message.strip()}"
        return
    yield from ended.outputs.get("o0", list[str])


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    for name in ("configuration", "project", "domain"):
        parser.add_argument(f"--{name}", required=True)
    commands = parser.add_subparsers(dest="command", required=True)
    start = commands.add_parser("run", help=run.__doc__)
    start.add_argument("plan")
    for name in ("version", "config"):
        start.add_argument(f"--{name}", required=True)
    commands.add_parser("deactivate", help=deactivate.__doc__).add_argument("plan")
    stop = commands.add_parser("abort", help=abort.__doc__)
    stop.add_argument("execution")
    stop.add_argument("--why", default="stopped by hand")
    once_more = commands.add_parser("relaunch", help=relaunch.__doc__)
    once_more.add_argument("execution")
    check = commands.add_parser("preflight", help=preflight.__doc__)
    for name in ("version", "root"):
        check.add_argument(f"--{name}", required=True)
    said = parser.parse_args()
    remote = FlyteRemote(Config.auto(said.configuration), said.project, said.domain)
    try:
        _obey(remote, said)
    except ClippoError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None
    except FlyteException as error:
        place = f"{remote.config.platform.endpoint} ({said.configuration})"
        print(f"Flyte at {place} did not do it: {_answer(error)}", file=sys.stderr)
        raise SystemExit(2) from None


def _obey(remote: FlyteRemote, said: argparse.Namespace) -> None:
    if said.command == "run":
        run(remote, said.plan, said.version, said.config)
    elif said.command == "deactivate":
        deactivate(remote, said.plan)
    elif said.command == "abort":
        abort(remote, said.execution, said.why)
    elif said.command == "relaunch":
        relaunch(remote, said.execution)
    else:
        preflight(remote, said.version, said.root)


if __name__ == "__main__":
    main()
