"""Which process am I, and which device is mine: the process group of torchrun's environment, or a
group of one.

It reads nothing but the environment that torchrun and Flyte's Elastic set.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from clippo_core.errors import ConfigError


@dataclass(frozen=True)
class Ranks:
    """This process among all."""

    rank: int
    world_size: int
    local_rank: int
    """Rank within the machine; also the index of its GPU."""
    device: torch.device


def init_distributed(timeout_seconds: float = 60.0) -> Ranks:
    """Join the process group that the environment describes (RANK, WORLD_SIZE, LOCAL_RANK,
    MASTER_ADDR, MASTER_PORT), once.

    Without RANK in the environment the group has one rank, lives in this process and opens no port.
    NCCL with a GPU, gloo without. A collective that does not finish within `timeout_seconds` ends
    the process or raises. Raises ConfigError for an incomplete environment.
    """
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    device = torch.device("cuda", local_rank) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        backend, timeout = (
            "nccl" if device.type == "cuda" else "gloo",
            timedelta(seconds=timeout_seconds),
        )
        if "RANK" in os.environ:
            missing = [
                name
                for name in ("WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
                if name not in os.environ
            ]
            if missing:
                raise ConfigError(
                    f"RANK is set, but not {', '.join(missing)}; start with torchrun, or without"
                    " RANK for one process."
                )
            dist.init_process_group(backend, timeout=timeout)
        else:
            dist.init_process_group(
                backend, store=dist.HashStore(), rank=0, world_size=1, timeout=timeout
            )
    return Ranks(dist.get_rank(), dist.get_world_size(), local_rank, device)
