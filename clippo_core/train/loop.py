"""Pretraining: resume? -> for every step: batch, step, journal; once in a while save -> done.
Unkillable, and the same bit for bit.

Where a run goes on from is decided in `start.py`; `run/folder.py` says what stands where. Data
order is a function of (seed, step), so the losses after a `kill -9` are those of an uninterrupted
run. SIGTERM commits a checkpoint and raises Preempted. What a step came to is read when the next
one is queued (`ledger.py`), and always before it is saved.
There are no callbacks: what happens stands here, in order. Launching processes is not its business.
"""

from __future__ import annotations

import functools
import itertools
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from clippo_core import models
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
from clippo_core.engine.attention import choose_attention, probe_seconds, using_attention
from clippo_core.engine.checkpoint import Progress, open_checkpoint
from clippo_core.optim import rsqrt_schedule
from clippo_core.rendering import TextEncoder
from clippo_core.rendering.augment import AugmentedRenderer
from clippo_core.run.folder import RunFolder
from clippo_core.run.provenance import code_digest
from clippo_core.run.records import CheckpointInfo, Manifest, PretrainPlan
from clippo_core.train.agreement import Agreement
from clippo_core.train.lease import Lease
from clippo_core.train.ledger import Ledger, State
from clippo_core.train.record import MakeWatcher, RunRecord
from clippo_core.train.saving import Saving
from clippo_core.train.speed import Meter
from clippo_core.train.start import check_function, find_finished, find_start, note_memory, restore
from clippo_core.train.step import on_device, train_step, with_varied_text

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
        if done := agreement.rank0(lambda: find_finished(plan, manifest)):
            return done  # without the lease: several processes may evaluate one finished run
    with (
        agreement.noticing_lost_ranks(),
        _sigterm() as stop_asked,
        _owned(plan, agreement) as check_owner,
    ):
        engine, memory, state = _begin(plan, manifest, agreement, previous)
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
        feed = _feed(plan, manifest, ranks, text_encoder, state.step)
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


def _begin(
    plan: PretrainPlan, manifest: Manifest, agreement: Agreement, previous: str
) -> tuple[Engine, MemoryPlan, State]:
    """The engine as its start left it, how its activations fit, and the state to go on from."""
    ranks = agreement.ranks
    start = agreement.rank0(lambda: find_start(plan, manifest, previous))
    smallest = min(agreement.everyone(device_bytes(ranks.device)))
    engine, memory = _build(plan, agreement, start, smallest)
    state = restore(engine, start, plan.model)
    note_memory(state, memory.words(plan.train.pairs_per_rank(ranks.world_size)), start)
    state.attention = agreement.rank0(lambda: _attention(plan, ranks, state))
    agreement.barrier()
    return engine, memory, state


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
        check_function(checkpoint, plan.model, "model.initial_weights")
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


def _feed(
    plan: PretrainPlan, manifest: Manifest, ranks: Ranks, text_encoder: TextEncoder, start_step: int
) -> Iterator[Batch]:
    """Batches of this rank from `start_step` on, on its device."""
    feed = batches(
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
    feed = on_device(feed, ranks.device)
    return with_varied_text(feed, plan.train, plan.stage.seed, plan.render.image_px)


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
