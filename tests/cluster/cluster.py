"""A whole Flyte without a cluster: the doubles of FlyteAdmin and FlytePropeller, and moto's S3.

    with Cluster(s3_endpoint, image) as cluster:
        subprocess.run(["make", "register", f"FLYTE={cluster.configuration(folder)}"])
        execution = cluster.launch("workflows.pipeline.demo", version)

What it cannot show: Kubernetes (scheduling, images, resources, networks, service accounts), the
console, real login, databases, the compiler's checks of types, and how long anything takes.
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import grpc
import yaml
from conftest import PROJECT
from double_admin import Admin, Execution
from double_pod import Pods
from double_propeller import Propeller
from double_rules import RUNNING
from double_store import Store
from flyteidl.admin import execution_pb2
from flyteidl.core import identifier_pb2, literals_pb2
from flyteidl.service import admin_pb2_grpc

IN_THE_IMAGE = ("clippo_core", "tasks", "workflows", "requirements.lock")
"""What containers/*.Dockerfile copy (test_double_admin.py holds the two together)."""

APP = Path(__file__).parent / "app"


class Cluster:
    """Runs while it is entered; `options` as for Admin. `image`: the folder that pods copy."""

    def __init__(self, s3: str, image: Path, **options: Any) -> None:
        self.store = Store(s3, f"bucket-{secrets.token_hex(6)}")
        self.pods = Pods(self.store, image)
        self.propeller = Propeller(self.pods)
        self.admin = Admin(self.store, self.propeller, **options)

    def __enter__(self) -> Self:
        self.admin.__enter__()
        self._channel = grpc.insecure_channel(self.admin.endpoint)
        self.client = admin_pb2_grpc.AdminServiceStub(self._channel)
        return self

    def __exit__(self, *raised: object) -> None:
        for name in self.admin.executions:
            self.pods.kill(name)
        self._channel.close()
        self.admin.__exit__(*raised)

    def configuration(self, folder: Path) -> Path:
        """The project's flyte.yaml with the double's address instead of the operator's."""
        content = yaml.safe_load((PROJECT / "flyte.yaml").read_text())
        content["admin"] |= {"endpoint": f"dns:///{self.admin.endpoint}", "insecure": True}
        content["storage"]["connection"] = {
            "endpoint": self.store.endpoint,
            "access-key": "testing",
            "secret-key": "testing",
        }
        path = folder / "flyte.yaml"
        path.write_text(yaml.safe_dump(content))
        return path

    def launch(
        self, plan: str, version: str, inputs: dict[str, Any] | None = None, **place: str
    ) -> Execution:
        """Start a registered launch plan, as the console or the scheduler does: with literals."""
        place = {"project": "clippo", "domain": "production"} | place
        request = execution_pb2.ExecutionCreateRequest(
            **place, inputs=literals_pb2.LiteralMap(literals=inputs or {})
        )
        request.spec.launch_plan.CopyFrom(
            identifier_pb2.Identifier(
                resource_type=identifier_pb2.LAUNCH_PLAN, name=plan, version=version, **place
            )
        )
        return self.admin.executions[self.client.CreateExecution(request).id.name]

    def run(self, *arguments: Any, timeout: float = 300, **place: str) -> Execution:
        """Launch, and wait for the end."""
        execution = self.launch(*arguments, **place)
        wait(lambda: execution.phase not in RUNNING, timeout, lambda: story(execution))
        return execution


@contextlib.contextmanager
def small_cluster(s3: str) -> Iterator[Cluster]:
    """A cluster on which version "1" of app/small_app.py is registered."""
    from flytekit.configuration import Config, ImageConfig, SerializationSettings
    from flytekit.remote import FlyteRemote

    if str(APP) not in sys.path:
        sys.path.append(str(APP))
    import ranks_app
    import small_app

    with Cluster(s3, APP) as cluster:
        remote = FlyteRemote(
            Config.for_endpoint(cluster.admin.endpoint, insecure=True), "clippo", "production"
        )
        images = ImageConfig.auto(img_name="image:1")
        settings = SerializationSettings(images, "clippo", "production", "1")
        names = ["doubled", "tried", "clean", "secrets", "hanging", "patient", "impatient"]
        for name in [*names, "mapped", "forgiven"]:
            remote.register_workflow(getattr(small_app, name), settings, version="1")
        remote.register_workflow(ranks_app.met, settings, version="1")
        yield cluster


def wait(is_done: Callable[[], bool], seconds: float, tell: Callable[[], str]) -> None:
    """Until `is_done`; fails with what `tell` says when that takes longer than `seconds`."""
    deadline = time.monotonic() + seconds
    while not is_done():
        assert time.monotonic() < deadline, f"still not done after {seconds} s: {tell()}"
        time.sleep(0.05)


def story(execution: Execution) -> str:
    """What happened, for the message of a failed test."""
    lines = [f"{execution.id.name} {execution.phase_name} {execution.error or ''}"]
    for node in execution.nodes:
        cached = "from the cache" if node.from_cache else ""
        lines.append(f"{node.path} {node.task} {node.phase_name} {cached}")
        lines += [
            f"    {one.seconds:.1f} s {one.error}\n{one.log[-1500:] if one.error else ''}"
            for one in node.attempts
        ]
    return "\n".join(lines)


def build_image(folder: Path) -> Path:
    """What the project's images hold of it, at the present state of the working tree."""
    folder.mkdir(parents=True)
    for name in IN_THE_IMAGE:
        source = PROJECT / name
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, folder / name, ignore=ignored)
        else:
            shutil.copy(source, folder / name)
    return folder
