"""The project as an operator has it: a checkout with the Makefile, registered on a cluster, with
its data in the bucket and a webhook.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from cluster import Cluster, build_image
from conftest import PROJECT
from flytekit import FlyteContextManager
from flytekit.core.type_engine import TypeEngine
from webhook import Webhook

from clippo_core.config import RunConfig, replace

VENV = Path(sys.executable).parent.parent
PLAN = "pretrain_and_evaluate"


class Checkout:
    """A clone of the project as it is now, with everything committed, and its own make."""

    def __init__(self, folder: Path, configuration: Path) -> None:
        self.folder, self.configuration = build_image(folder / "checkout"), configuration
        for name in ("containers", "tools"):
            shutil.copytree(PROJECT / name, self.folder / name)
        for name in ("Makefile", "requirements-dev.lock", "pyproject.toml"):
            shutil.copy(PROJECT / name, self.folder / name)
        (self.folder / ".gitignore").write_text("__pycache__/\n*.pyc\n")
        self.git("init", "--quiet")
        self.commit()

    def git(self, *words: str) -> str:
        who = ["-c", "user.name=tests", "-c", "user.email=tests@example.org"]
        command = ["git", *who, *words]
        return subprocess.run(
            command, cwd=self.folder, check=True, capture_output=True, text=True, timeout=60
        ).stdout.strip()

    def commit(self) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", "As it is now")

    def version(self, shape: str = "laptop") -> str:
        return f"{self.git('rev-parse', '--short=12', 'HEAD')}-{shape}"

    def make(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """`make`, without installing anything: the environment of the tests is there."""
        command = ["make", f"VENV={VENV}", f"--old-file={VENV}/.installed"]
        command += [f"FLYTE={self.configuration}", *words]
        home = self.folder.parent / "home"
        home.mkdir(exist_ok=True)
        kept = {name: os.environ[name] for name in ("PATH", "OMP_NUM_THREADS")}
        place = {"HOME": str(home), "PYTHONPATH": str(self.folder)}
        return subprocess.run(
            command,
            cwd=self.folder,
            env=kept | place | environment,
            capture_output=True,
            text=True,
            timeout=300,
        )


def said(done: subprocess.CompletedProcess[str]) -> str:
    return done.stdout[-4000:] + done.stderr[-4000:]


def worked(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, said(done)


@dataclasses.dataclass
class Flyte:
    """A cluster on which the project is registered, with data and a webhook."""

    cluster: Cluster
    checkout: Checkout
    config: RunConfig
    webhook: Webhook

    shape: str = "laptop"

    def run(self, **changes: Any) -> Any:
        """Launch with the config changed, and wait for the end."""
        inputs = {"config": literal(replace(self.config, **changes))}
        return self.cluster.run(PLAN, self.checkout.version(self.shape), inputs, timeout=1800)


def registered(
    folder: Path, cluster: Cluster, config: RunConfig, webhook: Webhook, shape: str = "laptop"
) -> Flyte:
    """Register what the cluster's image holds, and give it the webhook's address."""
    checkout = Checkout(folder, cluster.configuration(folder))
    worked(checkout.make("register", CLIPPO_CLUSTER=shape))
    cluster.pods.secrets = {("clippo", "webhook"): webhook.address}
    return Flyte(cluster, checkout, config, webhook, shape)


def upload(cluster: Cluster, folder: Path, to: str = "data") -> None:
    """Copy a folder into the cluster's bucket."""
    for path in folder.rglob("*"):
        if path.is_file():
            cluster.store.write(f"{to}/{path.relative_to(folder).as_posix()}", path.read_bytes())


def literal(value: Any) -> Any:
    """A value as Flyte's literal; a dataclass as a Struct where FLYTE_USE_OLD_DC_FORMAT is true."""
    context, kind = FlyteContextManager.current_context(), type(value)
    # Not by the engine itself, which remembers literals whatever their format.
    transformer = TypeEngine.get_transformer(kind)
    found = transformer.to_literal(context, value, kind, TypeEngine.to_literal_type(kind))
    return found.to_flyte_idl()
