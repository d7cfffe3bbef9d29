"""How many texts and images does CLIPPO B/16 embed per second, beside open_clip's ViT-B-16, on
this machine in one run?

    python benchmarks/embedding.py [--device cuda] [--precision bfloat16] [--n 256]

From str and PIL image to numpy rows: rendering or tokenizing, resizing, tower. Both towers have
random weights, which cost the same as trained ones. The two take turns, so that a busy machine
disturbs both; the best of the rounds counts. CLIPPO reads 196 patches for a text; open_clip's text
tower is smaller (512 wide) and reads 77 tokens with a causal mask, so texts are where CLIPPO has to
lose.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import paired, rates, report, table, timed
from PIL import Image

from clippo_core import models
from clippo_core.config import ModelConfig, RenderConfig
from clippo_core.embedder import Clippo

OURS, THEIRS = "CLIPPO B/16", "open_clip ViT-B-16"
WORDS = (
    "a", "brown", "dog", "runs", "over", "the", "green", "field", "while", "two", "children",
    "watch", "it", "from", "an", "old", "wooden", "bench",
)  # fmt: skip


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument(
        "--n",
        type=int,
        default=0,
        help="texts and images a round; default 2,048 on a GPU, 32 on a CPU",
    )
    parser.add_argument(
        "--batch-size", type=int, default=0, help="default 256 on a GPU, 16 on a CPU"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    on_gpu = chosen.device.startswith("cuda")
    n, batch_size = (
        chosen.n or (2048 if on_gpu else 32),
        chosen.batch_size or (256 if on_gpu else 16),
    )
    random = np.random.default_rng(0)
    texts = [" ".join(random.permutation(np.array(WORDS))[: 8 + i % 8]) for i in range(n)]
    images = [
        Image.fromarray(random.integers(0, 256, (333, 500, 3), dtype=np.uint8))
        for _ in range(min(n, 64))
    ]
    images = [images[i % len(images)] for i in range(n)]
    towers = {
        OURS: _clippo(chosen.device, chosen.precision, batch_size),
        THEIRS: _open_clip(chosen.device, chosen.precision, batch_size),
    }

    def run(embed: Callable[..., np.ndarray], given: list[Any]) -> Callable[[], None]:
        def checked() -> None:
            found = embed(given)
            assert found.shape[0] == n and np.isfinite(found).all()

        return checked

    rows = []
    for what, given in enumerate((texts, images)):
        contestants = {name: run(tower[what], given) for name, tower in towers.items()}
        seconds = timed(contestants, chosen.rounds, on_gpu=on_gpu)
        over = paired(seconds, OURS)
        rows += [
            [("texts", "images")[what], name, rates(n, seconds[name]), over[name]]
            for name in towers
        ]
    clock = "wall time" if on_gpu else f"CPU time of {torch.get_num_threads()} threads"
    clock += f", {chosen.precision}, random weights, {n} of each in batches of {batch_size}"
    columns = {"": "", "tower": "", "a second": ",.1f", "time over CLIPPO's": ".2f"}
    packages = ["torch", "open_clip_torch"]
    report("embedding", [table(columns, rows)], clock, packages=packages, out=chosen.out)


def _clippo(
    device: str, precision: Any, batch_size: int
) -> tuple[Callable[..., np.ndarray], Callable[..., np.ndarray]]:
    model = Clippo(
        models.build_tower(ModelConfig(), 224), RenderConfig(), device=device, precision=precision
    )
    return (
        lambda texts: model.embed_texts(texts, batch_size=batch_size, progress=False),
        lambda images: model.embed_images(images, batch_size=batch_size, progress=False),
    )


def _open_clip(
    device: str, precision: str, batch_size: int
) -> tuple[Callable[..., np.ndarray], Callable[..., np.ndarray]]:
    models.load_torchvision()
    import open_clip

    model, _, preprocess = open_clip.create_model_and_transforms(
        "ViT-B-16", pretrained=None, device=device
    )
    model.eval()
    tokenizer = open_clip.get_tokenizer("ViT-B-16")

    def run(
        encode: Callable[..., torch.Tensor], prepare: Callable[..., torch.Tensor], given: list[Any]
    ) -> np.ndarray:
        found = []
        with (
            torch.inference_mode(),
            torch.autocast(
                torch.device(device).type, torch.bfloat16, enabled=precision == "bfloat16"
            ),
        ):
            for start in range(0, len(given), batch_size):
                found.append(
                    encode(prepare(given[start : start + batch_size]).to(device), normalize=True)
                    .float()
                    .cpu()
                    .numpy()
                )
        return np.concatenate(found)

    return (
        lambda texts: run(model.encode_text, tokenizer, texts),
        lambda images: run(
            model.encode_image,
            lambda some: torch.stack([preprocess(image) for image in some]),
            images,
        ),
    )


if __name__ == "__main__":
    main()
