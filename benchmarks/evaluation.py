"""How long does scoring take, and how much memory? 36 languages x 3,600 images x all captions at
768 dimensions, on one core.

    python benchmarks/evaluation.py
    PYTHONPATH=<unzipped clip_benchmark wheel> python benchmarks/evaluation.py

Ours, and CLIP_benchmark's way of counting where `clip_benchmark` can be imported. Random embeddings
of XM3600's true sizes (7,260 captions per language, 261,360 in all), so recalls are at chance for
everybody and must agree. Also: rendering the 81,000 prompts of ImageNet's zero-shot classifier,
zero-shot ranks of 50,000 images, and one 10-shot probe. Each part runs in a process of its own, so
that its peak memory is its own. It embeds nothing: that time is the tower's.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))

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


def ours(n_languages: int) -> dict[str, Any]:
    """Tiled rank counting: both directions and every k from one matrix product."""
    from clippo_core.evaluate import metrics

    images = unit(np.random.default_rng(0), IMAGES)
    seconds, found = 0.0, []
    for number in range(n_languages):
        texts, image_of_text = language(number)
        started = time.perf_counter()
        forward, backward = metrics.retrieval_ranks(images, texts, image_of_text)
        found.append([ranking.recall(k) for ranking in (forward, backward) for k in (1, 5, 10)])
        seconds += time.perf_counter() - started
    return {"languages": n_languages, "seconds": seconds, "first_language": found[0]}


def clip_benchmark(n_languages: int) -> dict[str, Any]:
    """CLIP_benchmark's `evaluate` on embeddings that are handed through, batches of 64,
    recall_k_list 1, 5, 10.
    """
    import torch
    from clip_benchmark.metrics import zeroshot_retrieval

    torch.set_num_threads(1)

    class Handed:
        encode_image = encode_text = staticmethod(lambda rows: rows)

    images = torch.from_numpy(unit(np.random.default_rng(0), IMAGES))
    seconds, found = 0.0, []
    for number in range(n_languages):
        texts, image_of_text = language(number)
        rows = [torch.from_numpy(texts[np.flatnonzero(image_of_text == i)]) for i in range(IMAGES)]
        batches = [(images[i : i + 64], rows[i : i + 64]) for i in range(0, IMAGES, 64)]
        started = time.perf_counter()
        result = zeroshot_retrieval.evaluate(
            Handed(),
            batches,
            lambda rows: torch.stack(rows),
            "cpu",
            amp=False,
            recall_k_list=[1, 5, 10],
        )
        seconds += time.perf_counter() - started
        found.append(
            [result[f"{way}_retrieval_recall@{k}"] for way in ("text", "image") for k in (1, 5, 10)]
        )
    return {"languages": n_languages, "seconds": seconds, "first_language": found[0]}


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
    started = time.perf_counter()
    for i in range(0, len(texts), 64):
        renderer.masks(texts[i : i + 64])
    seconds = time.perf_counter() - started
    return {"prompts": len(texts), "seconds": seconds, "prompts_per_second": len(texts) / seconds}


def imagenet() -> dict[str, Any]:
    """Ranks of 50,000 images among 1,000 classes, and one 10-shot probe (10,000 shots) tested on
    50,000.
    """
    from clippo_core.evaluate import metrics

    rng = np.random.default_rng(0)
    images, classes = unit(rng, 50_000), unit(rng, 1000)
    labels = np.arange(50_000) % 1000
    started = time.perf_counter()
    top1 = metrics.zero_shot_accuracy(images, classes, labels)
    zero_shot = time.perf_counter() - started
    shots = unit(rng, 10_000)
    started = time.perf_counter()
    metrics.few_shot_predict(shots, np.repeat(np.arange(1000), 10), images)
    return {
        "zero_shot_seconds": zero_shot,
        "few_shot_seconds": time.perf_counter() - started,
        "top1": top1,
    }


def in_a_process(name: str) -> dict[str, Any]:
    """Run one part alone; its result with peak memory, or why it could not run."""
    one_core = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    done = subprocess.run(
        [sys.executable, __file__, name], capture_output=True, text=True, env=os.environ | one_core
    )
    if done.returncode:
        return {"not_run": done.stderr.strip().splitlines()[-1]}
    return json.loads(done.stdout.strip().splitlines()[-1])


PARTS: dict[str, Callable[[], dict[str, Any]]] = {
    "ours": lambda: ours(LANGUAGES),
    "ours_one_language": lambda: ours(1),
    "clip_benchmark_one_language": lambda: clip_benchmark(1),
    "prompts": prompts,
    "imagenet": imagenet,
}


def main() -> None:
    """Run every part, print a table, write benchmarks/out/evaluation.json."""
    if len(sys.argv) > 1:
        found = PARTS[sys.argv[1]]()
        print(
            json.dumps(
                found | {"peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
            )
        )
        return
    report = {name: in_a_process(name) for name in PARTS}
    whole, one, peer = (
        report[name] for name in ("ours", "ours_one_language", "clip_benchmark_one_language")
    )
    print(
        "| scoring at 768 dimensions, both directions, k = 1, 5, 10, one core | seconds | peak MB"
        " |\n|---|---|---|"
    )
    print(
        f"| ours, 36 languages x 3,600 images x 7,260 captions | {whole['seconds']:.1f} |"
        f" {whole['peak_mb']:.0f} |"
    )
    print(f"| ours, one language | {one['seconds']:.2f} | {one['peak_mb']:.0f} |")
    if "seconds" in peer:
        print(
            f"| CLIP_benchmark, one language | {peer['seconds']:.1f} | {peer['peak_mb']:.0f} (torch"
            " included) |"
        )
        assert np.allclose(peer["first_language"], one["first_language"]), (
            "the two ways of counting disagree"
        )
        print("Recalls of the first language agree.")
    else:
        print(f"| CLIP_benchmark | not run: {peer['not_run']} | |")
    print(
        f"\nPrompts drawn: {report['prompts']['prompts']:,} in"
        f" {report['prompts']['seconds']:.1f} s",
        end="",
    )
    print(f" = {report['prompts']['prompts_per_second']:,.0f} per second.")
    print(
        "ImageNet: zero-shot ranks of 50,000 images"
        f" {report['imagenet']['zero_shot_seconds']:.1f} s",
        end="",
    )
    print(
        f", one 10-shot probe {report['imagenet']['few_shot_seconds']:.1f} s,"
        f" {report['imagenet']['peak_mb']:.0f} MB."
    )
    report["machine"] = {
        "cpu": platform.processor() or platform.machine(),
        "cores_used": 1,
        "load": os.getloadavg()[0],
    }
    out = PROJECT / "benchmarks" / "out" / "evaluation.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
