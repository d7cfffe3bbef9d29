"""`clippo convert`: checkpoints from one form to another."""

from __future__ import annotations

import argparse

from clippo_core.cli.options import Names, add_command
from clippo_core.errors import ConfigError

EXAMPLES = """\
The endings say what is read and written.

A released model as one file, ready for Clippo.load:
  clippo convert clippo_b16_yfcc100m clippo.safetensors
What big_vision reads (plain CLIPPO only):
  clippo convert runs/demo-1a2b3c/checkpoints model.npz
Position embeddings resampled by the reference's rule:
  clippo convert model.npz large.safetensors --image-px 384
A pretrained ViT (augreg .npz, timm .safetensors) for VQA:
  clippo convert B_16.npz vit.safetensors --image-only
"""


def add(names: Names) -> None:
    """Add the command."""
    command = add_command(
        names, "convert", convert, "checkpoints from one form to another", EXAMPLES
    )
    command.add_argument("source", metavar="MODEL")
    command.add_argument("target", metavar="FILE", help=".safetensors or .npz")
    command.add_argument(
        "--image-px", type=int, default=0, help="resample the position embeddings for this size"
    )
    command.add_argument(
        "--image-only",
        action="store_true",
        help="MODEL is a pretrained ViT; its MAP head starts fresh",
    )


def convert(chosen: argparse.Namespace) -> None:
    """A checkpoint in another form."""
    from clippo_core.config import RenderConfig
    from clippo_core.embedder import Clippo
    from clippo_core.models import load_image_only, save_big_vision

    if not chosen.target.endswith((".npz", ".safetensors")):
        raise ConfigError(
            f"{chosen.target} ends neither in .npz (for big_vision) nor in .safetensors (one file"
            " for Clippo.load)."
        )
    if chosen.image_only:
        tower = load_image_only(chosen.source, chosen.image_px or 224)
        model = Clippo(tower, RenderConfig(image_px=tower.image_px), device="cpu")
    else:
        model = Clippo.load(chosen.source, "cpu", image_px=chosen.image_px)
    if chosen.target.endswith(".npz"):
        save_big_vision(model.tower, chosen.target)
    else:
        model.save(chosen.target)
    config, count = (
        model.tower.config,
        sum(parameter.numel() for parameter in model.tower.parameters()),
    )
    print(
        f"{chosen.target}: {config.kind}, width {config.width}, depth {config.depth},"
        f" {model.image_px} px, {count:,} parameters"
    )
