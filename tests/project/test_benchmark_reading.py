"""The study of what teaches reading: its recipes, its holdout, and where a plateau ends."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PROJECT

from clippo_core.config import presets, replace

sys.path.insert(0, str(PROJECT / "benchmarks"))
import reading


def test_recipes_train_on_nothing_that_the_screening_scores(slices: Path, tmp_path: Path) -> None:
    for recipe in reading.RECIPES:
        run = reading.recipe_run(str(slices), tmp_path, recipe, 0, final=False)
        (scored,) = run.evaluate.retrieval
        splits = {source.split for source in run.data.sources if source.kind != "tsv"} - {""}
        assert scored.split == "held-out" and splits == {"train"} and run.evaluate.glue is None
        final = reading.recipe_run(str(slices), tmp_path, recipe, 0, final=True)
        assert final.evaluate == presets.photos(str(slices)).evaluate
    images = json.loads(Path(scored.annotations).read_text())["images"]
    assert sum(image["split"] == "held-out" for image in images) == 460
    assert sum(image["split"] == "train" for image in images) == 2300 - 460


def test_multi30k_is_asked_for_nothing_about_a_photo_of_the_slices(
    slices: Path, tmp_path: Path
) -> None:
    reading.recipe_run(str(slices), tmp_path, "words-packed-multi30k", 0, final=False)
    lines = (tmp_path / "multi30k.tsv").read_text(encoding="utf-8").splitlines()
    names = (slices / "multi30k_text/train_images.txt").read_text().split()
    folders = ("flickr8k/Flicker8k_Dataset", "flickr30k_multi30k/flickr30k-images")
    files = [path for folder in folders for path in (slices / folder).iterdir()]
    photos = {path.name.split("_")[0].split(".")[0] for path in files}
    assert len(lines) == sum(name.split(".")[0] not in photos for name in names) > 20_000


@pytest.mark.parametrize(("share", "level"), [(0.0, math.log(64)), (0.25, 3.5966)])
def test_a_plateau_ends_below_what_knows_the_kinds_alone(share: float, level: float) -> None:
    base = presets.photos("data")
    run = replace(base, data=replace(base.data, text_pair_share=share))
    flat = [level] * 100
    assert reading.plateau_end(flat, run) is None
    assert reading.plateau_end([*flat, *[level - 1] * 30], run) == 103
    assert reading.plateau_end([level - 1] * 20, run) == 20


def test_without_data_it_says_so() -> None:
    command = [sys.executable, "benchmarks/reading.py"]
    done = subprocess.run(command, cwd=PROJECT, check=True, capture_output=True, text=True)
    assert done.stdout.startswith("not run: --data")
