"""The reference's forward pass in plain numpy, from its description, and inputs for small towers of
every kind.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch

from clippo_core.models.correspondence import clippo_rules

SMALL = {"width": 32, "depth": 2, "num_heads": 2, "mlp_dim": 72, "embed_dim": 16}
VOCAB = 50


def perturbed(tower, seed=0, scale=0.1):
    """Every tensor moved at random, so that one which is swapped or ignored shows."""
    stream = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in tower.parameters():
            parameter.add_(
                scale * torch.randn(parameter.shape, generator=stream).to(parameter.dtype)
            )
    return tower


def flax_arrays(tower):
    """The tower's tensors under the reference's names, float64."""
    state = {name: value.detach().double().numpy() for name, value in tower.named_parameters()}
    rules = clippo_rules(tower.config, tower.pos_embed.shape[1])
    return {key: array for rule in rules for key, array in rule.write(state[rule.name])}


def reference_embedding(params, images):
    """The reference, read from its description and written in plain numpy: images [n, H, W, 3] in
    -1..1 -> unit rows [n, d].
    """

    def norm(x, name):
        mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
        return (x - mean) / np.sqrt(variance + 1e-6) * params[name + "/scale"] + params[
            name + "/bias"
        ]

    def attention(queries, x, name):
        q, k, v = (
            np.einsum("nld,dhe->nhle", y, params[f"{name}/{part}/kernel"])
            + params[f"{name}/{part}/bias"][None, :, None]
            for y, part in ((queries, "query"), (x, "key"), (x, "value"))
        )
        logits = np.einsum("nhqe,nhke->nhqk", q, k) / math.sqrt(q.shape[-1])
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        heads = np.einsum("nhqk,nhke->nqhe", weights, v)
        return (
            np.einsum("nqhe,hed->nqd", heads, params[f"{name}/out/kernel"])
            + params[f"{name}/out/bias"]
        )

    def mlp(x, name):
        x = x @ params[name + "/Dense_0/kernel"] + params[name + "/Dense_0/bias"]
        x = 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
        return x @ params[name + "/Dense_1/kernel"] + params[name + "/Dense_1/bias"]

    n, height, width, _ = images.shape
    patches = [
        images[:, y : y + 16, x : x + 16] for y in range(0, height, 16) for x in range(0, width, 16)
    ]
    kernel = params["img/embedding/kernel"]
    x = (
        np.stack([np.einsum("nyxc,yxcd->nd", patch, kernel) for patch in patches], 1)
        + params["img/embedding/bias"]
    )
    x = x + params["img/pos_embedding"]
    for i in itertools.count():
        block = f"img/Transformer/encoderblock_{i}"
        if block + "/LayerNorm_0/scale" not in params:
            break
        y = norm(x, block + "/LayerNorm_0")
        x = x + attention(y, y, block + "/MultiHeadDotProductAttention_0")
        x = x + mlp(norm(x, block + "/LayerNorm_1"), block + "/MlpBlock_0")
    x = norm(x, "img/Transformer/encoder_norm")
    probe = np.tile(params["img/MAPHead_0/probe"], (n, 1, 1))
    x = attention(probe, x, "img/MAPHead_0/MultiHeadDotProductAttention_0")
    x = x + mlp(norm(x, "img/MAPHead_0/LayerNorm_0"), "img/MAPHead_0/MlpBlock_0")
    z = x[:, 0] @ params["img/head/kernel"] + params["img/head/bias"]
    return z / (np.linalg.norm(z, axis=-1, keepdims=True) + 1e-8)


def pairs_for(tower, n_photos, n_first, seed=0, device="cpu"):
    """Random photos and encoded texts for any kind of tower."""
    stream = torch.Generator().manual_seed(seed)
    photos = torch.randint(
        0, 256, (n_photos, 3, tower.image_px, tower.image_px), generator=stream, dtype=torch.uint8
    )

    def texts(n):
        if tower.config.kind == "clippo":
            rows = tower.image_px // 16
            return torch.randint(
                0, 65536, (n, rows, tower.image_px), generator=stream, dtype=torch.int32
            ).to(torch.uint16)
        return torch.randint(
            0, VOCAB, (n, tower.config.text_tokens), generator=stream, dtype=torch.int32
        )

    return photos.to(device), texts(n_first).to(device), texts(n_photos + n_first).to(device)
