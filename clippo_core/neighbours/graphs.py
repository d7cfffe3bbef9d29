"""Both sides of a tower as graphs with a batch of any size: torch.export and ONNX.

    image   uint8 [n, 3, px, px], as Clippo.prepared gives one  ─▶ float32 [n, embed_dim], unit rows
    text    uint8 [n, px, px], as Clippo.renderer.render draws  ─▶ the same
            (of a baseline: its tokens, int32 [n, text_tokens])

Reading pictures and drawing texts stay outside: they are Python. ONNX needs the packages onnx and
onnxscript.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from clippo_core import storage
from clippo_core.errors import ConfigError
from clippo_core.models import Tower, normalise

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from clippo_core.embedder import Clippo

SIDES = ("image", "text")
_BATCH = 2
"""Rows of the example that is traced; torch takes sizes 0 and 1 for constants."""


class _Image(nn.Module):
    """Prepared images in, embeddings out."""

    def __init__(self, tower: Tower) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, images: Tensor) -> Tensor:
        return self.tower.embed(images)


class _Text(nn.Module):
    """Drawn pages or tokens in, embeddings out."""

    def __init__(self, tower: Tower) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, texts: Tensor) -> Tensor:
        is_drawn = texts.dtype == torch.uint8
        return self.tower.embed_encoded_text(normalise(texts)[:, None] if is_drawn else texts)


def side(model: Clippo, name: str) -> tuple[nn.Module, Tensor]:
    """One side (`image` or `text`) as a module, and two rows of what it reads. Raises ConfigError
    for a side that no graph can be.
    """
    tower = model.tower
    if tower.config.kind == "image_only":
        raise ConfigError(
            "a tower of kind image_only has no embedding; there is no graph to write."
        )
    if name == "image":
        shape = (_BATCH, 3, tower.image_px, tower.image_px)
        return _Image(tower), torch.zeros(shape, dtype=torch.uint8, device=model.device)
    if tower.config.skip_blank_rows:
        raise ConfigError(
            "a tower with model.skip_blank_rows sorts texts by their height, which no graph can;"
            " only its image side can be exported."
        )
    if tower.config.kind == "clippo":
        pages = model.renderer.render(["a", "b"])
        return _Text(tower), torch.from_numpy(pages).to(model.device)
    return _Text(tower), model.draw(["a", "b"]).to(model.device)


def export_side(model: Clippo, name: str) -> ExportedProgram:
    """One side as a torch.export program with a batch of any size. Raises ConfigError."""
    module, example = side(model, name)
    rows = torch.export.Dim("n", min=1)
    with torch.no_grad():
        return torch.export.export(module, (example,), dynamic_shapes=({0: rows},))


def write_onnx(model: Clippo, folder: str) -> list[str]:
    """Write image.onnx and text.onnx into `folder` (local or s3://); their addresses. Raises
    ConfigError where onnx or onnxscript is not installed, or for a side that no graph can be.
    """
    missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"{' and '.join(missing)} is not installed; `pip install onnx onnxscript`, then convert"
            " again."
        )
    return [_write_side(model, name, storage.join(folder, f"{name}.onnx")) for name in SIDES]


def _write_side(model: Clippo, name: str, uri: str) -> str:
    program = torch.onnx.export(
        export_side(model, name),
        input_names=[{"image": "images", "text": "texts"}[name]],
        output_names=["embeddings"],
        dynamo=True,
        verbose=False,
    )
    assert program is not None  # None is for the exporter before this one
    storage.write_bytes(uri, program.model_proto.SerializeToString())
    return uri
