"""Engines: exact steps over the full global batch, on any number of ranks, plain or under
DeepSpeed's ZeRO.

engine = make_engine(tower, optim, decayed=tower.decayed, views=tower.views, zero_stage=1,
                     precision="bfloat16")
output = contrastive_step(engine, photos, first_text, second_text, memory=plan)
norm = engine.update(multiplier) if output.finite else engine.discard()
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from clippo_core.config import OptimConfig, require
from clippo_core.engine.cached import (
    StepOutput,
    contrastive_backward,
    contrastive_step,
    rehearse,
)
from clippo_core.engine.choose import MemoryPlan, apply_memory, choose_memory, device_bytes
from clippo_core.engine.interface import Engine
from clippo_core.engine.plain import PlainEngine
from clippo_core.engine.ranks import Ranks, init_distributed
from clippo_core.optim import Adafactor, AdamW, ShardedOptimizer


def make_engine(
    module: nn.Module,
    optim: OptimConfig,
    *,
    decayed: set[str],
    views: Mapping[str, tuple[int, ...]],
    zero_stage: int = 0,
    precision: str = "float32",
    device: torch.device | str | None = None,
    lr_groups: dict[str, float] | None = None,
    compile_update: bool = False,
) -> Engine:
    """An engine that trains `module` on every rank of the process group (or alone, where there is
    none).

    `decayed`: names of the parameters that weight decay applies to. `views`: parameter name ->
    shape in which Adafactor factors its gradient, where that is not its own. A tower has both as
    attributes.
    `lr_groups`: prefix of parameter names -> factor on their whole step. `device`: the rank's own
    by default. The module is moved there and, on several ranks, gets rank 0's weights.
    `compile_update`: torch.compile fuses the optimizer's update on a GPU; on a CPU it stays in the
    cache anyway.
    Raises ConfigError.
    """
    require(zero_stage in (0, 1, 2, 3), f"zero_stage is {zero_stage}; use 0, 1, 2 or 3.")
    require(
        precision in ("float32", "bfloat16"),
        f"precision is {precision!r}; use 'float32' or 'bfloat16'.",
    )
    if device is None:
        device = (
            torch.device("cuda", torch.cuda.current_device())
            if torch.cuda.is_available()
            else torch.device("cpu")
        )
    device = torch.device(device)
    module.to(device)
    unknown = (decayed | set(views)) - {name for name, _ in module.named_parameters()}
    require(
        not unknown,
        f"decayed or views names {min(unknown, default='')!r}, but {type(module).__name__} has no "
        "such parameter; pass names as in module.named_parameters().",
    )
    optimizer = make_optimizer(module, optim, decayed, views, lr_groups or {})
    if compile_update and device.type == "cuda":
        optimizer.compile()
    if zero_stage == 0:
        return PlainEngine(module, optimizer, precision, device)
    from clippo_core.engine.zero import ZeroEngine

    return ZeroEngine(module, optimizer, precision, device, zero_stage)


def make_optimizer(
    module: nn.Module,
    optim: OptimConfig,
    decayed: set[str],
    views: Mapping[str, tuple[int, ...]],
    lr_groups: dict[str, float],
) -> ShardedOptimizer:
    """The optimizer of `optim` over the module's parameters that require a gradient."""
    named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    rates: dict[str, float] = {}
    for prefix, factor in lr_groups.items():
        members = [name for name, _ in named if name.startswith(prefix)]
        require(
            bool(members), f"lr_groups has {prefix!r}, but no trained parameter's name begins so."
        )
        rates.update(dict.fromkeys(members, factor))
    trained = {name for name, _ in named}
    if optim.name == "adamw":
        betas = (0.9, optim.adam_beta2)
        return AdamW(
            named,
            optim.lr,
            optim.weight_decay,
            decayed & trained,
            betas,
            clip_norm=optim.clip_norm,
            rates=rates,
        )
    return Adafactor(
        named,
        optim.lr,
        optim.weight_decay,
        decayed & trained,
        momentum_dtype=getattr(torch, optim.momentum_dtype),
        views={name: view for name, view in views.items() if name in trained},
        clip_norm=optim.clip_norm,
        rates=rates,
    )


__all__ = [
    "Engine",
    "MemoryPlan",
    "Ranks",
    "StepOutput",
    "apply_memory",
    "choose_memory",
    "contrastive_backward",
    "contrastive_step",
    "device_bytes",
    "init_distributed",
    "make_engine",
    "make_optimizer",
    "rehearse",
]
