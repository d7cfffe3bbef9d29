"""Configs of optimizer, schedule, training and fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from clippo_core.config.check import Checked, require
from clippo_core.config.data import RenderConfig
from clippo_core.config.hints import (
    Check,
    Count,
    Input,
    NotNegative,
    Positive,
    Runtime,
    Share,
    Whole,
    ZeroStage,
)
from clippo_core.config.model import ModelConfig


@dataclass(frozen=True)
class OptimConfig(Checked, path="optim"):
    """Optimizer and schedule. Defaults are the paper's (big_vision
    configs/proj/clippo/train_clippo.py)."""

    name: Literal["adafactor", "adamw"] = "adafactor"
    """big_vision's Adafactor, or AdamW (b1 0.9, b2 as `adam_beta2`)."""
    lr: Positive = 1e-3
    """Peak learning rate."""
    weight_decay: NotNegative = 1e-4
    """p -= multiplier * weight_decay * p, on kernels only: scaled by the schedule, not by lr."""
    clip_norm: NotNegative = 1.0
    """Global gradient norm above which gradients are scaled down; 0 = never."""
    momentum_dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Storage of Adafactor's momentum; the reference's is bfloat16."""
    warmup_steps: Whole = 10_000
    """Steps of linear warm-up."""
    timescale_steps: Count = 10_000
    """Timescale of the reciprocal square root, in steps."""
    cooldown_steps: Whole = 10_000
    """Steps of linear cooldown to 0 at the end."""
    adam_beta2: Annotated[float, Check(lambda x: 0 <= x < 1, "use 0 to below 1")] = 0.95
    """Decay of AdamW's second moment; fine-tuning uses BERT's 0.999. Adafactor has a rule of its
    own."""


@dataclass(frozen=True)
class AugmentConfig(Checked, path="train.augment"):
    """How rendered text varies in training (`rendering/augment.py`), for a tower that also reads
    unclean renderings. All off by default.

    Each text is varied anew in each step, by (seed, step, index in the batch) alone. Evaluation and
    shards never see it.
    """

    share: Annotated[
        float,
        Check(lambda x: 0 < x <= 1, "use a share above 0, to 1; it is off while all else is 0"),
    ] = 1.0
    """Share of texts that vary at all, in everything that is on below; the others are rendered
    plainly. A short training needs those."""
    max_extra_px: Annotated[int, Check(lambda n: 0 <= n <= 8, "use 0 to 8")] = 0
    """Layout: 0 to this many blank columns after each glyph whose cell has room for them, the same
    for a whole text; at most 8."""
    max_offset_px: Whole = 0
    """Layout: the text is moved right, and down, by 0 to this many pixels; what leaves the page is
    lost."""
    double_share: Share = 0.0
    """Layout: share of texts with every pixel doubled in both directions, on pages from 64 px; a
    quarter as many glyphs fit, the rest is cut."""
    stroke_share: Share = 0.0
    """Pixels: share of texts with strokes one pixel wider."""
    contrast: Annotated[float, Check(lambda x: 0 <= x <= 1, "use 0 to 1")] = 0.0
    """Pixels: the distance of ink from page is multiplied by 1 - u * contrast, u uniform in 0..1
    for each text; 0 to 1."""
    inversion_share: Share = 0.0
    """Pixels: share of texts with page and ink swapped, light on dark."""
    noise: Annotated[float, Check(lambda x: 0 <= x <= 2, "use 0 to 2, pixels lie in -1..1")] = 0.0
    """Pixels: Gaussian noise of standard deviation u * noise, in units of -1..1, u uniform in 0..1
    for each text; clamped to -1..1."""

    @property
    def varies_layout(self) -> bool:
        """Whether where glyphs stand varies: masks are then rendered anew in each step."""
        return bool(self.max_extra_px or self.max_offset_px or self.double_share)

    @property
    def varies_pixels(self) -> bool:
        """Whether how glyphs look varies: masks are then expanded before the tower."""
        return bool(self.stroke_share or self.contrast or self.inversion_share or self.noise)

    def deciding(self) -> dict[str, Any]:
        """Nothing while all is off: a share of nothing decides nothing."""
        return super().deciding() if self.varies_layout or self.varies_pixels else {}

    def check_fits(self, render: RenderConfig, model: ModelConfig) -> None:
        """Raise ConfigError where such a tower, or such a page, cannot be trained so."""
        if not (self.varies_layout or self.varies_pixels):
            return
        require(
            model.kind == "clippo",
            f"train.augment is about rendered text; model.kind {model.kind} reads none.",
        )
        px = render.image_px
        require(
            self.max_offset_px < px,
            f"train.augment.max_offset_px is {self.max_offset_px}, and the page has only {px} px.",
        )
        require(
            self.double_share == 0 or px >= 64,
            f"train.augment.double_share needs pages of at least 64 px; render.image_px is {px}.",
        )


@dataclass(frozen=True)
class TrainConfig(Checked, path="train"):
    """Length, batch, precision, memory and checkpoints of a training run."""

    steps: Count = 250_000
    """Optimizer steps."""
    batch_pairs: Count = 10_240
    """Pairs in the global batch, over all ranks; the loss contrasts all of them."""
    zero_stage: Runtime[ZeroStage] = 0
    """DeepSpeed ZeRO stage; 0 is the plain engine (torch), without DeepSpeed. The paper's towers
    fit whole (B/16 2.1 GiB, L/16 7.1 GiB with all state), and sharding them would only add an
    all-gather of the weights to each step."""
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    """Autocast type of the tower; weights, loss and optimizer stay float32."""
    memory: Runtime[Literal["auto", "plain", "recompute", "cached", "checkpoint"]] = "auto"
    """How activations fit: keep all; recompute pointwise ones; cached gradients in chunks;
    recompute whole blocks; `auto` picks the cheapest that fits and says why."""
    chunk_pairs: Runtime[Whole] = 0
    """Pairs per chunk and rank under `cached`; 0 = as many as fit."""
    memory_gib: Runtime[NotNegative] = 0.0
    """Device memory that `auto` may count on, in GiB; 0 = what the device reports, or no limit on a
    CPU."""
    compile: Runtime[bool] = False
    """torch.compile the tower's blocks: the same mathematics, to rounding."""
    save_every_steps: Runtime[Count] = 1_000
    """Steps between checkpoints; the last step is always saved."""
    keep_checkpoints: Runtime[Count] = 3
    """How many checkpoints stay; older ones are deleted."""
    max_skipped_steps: Runtime[Whole] = 10
    """Steps with a non-finite loss that may be skipped before the run stops."""
    loader_workers: Runtime[Whole] = 4
    """Processes per rank that decode and render; 0 = in the training process."""
    timeout_seconds: Runtime[Positive] = 60.0
    """A rank that does not answer for this long is taken for dead."""
    resume_from: Input[str] = ""
    """A checkpoint to go on from when the run has none of its own (weights, optimizer and step)."""
    augment: AugmentConfig = AugmentConfig()
    """How rendered text varies; off by default, as in the paper."""
    tracker: Runtime[Literal["none", "tensorboard", "mlflow"]] = "none"
    """Where the journal's figures, the results and the verdict go as well. TensorBoard's files lie
    in the run's folder; the tool is installed apart."""
    tracker_uri: Runtime[str] = ""
    """Address of the MLflow server."""
    attention: Runtime[Literal["auto", "flash", "cudnn", "efficient", "math"]] = "auto"
    """Kernel of attention, preferred where it can run: the same function, to rounding. `auto`: on a
    Hopper GPU flash or cuDNN by a short probe, kept when the run goes on; else torch's choice."""

    def check_together(self) -> None:
        """MLflow has an address."""
        require(
            self.tracker != "mlflow" or bool(self.tracker_uri),
            "train.tracker is mlflow, and train.tracker_uri is empty; give the server's address.",
        )

    def pairs_per_rank(self, world_size: int) -> int:
        """Pairs of the global batch on each of `world_size` ranks. Raises ConfigError where they do
        not divide."""
        require(
            self.batch_pairs % world_size == 0,
            f"train.batch_pairs {self.batch_pairs} does not divide by {world_size} ranks; "
            f"use {self.batch_pairs // world_size * world_size or world_size} or another number "
            "of ranks.",
        )
        return self.batch_pairs // world_size


@dataclass(frozen=True)
class FinetuneConfig(Checked, path="finetune"):
    """Fine-tuning of a whole tower for VQA or GLUE. Defaults are BERT's protocol."""

    batch_size: Count = 32
    """Examples per step, over all ranks."""
    epochs: Count = 3
    """Passes over the training set."""
    learning_rates: Annotated[
        tuple[Positive, ...], Check(bool, "name at least one positive rate")
    ] = (2e-5, 3e-5, 4e-5, 5e-5)
    """Sweep: one trial each; the best on the dev set is reported, with the number of trials."""
    head_lr_multiplier: Positive = 1.0
    """The new head's learning rate over the tower's."""
    weight_decay: NotNegative = 0.01
    """AdamW's decoupled weight decay."""
    warmup_share: Share = 0.1
    """Share of all steps with linear warm-up, 0..1."""
    patience_epochs: Whole = 0
    """Stop a trial after this many epochs without a better dev score; 0 = never."""
    max_steps: Whole = 0
    """Stop a trial after this many steps; 0 = after `epochs`. A limit is stated in the result's
    protocol."""
