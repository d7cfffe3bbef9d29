"""Where and on what the tasks run: images, resources, cluster shape, retries, cache
versions. The only such place.

    CLIPPO_CLUSTER=h200x8 make register        one of the SHAPES below; `laptop` when unset

Flyte bakes a task's shape into it when its module is imported, so the shape's name is read from the
environment at import; every task carries it on into its pod. With it goes the digest of the program
that the task was registered from: a pod whose image holds another one stops here, in words. This
file holds no setting of the method: those are `clippo_core/config/`.
"""

from __future__ import annotations

import datetime
import logging
import os
from dataclasses import dataclass
from typing import Any

from flytekit import Cache, Resources
from flytekit.extras import accelerators
from flytekitplugins.kfpytorch import CleanPodPolicy, RunPolicy

from clippo_core.run.provenance import code_digest, program_digest
from tasks.flytekit_shim import ElasticOfOneSize, remember_schemas

TRAIN_IMAGE = "{{.image.train.fqn}}:{{.image.train.version}}"
"""containers/train.Dockerfile: CUDA, DeepSpeed."""
CPU_IMAGE = "{{.image.cpu.fqn}}:{{.image.cpu.version}}"
"""containers/cpu.Dockerfile: validation, rendering, gate, report."""


@dataclass(frozen=True)
class ClusterShape:
    """What pretraining and the evaluations get."""

    nodes: int
    processes_per_node: int
    """One per GPU, or the CPU processes."""
    gpu: str = ""
    """GPUs of one node; empty = CPU only."""
    accelerator: Any = None
    """The node label that the cluster's operator set."""
    cpu: str = "2"
    memory: str = "8Gi"
    disk: str = "20Gi"
    """Of one node, as `cpu` and `memory` are: an evaluation, which has one GPU, gets its share."""
    interruptible: bool = False
    pod_template: str = ""
    """Name of a PodTemplate in the project's namespace (docs/cluster.md) that pods with GPUs start
    from: tolerations, network devices, grace period; empty = Flyte's default."""


SHAPES: dict[str, ClusterShape] = {
    "laptop": ClusterShape(nodes=1, processes_per_node=1),
    "laptop2": ClusterShape(nodes=1, processes_per_node=2),
    "h200": ClusterShape(
        1, 1, gpu="1", accelerator=accelerators.H200, cpu="16", memory="128Gi", disk="200Gi"
    ),
    "h200x8": ClusterShape(
        1, 8, gpu="8", accelerator=accelerators.H200, cpu="128", memory="1000Gi", disk="1000Gi"
    ),
    "h100x8x8": ClusterShape(
        8,
        8,
        gpu="8",
        accelerator=accelerators.H100,
        cpu="128",
        memory="1000Gi",
        disk="1000Gi",
        pod_template="clippo-h100x8x8",
    ),
    "spot-a100x8": ClusterShape(
        1,
        8,
        "8",
        accelerators.A100_80GB,
        cpu="96",
        memory="900Gi",
        disk="1000Gi",
        interruptible=True,
        pod_template="clippo-spot-a100x8",
    ),
}
"""Pairs/s to expect of them are in docs/performance.md; another cluster is another line here."""

SHAPE_NAME = os.environ.get("CLIPPO_CLUSTER", "laptop")
if SHAPE_NAME not in SHAPES:
    raise ValueError(
        f"CLIPPO_CLUSTER is {SHAPE_NAME!r}; use one of {', '.join(SHAPES)}, or add a shape to"
        " tasks/settings.py."
    )
SHAPE = SHAPES[SHAPE_NAME]

PROGRAM = program_digest()[:16]
if os.environ.get("CLIPPO_PROGRAM", PROGRAM) != PROGRAM:
    raise ValueError(
        f"This pod's image holds the program {PROGRAM}, but its task was registered from"
        f" {os.environ['CLIPPO_PROGRAM']}: run `make images register` from one commit, and launch"
        " that version."
    )

remember_schemas()

if not logging.getLogger().handlers:
    # A pod's log shows how far it is (clippo_core/progress.py); nothing else sets one up.
    logging.getLogger("clippo_core").setLevel(logging.INFO)
    logging.basicConfig(format="%(asctime)s %(name)s: %(message)s")

TIMEOUTS = {
    "training": datetime.timedelta(days=21),
    "evaluation": datetime.timedelta(hours=24),
    "processing": datetime.timedelta(hours=12),
    "telling": datetime.timedelta(minutes=20),
}
"""How long one attempt of a task of each kind may run. All attempts together, with the time in the
queue, may take twice as long: then Flyte ends the node, so that what hangs holds no GPU for ever.
Far more than each should take; a longer training needs a longer one here."""

RENDEZVOUS_SECONDS = 900
"""How long nodes wait for each other: pods of one job can start many minutes apart."""


def elastic() -> ElasticOfOneSize:
    """Multi-node training. `max_restarts` restarts all workers inside the pods; the run goes on
    from its last checkpoint. Not after an error that would come again (tasks/pretrain.py).
    """
    return ElasticOfOneSize(
        nnodes=SHAPE.nodes,
        nproc_per_node=SHAPE.processes_per_node,
        start_method="spawn",
        max_restarts=0 if SHAPE_NAME.startswith("laptop") else 3,
        rdzv_configs={
            "timeout": RENDEZVOUS_SECONDS,
            "join_timeout": RENDEZVOUS_SECONDS,
            "read_timeout": RENDEZVOUS_SECONDS,
        },
        # The flag is the old way to the same volume and warns at import; `shared_memory` on the
        # task is the new one.
        increase_shared_mem=False,
        run_policy=RunPolicy(
            clean_pod_policy=CleanPodPolicy.ALL, ttl_seconds_after_finished=86_400
        ),
    )


def training() -> dict[str, Any]:
    """Task settings of pretraining."""
    return {
        "task_config": elastic(),
        "container_image": TRAIN_IMAGE,
        "requests": _gpu_resources(),
        "accelerator": SHAPE.accelerator,
        "pod_template_name": SHAPE.pod_template or None,
        "shared_memory": True,
        "retries": 5,
        "timeout": TIMEOUTS["training"],
        "interruptible": SHAPE.interruptible,
        "environment": (
            _environment()
            | {
                # A rank that died or hangs inside a collective must end its peers, not leave them
                # waiting for half an hour.
                "TORCH_NCCL_ASYNC_ERROR_HANDLING": "1",
                "TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC": "120",
                "NCCL_DEBUG": "WARN",
                # Or a rank restarted inside the pod connects to the address that its dead
                # predecessor left in the shared store.
                "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
            }
        ),
    }


def evaluation() -> dict[str, Any]:
    """Task settings of one evaluation: where the cluster has GPUs, one and its share of a node."""
    return {
        "container_image": TRAIN_IMAGE,
        "requests": Resources(
            cpu=_share(SHAPE.cpu, 2),
            mem=_share(SHAPE.memory),
            gpu="1" if SHAPE.gpu else None,
            ephemeral_storage=_share(SHAPE.disk),
        ),
        "accelerator": SHAPE.accelerator,
        "pod_template_name": SHAPE.pod_template or None,
        "shared_memory": True,
        "retries": 2,
        "timeout": TIMEOUTS["evaluation"],
        "interruptible": SHAPE.interruptible,
        "environment": _environment(),
    }


def processing(cpu: str = "4", memory: str = "16Gi", disk: str = "100Gi") -> dict[str, Any]:
    """Task settings of CPU work: plan, validation, rendering, gate, report."""
    return {
        "container_image": CPU_IMAGE,
        "requests": Resources(cpu=cpu, mem=memory, ephemeral_storage=disk),
        "retries": 2,
        "timeout": TIMEOUTS["processing"],
        "environment": _environment(),
    }


def cached(*modules: str) -> Cache:
    """A cache whose version is the code that computes the task's result: `modules` of clippo_core
    and what they reach. The task's own file is left out, since it only draws the deck and wires.
    """
    return Cache(version=code_digest(*modules)[:16], serialize=True)


def place() -> list[tuple[str, str]]:
    """What a task runs on, for people: the registered version (commit and shape), the cluster."""
    version = os.environ.get("FLYTE_INTERNAL_TASK_VERSION") or "none, a working tree"
    size = f"{SHAPE.nodes} × {SHAPE.processes_per_node} {'GPUs' if SHAPE.gpu else 'processes'}"
    return [("version", version), ("program", PROGRAM), ("cluster", f"{SHAPE_NAME}, {size}")]


def devices() -> tuple[str, int]:
    """What training runs on: the accelerator's label and the number of all GPUs, or "" and the
    number of CPU nodes.
    """
    device = SHAPE.accelerator.to_flyte_idl().device if SHAPE.accelerator else ""
    return device, SHAPE.nodes * int(SHAPE.gpu or 1)


def in_pod() -> bool:
    """Whether this process runs in a pod, and not on one's own machine."""
    return bool(os.environ.get("FLYTE_INTERNAL_EXECUTION_ID"))


def require_shared(root: str) -> None:
    """Refuse a folder of a pod's own disk as the place of a run: the next stage's pod would not see
    it. Raises ConfigError in a pod, never on one's own machine.
    """
    from clippo_core.errors import ConfigError
    from clippo_core.storage import is_local

    if in_pod() and is_local(root):
        raise ConfigError(
            f"root is {root!r}, a folder that only one pod sees; use s3://bucket/prefix."
        )


def _environment() -> dict[str, str]:
    return {
        "CLIPPO_CLUSTER": SHAPE_NAME,
        "CLIPPO_PROGRAM": PROGRAM,
        "GX_ANALYTICS_ENABLED": "false",
        "PYTHONUNBUFFERED": "1",
    }


def _gpu_resources() -> Resources:
    return Resources(
        cpu=SHAPE.cpu, mem=SHAPE.memory, gpu=SHAPE.gpu or None, ephemeral_storage=SHAPE.disk
    )


def _share(of_a_node: str, at_least: int = 1) -> str:
    """What belongs to one GPU of a node's cores, memory or disk (`128`, `1000Gi`)."""
    number = of_a_node.rstrip("Gi")
    each = max(at_least, int(number) // int(SHAPE.gpu or 1))
    return f"{each}{of_a_node.removeprefix(number)}"
