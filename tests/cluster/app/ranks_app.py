"""A `pytorch` task on two pods, which tells what each of them was given."""

from __future__ import annotations

import os

from flytekit import task, workflow
from flytekitplugins.kfpytorch import Elastic

TWO = Elastic(nnodes=2, nproc_per_node=1, max_restarts=2, increase_shared_mem=False)


@task(task_config=TWO)
def meet() -> str:
    """What rank 0 sees: the sum of all ranks plus one, and what torchrun was told."""
    import torch
    import torch.distributed as dist

    dist.init_process_group("gloo")
    total = torch.tensor([dist.get_rank() + 1])
    dist.all_reduce(total)
    told = {name: value for name, value in os.environ.items() if name.startswith("PET_")}
    shown = {name: told[name] for name in ("PET_NNODES", "PET_NPROC_PER_NODE", "PET_RDZV_BACKEND")}
    restarts = os.environ["TORCHELASTIC_MAX_RESTARTS"]
    dist.destroy_process_group()
    return f"{int(total)} {shown} {restarts} {os.environ['FLYTE_INTERNAL_WORKER_NAME'][-8:]}"


@workflow
def met() -> str:
    return meet()
