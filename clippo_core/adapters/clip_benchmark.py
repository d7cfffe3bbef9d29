"""CLIP_benchmark on any model that Clippo.load takes.

    python -m clippo_core.adapters.clip_benchmark eval --model_type clippo --model clippo \\
        --pretrained clippo_b16_yfcc100m --dataset wds/flickr30k --dataset_root ... --no_amp

Everything after the module's name is CLIP_benchmark's own command line. `--no_amp` computes in
float32, as our own evaluations do. In a program of one's own: `register()`, then
clip_benchmark.cli.main().
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from clippo_core.embedder import Clippo
from clippo_core.errors import ConfigError
from clippo_core.models import load_torchvision

NAME = "clippo"
"""The model type that is added to CLIP_benchmark's."""


class ClippoModel(nn.Module):
    """What CLIP_benchmark calls: features of prepared images and of drawn texts."""

    def __init__(self, model: Clippo) -> None:
        super().__init__()
        self.model, self.tower = model, model.tower

    def encode_image(self, images: Tensor) -> Tensor:
        """[n, 3, px, px] -> unit rows [n, embed_dim]."""
        return self.model.encode_image(images)

    def encode_text(self, texts: Tensor) -> Tensor:
        """Texts as `Clippo.draw` gave them -> unit rows [n, embed_dim]."""
        return self.model.encode_text(texts)


def load(
    model_name: str = NAME,
    pretrained: str = "",
    cache_dir: str | None = None,
    device: torch.device | str = "cpu",
) -> tuple[nn.Module, Callable[[Any], Tensor], Callable[[Sequence[str]], Tensor]]:
    """(model, transform, tokenizer), as CLIP_benchmark wants them. pretrained: what Clippo.load
    takes. Raises what it raises.
    """
    model = Clippo.load(pretrained, device)
    return ClippoModel(model), model.preprocess, model.draw


def register() -> None:
    """Add the model type `clippo` to CLIP_benchmark. Raises ConfigError where that is not
    installed.
    """
    load_torchvision()
    try:
        from clip_benchmark import models
        from clip_benchmark.metrics import zeroshot_classification
    except ImportError as error:
        raise ConfigError(
            f"CLIP_benchmark cannot be imported ({error}); `pip install clip-benchmark"
            " open_clip_torch`, best in an environment of its own."
        ) from error
    models.TYPE2FUNC[NAME] = load
    if NAME not in models.MODEL_TYPES:
        models.MODEL_TYPES.append(NAME)
    # Version 1.6.2 calls float() on an array of one number, which numpy 2.4 refuses.
    zeroshot_classification.accuracy = top_k_accuracy


def top_k_accuracy(output: Tensor, target: Tensor, topk: Sequence[int] = (1,)) -> list[float]:
    """Share of rows whose target is among the k largest, for each k. output: [n, classes]."""
    best = output.topk(max(topk), dim=1).indices
    hits = best == target[:, None]
    return [float(hits[:, :k].any(dim=1).double().mean()) for k in topk]


def main() -> None:
    """CLIP_benchmark's command line, with the model type `clippo`."""
    register()
    from clip_benchmark import cli

    cli.main()


if __name__ == "__main__":
    main()
