"""Fine-tuning: the schedule, the sweep, what a kill costs, several ranks."""

import json
import math
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from clippo_core import storage
from clippo_core.config import FinetuneConfig, ModelConfig, OptimConfig, RenderConfig
from clippo_core.engine import make_engine
from clippo_core.errors import CheckpointError, EvaluationError
from clippo_core.evaluate.finetune import sweep as finetune
from clippo_core.evaluate.finetune import trial
from clippo_core.evaluate.finetune.problem import (
    FineTuned,
    Inputs,
    Problem,
    freeze_unused,
    text_inputs,
)
from clippo_core.evaluate.finetune.stored import Trial, read_trial, write_tensors
from clippo_core.evaluate.finetune.sweep import choose, sweep
from clippo_core.evaluate.finetune.trial import epoch_order, linear_schedule
from clippo_core.evaluate.metrics import is_constant
from clippo_core.models import build_tower, text_encoder
from clippo_core.rendering import Renderer
from clippo_core.run.provenance import reached_modules

MODEL = ModelConfig(width=32, depth=2, num_heads=2, mlp_dim=64, embed_dim=16)
RENDER = RenderConfig(image_px=32)
WORDS = ("good", "bad")


def tower():
    return build_tower(MODEL, RENDER.image_px, seed=0)


def problem(n=48, **changes):
    """Is the word drawn `good` or `bad`?"""
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, n)
    texts = [f"{WORDS[label]} {random.integers(100)}" for label in labels]
    encode, targets = text_encoder(MODEL, RENDER), torch.from_numpy(labels)
    scored = text_inputs(encode, texts[: n // 2])

    def loss(outputs, indices):
        return torch.nn.functional.cross_entropy(
            outputs, targets[torch.from_numpy(indices)], reduction="none"
        )

    fields = {
        "name": "words",
        "reads": "texts",
        "n_outputs": 2,
        "activation": "tanh",
        "train": text_inputs(encode, texts),
        "loss": loss,
        "scored": scored,
        "score": lambda outputs: float((outputs.argmax(1) == labels[: n // 2]).mean()),
        "constant": lambda outputs: is_constant(outputs.argmax(1)),
        "others": {"again": scored},
    }
    return Problem(**{**fields, **changes})


def config(**changes):
    return FinetuneConfig(
        **{"batch_size": 10, "epochs": 3, "learning_rates": (1e-3, 3e-3), **changes}
    )


def run(folder, a_problem=None, a_config=None, **options):
    return sweep(
        tower(),
        a_problem or problem(),
        a_config or config(),
        seed=1,
        folder=str(folder),
        progress=False,
        **options,
    )


def test_schedule_rises_and_falls_linearly():
    found = [linear_schedule(step, 10, 4) for step in range(11)]
    assert found == pytest.approx([0, 0.25, 0.5, 0.75, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6, 0])
    assert linear_schedule(0, 10, 0) == 1 and linear_schedule(10, 10, 10) == 0


def test_schedule_is_the_one_of_torch():
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    rise = torch.optim.lr_scheduler.LinearLR(optimizer, 1e-12, 1.0, total_iters=5)
    fall = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=15)
    scheduler = torch.optim.lr_scheduler.SequentialLR(optimizer, [rise, fall], milestones=[5])
    for step in range(20):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(
            linear_schedule(step, 20, 5), abs=1e-9
        )
        optimizer.step()
        scheduler.step()


def test_every_epoch_is_another_permutation():
    orders = [epoch_order(7, epoch, 50) for epoch in range(3)]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert not np.array_equal(orders[0], orders[1]) and np.array_equal(
        orders[2], epoch_order(7, 2, 50)
    )


def test_learns_and_reports_the_best_trial(tmp_path):
    swept = run(tmp_path, a_config=config(epochs=8, learning_rates=(1e-6, 3e-3)))
    assert (
        swept.best == 1
        and swept.trials[1].score > 0.9
        and swept.trials[0].score < swept.trials[1].score
    )
    assert (
        swept.trials[1].steps == 8 * 5
        and swept.trials[1].epoch == 8
        and len(swept.trials[1].losses) == 8
    )
    assert swept.trials[1].losses[-1] < swept.trials[1].losses[0]
    assert swept.outputs["scored"].shape == (24, 2)
    np.testing.assert_array_equal(swept.outputs["again"], swept.outputs["scored"])


def test_the_given_tower_is_left_alone(tmp_path):
    given = tower()
    before = {name: value.clone() for name, value in given.state_dict().items()}
    sweep(
        given,
        problem(),
        config(learning_rates=(1e-2,)),
        seed=1,
        folder=str(tmp_path),
        progress=False,
    )
    assert all(torch.equal(value, before[name]) for name, value in given.state_dict().items())
    assert all(parameter.requires_grad for parameter in given.parameters())


def test_batch_size_of_scoring_does_not_matter(tmp_path):
    one, other = run(tmp_path / "a", batch_size=5), run(tmp_path / "b", batch_size=256)
    np.testing.assert_allclose(one.outputs["scored"], other.outputs["scored"], atol=1e-5)


def test_unused_parts_are_frozen():
    tuned = FineTuned(tower(), problem(), seed=0)
    freeze_unused(tuned, problem())
    frozen = {name for name, parameter in tuned.named_parameters() if not parameter.requires_grad}
    assert frozen == {"tower.t", "tower.head.weight", "tower.head.bias"}
    assert {"head.0.weight", "head.2.weight", "tower.blocks.0.attn.qkv.weight"} <= tuned.decayed


def test_an_engine_decays_its_kernels():
    tuned = FineTuned(tower(), problem(), seed=0)
    freeze_unused(tuned, problem())
    trained = {name for name, parameter in tuned.named_parameters() if parameter.requires_grad}
    engine = make_engine(tuned, OptimConfig(name="adamw"), decayed=tuned.decayed, views={})
    assert engine.optimizer.decayed == tuned.decayed & trained
    assert tuned.decayed - trained == {"tower.head.weight"}


def test_head_learns_faster_by_its_multiplier(tmp_path):
    """One step of AdamW moves every weight by the rate: the head's by the multiple."""
    moved = {}
    for factor in (1.0, 10.0):
        settings = config(
            epochs=1,
            max_steps=2,
            learning_rates=(1e-4,),
            head_lr_multiplier=factor,
            weight_decay=0.0,
            warmup_share=0.5,
        )
        a_run = trial.TrialRun(tower(), problem(), settings, 1e-4, 3, "cpu", 64)
        before = {name: value.clone() for name, value in a_run.engine.module.state_dict().items()}
        a_run.train(str(tmp_path / f"{factor}"), 60.0, False)
        after = a_run.engine.module.state_dict()
        moved[factor] = {
            name: float((after[name] - before[name]).abs().max())
            for name in ("head.2.weight", "tower.pos_embed")
        }
    assert moved[10.0]["head.2.weight"] == pytest.approx(10 * moved[1.0]["head.2.weight"], rel=1e-3)
    assert moved[10.0]["tower.pos_embed"] == pytest.approx(moved[1.0]["tower.pos_embed"], rel=1e-3)


def test_one_step_is_torch_adamw(tmp_path):
    settings = config(
        epochs=1, max_steps=2, learning_rates=(1e-3,), weight_decay=0.1, warmup_share=0.5
    )
    a_run = trial.TrialRun(tower(), problem(), settings, 1e-3, 3, "cpu", 64)
    module = FineTuned(tower(), problem(), 3)
    freeze_unused(module, problem())
    named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    kernels = module.decayed
    groups = [
        {"params": [p for name, p in named if name in kernels], "weight_decay": 0.1},
        {"params": [p for name, p in named if name not in kernels], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.999))
    for step in range(2):
        batch = epoch_order(3, 0, 48)[step * 10 : (step + 1) * 10]
        problem().loss(module(problem().train.batch(batch)), batch).mean().backward()
        torch.nn.utils.clip_grad_norm_([p for _, p in named], 1.0)
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * linear_schedule(step, 2, 1)
        optimizer.step()
        optimizer.zero_grad()
    a_run.train(str(tmp_path / "state"), 60.0, False)
    for name, value in a_run.engine.module.state_dict().items():
        torch.testing.assert_close(value, module.state_dict()[name], atol=2e-6, rtol=1e-4)


def test_without_patience_the_last_epoch_is_reported_and_with_it_the_best(tmp_path):
    scores = iter([0.5, 0.9, 0.9, 0.4, 0.3, 0.2])
    last = run(tmp_path / "last", problem(score=lambda _: 0.25), config(learning_rates=(1e-3,)))
    assert (last.trials[0].epoch, last.trials[0].score) == (3, 0.25)
    best = run(
        tmp_path / "best",
        problem(score=lambda _: next(scores)),
        config(learning_rates=(1e-3,), epochs=9, patience_epochs=2),
    )
    assert (best.trials[0].epoch, best.trials[0].score, best.trials[0].steps) == (
        2,
        0.9,
        4 * 5,
    )  # stops two epochs after the best


def test_max_steps_ends_within_an_epoch(tmp_path):
    swept = run(tmp_path, a_config=config(max_steps=7, learning_rates=(1e-3,)))
    assert swept.trials[0].steps == 7 and swept.trials[0].epoch == 2


def test_undefined_scores_and_divergence_lose_and_are_counted(tmp_path):
    trials = [
        Trial(1e-3, s, 1, 5, c, d, [])
        for s, c, d in ((math.nan, True, False), (-0.5, False, False), (math.nan, False, True))
    ]
    assert choose(trials) == 1 and choose(trials[::2]) == 0
    assert choose([trials[1], trials[1]]) == 0  # the first among equals
    swept = run(
        tmp_path / "undefined",
        problem(score=lambda _: math.nan, constant=lambda _: True),
        config(learning_rates=(1e-3,)),
    )
    assert (
        swept.n_collapsed == 1
        and math.isnan(swept.trials[0].score)
        and swept.outputs["scored"].shape == (24, 2)
    )


def test_a_loss_of_nan_ends_the_trial_and_all_of_them_the_sweep(tmp_path):
    broken = problem(loss=lambda outputs, _: outputs.sum(1) * math.nan)
    with pytest.raises(EvaluationError, match="all 2 trials"):
        run(tmp_path, broken)
    facts = [read_trial(str(path))[0] for path in sorted(tmp_path.glob("*.trial.safetensors"))]
    assert [(t.diverged, t.epoch, len(t.losses)) for t in facts] == [(True, 0, 1)] * 2


def test_nothing_to_learn_or_score_is_refused(tmp_path):
    empty = Inputs(0, lambda indices: torch.zeros(0))
    with pytest.raises(EvaluationError, match="0 examples to train on"):
        run(tmp_path, problem(train=empty))
    with pytest.raises(EvaluationError, match="0 to score"):
        run(tmp_path, problem(scored=empty))


def test_texts_are_the_same_cached_or_not(monkeypatch):
    texts = [f"text {i}" for i in range(20)]
    encode = Renderer(32).masks
    cached = text_inputs(encode, texts)
    monkeypatch.setattr("clippo_core.evaluate.finetune.problem.CACHE_BYTES", 0)
    lazy = text_inputs(encode, texts)
    chosen = np.array([3, 19, 3])
    assert torch.equal(cached.batch(chosen), lazy.batch(chosen)) and cached.n == lazy.n == 20


def files(folder):
    return {path.name: path.read_bytes() for path in Path(folder).glob("*.trial.safetensors")}


@pytest.mark.parametrize("patience", [0, 2])
def test_killed_at_every_write_goes_on_to_the_same_bytes(tmp_path, monkeypatch, patience):
    """Trials and epochs are saved; the process dies before or just after each write in turn."""
    settings = config(patience_epochs=patience, batch_size=24)
    whole = run(tmp_path / "whole", a_config=settings, save_seconds=-1.0)
    wanted = files(tmp_path / "whole")
    assert len(wanted) == 2 and not list((tmp_path / "whole").glob("*.epoch.*"))
    real, writes = storage.write_bytes, 0

    class Killed(BaseException):
        pass

    n_crashes = 0
    for moment in range(100):
        folder = tmp_path / f"{moment}"

        def dying(uri, data, moment=moment, **options):
            nonlocal writes
            if writes == moment // 2:
                if moment % 2:
                    real(uri, data, **options)
                raise Killed
            writes += 1
            return real(uri, data, **options)

        writes = 0
        monkeypatch.setattr(storage, "write_bytes", dying)
        try:
            run(folder, a_config=settings, save_seconds=-1.0)
        except Killed:
            n_crashes += 1
        else:
            break
        finally:
            monkeypatch.setattr(storage, "write_bytes", real)
        again = run(folder, a_config=settings, save_seconds=-1.0)
        assert files(folder) == wanted and again.best == whole.best
    assert n_crashes >= 2 * (2 + 2)


RANKS = """
import os, sys
sys.path[:0] = [{tests!r}, {project!r}]
import numpy as np
import test_finetune as t
from clippo_core.evaluate.finetune.sweep import join_ranks
swept = t.run(
    sys.argv[1], a_config=t.config(batch_size=9, patience_epochs=5), batch_size=7,
    device=join_ranks(), save_seconds=0.0,
)
np.save(sys.argv[1] + "/rank-" + os.environ["RANK"], swept.outputs["scored"])
"""


def test_two_ranks_give_what_one_gives(tmp_path):
    """48 examples in batches of 9 on 2 ranks: uneven shares, a last batch of 3."""
    here = Path(__file__).resolve()
    code = RANKS.format(tests=str(here.parent), project=str(here.parents[2]))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = {
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "WORLD_SIZE": "2",
        "OMP_NUM_THREADS": "1",
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)],
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]
    assert [process.wait(120) for process in processes] == [0, 0]
    one = run(tmp_path / "one", a_config=config(batch_size=9, patience_epochs=5), batch_size=7)
    found = [np.load(tmp_path / f"rank-{rank}.npy") for rank in range(2)]
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_allclose(found[0], one.outputs["scored"], atol=2e-4)


def test_trials_hold_no_pickle(tmp_path):
    run(tmp_path, a_config=config(learning_rates=(1e-3,)))
    content = next(tmp_path.glob("*.trial.safetensors")).read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert set(header) == {"scored", "again", "__metadata__"}
    assert finetune.SAVE_SECONDS > 0


def test_evaluations_that_only_embed_do_not_depend_on_the_fine_tuning_and_none_on_pages():
    for name in ("imagenet", "retrieval", "xm3600", "vqa", "glue"):
        reached = reached_modules(f"clippo_core.evaluate.{name}.protocol")
        is_tuned = name in ("vqa", "glue")
        assert ("clippo_core.evaluate.finetune.sweep" in reached) is is_tuned
        assert ("clippo_core.evaluate.finetune.trial" in reached) is is_tuned
        assert not {module for module in reached if module.startswith("clippo_core.report")}


FACTS = {"learning_rate": 1e-3, "score": None, "epoch": 1, "steps": 2, "collapsed": False}
FACTS |= {"diverged": False, "losses": [1.0, None]}


@pytest.mark.parametrize(
    ("changes", "tensor", "sentence"),
    [
        ({"epoch": "one"}, torch.zeros(2, 3), "epoch is a text, 'one', and must be a whole number"),
        ({"losses": [1.0, "x"]}, torch.zeros(2, 3), "losses is a text, 'x', and must be a number"),
        ({"score": [1]}, torch.zeros(2, 3), "score is a list"),
        ({"steps": None}, torch.zeros(2, 3), "steps is null"),
        ({}, torch.zeros(2, 3).bfloat16(), "its outputs on scored are no table of float32"),
        ({}, torch.zeros(2), "its outputs on scored are no table of float32; delete it, and its"),
    ],
)
def test_a_trial_that_nobody_wrote(tmp_path, changes, tensor, sentence):
    uri = str(tmp_path / "x.trial.safetensors")
    write_tensors(uri, {"scored": torch.zeros(2, 3)}, FACTS)
    found, outputs = read_trial(uri)
    assert np.isnan(found.score) and np.isnan(found.losses[1]) and outputs["scored"].shape == (2, 3)
    write_tensors(uri, {"scored": tensor}, FACTS | changes)
    with pytest.raises(CheckpointError, match=sentence) as error:
        read_trial(uri)
    assert str(error.value).startswith(uri)
    Path(uri).write_bytes(Path(uri).read_bytes()[:100])
    with pytest.raises(CheckpointError, match="cut short"):
        read_trial(uri)
