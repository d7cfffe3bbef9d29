"""Both images, built by buildah from their Dockerfiles, and the whole workflow in containers of
them, each as uid 10001. It needs root, the programs `buildah` and `debootstrap`, some 30 GB of disk
and half an hour; without the programs it is skipped, in words.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny
from cluster import Cluster, story
from images import TOOLS, Builder, ContainerPods
from registered import registered, upload
from webhook import Webhook

from clippo_core.config import RunConfig

missing = [name for name in TOOLS if not shutil.which(name)]
pytestmark = [
    pytest.mark.nightly,
    pytest.mark.timeout(7200),
    pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}"),
    pytest.mark.skipif(os.geteuid() != 0, reason="building images without docker needs root"),
]
NAMES = ("cpu", "train")


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Builder]:
    """Both images, built."""
    folder = tmp_path_factory.mktemp("images")
    builder = Builder(folder)
    builder.base()
    yield builder
    subprocess.run([*builder._words(), "rm", "--all"], capture_output=True)
    subprocess.run([*builder._words(), "rmi", "--all", "--force"], capture_output=True)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def sizes(builder: Builder) -> dict[str, int]:
    # The image for training must hold CUDA's torch, which its last step checks.
    return {name: builder.build(name, local_wheels=name == "cpu") for name in NAMES}


def test_both_images_build_and_run_as_their_user(builder: Builder, sizes: dict[str, int]) -> None:
    for name, size in sizes.items():
        print(f"clippo-{name}: {size / 1e9:.1f} GB")
        program = "import os, clippo_core, workflows; print(os.getuid(), clippo_core.__file__)"
        command = builder.run(name, command=["python", "-c", program])
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.stdout.split() == ["10001", "/root/clippo_core/__init__.py"], done.stderr
        assert size < 12e9


def test_the_whole_workflow_runs_in_containers(
    builder: Builder, sizes: dict[str, int], s3_server: str, tmp_path: Path
) -> None:
    tiny.write_tiny_data(tmp_path / "data")
    with Cluster(s3_server, tmp_path / "no-image") as cluster, Webhook() as webhook:
        (tmp_path / "no-image").mkdir()
        pods = ContainerPods(cluster.store, tmp_path / "no-image")
        pods.builder = builder
        cluster.pods = cluster.propeller.pods = pods
        upload(cluster, tmp_path / "data")
        plan = tiny.tiny_plan("", cluster.store.uri("data"))
        parts = {
            name: getattr(plan, name) for name in ("data", "render", "model", "optim", "train")
        }
        config = RunConfig("tiny", root=cluster.store.uri("runs"), **parts)
        execution = registered(tmp_path, cluster, config, webhook).run()
        assert execution.phase_name == "SUCCEEDED", story(execution)
        assert {len(node.attempts) for node in execution.nodes} == {1}
        (text,) = webhook.texts
        assert text.startswith("run tiny finished. Not promoted: ")
