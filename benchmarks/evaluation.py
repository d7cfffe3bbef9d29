"""How long does scoring take, and how much memory? 36 languages x 3,600 images x all captions at
768 dimensions, on one core.

    python benchmarks/evaluation.py [--rounds 5] [--out FILE]
    PYTHONPATH=<unzipped clip_benchmark wheel> python benchmarks/evaluation.py

Ours, and CLIP_benchmark's way of counting where `clip_benchmark` can be imported; on one language
the two take turns in one process. Random embeddings of XM3600's true sizes (7,260 captions per
language, 261,360 in all), so recalls are at chance for everybody and must agree. Also: rendering
the 81,000 prompts of ImageNet's zero-shot classifier, zero-shot ranks of 50,000 images, and one
10-shot probe. Memory is the peak of a process that does this part alone. It embeds nothing: that
time is the tower's.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from measure import alone, cpu_seconds, paired, report, spread, table, tell, timed

LANGUAGES, IMAGES, TEXTS, WIDTH = 36, 3600, 7260, 768


def unit(rng: np.random.Generator, n: int) -> np.ndarray:
    """float32 [n, 768] of unit rows."""
    values = rng.standard_normal((n, WIDTH), dtype=np.float32)
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    return values


def language(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Texts of one language and the image of each."""
    rng = np.random.default_rng([1, number])
    return unit(rng, TEXTS), np.concatenate(
        [np.arange(IMAGES), rng.integers(0, IMAGES, TEXTS - IMAGES)]
    )


def ours(number: int) -> list[float]:
    """Recalls of one language by tiled rank counting: both directions and every k from one matrix
    product.
    """
    from clippo_core.evaluate import metrics

    images, (texts, image_of_text) = unit(np.random.default_rng(0), IMAGES), language(number)
    rankings = metrics.retrieval_ranks(images, texts, image_of_text)
    return [ranking.recall(k) for ranking in rankings for k in (1, 5, 10)]


def clip_benchmark(number: int) -> list[float]:
    """The same by CLIP_benchmark's `evaluate` on embeddings that are handed through, batches of
    64, recall_k_list 1, 5, 10.
    """
    import torch
    from clip_benchmark.metrics import zeroshot_retrieval

    torch.set_num_threads(1)

    class Handed:
        encode_image = encode_text = staticmethod(lambda rows: rows)

    images = torch.from_numpy(unit(np.random.default_rng(0), IMAGES))
    texts, image_of_text = language(number)
    rows = [torch.from_numpy(texts[np.flatnonzero(image_of_text == i)]) for i in range(IMAGES)]
    batches = [(images[i : i + 64], rows[i : i + 64]) for i in range(0, IMAGES, 64)]
    result = zeroshot_retrieval.evaluate(
        Handed(), batches, torch.stack, "cpu", amp=False, recall_k_list=[1, 5, 10]
    )
    return [result[f"{way}_retrieval_recall@{k}"] for way in ("text", "image") for k in (1, 5, 10)]


COUNTERS = {"**ours**": ours} | (
    {"CLIP_benchmark": clip_benchmark} if importlib.util.find_spec("clip_benchmark") else {}
)


def in_turns(rounds: int) -> dict[str, Any]:
    """Seconds of one language by each counter, less making the embeddings, which is the same."""
    found = {}

    def run(name: str) -> Callable[[], None]:
        return lambda: found.update({name: COUNTERS[name](0)})

    def made() -> None:
        unit(np.random.default_rng(0), IMAGES), language(0)

    seconds = timed({name: run(name) for name in COUNTERS} | {"made": made}, rounds)
    first, *others = found.values()
    assert all(np.allclose(other, first) for other in others), "the ways of counting disagree"
    return {
        name: [one - other for one, other in zip(seconds[name], seconds["made"], strict=True)]
        for name in COUNTERS
    }


def prompts() -> dict[str, Any]:
    """Rendering (not embedding) 81 templates x 1,000 class names at 224 px."""
    from clippo_core.evaluate.imagenet.prompts import load_templates
    from clippo_core.rendering import Renderer

    rng = np.random.default_rng(0)
    letters = np.array(list("etaoinshrdlu"))
    names = [
        " ".join(
            "".join(rng.choice(letters, rng.integers(3, 10))) for _ in range(rng.integers(1, 3))
        )
        for _ in range(1000)
    ]
    texts = [
        template.replace("{}", name) for name in names for template in load_templates("clip_paper")
    ]
    renderer = Renderer(224)
    renderer.masks(texts[:64])
    started = cpu_seconds()
    for i in range(0, len(texts), 64):
        renderer.masks(texts[i : i + 64])
    return {"seconds": cpu_seconds() - started}


def imagenet() -> dict[str, Any]:
    """Ranks of 50,000 images among 1,000 classes, and one 10-shot probe (10,000 shots) tested on
    50,000.
    """
    from clippo_core.evaluate import metrics

    rng = np.random.default_rng(0)
    images, classes = unit(rng, 50_000), unit(rng, 1000)
    labels = np.arange(50_000) % 1000
    started = cpu_seconds()
    metrics.zero_shot_accuracy(images, classes, labels)
    zero_shot = cpu_seconds() - started
    shots = unit(rng, 10_000)
    started = cpu_seconds()
    metrics.few_shot_predict(shots, np.repeat(np.arange(1000), 10), images)
    return {"zero_shot": zero_shot, "few_shot": cpu_seconds() - started}


def main() -> None:
    """Print the table, write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--languages", type=int, default=LANGUAGES)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--part", help=argparse.SUPPRESS)
    options = parser.parse_args()
    parts: dict[str, Callable[[], Any]] = {
        "turns": lambda: {"seconds": in_turns(options.rounds)},
        "all": lambda: {"n": len([ours(number) for number in range(options.languages)])},
        "prompts": prompts,
        "imagenet": imagenet,
    }
    parts |= {name: lambda one=one: {"recalls": one(0)} for name, one in COUNTERS.items()}
    if options.part:
        tell(parts[options.part]())
        return
    given = ["--rounds", str(options.rounds), "--languages", str(options.languages), "--part"]
    told = {name: alone(*given, name, threads=1) for name in parts}
    seconds = told["turns"]["seconds"]
    over = paired(seconds, "**ours**")
    size = f"{IMAGES:,} images x {TEXTS:,} captions"
    rows = [
        [f"{name}, {size}", spread(seconds[name]), over[name], told[name]["peak_mib"]]
        for name in COUNTERS
    ]
    whole, shown = told["all"], told["imagenet"]
    rows += [
        [f"**ours**, {options.languages} x {size}", whole["cpu_seconds"], None, whole["peak_mib"]],
        ["ImageNet's 81,000 prompts rendered", told["prompts"]["seconds"], None, None],
        ["zero-shot ranks of 50,000 images", shown["zero_shot"], None, shown["peak_mib"]],
        ["one 10-shot probe", shown["few_shot"], None, shown["peak_mib"]],
    ]
    columns = {"": "", "CPU s": ".2f", "over ours": ".2f", "peak MiB": ",.0f"}
    clock = f"CPU time of one thread, {options.rounds} rounds"
    packages = ["clip_benchmark"] if len(COUNTERS) > 1 else []
    report("evaluation", [table(columns, rows)], clock, packages=packages, out=options.out)


if __name__ == "__main__":
    main()
