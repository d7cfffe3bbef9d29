"""The pods of FlytePropeller's double: an attempt is a real process with the container's own
command, in a directory, a home and an environment that hold nothing else.

What Kubernetes and Flyte's plugins give a pod, and what they read from it, follows the files that
each rule names (flyteorg/flyte, branch master, 89cf9cc). Not shown by such a pod: images (its
programs are this environment's), resources, nodes, networks, file permissions.
"""

from __future__ import annotations

import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from double_admin import Execution
from double_store import Store
from flyteidl.core import errors_pb2, execution_pb2, literals_pb2

SYSTEM, USER = execution_pb2.ExecutionError.SYSTEM, execution_pb2.ExecutionError.USER
Fault = Callable[[str, int, subprocess.Popen[bytes]], None]
"""Called with a task's name, the attempt and its process, as soon as it runs."""


@dataclass
class Ended:
    """How one attempt ended."""

    error: Any = None
    """None = it succeeded."""
    is_recoverable: bool = False
    outputs: Any = None
    deck: str = ""
    log: str = ""
    """What the pod wrote."""
    seconds: float = 0


class Pods:
    """Runs attempts. `image`: the folder that every pod gets a copy of as its working directory.

    `secrets`: (group, key) -> value; `oom`: task name, or `name[index]` of a map's item -> how many
    of its next attempts are killed for their memory; `fault`: see Fault.
    """

    def __init__(self, store: Store, image: Path) -> None:
        self.store, self.image = store, image
        self.secrets: dict[tuple[str, str], str] = {}
        self.oom: dict[str, int] = {}
        self.fault: Fault | None = None
        self._running: dict[str, list[subprocess.Popen[bytes]]] = {}
        self._lock = threading.Lock()

    def run(
        self,
        execution: Execution,
        template: Any,
        inputs: Any,
        path: str,
        attempt: int,
        timeout: float,
        index: int | None,
    ) -> Ended:
        """One attempt of one node, to its end; `timeout` in seconds, inf = none."""
        started = time.monotonic()
        name = execution.id.name
        data = f"metadata/propeller/{execution.id.project}-{execution.id.domain}-{name}/{path}/data"
        if not attempt:
            self.store.write(f"{data}/inputs.pb", inputs.SerializeToString())
        arguments = self._arguments(template, data, name, path, attempt)
        with tempfile.TemporaryDirectory(prefix="pod-") as folder:
            codes, log = self._processes(
                execution, template, arguments, Path(folder), path, attempt, timeout, index
            )
        ended = self._outcome(template, f"{data}/{attempt}", f"{name}-{path}-{attempt}", codes)
        ended.log, ended.seconds = log, time.monotonic() - started
        if self.store.read(f"{data}/{attempt}/deck.html") is not None:
            ended.deck = self.store.uri(f"{data}/{attempt}/deck.html")
        if codes == ["timeout"]:
            message = f"task execution timeout [{timeout:g}s] expired"
            ended.error = execution_pb2.ExecutionError(
                code="TimeoutExpired", message=message, kind=USER
            )
            ended.is_recoverable = True
        return ended

    def kill(self, execution: str) -> None:
        """End every pod of an execution, as an abort does."""
        with self._lock:
            for process in self._running.get(execution, []):
                _end(process, signal.SIGKILL)

    def command(
        self, template: Any, arguments: list[str], variables: dict[str, str], folder: Path
    ) -> list[str]:
        """How a container's command is started here: as it is, a process of this machine. `folder`:
        what the pod mounts.
        """
        return arguments

    def _arguments(self, template: Any, data: str, name: str, path: str, attempt: int) -> list[str]:
        """flyteplugins/go/tasks/pluginmachinery/core/template/template.go. The raw outputs and the
        checkpoints of every attempt lie in a folder of their own
        (pluginmachinery/ioutils/raw_output_path.go); the one before is handed over.
        """
        raw = self.store.uri(f"raw/{name}/{path}")
        before = f"{raw}/{attempt - 1}/_flytecheckpoints" if attempt else '""'
        values = {
            "{{.input}}": self.store.uri(f"{data}/inputs.pb"),
            "{{.outputPrefix}}": self.store.uri(f"{data}/{attempt}"),
            "{{.rawOutputDataPrefix}}": f"{raw}/{attempt}",
            "{{.checkpointOutputPrefix}}": f"{raw}/{attempt}/_flytecheckpoints",
            "{{.prevCheckpointPrefix}}": before,
        }
        words = [*template.container.command, *template.container.args]
        return [values.get(word, word) for word in words]

    def _environment(
        self, execution: Execution, template: Any, folder: Path, attempt: int, index: int | None
    ) -> dict[str, str]:
        """flyteplugins/go/tasks/pluginmachinery/flytek8s/k8s_resource_adds.go: GetExecutionEnvVars;
        the store's address is among the platform's default variables; the rest is the image's.
        """
        environment = {
            "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
            "LANG": "C.UTF-8",
            "HOME": str(folder / "home"),
            "TMPDIR": str(folder / "tmp"),
            "XDG_CACHE_HOME": str(folder / "tmp/cache"),
            "MPLCONFIGDIR": str(folder / "tmp/cache/matplotlib"),
            # Pods of a test share two cores.
            "OMP_NUM_THREADS": "1",
            "FLYTE_AWS_ENDPOINT": self.store.endpoint,
            "FLYTE_AWS_ACCESS_KEY_ID": "testing",
            "FLYTE_AWS_SECRET_ACCESS_KEY": "testing",
            "FLYTE_INTERNAL_EXECUTION_ID": execution.id.name,
            "FLYTE_INTERNAL_EXECUTION_PROJECT": execution.id.project,
            "FLYTE_INTERNAL_EXECUTION_DOMAIN": execution.id.domain,
            "FLYTE_INTERNAL_EXECUTION_WORKFLOW": execution.workflow.primary.template.id.name,
            "FLYTE_INTERNAL_EXECUTION_LAUNCHPLAN": execution.plan.name,
            "FLYTE_INTERNAL_TASK_PROJECT": template.id.project,
            "FLYTE_INTERNAL_TASK_DOMAIN": template.id.domain,
            "FLYTE_INTERNAL_TASK_NAME": template.id.name,
            "FLYTE_INTERNAL_TASK_VERSION": template.id.version,
            "FLYTE_ATTEMPT_NUMBER": str(attempt),
            "FLYTE_START_TIME": str(int(time.time() * 1000)),
        }
        environment |= {one.key: one.value for one in template.container.env}
        if index is not None:
            # flytepropeller/pkg/controller/nodes/array/execution_context.go
            environment["BATCH_JOB_ARRAY_INDEX_VAR_NAME"] = "FLYTE_K8S_ARRAY_INDEX"
            environment["FLYTE_K8S_ARRAY_INDEX"] = str(index)
        return environment | self._mounted(template, folder)

    def _mounted(self, template: Any, folder: Path) -> dict[str, str]:
        """flytepropeller/pkg/webhook/k8s_secrets.go and utils.go: only secrets that the task asks
        for, as files with names in lower case; one that is absent leaves an empty folder.
        """
        asked = template.security_context.secrets
        for one in asked:
            group = folder / "secrets" / one.group.lower()
            group.mkdir(parents=True, exist_ok=True)
            if (one.group, one.key) in self.secrets:
                (group / one.key.lower()).write_text(self.secrets[one.group, one.key])
        if not asked:
            return {}
        return {
            "FLYTE_SECRETS_DEFAULT_DIR": str(folder / "secrets"),
            "FLYTE_SECRETS_FILE_PREFIX": "",
        }

    def _processes(
        self,
        execution: Execution,
        template: Any,
        arguments: list[str],
        folder: Path,
        path: str,
        attempt: int,
        timeout: float,
        index: int | None,
    ) -> tuple[list[Any], str]:
        """Exit codes of the attempt's pods, and what they wrote."""
        for name in ("home", "tmp"):
            (folder / name).mkdir()
        environment = self._environment(execution, template, folder, attempt, index)
        workers = _workers(template, f"{execution.id.name}-{path}-{attempt}")
        processes = []
        for number, worker in enumerate(workers):
            # A copy, so that no pod sees what another one wrote beside its code.
            root = folder / f"root{number}"
            shutil.copytree(self.image, root)
            variables = environment | worker | {"PYTHONPATH": str(root)}
            command = self.command(template, arguments, variables, folder)
            with (folder / f"log{number}").open("wb") as log:
                processes.append(
                    subprocess.Popen(
                        command,
                        cwd=root,
                        env=variables,
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        start_new_session=True,
                    )
                )
        with self._lock:
            self._running.setdefault(execution.id.name, []).extend(processes)
        task = template.id.name
        item = f"{task}[{index}]"
        killed = item if item in self.oom else task
        if self.oom.get(killed, 0) > 0:
            self.oom[killed] -= 1
            _end(processes[0], signal.SIGKILL)
            codes: list[Any] = [*(_waited(one, 60) for one in processes[1:]), "OOMKilled"]
        else:
            if self.fault:
                for process in processes:
                    self.fault(task, attempt, process)
            deadline = time.monotonic() + timeout
            codes = [_waited(one, deadline - time.monotonic()) for one in processes]
        for process in processes:
            _end(process, signal.SIGKILL)
        logs = [(folder / f"log{n}").read_text(errors="replace") for n in range(len(workers))]
        return (["timeout"] if "timeout" in codes else codes), "\n".join(logs)

    def _outcome(self, template: Any, prefix: str, pod: str, codes: list[Any]) -> Ended:
        """An error file decides (flyteplugins/go/tasks/pluginmachinery/ioutils/
        remote_file_output_reader.go: of several, the earliest), then how the container ended
        (flytek8s/pod_helper.go: DeterminePrimaryContainerPhase), then whether outputs are there
        (flytepropeller/pkg/controller/nodes/task/handler.go: ValidateOutput).
        """
        files = [self.store.read(name) for name in self.store.names(f"{prefix}/error")]
        errors = [errors_pb2.ErrorDocument.FromString(one).error for one in files if one]
        for code in codes:
            if code not in (0, "timeout"):
                number, reason = (137, code) if code == "OOMKilled" else (code, "Error")
                number = 128 - number if number < 0 else number
                message = (
                    f"\r\n[{pod}] terminated with exit code ({number}). Reason [{reason}]."
                    " Message: \n."
                )
                # Killed by SIGKILL, but not for its memory: the node is gone.
                is_lost = number == 137 and reason != "OOMKilled"
                kind = SYSTEM if is_lost else USER
                error = execution_pb2.ExecutionError(code=reason, message=message, kind=kind)
                return Ended(error, is_recoverable=True)
        if errors:
            first = min(errors, key=lambda error: error.timestamp.ToNanoseconds() or math.inf)
            error = execution_pb2.ExecutionError(
                code=first.code, message=first.message, kind=first.origin
            )
            is_recoverable = first.kind == errors_pb2.ContainerError.RECOVERABLE
            return Ended(error, is_recoverable)
        data = self.store.read(f"{prefix}/outputs.pb")
        if data is None and template.interface.outputs.variables:
            message = "Outputs not generated by task execution"
            error = execution_pb2.ExecutionError(
                code="OutputsNotFound", message=message, kind=execution_pb2.ExecutionError.UNKNOWN
            )
            return Ended(error, is_recoverable=True)
        return Ended(outputs=literals_pb2.LiteralMap.FromString(data or b""))


def _workers(template: Any, job: str) -> list[dict[str, str]]:
    """What each pod of an attempt adds to its environment: nothing, or for a `pytorch` task what
    Kubeflow's operator and Flyte's plugin give a worker (flyteplugins/go/tasks/plugins/k8s/
    kfoperators/pytorch/pytorch.go, with ErrorAggregationStrategy "Earliest").
    """
    if template.type != "pytorch":
        return [{}]
    elastic = template.custom["elasticConfig"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {
        "PET_NNODES": f"{int(elastic['minReplicas'])}:{int(elastic['maxReplicas'])}",
        "PET_NPROC_PER_NODE": str(int(elastic["nprocPerNode"])),
        "PET_MAX_RESTARTS": str(int(dict(elastic).get("maxRestarts", 0))),
        "PET_RDZV_BACKEND": "c10d",
        "PET_RDZV_ENDPOINT": f"localhost:{port}",
        "PET_RDZV_ID": job,
        "FLYTE_INTERNAL_DIST_ERROR_STRATEGY": "Earliest",
    }
    names = [f"{job}-worker-{n}" for n in range(int(elastic["maxReplicas"]))]
    return [shared | {"FLYTE_INTERNAL_WORKER_NAME": name} for name in names]


def _waited(process: subprocess.Popen[bytes], seconds: float) -> int | str:
    try:
        return process.wait(None if seconds == math.inf else max(seconds, 0))
    except subprocess.TimeoutExpired:
        return "timeout"


def _end(process: subprocess.Popen[bytes], number: int) -> None:
    """Send a signal to a pod's whole process group; its processes are this test's own."""
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return
