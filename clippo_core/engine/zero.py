"""DeepSpeed's ZeRO stages 1, 2 and 3 under this project's optimizer: the only file that imports
deepspeed.

    stage 1   weights and gradients on every rank, optimizer state in flat shards
    stage 2   gradients in shards too            stage 3   weights too

DeepSpeed moves gradients and weights; clipping, Adafactor and its factors stay ours: after
initialisation the optimizer is told which slices of which parameters lie where in the flat shard.
Settings that change results are always written out: its default of `gradient_clipping` became 1.0
in 2026, and bfloat16 comes from autocast inside the module, so that weights, gradients and their
reduction stay float32. Not here: stage 0 (the plain engine), offloading, DeepSpeed's own
checkpoints (neither atomic nor checked).
"""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor, nn

from clippo_core.engine.buckets import bucket_elements
from clippo_core.engine.interface import Engine, check_fit
from clippo_core.engine.ranks import init_distributed
from clippo_core.errors import ConfigError
from clippo_core.extras import optional_import
from clippo_core.optim import Fragment, ShardedOptimizer

WRITTEN_FOR = "0.19.8"
"""The version of DeepSpeed whose undocumented attributes are read here; see `_check_private`."""


class ZeroEngine(Engine):
    """See the module. Joins the process group itself where the caller has not."""

    def __init__(
        self,
        module: nn.Module,
        optimizer: ShardedOptimizer,
        precision: str,
        device: torch.device,
        stage: int,
    ) -> None:
        ranks = init_distributed()
        super().__init__(module, optimizer, precision, device)
        os.environ.setdefault(
            "LOCAL_RANK", str(ranks.local_rank)
        )  # deepspeed insists on it, also without a launcher
        self.stage = stage
        self._shapes = {name: tuple(value.shape) for name, value in module.state_dict().items()}
        names = {id(p): name for name, p in module.named_parameters()}
        self._deepspeed = _deepspeed(device)
        self._zero: Any = self._deepspeed.initialize(
            model=self._forward,
            optimizer=optimizer,
            config=_config(stage, sum(p.numel() for p in module.parameters())),
            dist_init_required=False,
        )[0]
        optimizer.place(
            *(_shard_stage3 if stage == 3 else _shard_stage12)(
                self._zero.optimizer, names, self.rank
            )
        )

    def __call__(self, *inputs: Any) -> Any:
        return self._zero(*inputs)

    def rehearse(self, *inputs: Any, with_graph: bool) -> None:
        if self.stage < 3:  # there the forward pass fetches weights from other ranks
            super().rehearse(*inputs, with_graph=with_graph)

    def weights(self) -> dict[str, Tensor]:
        with self._gathered(writing=False):
            state = self.module.state_dict() if self.rank == 0 else {}
            return {name: value.detach().cpu().clone() for name, value in state.items()}

    def load_weights(self, weights: dict[str, Tensor]) -> None:
        check_fit(self._shapes, weights)
        with self._gathered(writing=True), torch.no_grad():
            for name, value in self.module.state_dict().items():
                value.copy_(weights[name])
        self._zero.optimizer.refresh_fp32_params()

    def _gathered(self, writing: bool) -> Any:
        """Within it, stage 3's weights are whole; written ones are rank 0's on leaving."""
        parameters = list(self.module.parameters()) if self.stage == 3 else []
        return self._deepspeed.zero.GatheredParameters(
            parameters, modifier_rank=0 if writing else None
        )

    def _backward(self, loss: Tensor) -> None:
        self._zero.backward(loss)

    def _coalesce(self) -> Any:
        return self._zero.coalesce_grad_reduction()

    def _update(self, multiplier: float | None) -> None:
        # With None the optimizer does nothing, and DeepSpeed drops the gradients as after any step.
        self.optimizer.multiplier = multiplier
        self._zero.step()
        if multiplier is not None and self.optimizer.outcome is None:
            # Stage 3 looks at the norm itself: one that is not finite, and no rank steps.
            self.optimizer.skip()


def _deepspeed(device: torch.device) -> Any:
    import logging

    if device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # or it warns that it found nothing better
    with optional_import():
        import deepspeed
        from deepspeed.utils import logger

    logger.setLevel(logging.ERROR)
    _check_private(deepspeed.ops, "__compatible_ops__")
    # Its shared-memory collectives are compiled at first use, and a stale lock file then blocks
    # every later run without a word.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def _config(stage: int, parameters: int) -> dict[str, Any]:
    return {
        "train_micro_batch_size_per_gpu": 1,  # only for its own counters
        "gradient_accumulation_steps": 1,
        "gradient_clipping": 0.0,  # the optimizer clips, exactly, in its one all-reduce
        "zero_allow_untested_optimizer": True,
        # By default every forward pass and every step would wait for the device.
        "timers": {"throughput": {"enabled": False}},
        "zero_optimization": {
            "stage": stage,
            "overlap_comm": True,
            # Its default, 5e8, is more than these towers have: one exchange behind backward.
            "reduce_bucket_size": bucket_elements(parameters),
            "contiguous_gradients": True,
            "reduce_scatter": True,
            "compute_grad_norm": stage == 3,  # cannot be switched off there
            "sub_group_size": 10**13,  # one flat shard per rank: one optimizer step
        },
    }


def _check_private(owner: Any, *names: str) -> None:
    """Raise ConfigError unless `owner`, which is DeepSpeed's, has these undocumented attributes."""
    with optional_import():
        import deepspeed

    for name in names:
        if not hasattr(owner, name):
            what = getattr(owner, "__name__", type(owner).__name__)
            raise ConfigError(
                f"deepspeed {deepspeed.__version__} has no `{name}` in {what}, which "
                f"clippo_core/engine/zero.py reads; it was written for {WRITTEN_FOR}. Install that "
                "version (requirements.lock), or set train.zero_stage to 0."
            )


def _shard_stage12(zero: Any, names: dict[int, str], rank: int) -> tuple[Tensor, list[Fragment]]:
    _check_private(zero, "bit16_groups", "single_partition_of_fp32_groups")
    (parameters,), (shard,) = zero.bit16_groups, zero.single_partition_of_fp32_groups
    fragments = []
    for parameter in parameters:
        _check_private(parameter, "_hp_mapping")
        mapping = parameter._hp_mapping
        if mapping is not None:
            _check_private(mapping, "lp_fragment_address", "get_hp_fragment_address")
            inside, flat = mapping.lp_fragment_address, mapping.get_hp_fragment_address()
            fragments.append(Fragment(names[id(parameter)], inside.start, inside.numel, flat.start))
    return shard, fragments


def _shard_stage3(zero: Any, names: dict[int, str], rank: int) -> tuple[Tensor, list[Fragment]]:
    _check_private(
        zero, "fp16_groups", "fp32_partitioned_groups_flat", "grad_position", "get_param_id"
    )
    (parameters,), (shard,) = zero.fp16_groups, zero.fp32_partitioned_groups_flat
    fragments = []
    for parameter in parameters:
        _check_private(parameter, "ds_numel")
        _, offset, length = zero.grad_position[zero.get_param_id(parameter)]
        start = min(rank * length, parameter.ds_numel)
        # The last ranks' slices are padded up to `length`, or are nothing but padding.
        fragments.append(
            Fragment(names[id(parameter)], start, min(length, parameter.ds_numel - start), offset)
        )
    return shard, fragments
