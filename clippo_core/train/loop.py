"""Pretraining: resume? -> for every step: batch, step, journal; once in a while save -> done.
Unkillable, and the same bit for bit.

A run goes on from the newest whole checkpoint of an earlier attempt or of its own folder, else from
train.resume_from, else it begins; `run/folder.py` says what stands where. Data order is a function
of (seed, step), so the losses after a `kill -9` are those of an uninterrupted run. SIGTERM commits
a checkpoint and raises Preempted. What a step came to is read when the next one is queued
(`ledger.py`), and always before it is saved.
There are no callbacks: what happens stands here, in order. Launching processes is not its business.
"""

from __future__ import annotations

import functools
import itertools
import logging
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import torch

from clippo_core import models
from clippo_core.config import ModelConfig
from clippo_core.data.loader import Batch, batches
from clippo_core.engine import (
    Engine,
    MemoryPlan,
    Ranks,
    apply_memory,
    choose_memory,
    device_bytes,
    init_distributed,
    make_engine,
    rehearse,
)
from clippo_core.engine.attention import (
    KERNELS,
    choose_attention,
    probe_seconds,
    using_attention,
)
from clippo_core.engine.checkpoint import (
    Checkpoint,
    Progress,
    finished_checkpoint,
    latest_checkpoint,
    open_checkpoint,
)
from clippo_core.engine.recipe import check_same_recipe, check_same_rows
from clippo_core.errors import CheckpointError, ConfigError, NotFoundError
from clippo_core.optim import rsqrt_schedule
from clippo_core.rendering import TextEncoder
from clippo_core.rendering.augment import AugmentedRenderer
from clippo_core.run.folder import RunFolder
from clippo_core.run.provenance import code_digest
from clippo_core.run.records import CheckpointInfo, Manifest, PretrainPlan
from clippo_core.train.agreement import Agreement
from clippo_core.train.lease import Lease
from clippo_core.train.ledger import LOSSES_IN_MEAN, Ledger, State
from clippo_core.train.record import MakeWatcher, RunRecord
from clippo_core.train.saving import Saving
from clippo_core.train.speed import Meter
from clippo_core.train.step import on_device, train_step, with_varied_text
from clippo_core.untrusted.json import optional

ONLY_AT_THE_START = ("initial_weights", "initial_logit_scale", "tokenizer")
"""Fields of the model that a checkpoint's weights replace, or that are addresses: they may differ
when a run goes on."""
_log = logging.getLogger(__name__)


def pretrain(
    plan: PretrainPlan,
    manifest: Manifest,
    *,
    previous: str = "",
    watch: MakeWatcher | None = None,
) -> CheckpointInfo:
    """Train the plan's tower on the shards of `manifest`; call it in every rank (torchrun's
    environment), or in one process.

    `previous`: checkpoints of an earlier attempt, if they are elsewhere. `watch`: makes what shows
    the run, on rank 0 (`report/watch.py`). Every rank gets the last checkpoint; a finished run is
    not trained again. Raises Preempted (SIGTERM came, a checkpoint is committed), LostRankError,
    TrainingError (too many non-finite losses), ConflictError (another process has the run),
    CheckpointError, ConfigError, StorageError.
    """
    ranks = _join(plan)
    agreement = Agreement(ranks, plan.train.timeout_seconds)
    with agreement.noticing_lost_ranks():
        if done := agreement.rank0(lambda: _find_finished(plan, manifest)):
            return done  # without the lease: several processes may evaluate one finished run
    with (
        agreement.noticing_lost_ranks(),
        _sigterm() as stop_asked,
        _owned(plan, agreement) as check_owner,
    ):
        start = agreement.rank0(lambda: _find_start(plan, manifest, previous))
        smallest = min(agreement.everyone(device_bytes(ranks.device)))
        engine, memory = _build(plan, agreement, start, smallest)
        state = _restore(engine, start, plan.model)
        _note_memory(state, memory.words(plan.train.pairs_per_rank(ranks.world_size)), start)
        state.attention = agreement.rank0(lambda: _attention(plan, ranks, state))
        agreement.barrier()
        record = RunRecord(plan, state.step, watch) if ranks.rank == 0 else None
        code_digest(__name__)  # takes a second, and is remembered: not in the middle of a step
        text_encoder = models.text_encoder(plan.model, plan.render)
        describe = functools.partial(
            _progress, plan, manifest, state, ranks.world_size, text_encoder
        )

        def before_commit() -> None:
            if record:
                record.flush()  # no checkpoint without the curve that leads to it
            check_owner()

        meter = Meter(plan, ranks)
        ledger = Ledger(plan, state, agreement, record, meter)
        saving = Saving(plan, agreement, engine, stop_asked, ledger.settle, describe, before_commit)
        feed = on_device(_batches(plan, manifest, ranks, text_encoder, state.step), ranks.device)
        feed = with_varied_text(feed, plan.train, plan.stage.seed, plan.render.image_px)
        try:
            with using_attention(state.attention):
                feed = _begun_together(feed, plan, engine, memory, agreement)
                while state.step < plan.train.steps:
                    with meter.waiting():
                        batch = next(feed)
                    multiplier = _multiplier(plan, state.step)
                    result = train_step(engine, batch, multiplier, memory)
                    ledger.queued(result, batch.keys, multiplier)
                    if state.step < plan.train.steps:
                        saving.after_step(state.step)
            return saving.save_now(finished=True)
        finally:
            saving.close()
            ledger.close()
            if record:
                record.close()


def _join(plan: PretrainPlan) -> Ranks:
    """The process group, seeds and threads of this rank."""
    ranks = init_distributed(plan.train.timeout_seconds)
    plan.train.pairs_per_rank(ranks.world_size)
    plan.model.check_start()
    plan.train.augment.check_fits(plan.render, plan.model)
    torch.manual_seed(plan.stage.seed)
    if (
        ranks.device.type == "cpu"
        and os.environ.get("OMP_NUM_THREADS") == "1"
        and "TORCHELASTIC_RUN_ID" in os.environ
    ):
        # Elastic's default, meant for GPUs: on CPUs the ranks of a machine share its cores.
        torch.set_num_threads(max(1, _cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
    return ranks


def _cores() -> int:
    """Cores that this process may use: its affinity, and the quota of its container."""
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return min(cores, max(1, int(quota) // int(period)))
    except (OSError, ValueError):
        return cores


@contextmanager
def _sigterm() -> Iterator[Callable[[], bool]]:
    """Within it SIGTERM ends nothing; yields whether it has come. Outside the main thread signals
    are left as they are.
    """
    came = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield came.is_set
        return
    before = signal.signal(signal.SIGTERM, lambda *_: came.set())
    try:
        yield came.is_set
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _owned(plan: PretrainPlan, agreement: Agreement) -> Iterator[Callable[[], None]]:
    """Hold the run's lease, on rank 0; yields the check that this is still so."""
    held: list[Lease] = []
    agreement.rank0(lambda: held.append(Lease(plan.stage.root, plan.train.timeout_seconds)))
    try:
        yield held[0].check if held else lambda: None
    finally:
        for lease in held:
            lease.release()


def _find_finished(plan: PretrainPlan, manifest: Manifest) -> CheckpointInfo | None:
    """The last checkpoint of this run, if it is over. Raises CheckpointError where it is another's
    folder.
    """
    found = finished_checkpoint(RunFolder(plan.stage.root).checkpoints)
    if found is None:
        return None
    _check_same_run(found, plan, manifest)
    return found.info


def _check_same_run(checkpoint: Checkpoint, plan: PretrainPlan, manifest: Manifest) -> None:
    """Raise CheckpointError where a checkpoint is another run's, or was trained on other pairs. An
    evaluation may have been added since that shows pictures which this model was trained on.
    """
    check_same_recipe(checkpoint.uri, checkpoint.manifest["recipe"], plan)
    left_out = checkpoint.progress.left_out
    if left_out and left_out != manifest.left_out:
        raise CheckpointError(
            f"{checkpoint.uri} was trained on pairs that are left out now, or without pairs that no"
            " longer are: the evaluations show other pictures or captions than they did. Change"
            " `seed` to train anew, or leave the evaluations as they were; `clippo evaluate`"
            " evaluates this model on anything."
        )


def _find_start(plan: PretrainPlan, manifest: Manifest, previous: str) -> str:
    """Address of the checkpoint to go on from: the newest of this run, wherever it is, else
    train.resume_from; empty = begin.
    """
    found = []
    for root in dict.fromkeys(
        [RunFolder(plan.stage.root).checkpoints, *([previous] if previous else [])]
    ):
        checkpoint = latest_checkpoint(root)
        if checkpoint:
            _check_same_run(checkpoint, plan, manifest)
            found.append(checkpoint)
    if found:
        return max(found, key=lambda checkpoint: checkpoint.progress.step).uri
    if not plan.train.resume_from:
        return ""
    try:
        chosen = open_checkpoint(plan.train.resume_from)
    except NotFoundError as error:
        raise ConfigError(f"train.resume_from: {error}") from error
    if chosen.progress.step >= plan.train.steps:
        raise ConfigError(
            f"train.resume_from {chosen.uri} is at step {chosen.progress.step}, and the run has"
            f" only {plan.train.steps} steps."
        )
    return chosen.uri


def _build(
    plan: PretrainPlan, agreement: Agreement, start: str, smallest_device: int
) -> tuple[Engine, MemoryPlan]:
    """The tower under its engine, fresh, and how its activations fit into the smallest device
    (bytes, 0 = not known).
    """
    ranks = agreement.ranks
    # What a checkpoint will overwrite need not be read any more.
    weights = "" if start else plan.model.initial_weights
    is_file = weights.endswith((".npz", ".safetensors"))
    model = replace(plan.model, initial_weights=weights if is_file else "")
    tower = models.build_tower(model, plan.render.image_px, seed=plan.stage.seed)
    if weights and not is_file:
        checkpoint = open_checkpoint(weights)
        _check_function(checkpoint, plan.model, "model.initial_weights")
        models.load_weights(tower, checkpoint.weights(), checkpoint.uri)
    pairs = plan.train.pairs_per_rank(ranks.world_size)
    memory = choose_memory(
        plan.train,
        plan.model,
        plan.render.image_px,
        pairs,
        ranks.world_size,
        smallest_device,
        sum(p.numel() for p in tower.parameters()),
    )
    if ranks.rank == 0:
        _log.info("%s", memory.reason)
    apply_memory(tower, memory)
    if plan.train.compile:
        tower.compile_blocks()
    agreement.barrier()  # initial weights may have come slowly; the engine's exchanges are quick
    engine = make_engine(
        tower,
        plan.optim,
        decayed=tower.decayed,
        views=tower.views,
        zero_stage=plan.train.zero_stage,
        precision=plan.train.precision,
        device=ranks.device,
        compile_update=plan.train.compile,
    )
    return engine, memory


def _restore(engine: Engine, start: str, model: ModelConfig) -> State:
    """Load the checkpoint `start` into the engine; the state to go on from. Weights that fit may
    still belong to another function.
    """
    if not start:
        return State()
    checkpoint = open_checkpoint(start)
    try:
        engine.load_weights(checkpoint.weights())
        engine.load_optimizer_state(checkpoint.optimizer())
    except CheckpointError as error:
        raise CheckpointError(f"{start} cannot be loaded: {error}") from error
    _check_function(checkpoint, model, "train.resume_from")
    kept = checkpoint.progress.state or {}
    skipped = optional(kept, "skipped", list[int], [], start, "state", error=CheckpointError)
    losses = optional(kept, "losses", list[float], [], start, "state", error=CheckpointError)
    memory = optional(kept, "memory", str, "", start, "state", error=CheckpointError)
    attention = optional(kept, "attention", str, "", start, "state", error=CheckpointError)
    if attention not in ("", *KERNELS):
        attention = ""  # of another version
    losses_kept = deque(losses, maxlen=LOSSES_IN_MEAN)
    return State(checkpoint.progress.step, skipped, losses_kept, memory, attention)


def _note_memory(state: State, words: str, start: str) -> None:
    """Remember the memory plan; say so where a run goes on with another: its sums have another
    order.
    """
    if state.memory not in ("", words):
        _log.warning(
            "activations fit by another plan (%s) than in %s (%s): the run goes on with the same"
            " gradients to rounding, not bit for bit.",
            words,
            start,
            state.memory,
        )
    state.memory = words


def _attention(plan: PretrainPlan, ranks: Ranks, state: State) -> str:
    """The kernel of attention for all ranks, said in the log where it is a choice."""

    def seconds(name: str) -> float:
        return probe_seconds(
            name, plan.model, plan.render.image_px, plan.train.precision, ranks.device
        )

    chosen = choose_attention(plan.train.attention, state.attention, ranks.device, seconds)
    if chosen:
        _log.info("attention by the kernel %s (train.attention)", chosen)
    return chosen


def _check_function(checkpoint: Checkpoint, model: ModelConfig, setting: str) -> None:
    """Raise ConfigError where the weights, which may fit, are of another function than `model`."""
    there, here = asdict(checkpoint.model), asdict(model)
    other = [
        f"model.{name} {value}"
        for name, value in there.items()
        if value != here[name] and name not in ONLY_AT_THE_START
    ]
    if other:
        raise ConfigError(
            f"{setting} {checkpoint.uri} was trained with {', '.join(other)}: another function."
            " Set it alike, or begin from scratch."
        )
    check_same_rows(checkpoint.uri, checkpoint.manifest["recipe"], model)


def _batches(
    plan: PretrainPlan, manifest: Manifest, ranks: Ranks, text_encoder: TextEncoder, start_step: int
) -> Iterator[Batch]:
    return batches(
        manifest,
        plan.data,
        image_px=plan.render.image_px,
        batch_pairs=plan.train.batch_pairs,
        seed=plan.stage.seed,
        text_encoder=text_encoder,
        rank=ranks.rank,
        world_size=ranks.world_size,
        start_step=start_step,
        steps=plan.train.steps,
        workers=plan.train.loader_workers,
        varied=(
            AugmentedRenderer(plan.render, plan.train.augment)
            if plan.train.augment.varies_layout
            else None
        ),
        count_rows=plan.model.skip_blank_rows,
    )


def _begun_together(
    feed: Iterator[Batch],
    plan: PretrainPlan,
    engine: Engine,
    memory: MemoryPlan,
    agreement: Agreement,
) -> Iterator[Batch]:
    """`feed`, when every rank has its first batch and has compiled: an index and a compiler may
    take a rank longer than a step's patience. One rank waits for nobody.
    """
    if engine.world_size == 1:
        return feed
    first = next(feed)
    if plan.train.compile:
        texts, rows = (first.first_text, first.second_text), first.text_rows
        rehearse(engine, first.photos, *texts, memory=memory, text_rows=rows)
    agreement.barrier()
    return itertools.chain([first], feed)


def _multiplier(plan: PretrainPlan, step: int) -> float:
    optim = plan.optim
    return rsqrt_schedule(
        step, plan.train.steps, optim.warmup_steps, optim.timescale_steps, optim.cooldown_steps
    )


def _progress(
    plan: PretrainPlan,
    manifest: Manifest,
    state: State,
    world_size: int,
    text_encoder: TextEncoder,
    finished: bool,
) -> Progress:
    return Progress(
        step=state.step,
        pairs_seen=state.step * plan.train.batch_pairs,
        loss=sum(state.losses) / max(len(state.losses), 1),
        world_size=world_size,
        code_digest=code_digest(__name__),
        render_digest=text_encoder.digest,
        journal=RunFolder(plan.stage.root).journal,
        finished=finished,
        state={
            "skipped": list(state.skipped),
            "losses": list(state.losses),
            "memory": state.memory,
            "attention": state.attention,
        },
        left_out=manifest.left_out,
    )
