"""The deck of an evaluation beside the paper: its numbers, and in what the model differs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from html_reader import Reader
from tiny import tiny_plan

from clippo_core.engine.checkpoint import Progress, save_checkpoint
from clippo_core.report import decks
from clippo_core.run.records import EvalResult, Metric


def test_a_deck_has_the_papers_numbers_and_what_the_checkpoint_differs_in(tmp_path: Path) -> None:
    metrics = {"imagenet/zero_shot_top1": Metric(50.0, 48.0, 52.0, 0.1, 50_000)}
    main = list(metrics)
    result = EvalResult("imagenet", "imagenet", "val", "zero-shot", 50_000, metrics, {}, main)
    alone = Reader(decks.evaluation_deck(result)).text
    assert "61.4" in alone and "training data" in alone and "tower" not in alone
    weights = {"x": np.zeros(3, np.float32)}
    plan = tiny_plan(str(tmp_path / "run"))
    uri = save_checkpoint(str(tmp_path), weights, weights, plan, Progress(6, 48, 0.5, 1)).uri
    (Path(uri) / "weights.safetensors").write_bytes(b"not read")
    shown = Reader(decks.evaluation_deck(result, checkpoint=uri)).text
    assert "61.4" in shown and "training data, tower, 32 px, steps, batch" in shown
    (Path(uri) / "manifest.json").write_text("{")
    assert Reader(decks.evaluation_deck(result, checkpoint=uri)).text == alone
