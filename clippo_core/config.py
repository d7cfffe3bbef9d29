"""A run is a value: frozen dataclasses, one a stage, each field with its unit; wrong values are refused with a sentence.

    RunConfig ── render   how text becomes pixels
              ├─ data     where the pairs come from, and in which shares
              ├─ model    which tower
              ├─ optim    optimizer and learning-rate schedule
              ├─ train    steps, batch, precision, memory, checkpoints
              └─ evaluate the five evaluations

A preset (`presets.py`) returns a complete RunConfig; a variant is `dataclasses.replace`. Nothing here reads a file or an
environment variable. It is not the cluster's shape: nodes, GPUs and memory stand in `tasks/settings.py`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any, Literal

from clippo_core.errors import ConfigError

XM3600_LANGUAGES: tuple[str, ...] = tuple(
    [
        "ar",
        "bn",
        "cs",
        "da",
        "de",
        "el",
        "en",
        "es",
        "fa",
        "fi",
        "fil",
        "fr",
        "he",
        "hi",
        "hr",
        "hu",
        "id",
        "it",
        "ja",
        "ko",
        "mi",
        "nl",
        "no",
        "pl",
        "pt",
        "quz",
        "ro",
        "ru",
        "sv",
        "sw",
        "te",
        "th",
        "tr",
        "uk",
        "vi",
        "zh",
    ]
)
"""The 36 languages of Crossmodal-3600, by its own codes (big_vision datasets/xm3600/xm3600.py)."""


def digest(value: Any) -> str:
    """sha256 (hex) of a config or any JSON-able value, independent of field order."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def require(condition: bool, sentence: str) -> None:
    """Raise ConfigError with `sentence` unless `condition` holds."""
    if not condition:
        raise ConfigError(sentence)


def _as_floats(config: Any, *names: str) -> None:
    """Flyte's JSON turns 1.0 into 1: make floats of the named fields again."""
    for name in names:
        object.__setattr__(config, name, float(getattr(config, name)))


@dataclass(frozen=True)
class RenderConfig:
    """How text becomes pixels (`rendering/`). Its digest, with the fonts' sha256, is the render digest of shards and checkpoints."""

    image_px: int = 224
    """Height and width of every image, photo or drawn text, in pixels: a multiple of 16, at least 32."""
    layout: Literal["reference", "shaped"] = "reference"
    """`reference` is big_vision's layout bit for bit; `shaped` adds bidi, joining, marks and word wrap."""
    monospace: bool = False
    """Give every glyph the full 16 px; the paper's runs do not."""
    fonts: tuple[str, ...] = ()
    """Paths of Unifont .hex files, later ones filling gaps; empty = the shipped Unifont 15.0.01."""
    strict_font: bool = False
    """Raise, instead of warning, at a text whose glyphs differ between the shipped font and the paper's 9.0.06."""

    def __post_init__(self) -> None:
        require(
            self.image_px >= 32 and self.image_px % 16 == 0,
            f"render.image_px is {self.image_px}; it must be a multiple of 16 and at least 32.",
        )
        require(self.layout in ("reference", "shaped"), f"render.layout is {self.layout!r}; use 'reference' or 'shaped'.")


@dataclass(frozen=True)
class SourceConfig:
    """One source of pairs. Photo sources give image/text pairs, the others text/text pairs."""

    kind: Literal["karpathy", "coco", "xm3600", "webdataset", "sentences", "c4", "moses", "tsv"]
    """`karpathy`: Karpathy's json. `coco`: COCO's captions json. `xm3600`: one json line an image. `webdataset`: foreign jpg+txt/json
    tars. `c4`: json lines with a `text`: consecutive sentences. `sentences`: one sentence a line, consecutive lines are a pair.
    `moses`: two line-aligned files. `tsv`: tab-separated first, second (or first language, second
    language, first, second). See `data/sources.py` for the optional `group` of a record."""
    path: str
    """The annotation or text file (local or s3://; .gz is read; `*` in the last part matches several files)."""
    images: str = ""
    """Folder of the pictures, for photo sources."""
    split: str = ""
    """Which split to take, for sources that have them; empty = all. Karpathy's `restval` counts as `train`."""
    second_path: str = ""
    """The second file of `moses`."""
    languages: tuple[str, ...] = ()
    """Languages to take (xm3600), or of the file(s), in order (moses, tsv, c4, sentences, karpathy); empty = all, or `en`."""
    limit: int = 0
    """Take at most this many records, in the file's order; 0 = all."""
    name: str = ""
    """Name in tables and manifests; empty = the kind and the file's stem."""

    def __post_init__(self) -> None:
        kinds = ("karpathy", "coco", "xm3600", "webdataset", "sentences", "c4", "moses", "tsv")
        require(self.kind in kinds, f"source kind is {self.kind!r}; use one of {', '.join(kinds)}.")
        require(bool(self.path), f"a {self.kind} source has no path; name its annotation file.")
        require(
            self.kind not in ("karpathy", "coco", "xm3600") or bool(self.images),
            f"source {self.path} is of kind {self.kind} and needs `images`, the folder of its pictures.",
        )
        require(self.kind != "moses" or bool(self.second_path), f"source {self.path} is of kind moses and needs `second_path`.")

    @property
    def has_photos(self) -> bool:
        """Whether its records have a photo; the others are text/text pairs."""
        return self.kind in ("karpathy", "coco", "xm3600", "webdataset")


@dataclass(frozen=True)
class DataConfig:
    """Where the pairs come from, how they are stored, and the share of text pairs in a batch."""

    sources: tuple[SourceConfig, ...]
    """The pair sources, mixed in proportion to their sizes within photos and within texts."""
    text_pair_share: float = 0.0
    """Share of text/text pairs in every global batch, 0..1; the count per batch is exact (largest remainder)."""
    records_per_shard: int = 1000
    """Records in one tar."""
    store_drawings: bool = False
    """Write KEY.text.N.png into the shards; otherwise the loader draws live (the same bits)."""
    max_short_side_px: int = 256
    """Photos with a longer short side are shrunk to it in the shards; 0 = keep the originals' bytes."""
    max_bad_share: float = 0.05
    """Validation fails above this share of unusable records, 0..1; below it they are left out and counted."""

    def __post_init__(self) -> None:
        _as_floats(self, "text_pair_share", "max_bad_share")
        require(bool(self.sources), "data.sources is empty; name at least one source of pairs.")
        require(0 <= self.text_pair_share <= 1, f"data.text_pair_share is {self.text_pair_share}; it is a share, 0 to 1.")
        require(0 <= self.max_bad_share <= 1, f"data.max_bad_share is {self.max_bad_share}; it is a share, 0 to 1.")
        require(self.records_per_shard > 0, f"data.records_per_shard is {self.records_per_shard}; it must be positive.")
        photos = any(source.has_photos for source in self.sources)
        texts = any(not source.has_photos for source in self.sources)
        require(
            self.text_pair_share == 0 or texts,
            f"data.text_pair_share is {self.text_pair_share}, but no source gives text pairs (kinds sentences, c4, moses, tsv).",
        )
        require(
            self.text_pair_share == 1 or photos,
            f"data.text_pair_share is {self.text_pair_share}, but no source gives photos (kinds karpathy, coco, xm3600, webdataset).",
        )


@dataclass(frozen=True)
class ModelConfig:
    """Which tower. Defaults are CLIPPO B/16 (paper, Table 1; big_vision models/proj/clippo/one_tower.py)."""

    kind: Literal["clippo", "one_tower_clip", "two_tower_clip", "image_only"] = "clippo"
    """`clippo`: one tower for photos and drawn text. `one_tower_clip`: shared trunk, token embedding. `two_tower_clip`: CLIP*.
    `image_only`: a ViT for VQA's baseline."""
    width: int = 768
    """Width of the transformer."""
    depth: int = 12
    """Number of blocks."""
    num_heads: int = 12
    """Attention heads a block."""
    mlp_dim: int = 3072
    """Hidden width of the MLPs."""
    embed_dim: int = 768
    """Width of the embedding that is contrasted."""
    initial_logit_scale: float = 10.0
    """exp(t) at step 0."""
    separate_patch_embeddings: bool = False
    """Ablation: one patch embedding for photos, another for drawn text."""
    separate_heads: bool = False
    """Ablation: one head for photos, another for drawn text."""
    tokenizer: str = ""
    """SentencePiece model file, for one_tower_clip and two_tower_clip."""
    text_tokens: int = 196
    """Length of a tokenized text, for one_tower_clip and two_tower_clip."""
    initial_weights: str = ""
    """A big_vision .npz to start from (everything but head, MAP head and class token); empty = from scratch."""
    skip_blank_rows: bool = False
    """Experiment, not the paper: drawn text enters the tower without its trailing blank rows (rounded up to an eighth, quarter, half or
    the whole of the page), from the first step on. Measured on a CPU with Flickr8k's captions: a step 1.8 times as fast."""

    PATCH_PX = 16

    def __post_init__(self) -> None:
        _as_floats(self, "initial_logit_scale")
        for name in ("width", "depth", "num_heads", "mlp_dim", "embed_dim", "text_tokens"):
            require(getattr(self, name) > 0, f"model.{name} is {getattr(self, name)}; it must be positive.")
        require(
            self.width % self.num_heads == 0, f"model.width {self.width} does not divide into {self.num_heads} heads; change one of them."
        )
        require(self.initial_logit_scale > 0, f"model.initial_logit_scale is {self.initial_logit_scale}; it must be positive.")
        needs_tokenizer = self.kind in ("one_tower_clip", "two_tower_clip")
        require(
            not needs_tokenizer or bool(self.tokenizer),
            f"model.kind {self.kind} reads tokens and needs model.tokenizer, the path of a SentencePiece model.",
        )
        require(
            self.kind == "clippo" or not (self.separate_patch_embeddings or self.separate_heads),
            f"model.separate_patch_embeddings and separate_heads are ablations of clippo, not of {self.kind}.",
        )
        require(self.kind == "clippo" or not self.skip_blank_rows, f"model.skip_blank_rows is about drawn text; {self.kind} reads none.")

    def check_start(self) -> None:
        """Raise ConfigError where a training would begin from weights of another function. (A finished tower may be read all the same.)"""
        require(
            not (self.skip_blank_rows and self.initial_weights),
            f"model.skip_blank_rows is for training from scratch; {self.initial_weights} was trained on whole pages. Drop one of the two.",
        )


@dataclass(frozen=True)
class OptimConfig:
    """Optimizer and schedule. Defaults are the paper's (big_vision configs/proj/clippo/train_clippo.py)."""

    name: Literal["adafactor", "adamw"] = "adafactor"
    """big_vision's Adafactor, or AdamW (b1 0.9, b2 as `adam_beta2`)."""
    lr: float = 1e-3
    """Peak learning rate."""
    weight_decay: float = 1e-4
    """p -= multiplier * weight_decay * p, on kernels only: scaled by the schedule, not by lr."""
    clip_norm: float = 1.0
    """Global gradient norm above which gradients are scaled down; 0 = never."""
    momentum_dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Storage of Adafactor's momentum; the reference's is bfloat16."""
    warmup_steps: int = 10_000
    """Steps of linear warm-up."""
    timescale_steps: int = 10_000
    """Timescale of the reciprocal square root, in steps."""
    cooldown_steps: int = 10_000
    """Steps of linear cooldown to 0 at the end."""
    adam_beta2: float = 0.95
    """Decay of AdamW's second moment; fine-tuning uses BERT's 0.999. Adafactor has a rule of its own."""

    def __post_init__(self) -> None:
        _as_floats(self, "lr", "weight_decay", "clip_norm")
        require(self.name in ("adafactor", "adamw"), f"optim.name is {self.name!r}; use 'adafactor' or 'adamw'.")
        require(self.lr > 0, f"optim.lr is {self.lr}; it must be positive.")
        for name in ("weight_decay", "clip_norm", "warmup_steps", "cooldown_steps"):
            require(getattr(self, name) >= 0, f"optim.{name} is {getattr(self, name)}; it must not be negative.")
        require(self.timescale_steps > 0, f"optim.timescale_steps is {self.timescale_steps}; it must be positive.")


@dataclass(frozen=True)
class AugmentConfig:
    """How drawn text varies in training (`rendering/augment.py`), for a tower that also reads unclean drawings. All off by default.

    Each text is varied anew in each step, by (seed, step, place in the batch) alone. Evaluation and shards never see it.
    """

    share: float = 1.0
    """Share of texts that vary at all, in everything that is on below; the others are drawn plainly. A short training needs those."""
    max_extra_px: int = 0
    """Layout: 0 to this many blank columns after each glyph whose cell has room for them, the same for a whole text; at most 8."""
    max_offset_px: int = 0
    """Layout: the text is moved right, and down, by 0 to this many pixels; what leaves the page is lost."""
    double_share: float = 0.0
    """Layout: share of texts with every pixel doubled in both directions, on pages from 64 px; a quarter as many glyphs fit, the rest is
    cut."""
    stroke_share: float = 0.0
    """Pixels: share of texts with strokes one pixel wider."""
    contrast: float = 0.0
    """Pixels: the distance of ink from page is multiplied by 1 - u * contrast, u uniform in 0..1 for each text; 0 to 1."""
    inversion_share: float = 0.0
    """Pixels: share of texts with page and ink swapped, light on dark."""
    noise: float = 0.0
    """Pixels: Gaussian noise of standard deviation u * noise, in units of -1..1, u uniform in 0..1 for each text; clamped to -1..1."""

    def __post_init__(self) -> None:
        _as_floats(self, "share", "double_share", "stroke_share", "contrast", "inversion_share", "noise")
        require(0 < self.share <= 1, f"train.augment.share is {self.share}; use a share above 0, to 1; it is off while all else is 0.")
        for name in ("max_extra_px", "max_offset_px"):
            require(isinstance(getattr(self, name), int), f"train.augment.{name} is {getattr(self, name)!r}; use a whole number of pixels.")
        require(0 <= self.max_extra_px <= 8, f"train.augment.max_extra_px is {self.max_extra_px}; use 0 to 8.")
        require(self.max_offset_px >= 0, f"train.augment.max_offset_px is {self.max_offset_px}; use 0 or more.")
        for name in ("double_share", "stroke_share", "contrast", "inversion_share"):
            require(0 <= getattr(self, name) <= 1, f"train.augment.{name} is {getattr(self, name)}; use 0 to 1.")
        require(0 <= self.noise <= 2, f"train.augment.noise is {self.noise}; use 0 to 2, pixels lie in -1..1.")

    @property
    def varies_layout(self) -> bool:
        """Whether where glyphs stand varies: masks are then drawn anew in each step."""
        return bool(self.max_extra_px or self.max_offset_px or self.double_share)

    @property
    def varies_pixels(self) -> bool:
        """Whether how glyphs look varies: masks are then expanded before the tower."""
        return bool(self.stroke_share or self.contrast or self.inversion_share or self.noise)

    def check_fits(self, render: RenderConfig, model: ModelConfig) -> None:
        """Raise ConfigError where such a tower, or such a page, cannot be trained so."""
        if not (self.varies_layout or self.varies_pixels):
            return
        require(model.kind == "clippo", f"train.augment is about drawn text; model.kind {model.kind} reads none.")
        require(
            self.max_offset_px < render.image_px,
            f"train.augment.max_offset_px is {self.max_offset_px}, and the page has only {render.image_px} px.",
        )
        require(
            self.double_share == 0 or render.image_px >= 64,
            f"train.augment.double_share needs pages of at least 64 px, and render.image_px is {render.image_px}.",
        )
        require(
            not (self.varies_pixels and model.skip_blank_rows),
            "model.skip_blank_rows finds blank rows in the text's masks, which train.augment's stroke_share, contrast, inversion_share and "
            "noise change into pixels; use one or the other.",
        )


@dataclass(frozen=True)
class TrainConfig:
    """Length, batch, precision, memory and checkpoints of a training run."""

    steps: int = 250_000
    """Optimizer steps."""
    batch_pairs: int = 10_240
    """Pairs in the global batch, over all ranks; the loss contrasts all of them."""
    zero_stage: Literal[0, 1, 2, 3] = 1
    """DeepSpeed ZeRO stage; 0 is the plain engine (torch), without DeepSpeed."""
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    """Autocast type of the tower; weights, loss and optimizer stay float32."""
    memory: Literal["auto", "plain", "recompute", "cached", "checkpoint"] = "auto"
    """How activations fit: keep all; recompute pointwise ones; cached gradients in chunks; recompute whole blocks; `auto` picks the
    cheapest that fits and says why."""
    chunk_pairs: int = 0
    """Pairs per chunk and rank under `cached`; 0 = as many as fit."""
    memory_gib: float = 0.0
    """Device memory that `auto` may count on, in GiB; 0 = what the device reports, or no limit on a CPU."""
    compile: bool = False
    """torch.compile the tower."""
    save_every_steps: int = 1_000
    """Steps between checkpoints; the last step is always saved."""
    keep_checkpoints: int = 3
    """How many checkpoints stay; older ones are deleted."""
    max_skipped_steps: int = 10
    """Steps with a non-finite loss that may be skipped before the run stops."""
    loader_workers: int = 4
    """Processes per rank that decode and draw; 0 = in the training process."""
    timeout_seconds: float = 60.0
    """A rank that does not answer for this long is taken for dead."""
    resume_from: str = ""
    """A checkpoint to go on from when the run has none of its own (weights, optimizer and step)."""
    augment: AugmentConfig = AugmentConfig()
    """How drawn text varies; off by default, as in the paper."""

    def __post_init__(self) -> None:
        _as_floats(self, "memory_gib", "timeout_seconds")
        for name in ("steps", "batch_pairs", "save_every_steps", "keep_checkpoints"):
            require(getattr(self, name) > 0, f"train.{name} is {getattr(self, name)}; it must be positive.")
        require(self.zero_stage in (0, 1, 2, 3), f"train.zero_stage is {self.zero_stage}; use 0, 1, 2 or 3.")
        require(self.precision in ("float32", "bfloat16"), f"train.precision is {self.precision!r}; use 'float32' or 'bfloat16'.")
        require(
            self.memory in ("auto", "plain", "recompute", "cached", "checkpoint"),
            f"train.memory is {self.memory!r}; use 'auto', 'plain', 'recompute', 'cached' or 'checkpoint'.",
        )
        require(self.chunk_pairs >= 0, f"train.chunk_pairs is {self.chunk_pairs}; it must not be negative.")
        require(self.timeout_seconds > 0, f"train.timeout_seconds is {self.timeout_seconds}; it must be positive.")

    def pairs_per_rank(self, world_size: int) -> int:
        """Pairs of the global batch on each of `world_size` ranks. Raises ConfigError where they do not divide."""
        require(
            self.batch_pairs % world_size == 0,
            f"train.batch_pairs {self.batch_pairs} does not divide by {world_size} ranks; "
            f"use {self.batch_pairs // world_size * world_size or world_size} or another number of ranks.",
        )
        return self.batch_pairs // world_size


@dataclass(frozen=True)
class FinetuneConfig:
    """Fine-tuning of a whole tower for VQA or GLUE. Defaults are BERT's protocol."""

    batch_size: int = 32
    """Examples a step, over all ranks."""
    epochs: int = 3
    """Passes over the training set."""
    learning_rates: tuple[float, ...] = (2e-5, 3e-5, 4e-5, 5e-5)
    """Sweep: one trial each; the best on the dev set is reported, with the number of trials."""
    head_lr_multiplier: float = 1.0
    """The new head's learning rate over the tower's."""
    weight_decay: float = 0.01
    """AdamW's decoupled weight decay."""
    warmup_share: float = 0.1
    """Share of all steps with linear warm-up, 0..1."""
    patience_epochs: int = 0
    """Stop a trial after this many epochs without a better dev score; 0 = never."""
    max_steps: int = 0
    """Stop a trial after this many steps; 0 = after `epochs`. A limit is stated in the result's protocol."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "learning_rates", tuple(float(lr) for lr in self.learning_rates))
        _as_floats(self, "head_lr_multiplier", "weight_decay", "warmup_share")
        for name in ("batch_size", "epochs"):
            require(getattr(self, name) > 0, f"finetune.{name} is {getattr(self, name)}; it must be positive.")
        require(
            bool(self.learning_rates) and min(self.learning_rates) > 0,
            f"finetune.learning_rates is {self.learning_rates}; name at least one positive rate.",
        )
        require(0 <= self.warmup_share <= 1, f"finetune.warmup_share is {self.warmup_share}; it is a share, 0 to 1.")


@dataclass(frozen=True)
class ImagenetConfig:
    """Zero-shot and few-shot classification (paper §4; big_vision evaluators discriminative_classifier, fewshot_lsr)."""

    images: str
    """ImageFolder (`<class>/<file>`), Hugging Face parquet, or tars, of the validation images."""
    class_names: str
    """JSON list of class names in the order of the sorted class folders (or of the parquet's labels)."""
    dataset: str = "imagenet"
    """Name in metrics and tables."""
    train_images: str = ""
    """The same, of the few-shot pool; empty = few-shot is not run, and says so."""
    templates: str = "clip_paper"
    """`clip_paper` (81), `clip` (80), `clip_best` (8), `name` (only the class name), or the path of a JSON list with `{}`."""
    shots: tuple[int, ...] = (10,)
    """Examples per class of the linear probes."""
    n_classes: int = 1000
    """Expected number of classes; another count is an error."""
    expect_images: int = 50_000
    """Expected number of validation images; fewer makes the result partial."""
    multi_labels: str = ""
    """JSON list of the right classes of each image, in the order of the file names (ReaL's real.json), or {file name: classes}; empty =
    the any-correct accuracy is not given."""


@dataclass(frozen=True)
class RetrievalConfig:
    """Image-to-text and text-to-image retrieval on COCO or Flickr30k (big_vision evaluators retrieval)."""

    annotations: str
    """Karpathy's json, or COCO's captions json."""
    images: str
    """Folder of the pictures."""
    dataset: str = "coco"
    """Name in metrics and tables."""
    split: str = "test"
    """Split to take from Karpathy's json; COCO's json has none."""
    expect_images: int = 5000
    """Expected number of images (COCO 5,000, Flickr30k 1,000); fewer makes the result partial."""
    limit: int = 0
    """Take at most this many images; 0 = all. Makes the result partial."""


@dataclass(frozen=True)
class VqaConfig:
    """VQAv2: question drawn with the image, classification of frequent answers, official accuracy (paper §4.2)."""

    train_questions: str
    """Official questions json of the training set."""
    train_annotations: str
    """Official annotations json of the training set."""
    train_images: str
    """Folder of the training pictures; `COCO_train2014_000000000042.jpg` and `000000000042.jpg` names are both found."""
    questions: str
    """Official questions json to answer; the same file as `train_questions` is split by photo."""
    annotations: str = ""
    """Official annotations json to score against; empty = write EvalAI's json only."""
    images: str = ""
    """Folder of the pictures to answer about."""
    vocabulary_annotations: tuple[str, ...] = ()
    """Further annotation files that count towards the answer vocabulary only (questions without a picture at hand)."""
    dataset: str = "vqav2"
    """Name in metrics and tables."""
    min_answer_count: int = 9
    """An answer enters the vocabulary if it is the answer of at least this many questions."""
    image_px: int = 0
    """Resolution of fine-tuning; 0 = the tower's own; 384 in the paper's larger runs."""
    question_place: Literal["overlay", "above"] = "overlay"
    """Over the image's top rows, or above the shrunken image; the paper does not say which."""
    holdout_share: float = 0.2
    """Share of the photos held out where `questions` is `train_questions`."""
    expect_questions: int = 214_354
    """Expected number of scored questions (val2014); fewer makes the result partial."""
    finetune: FinetuneConfig = FinetuneConfig(batch_size=256, epochs=10, learning_rates=(1e-4,), head_lr_multiplier=10.0)
    """Optimization of the fine-tuning (ViLT's values; the paper's own are not public)."""

    def __post_init__(self) -> None:
        _as_floats(self, "holdout_share")


@dataclass(frozen=True)
class GlueConfig:
    """GLUE as pixels: sentence pairs on one canvas, whole model fine-tuned, nine numbers and their mean (paper §4.3)."""

    root: str
    """Folder with CoLA/, SST-2/, MRPC/, STS-B/, QQP/, MNLI/, QNLI/, RTE/ in the official TSV layouts, or parquet files."""
    tasks: tuple[str, ...] = ("MNLI", "QQP", "QNLI", "SST-2", "CoLA", "STS-B", "MRPC", "RTE")
    """Which tasks; the mean is only given for all eight."""
    separator: str = "[SEP]"
    """Drawn between two sentences; from memory of the paper."""
    dataset: str = "glue"
    """Name in metrics and tables."""
    limit_train: int = 0
    """Take at most this many training rows a task; 0 = all. Makes the result partial."""
    finetune: FinetuneConfig = FinetuneConfig()
    """Optimization of the fine-tuning: BERT's protocol."""


@dataclass(frozen=True)
class Xm3600Config:
    """Crossmodal-3600: retrieval per language, unweighted mean (paper §4.4)."""

    captions: str
    """captions.jsonl in XM3600's line schema."""
    images: str
    """Folder of `<image/key>.jpg` (or .png)."""
    dataset: str = "xm3600"
    """Name in metrics and tables."""
    languages: tuple[str, ...] = XM3600_LANGUAGES
    """Languages to evaluate; fewer than all 36 makes the result partial."""
    which_captions: Literal["all", "first"] = "all"
    """All captions of an image, any of which is a hit; or only the first."""
    expect_images: int = 3600
    """Expected number of images; fewer makes the result partial."""
    limit: int = 0
    """Take at most this many images; 0 = all."""


@dataclass(frozen=True)
class EvaluateConfig:
    """The five evaluations. One that is None is not run, and the report says so."""

    imagenet: ImagenetConfig | None = None
    """Zero-shot and few-shot classification."""
    retrieval: RetrievalConfig | None = None
    """Image-text retrieval."""
    vqa: VqaConfig | None = None
    """Visual question answering."""
    glue: GlueConfig | None = None
    """Language understanding."""
    xm3600: Xm3600Config | None = None
    """Multilingual retrieval."""
    batch_size: int = 256
    """Pictures decoded ahead of the tower, and examples that a fine-tuned tower predicts at once; no digit of a result depends on it."""
    bootstrap_samples: int = 1000
    """Resamples behind each 95 % interval."""


@dataclass(frozen=True)
class RunConfig:
    """Everything about one run: the workflow's one typed input."""

    name: str
    """Name of the run; its folder is `<root>/<name>-<plan digest>`."""
    data: DataConfig
    """Pairs."""
    render: RenderConfig = RenderConfig()
    """Text as pixels."""
    model: ModelConfig = ModelConfig()
    """Tower."""
    optim: OptimConfig = OptimConfig()
    """Optimizer and schedule."""
    train: TrainConfig = TrainConfig()
    """Length, batch, memory, checkpoints."""
    evaluate: EvaluateConfig = EvaluateConfig()
    """Evaluations."""
    root: str = "runs"
    """Folder, or s3://bucket/prefix, under which every run has its own folder."""
    seed: int = 0
    """Seed of initialisation, data order and sampling."""
    is_demo: bool = False
    """Marks every result of this run as the demo's."""
    promote_metric: str = ""
    """Metric that a new model must not lower by more than its interval to be promoted; empty = the mean of all main metrics."""
    tokenizers: tuple[str, ...] = ()
    """SentencePiece models, each as `name=file`, whose lengths stand beside CLIPPO's patches in the report; nothing else reads them.
    Paths as they are: `{kickoff}` is not filled in here."""

    def __post_init__(self) -> None:
        require(
            bool(self.name) and all(c.isascii() and (c.isalnum() or c in "-_.") for c in self.name),
            f"run name {self.name!r} must be letters, digits, '-', '_' and '.', for it names a folder.",
        )
        for tokenizer in self.tokenizers:
            require(all(tokenizer.partition("=")), f"tokenizers has {tokenizer!r}; each is a name, `=` and a SentencePiece file.")
        lead = self.optim.warmup_steps + self.optim.cooldown_steps
        require(
            self.train.steps >= lead,
            f"train.steps is {self.train.steps}, fewer than warm-up ({self.optim.warmup_steps}) plus cooldown "
            f"({self.optim.cooldown_steps}) steps; train longer or shorten them.",
        )
        self.model.check_start()
        self.train.augment.check_fits(self.render, self.model)


def replace(config: Any, **changes: Any) -> Any:
    """`dataclasses.replace`, also into nested configs: replace(run, train__steps=10) changes run.train.steps."""
    direct: dict[str, Any] = {}
    nested: dict[str, dict[str, Any]] = {}
    for path, value in changes.items():
        head, _, rest = path.partition("__")
        if rest:
            nested.setdefault(head, {})[rest] = value
        else:
            direct[head] = value
    for head, inner in nested.items():
        direct[head] = replace(getattr(config, head), **inner)
    return dataclasses.replace(config, **direct)


def to_json(config: Any) -> str:
    """A config as indented JSON, for a folder or a console."""
    return json.dumps(dataclasses.asdict(config), indent=2, ensure_ascii=False)


__all__ = [name for name in dir() if name.endswith("Config")] + ["XM3600_LANGUAGES", "digest", "replace", "require", "to_json"]
