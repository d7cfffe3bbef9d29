"""A tower's image side as a folder that plain timm reads, without this package.

    timm.create_model("local-dir:FOLDER")     or hf-hub:ORG/NAME, once it is pushed there
    timm.data.create_transform(...)           squashes, but with antialias: pixels differ a little

timm's output is the embedding before it is made unit length. Text is an image here as well: draw
it, and give it to the same model.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from clippo_core import storage
from clippo_core.errors import ConfigError
from clippo_core.hub import CONFIG, WEIGHTS

if TYPE_CHECKING:
    from clippo_core.embedder import Clippo


def write_timm(model: Clippo, folder: str) -> None:
    """Write config.json and model.safetensors for timm (local or s3://). Raises ConfigError for a
    tower that timm has no place for.
    """
    from safetensors.torch import save

    config = model.tower.config
    if config.kind not in ("clippo", "image_only") or config.separate_heads:
        raise ConfigError(
            f"timm's vision transformer has no place for a tower of kind {config.kind}"
            f"{' with two heads' if config.separate_heads else ''}."
        )
    weights = {
        name: value.detach().cpu().contiguous()
        for name, value in model.tower.named_parameters()
        if name != "t" and not name.startswith("text_")
    }
    storage.write_bytes(storage.join(folder, WEIGHTS), save(weights, {"format": "pt"}))
    text = json.dumps(timm_config(model), indent=1) + "\n"
    storage.write_text(storage.join(folder, CONFIG), text)


def timm_config(model: Clippo) -> dict[str, Any]:
    """What timm needs in order to build this tower's image side."""
    config = model.tower.config
    classes = 0 if config.kind == "image_only" else config.embed_dim
    size = [3, model.image_px, model.image_px]
    return {
        "architecture": "vit_base_patch16_224",
        "num_classes": classes,
        "num_features": config.width,
        "global_pool": "map",
        "model_args": {
            "img_size": model.image_px,
            "embed_dim": config.width,
            "depth": config.depth,
            "num_heads": config.num_heads,
            # timm takes int(width * ratio); half a unit above, rounding cannot fall short of it.
            "mlp_ratio": (config.mlp_dim + 0.5) / config.width,
            "global_pool": "map",
            "class_token": False,
            "act_layer": "gelu_tanh",
        },
        "pretrained_cfg": {
            "tag": "clippo",
            "custom_load": False,
            "input_size": size,
            "fixed_input_size": True,
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "crop_mode": "squash",
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
            "num_classes": classes,
            "pool_size": None,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    }
