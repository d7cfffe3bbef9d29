"""What does a tower read that leaves out blank rows: tokens and FLOPs of a pair, packed, in groups
of heights, and as whole pages; and what does a step take?

    python benchmarks/packed.py [--pairs 160] [--rounds 5] [--out FILE]

Captions of ../shared/data/flickr8k, each with a photo, and the same with a quarter of C4's sentence
pairs (../shared/data/c4_like), on pages of 224 px. Tokens and FLOPs (forward of B/16, matrix
products alone) are counted over 100 batches of --pairs. Groups are what the tower did before it
packed: heights of 1/8, 1/4, 1/2 and the whole page, each group filled up to a sixteenth of the
batch. Steps: forward, loss, backward and update of a small tower on the CPU, three ways in turn on
the same batches, photos of random pixels. Each number of rows that a batch packs would be a graph
of its own if blocks were compiled for fixed shapes.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from loader import SLICES
from measure import paired, report, spread, table, timed
from torch import Tensor

from clippo_core.config import ModelConfig, OptimConfig, SourceConfig, replace
from clippo_core.data.sources.kinds import PhotoRecord, TextRecord, read_source
from clippo_core.engine import contrastive_step, make_engine
from clippo_core.models import Tower, build_tower
from clippo_core.rendering import Renderer
from clippo_core.rendering.draw import used_rows
from clippo_core.train.speed import forward_flops_of

PX, PAGE_ROWS = 224, 14
B16 = ModelConfig()
SMALL = ModelConfig(width=192, depth=4, num_heads=3, mlp_dim=768, embed_dim=64)
BATCHES = 100
DATA = {"captions": 0.0, "captions, 25 % C4": 0.25}
WHOLE, GROUPS, PACKED = "whole pages", "in groups", "**packed**"


def drawn() -> dict[str, Tensor]:
    """Masks of Flickr8k's captions, and of the first and second sentences of C4's pairs."""
    flickr = SLICES / "flickr8k"
    photos = SourceConfig(
        "karpathy", f"{flickr}/dataset_flickr8k.json", images=f"{flickr}/Flicker8k_Dataset"
    )
    renderer = Renderer(PX)
    captions = [
        text for one in read_source(photos) if isinstance(one, PhotoRecord) for text in one.texts
    ]
    web = SourceConfig("c4", f"{SLICES}/c4_like/*.json.gz")
    pairs = [one for one in read_source(web) if isinstance(one, TextRecord)]
    said = {
        "captions": captions,
        "first": [one.first for one in pairs],
        "second": [one.texts[0] for one in pairs],
    }
    return {name: torch.from_numpy(renderer.masks(texts)) for name, texts in said.items()}


def batches(texts: dict[str, Tensor], pairs: int, share: float) -> Iterator[tuple[Tensor, Tensor]]:
    """First and second texts of batches with `share` sentence pairs, drawn at random."""
    draw, n_texts = np.random.default_rng(0), round(pairs * share)
    while True:
        one = torch.from_numpy(draw.integers(0, len(texts["captions"]), pairs - n_texts))
        two = torch.from_numpy(draw.integers(0, len(texts["first"]), n_texts))
        yield (
            texts["first"][two],
            torch.cat([texts["captions"][one], texts["second"][two]]),
        )


def grouped(rows: Tensor) -> list[tuple[int, Tensor, int]]:
    """Height, places and number of different texts of each group of a batch's texts."""
    heights = torch.tensor([2, 4, 7, 14])
    of, fill, found = torch.bucketize(rows, heights), max(1, len(rows) // 16), []
    for number, height in enumerate(heights.tolist()):
        places = (of == number).nonzero().flatten()
        if n := len(places):
            found.append((height, places[torch.arange(-(-n // fill) * fill) % n], n))
    return found


def lengths(rows: Tensor, way: str) -> list[int]:
    """Rows of each text, or repetition of one, that the tower reads of a batch's texts."""
    if way == WHOLE:
        return [PAGE_ROWS] * len(rows)
    if way == GROUPS:
        return [height for height, places, _ in grouped(rows) for _ in places]
    return rows.tolist()


def counted(texts: dict[str, Tensor], pairs: int, name: str) -> list[list[Any]]:
    """Ways -> tokens of a pair, its FLOPs, and those of whole pages over them; means."""
    feed = batches(texts, pairs, DATA[name])
    rows = [used_rows(torch.cat(next(feed))) for _ in range(BATCHES)]
    flops = [forward_flops_of(B16, height * PAGE_ROWS) for height in range(PAGE_ROWS + 1)]
    photos = round(pairs * (1 - DATA[name])) / pairs
    found = {}
    for way in (WHOLE, GROUPS, PACKED):
        read = [height for one in rows for height in lengths(one, way)]
        n = pairs * BATCHES
        tokens = photos * PAGE_ROWS**2 + sum(read) * PAGE_ROWS / n
        found[way] = tokens, photos * flops[PAGE_ROWS] + sum(flops[height] for height in read) / n
    whole = found[WHOLE][1]
    return [
        [name, way, tokens, total / 1e9, whole / total] for way, (tokens, total) in found.items()
    ]


def shapes(texts: dict[str, Tensor], name: str, pairs: int) -> list[Any]:
    """How many lengths the packed rows of 100 batches have."""
    feed = batches(texts, pairs, DATA[name])
    totals = [int(used_rows(torch.cat(next(feed))).sum()) for _ in range(BATCHES)]
    return [name, f"{pairs:,}", len(set(totals)), min(totals), max(totals)]


class GroupedTower(Tower):
    """A tower of whole pages that reads texts in groups of equal height."""

    def _both_features(self, photos: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        masks, features, places = text.view(torch.int16), [], []
        for height, filled, n in grouped(used_rows(text)):
            tokens = self._text_tokens(masks[filled, :height])
            features.append(self._features(tokens)[:n])
            places.append(filled[:n])
        return self._photo_features(photos), torch.cat(features)[torch.cat(places).argsort()]


def steps(texts: dict[str, Tensor], name: str, pairs: int) -> dict[str, Callable[[], None]]:
    """Ways -> a training step of the small tower on the next batch of this way."""

    def of(way: str) -> Callable[[], None]:
        tower = build_tower(replace(SMALL, skip_blank_rows=way == PACKED), PX)
        if way == GROUPS:
            tower.__class__ = GroupedTower
        engine = make_engine(
            tower, OptimConfig(), decayed=tower.decayed, views=tower.views, device="cpu"
        )
        feed = batches(texts, pairs, DATA[name])

        def step() -> None:
            first, second = next(feed)
            stream = torch.Generator().manual_seed(0)
            shape = (pairs - len(first), 3, PX, PX)
            photos = torch.randint(0, 256, shape, generator=stream, dtype=torch.uint8)
            rows = (used_rows(first), used_rows(second)) if way == PACKED else None
            contrastive_step(engine, photos, first, second, text_rows=rows)
            engine.update(1e-6)

        return step

    return {way: of(way) for way in (WHOLE, GROUPS, PACKED)}


def main() -> None:
    """Print the tables, write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=160, help="of the batches that are counted")
    parser.add_argument("--step-pairs", type=int, default=32, help="of the steps that are timed")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if not (SLICES / "flickr8k").is_dir():
        print("not run: there is no ../shared/data with flickr8k and c4_like.")
        return
    torch.set_num_threads(1)
    texts = drawn()
    counts = [row for name in DATA for row in counted(texts, options.pairs, name)]
    totals = [
        shapes(texts, name, pairs) for name in DATA for pairs in (32, options.pairs, 448, 1280)
    ]
    times = []
    for name in DATA:
        seconds = timed(steps(texts, name, options.step_pairs), options.rounds)
        over = paired(seconds, WHOLE)
        times += [[name, way, spread(taken), over[way]] for way, taken in seconds.items()]
    clock = f"CPU time of one thread, float32, {options.step_pairs} pairs a step of a tower of"
    report(
        "packed",
        [
            table(
                {"data": "", "way": "", "tokens a pair": ",.1f", "GFLOPs": ".2f", "factor": ".2f"},
                counts,
                f"B/16, forward, batches of {options.pairs} pairs:",
            ),
            table(
                {"data": "", "pairs": "", "lengths": "d", "least": ",d", "most": ",d"},
                totals,
                f"Different numbers of packed rows in {BATCHES} batches:",
            ),
            table({"data": "", "way": "", "s a step": ".2f", "over whole": ".2f"}, times, "Steps:"),
        ],
        f"{clock} {SMALL.depth} blocks and width {SMALL.width}, {options.rounds} rounds",
        packages=["torch"],
        out=options.out,
    )


if __name__ == "__main__":
    main()
