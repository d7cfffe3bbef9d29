"""How many texts and images does CLIPPO B/16 embed in a second, beside open_clip's ViT-B-16, on
this machine in one run?

    python benchmarks/embedding.py [--device cuda] [--precision bfloat16] [--n 256]

From str and PIL image to numpy rows: drawing or tokenizing, resizing, tower. Both towers have
random weights, which cost the same as trained ones. The two take turns, so that a busy machine
disturbs both; the best of the rounds counts. CLIPPO reads 196 patches for a text; open_clip's text
tower is smaller (512 wide) and reads 77 tokens with a causal mask, so texts are where CLIPPO has to
lose. Writes benchmarks/out/embedding.json.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from clippo_core import models
from clippo_core.config import ModelConfig, RenderConfig
from clippo_core.embedder import Clippo

OUT = Path(__file__).resolve().parent / "out" / "embedding.json"
WORDS = tuple(
    [
        "a",
        "brown",
        "dog",
        "runs",
        "over",
        "the",
        "green",
        "field",
        "while",
        "two",
        "children",
        "watch",
        "it",
        "from",
        "an",
        "old",
        "wooden",
        "bench",
    ]
)  # noqa: SIM905  a sentence reads better


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
    contestants = {
        "clippo B/16": _clippo(chosen.device, chosen.precision, batch_size),
        "open_clip ViT-B-16": _open_clip(chosen.device, chosen.precision, batch_size),
    }
    best: dict[tuple[str, str], float] = {}
    for _ in range(chosen.rounds + 1):  # the first one warms up; it can only be slower
        for name, (embed_texts, embed_images) in contestants.items():
            for what, embed, given in (
                ("texts", embed_texts, texts),
                ("images", embed_images, images),
            ):
                begin = time.perf_counter()
                found = embed(given)
                seconds = time.perf_counter() - begin
                assert found.shape[0] == n and np.isfinite(found).all()
                best[name, what] = max(best.get((name, what), 0.0), n / seconds)
    _report(best, list(contestants), chosen, n, batch_size)


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


def _report(
    best: dict[tuple[str, str], float],
    names: list[str],
    chosen: argparse.Namespace,
    n: int,
    batch_size: int,
) -> None:
    machine = (
        torch.cuda.get_device_name(chosen.device)
        if chosen.device.startswith("cuda")
        else f"{torch.get_num_threads()} CPU threads"
    )
    print(
        f"{machine}, {chosen.precision}, {n} of each, batches of {batch_size}, best of"
        f" {chosen.rounds + 1} rounds, per second"
    )
    print(f"{'':<22}{'texts':>10}{'images':>10}")
    for name in names:
        print(f"{name:<22}{best[name, 'texts']:>10.1f}{best[name, 'images']:>10.1f}")
    facts = {
        "machine": machine,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "precision": chosen.precision,
    }
    rates = {
        name: {what: round(best[name, what], 2) for what in ("texts", "images")} for name in names
    }
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(
        json.dumps({**facts, "n": n, "batch_size": batch_size, "per_second": rates}, indent=1)
        + "\n",
        encoding="utf-8",
    )


if __name__ == "__main__":
    main()
