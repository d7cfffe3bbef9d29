"""Which of our tensors is which of the reference's arrays, and the permutation between them.

    flax                                    ours
    query, key, value [D, heads, head_dim]  attn.qkv.weight [3·D, D]
    out [heads, head_dim, D]                attn.proj.weight [D, D]
    Dense [in, out]                         weight [out, in]
    conv [H, W, I, O]                       weight [O, I, H, W]

One table serves reading and writing. It knows names and shapes, not files (`npz.py`) nor towers
(`convert.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import numpy as np

from clippo_core.config import ModelConfig


class Rule(NamedTuple):
    """One tensor of ours, the flax arrays that it is made of, their shape, and the permutation
    between them.
    """

    name: str
    keys: tuple[str, ...]
    shape: tuple[int, ...]
    order: Literal["same", "conv", "in", "out", "flat"]
    """`same`; `conv` HWIO-OIHW; `in` [D, …] kernels, transposed and stacked; `out` […, D] kernels,
    transposed; `flat` biases, stacked."""

    def read(self, get: Callable[[str, tuple[int, ...]], np.ndarray]) -> np.ndarray:
        """Our tensor from the arrays that `get(key, expected shape)` returns."""
        parts = [get(key, self.shape) for key in self.keys]
        if self.order == "same":
            return parts[0]
        if self.order == "conv":
            return np.ascontiguousarray(parts[0].transpose(3, 2, 0, 1))
        if self.order == "flat":
            return np.concatenate([part.reshape(-1) for part in parts])
        if self.order == "out":
            return np.ascontiguousarray(parts[0].reshape(-1, self.shape[-1]).T)
        return np.concatenate([part.reshape(self.shape[0], -1).T for part in parts])

    def write(self, value: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        """The arrays that our tensor becomes, with their keys."""
        if self.order == "same":
            yield self.keys[0], value
        elif self.order == "conv":
            yield self.keys[0], np.ascontiguousarray(value.transpose(2, 3, 1, 0))
        elif self.order == "out":
            yield self.keys[0], np.ascontiguousarray(value.T).reshape(self.shape)
        else:
            for key, part in zip(self.keys, np.split(value, len(self.keys)), strict=True):
                yield key, np.ascontiguousarray(part.T).reshape(self.shape)


def clippo_rules(c: ModelConfig, n_patches: int) -> list[Rule]:
    """The correspondence for the tower of photos: ViT, MAP head, head and t, in the order of the
    network.
    """
    rules = [
        Rule(
            "patch_embed.proj.weight",
            ("img/embedding/kernel",),
            (ModelConfig.PATCH_PX, ModelConfig.PATCH_PX, 3, c.width),
            "conv",
        ),
        Rule("patch_embed.proj.bias", ("img/embedding/bias",), (c.width,), "same"),
        Rule("pos_embed", ("img/pos_embedding",), (1, n_patches, c.width), "same"),
    ]
    for i in range(c.depth):
        block = f"img/Transformer/encoderblock_{i}"
        rules += _norm_rules(f"blocks.{i}.norm1", f"{block}/LayerNorm_0", c.width)
        rules += _attention_rules(
            f"blocks.{i}.attn",
            f"{block}/MultiHeadDotProductAttention_0",
            c,
            {"qkv": ("query", "key", "value")},
        )
        rules += _norm_rules(f"blocks.{i}.norm2", f"{block}/LayerNorm_1", c.width)
        rules += _mlp_rules(f"blocks.{i}.mlp", f"{block}/MlpBlock_0", c)
    rules += _norm_rules("norm", "img/Transformer/encoder_norm", c.width)
    pool = "img/MAPHead_0"
    rules.append(Rule("attn_pool.latent", (f"{pool}/probe",), (1, 1, c.width), "same"))
    rules += _attention_rules(
        "attn_pool",
        f"{pool}/MultiHeadDotProductAttention_0",
        c,
        {"q": ("query",), "kv": ("key", "value")},
    )
    rules += _norm_rules("attn_pool.norm", f"{pool}/LayerNorm_0", c.width)
    rules += _mlp_rules("attn_pool.mlp", f"{pool}/MlpBlock_0", c)
    rules.append(Rule("head.weight", ("img/head/kernel",), (c.width, c.embed_dim), "in"))
    rules.append(Rule("head.bias", ("img/head/bias",), (c.embed_dim,), "same"))
    rules.append(Rule("t", ("t",), (1,), "same"))
    return rules


def _norm_rules(name: str, key: str, width: int) -> list[Rule]:
    return [
        Rule(f"{name}.weight", (f"{key}/scale",), (width,), "same"),
        Rule(f"{name}.bias", (f"{key}/bias",), (width,), "same"),
    ]


def _attention_rules(
    name: str, key: str, c: ModelConfig, inputs: dict[str, tuple[str, ...]]
) -> list[Rule]:
    heads = (c.num_heads, c.width // c.num_heads)
    rules = []
    for linear, parts in inputs.items():
        rules.append(
            Rule(
                f"{name}.{linear}.weight",
                tuple(f"{key}/{part}/kernel" for part in parts),
                (c.width, *heads),
                "in",
            )
        )
        rules.append(
            Rule(
                f"{name}.{linear}.bias",
                tuple(f"{key}/{part}/bias" for part in parts),
                heads,
                "flat",
            )
        )
    rules.append(Rule(f"{name}.proj.weight", (f"{key}/out/kernel",), (*heads, c.width), "out"))
    rules.append(Rule(f"{name}.proj.bias", (f"{key}/out/bias",), (c.width,), "same"))
    return rules


def _mlp_rules(name: str, key: str, c: ModelConfig) -> list[Rule]:
    return [
        Rule(f"{name}.fc1.weight", (f"{key}/Dense_0/kernel",), (c.width, c.mlp_dim), "in"),
        Rule(f"{name}.fc1.bias", (f"{key}/Dense_0/bias",), (c.mlp_dim,), "same"),
        Rule(f"{name}.fc2.weight", (f"{key}/Dense_1/kernel",), (c.mlp_dim, c.width), "in"),
        Rule(f"{name}.fc2.bias", (f"{key}/Dense_1/bias",), (c.width,), "same"),
    ]
