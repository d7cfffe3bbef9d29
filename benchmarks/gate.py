"""How often is the gate wrong? Simulated predictions on benchmarks of their true sizes, compared
and judged by the gate's own code.

    python benchmarks/gate.py [--chains 200] [--weeks 20] [--seed 0] [--out FILE]
                              [--seed-noise 0.3] [--together]

Every example has a difficulty of its own, and a model's answer to it is a draw: two equal models
agree on most examples and differ on some, as trained ones do. Besides, each training shifts every
benchmark by chance: by `gate.seed_noise`, or by --seed-noise, which shows what it costs that the
gate's setting is wrong; each data set for itself, or all of them by the same (--together). GLUE's
nine sets have their dev sizes, class balances and metrics; Crossmodal-3600 has 36 languages with
two captions per photo.

    equal       every week's model has the first one's quality: how many weeks pass?
    declining   every week loses 0.9 of half the 95 % interval, in every benchmark: when refused?
    slowly      a quarter of that
    one alone   ImageNet alone loses a point per week
    at the margin   the second model is worse by `gate.margin` in every benchmark: how many pass?

Writes benchmarks/out/gate/gate.json, and prints the table of docs/gate.md.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from clippo_core.config import GateConfig
from clippo_core.evaluate.glue.scores import GLUE_METRICS, STATISTICS
from clippo_core.evaluate.paired import Column, difference
from clippo_core.run import judgement
from clippo_core.run.records import Comparison

OUT = Path(__file__).resolve().parent / "out" / "gate"
MEANS: dict[str, tuple[str, int, int, float]] = {
    "imagenet/zero_shot_top1": ("imagenet", 50_000, 1, 0.45),
    "imagenet/10shot_top1": ("imagenet", 50_000, 1, 0.40),
    "coco/i2t_recall@1": ("coco", 5_000, 1, 0.45),
    "coco/t2i_recall@1": ("coco", 5_000, 5, 0.30),
    "flickr30k/i2t_recall@1": ("flickr30k", 1_000, 1, 0.70),
    "flickr30k/t2i_recall@1": ("flickr30k", 1_000, 5, 0.50),
    "vqav2/overall": ("vqav2", 40_504, 5, 0.65),
    **{f"xm3600/{n}/i2t_recall@1": ("xm3600", 3_600, 1, 0.25) for n in range(36)},
    **{f"xm3600/{n}/t2i_recall@1": ("xm3600", 3_600, 2, 0.20) for n in range(36)},
}
"""Metric -> (data set, groups, examples per group, share that is right)."""
GLUE = {
    "mnli_m": (9_815, 1 / 3, 0.71), "mnli_mm": (9_832, 1 / 3, 0.72), "qqp": (40_430, 0.37, 0.86),
    "qnli": (5_463, 0.5, 0.82), "sst2": (872, 0.51, 0.85), "cola": (1_043, 0.69, 0.72),
    "stsb": (1_500, 0.0, 0.7), "mrpc": (408, 0.68, 0.77), "rte": (277, 0.53, 0.60),
}  # fmt: skip
"""Key -> (dev examples, share of class 1, share that is right; Spearman's noise for STS-B)."""
GLUE_AVERAGE = "glue/average"
MAIN = (
    *(name for name in MEANS if not name.startswith("xm3600/")),
    GLUE_AVERAGE,
    "xm3600/i2t_recall@1",
    "xm3600/t2i_recall@1",
)


@dataclass(frozen=True)
class World:
    """What all models of a simulation share."""

    difficulty: dict[str, np.ndarray]
    """Metric -> chance of a right answer by example."""
    columns: dict[str, Column]
    """Metric -> names, groups and targets; the scores are the model's."""
    half_interval: dict[str, float]
    """Main metric -> half its 95 % interval, in points; of GLUE, that of a difference."""


@dataclass(frozen=True)
class Noise:
    """How much a training's seed shifts the benchmarks."""

    points: float
    """Standard deviation."""
    together: bool = False
    """All data sets by the same, instead of each for itself."""


def make_world(seed: int) -> World:
    """Examples with difficulties: a beta distribution with most examples nearly sure."""
    random = np.random.default_rng(seed)
    difficulty: dict[str, np.ndarray] = {}
    columns: dict[str, Column] = {}
    for name, (_, groups, per_group, share) in MEANS.items():
        of_group = random.beta(share, 1 - share, groups)
        spread = np.repeat(of_group, per_group)
        difficulty[name] = 0.7 * spread + 0.3 * random.beta(share, 1 - share, len(spread))
        labels = np.repeat(np.arange(groups), per_group)
        columns[name] = Column(np.arange(len(spread)), labels, spread, None)
    for key, (n, ones, share) in GLUE.items():
        name = f"glue/{key}_{GLUE_METRICS[key]}"
        is_score = GLUE_METRICS[key] == "spearman"
        targets = 5 * random.random(n) if is_score else (random.random(n) < ones).astype(float)
        concentration = 1.5
        difficulty[name] = random.beta(concentration * share, concentration * (1 - share), n)
        columns[name] = Column(np.arange(n), np.arange(n), np.zeros(n), targets)
    world = World(difficulty, columns, {})
    one, two = (make_model(world, {}, random) for _ in range(2))
    nothing = {
        name: Column(c.examples, c.groups, np.zeros_like(c.scores), c.targets)
        for name, c in one.items()
    }
    for metric in MAIN:
        found = difference(metric, one, two if metric == GLUE_AVERAGE else nothing)
        assert found is not None
        world.half_interval[metric] = 1.96 * found.error
    return world


def make_model(
    world: World, shift: Mapping[str, float], random: np.random.Generator
) -> dict[str, Column]:
    """One model's scores. shift: data set -> points by which it is better than the first."""
    model = {}
    for name, chance in world.difficulty.items():
        better = shift.get(name.partition("/")[0], 0.0) / 100
        shared = world.columns[name]
        if shared.targets is None:
            scores = 100.0 * (random.random(len(chance)) < chance + better)
        elif name.endswith("spearman"):
            noise = 1.1 * (1 - 2 * better)
            mistakes = (chance - chance.mean()) + random.normal(0, 0.5, len(chance))
            scores = shared.targets + noise * 2 * mistakes
        else:
            right = random.random(len(chance)) < chance + better
            scores = np.where(right, shared.targets, 1 - shared.targets)
        model[name] = Column(shared.examples, shared.groups, scores, shared.targets)
    return model


def glue_average(model: Mapping[str, Column]) -> float:
    """The mean of the nine numbers, in points."""
    found = []
    for key, kind in GLUE_METRICS.items():
        column = model[f"glue/{key}_{kind}"]
        assert column.targets is not None
        rows = np.stack([column.scores, column.targets], axis=1)
        found.append(100 * STATISTICS[kind](rows, np.ones(len(rows), dtype=np.int64)))
    return float(np.mean(found))


def chain(
    world: World,
    config: GateConfig,
    noise: Noise,
    shifts: list[dict[str, float]],
    seed: Sequence[int],
) -> list[bool]:
    """Whether each week's model after the first is promoted. shifts: by week, from the first."""
    random = np.random.default_rng(seed)
    passed: list[bool] = []
    references: dict[str, tuple[int, dict[str, Column]]] = {}
    for week, shift in enumerate(shifts):
        sets = sorted({name.partition("/")[0] for name in world.difficulty})
        drawn = random.normal(0, noise.points, 1 if noise.together else len(sets))
        shifted = np.broadcast_to(drawn, len(sets)).tolist()
        noisy = {one: shift.get(one, 0.0) + by for one, by in zip(sets, shifted, strict=True)}
        model = make_model(world, noisy, random)
        if not references:
            references = dict.fromkeys(MAIN, (week, model))
            continue
        compared = {}
        for metric in MAIN:
            number, before = references[metric]
            if metric == GLUE_AVERAGE:  # a bootstrap per week would take most of the time
                change = glue_average(model) - glue_average(before)
                error = world.half_interval[metric] / 1.96
            else:
                found = difference(metric, model, before)
                assert found is not None
                change, error = found
            compared[metric] = Comparison(0.0, change, error, number)
        is_promoted = not judgement.faults(config, compared)
        passed.append(is_promoted)
        for metric in MAIN if is_promoted else ():
            if judgement.is_better(config, compared[metric], len(MAIN)):
                references[metric] = (week, model)
    return passed


def decline(world: World, weeks: int, share: float) -> list[dict[str, float]]:
    """Shifts that lose `share` of half the interval per week, in every data set."""
    half = {name.partition("/")[0]: points for name, points in world.half_interval.items()}
    return [
        {name: -share * week * points for name, points in half.items()} for week in range(weeks + 1)
    ]


def run(chains: int, weeks: int, seed: int, config: GateConfig, noise: Noise) -> dict[str, float]:
    """The rates of the table; the same numbers for any number of cores."""
    world = make_world(seed)
    fewer = max(1, chains // 10)
    sets = {name.partition("/")[0] for name in world.difficulty}
    cases = {
        "equal": (chains, [{}] * (weeks + 1)),
        "declining": (fewer, decline(world, 10, 0.9)),
        "slowly": (fewer, decline(world, 10, 0.225)),
        "one alone": (fewer, [{"imagenet": -1.0 * week} for week in range(11)]),
        "at the margin": (chains, [{}, dict.fromkeys(sets, -config.margin)]),
    }
    found = {}
    with ProcessPoolExecutor() as pool:
        for name, (count, shifts) in cases.items():
            seeds = [(seed, len(found), number) for number in range(count)]
            chained = pool.map(partial(chain, world, config, noise, shifts), seeds, chunksize=5)
            passed = np.array(list(chained))
            if name == "equal":
                found["equal weeks that pass, %"] = 100 * float(passed.mean())
                last = passed[:, -len(passed[0]) // 4 :]
                found["equal weeks that pass in the last quarter, %"] = 100 * float(last.mean())
                continue
            if name == "at the margin":
                found["worse by the margin: models that pass, %"] = 100 * float(passed.mean())
                continue
            first = np.where(passed.all(axis=1), np.inf, passed.argmin(axis=1) + 1)
            found[f"{name}: median week of the first refusal"] = float(np.median(first))
            found[f"{name}: latest week of the first refusal"] = float(first.max())
            weeks_passed = np.where(passed, np.arange(1, passed.shape[1] + 1), 0)
            found[f"{name}: latest week that passed"] = float(weeks_passed.max())
    return found


def main() -> None:
    """Print and write the rates."""
    words = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    words.add_argument("--chains", type=int, default=200)
    words.add_argument("--weeks", type=int, default=20)
    words.add_argument("--seed", type=int, default=0)
    words.add_argument("--seed-noise", type=float, default=GateConfig.seed_noise)
    words.add_argument("--together", action="store_true")
    words.add_argument("--out", type=Path, default=OUT / "gate.json")
    chosen = words.parse_args()
    noise = Noise(chosen.seed_noise, chosen.together)
    found = run(chosen.chains, chosen.weeks, chosen.seed, GateConfig(), noise)
    for name, points in make_world(chosen.seed).half_interval.items():
        print(f"| {name} | half interval {points:.2f} |")
    for name, number in found.items():
        print(f"| {name} | {number:.1f} |")
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    chosen.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
