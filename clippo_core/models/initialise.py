"""The reference's initialisation of every tensor, by its name (big_vision models/vit.py and flax's
defaults).

    q, k, v, out, MLP kernels, MAP probe   xavier-uniform, limit sqrt(6 / (fan_in + fan_out)),
                                           each of the fused q, k, v on its own
    patch embedding, head                  lecun-normal: normal cut at two standard deviations,
                                           variance 1 / fan_in
    position and token embeddings          normal, std 1 / sqrt(width)
    MLP biases                             normal, std 1e-6;   other biases 0, LayerNorm 1 and 0
    t                                      log(initial logit scale)

With timm's or torch's initialisation the MAP head learns several times slower. Each tensor has a
random stream of its own, drawn on the CPU from (seed, name), so that towers of different kinds
start from equal trunks, on any device.
"""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor, nn

_TRUNCATION = 0.87962566103423978
"""Standard deviation of a standard normal that is cut at -2 and 2."""


@torch.no_grad()
def initialise(tower: nn.Module, *, seed: int, initial_logit_scale: float) -> None:
    """Give every parameter of `tower` its initial value, in place. Tensors on the meta device are
    left as they are.
    """
    for name, parameter in tower.named_parameters():
        if not parameter.is_meta:
            parameter.copy_(
                initial_value(
                    name, tuple(parameter.shape), seed=seed, initial_logit_scale=initial_logit_scale
                )
            )


def initial_value(
    name: str, shape: tuple[int, ...], *, seed: int, initial_logit_scale: float = 10.0
) -> Tensor:
    """The initial float32 value of the parameter `name`, on the CPU. Raises ValueError for a name
    without a rule.
    """
    stream = torch.Generator().manual_seed(
        int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:7], "big")
    )
    value = torch.empty(shape)
    owner, _, kind = name.rpartition(".")
    layer = owner.rpartition(".")[2]
    if name == "t":
        return value.fill_(math.log(initial_logit_scale))
    if layer.startswith("norm"):
        return value.fill_(1.0 if kind == "weight" else 0.0)
    if kind in ("pos_embed", "text_pos_embed") or layer == "token_embed":
        return value.normal_(0.0, 1 / math.sqrt(shape[-1]), generator=stream)
    if kind == "latent":
        return _xavier_uniform(value, 1, shape[-1], stream)
    if kind == "bias":
        return (
            value.normal_(0.0, 1e-6, generator=stream) if layer in ("fc1", "fc2") else value.zero_()
        )
    if layer in ("proj", "head", "text_head") and not owner.endswith(
        ("attn.proj", "attn_pool.proj")
    ):
        std = math.sqrt(1 / math.prod(shape[1:])) / _TRUNCATION
        return nn.init.trunc_normal_(value, 0.0, std, -2 * std, 2 * std, generator=stream)
    fused = {"qkv": 3, "kv": 2}.get(layer, 1)
    if layer in ("qkv", "kv", "q", "proj", "fc1", "fc2"):
        return _xavier_uniform(value, shape[1], shape[0] // fused, stream)
    raise ValueError(f"no rule to initialise {name} of shape {shape}.")


def _xavier_uniform(value: Tensor, fan_in: int, fan_out: int, stream: torch.Generator) -> Tensor:
    limit = math.sqrt(6 / (fan_in + fan_out))
    return value.uniform_(-limit, limit, generator=stream)
