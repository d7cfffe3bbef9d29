"""`clippo convert`: a model from one form to another."""

from __future__ import annotations

import argparse

from clippo_core.cli.options import MODEL, Names, add_command
from clippo_core.errors import ConfigError

EXAMPLES = """\
The endings say what is read and written.

A released model as one file, ready for Clippo.load:
  clippo convert clippo_b16_yfcc100m clippo.safetensors
What big_vision reads (plain CLIPPO only):
  clippo convert runs/demo-1a2b3c/checkpoints model.npz
A folder for the Hugging Face hub, with a model card of the run's results:
  clippo convert runs/promoted-demo.json my-clippo/ --license cc-by-4.0
What plain timm reads (create_model("local-dir:timm-clippo")), and graphs for onnxruntime:
  clippo convert model.safetensors timm-clippo/ --to timm
  clippo convert model.safetensors onnx-clippo/ --to onnx
Position embeddings resampled by the reference's rule:
  clippo convert model.npz large.safetensors --image-px 384
A pretrained ViT (augreg .npz, timm .safetensors) for VQA:
  clippo convert B_16.npz vit.safetensors --image-only
"""


def add(names: Names) -> None:
    """Add the command."""
    command = add_command(names, "convert", convert, "a model from one form to another", EXAMPLES)
    command.epilog = MODEL
    command.add_argument("source", metavar="MODEL", help="see below")
    command.add_argument("target", metavar="TARGET", help=".safetensors, .npz, or a folder/")
    command.add_argument(
        "--to", choices=("hub", "timm", "onnx"), help="what a folder holds (default: hub)"
    )
    command.add_argument(
        "--image-px", type=int, default=0, help="resample the position embeddings for this size"
    )
    command.add_argument(
        "--image-only",
        action="store_true",
        help="MODEL is a pretrained ViT; its MAP head starts fresh",
    )
    command.add_argument(
        "--license", default="", metavar="NAME", help="of the weights, for the card: apache-2.0"
    )


def convert(chosen: argparse.Namespace) -> None:
    """A model in another form."""
    from clippo_core.config import RenderConfig
    from clippo_core.embedder import Clippo
    from clippo_core.models import load_image_only, save_big_vision
    from clippo_core.neighbours.graphs import write_onnx
    from clippo_core.neighbours.timm_folder import write_timm
    from clippo_core.run.publishing import publish

    target, form = chosen.target, _form(chosen)
    if form == "hub" and not chosen.image_only:
        model = publish(chosen.source, target, license=chosen.license, image_px=chosen.image_px)
    else:
        if chosen.image_only:
            tower = load_image_only(chosen.source, chosen.image_px or 224)
            model = Clippo(tower, RenderConfig(image_px=tower.image_px), device="cpu")
        else:
            model = Clippo.load(chosen.source, "cpu", image_px=chosen.image_px)
        if form == ".npz":
            save_big_vision(model.tower, target)
        elif form == "timm":
            write_timm(model, target)
        elif form == "onnx":
            write_onnx(model, target)
        elif form == "hub":
            model.save_pretrained(target)
        else:
            model.save(target)
    config = model.tower.config
    count = sum(parameter.numel() for parameter in model.tower.parameters())
    print(
        f"{target}: {config.kind}, width {config.width}, depth {config.depth},"
        f" {model.image_px} px, {count:,} parameters"
    )


def _form(chosen: argparse.Namespace) -> str:
    """`.npz`, `.safetensors`, `hub`, `timm` or `onnx`. Raises ConfigError for what could be
    several, or none.
    """
    target = chosen.target
    ending = next((one for one in (".npz", ".safetensors") if target.endswith(one)), "")
    if ending and chosen.to:
        raise ConfigError(f"{target} is one file, and --to {chosen.to} writes a folder.")
    if chosen.license and (ending or chosen.to in ("timm", "onnx")):
        raise ConfigError("--license is for the card in a hub's folder; there is none here.")
    if ending or chosen.to:
        return ending or str(chosen.to)
    if target.endswith("/"):
        return "hub"
    raise ConfigError(
        f"{target} ends neither in .npz (for big_vision) nor in .safetensors (one file for"
        " Clippo.load) nor in / (a folder for the hub)."
    )
