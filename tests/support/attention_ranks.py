"""Two gloo ranks whose probes disagree about the kernel of attention."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
import torch.distributed as dist

from clippo_core.engine import init_distributed
from clippo_core.engine.attention import choose_attention
from clippo_core.train.agreement import Agreement


def main(rank: int, port: int, folder: str) -> None:
    """Each rank writes what was chosen, and what it probed itself."""
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ.update(address, RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank))
    agreement = Agreement(init_distributed(60), 60)
    torch.cuda.get_device_capability = lambda device: (9, 0)
    times = [{"flash": 2.0, "cudnn": 1.0}, {"flash": 1.0, "cudnn": 2.0}][rank]
    probed = []

    def seconds(name: str) -> float:
        probed.append(name)
        return times[name]

    gpu = torch.device("cuda", 0)
    chosen = agreement.rank0(lambda: choose_attention("auto", "", gpu, seconds))
    Path(folder, f"{rank}.json").write_text(json.dumps([chosen, probed]))
    dist.destroy_process_group()
