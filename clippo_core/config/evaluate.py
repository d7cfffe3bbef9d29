"""Configs of the five evaluations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from clippo_core.config.check import Checked, require
from clippo_core.config.hints import Check, Count, Input, Name, OneOrMany, Runtime, Whole
from clippo_core.config.train import FinetuneConfig

XM3600_LANGUAGES: tuple[str, ...] = (
    "ar", "bn", "cs", "da", "de", "el", "en", "es", "fa", "fi", "fil", "fr", "he", "hi", "hr", "hu",
    "id", "it", "ja", "ko", "mi", "nl", "no", "pl", "pt", "quz", "ro", "ru", "sv", "sw", "te", "th",
    "tr", "uk", "vi", "zh",
)  # fmt: skip
"""The 36 languages of Crossmodal-3600, by its codes (big_vision datasets/xm3600/xm3600.py)."""

AtLeastOne = Check(bool, "name at least one")


CLASS_MAPPINGS = ("imagenet_class_index.json", "LOC_synset_mapping.txt")
"""Files beside a list of class names that say which folder is which class (so they decide
labels)."""


@dataclass(frozen=True)
class ImagenetConfig(Checked, path="evaluate.imagenet"):
    """Zero-shot and few-shot classification (paper §4; big_vision evaluators
    discriminative_classifier, fewshot_lsr)."""

    images: Input[Name]
    """ImageFolder (`<class>/<file>`), Hugging Face parquet, or tars, of the validation images."""
    class_names: Input[Name]
    """JSON list of class names in the order of the sorted class folders (or of the parquet's
    labels)."""
    dataset: Input[Name] = "imagenet"
    """Name in metrics and tables."""
    train_images: Input[str] = ""
    """The same, of the few-shot pool; empty = few-shot is not run, and says so."""
    templates: Name = "clip_paper"
    """`clip_paper` (81), `clip` (80), `clip_best` (8), `name` (only the class name), or the path of
    a JSON list with `{}`."""
    shots: tuple[Count, ...] = (10,)
    """Examples per class of the linear probes."""
    n_classes: Input[Count] = 1000
    """Expected number of classes; another count is an error."""
    expect_images: Input[Count] = 50_000
    """Expected number of validation images; fewer makes the result partial."""
    multi_labels: str = ""
    """JSON list of the right classes of each image, in the order of the file names (ReaL's
    real.json), or {file name: classes}; empty = the any-correct accuracy is not given."""


@dataclass(frozen=True)
class RetrievalConfig(Checked, path="evaluate.retrieval"):
    """Image-to-text and text-to-image retrieval on COCO or Flickr30k (big_vision evaluators
    retrieval)."""

    annotations: Input[Name]
    """Karpathy's json, or COCO's captions json."""
    images: Input[Name]
    """Folder of the pictures."""
    dataset: Input[Name] = "coco"
    """Name in metrics and tables."""
    split: str = "test"
    """Split to take from Karpathy's json; COCO's json has none."""
    expect_images: Input[Count] = 5000
    """Expected number of images (COCO 5,000, Flickr30k 1,000); fewer makes the result partial."""
    limit: Whole = 0
    """Take at most this many images; 0 = all. Makes the result partial."""


@dataclass(frozen=True)
class VqaConfig(Checked, path="evaluate.vqa"):
    """VQAv2: question rendered with the image, classification of frequent answers, official
    accuracy (paper §4.2)."""

    train_questions: Input[Name]
    """Official questions json of the training set."""
    train_annotations: Input[Name]
    """Official annotations json of the training set."""
    train_images: Input[str]
    """Folder of the training pictures; `COCO_train2014_000000000042.jpg` and `000000000042.jpg`
    names are both found."""
    questions: Input[Name]
    """Official questions json to answer; the same file as `train_questions` is split by photo."""
    annotations: Input[str] = ""
    """Official annotations json to score against; empty = write EvalAI's json only."""
    images: Input[str] = ""
    """Folder of the pictures to answer about."""
    vocabulary_annotations: Input[tuple[Name, ...]] = ()
    """Further annotation files that count towards the answer vocabulary only (questions without a
    picture at hand)."""
    dataset: Input[Name] = "vqav2"
    """Name in metrics and tables."""
    min_answer_count: Count = 9
    """An answer enters the vocabulary if it is the answer of at least this many questions."""
    image_px: Annotated[
        int,
        Check(
            lambda n: n == 0 or (n >= 32 and n % 16 == 0),
            "it must be 0, or a multiple of 16 and at least 32",
        ),
    ] = 0
    """Resolution of fine-tuning; 0 = the tower's own; 384 in the paper's larger runs."""
    question_place: Literal["overlay", "above"] = "overlay"
    """Over the image's top rows, or above the shrunken image; the paper does not say which."""
    holdout_share: Annotated[
        float, Check(lambda x: 0 < x < 1, "it is a share, between 0 and 1")
    ] = 0.2
    """Share of the photos held out where `questions` is `train_questions`."""
    expect_questions: Input[Count] = 214_354
    """Expected number of scored questions (val2014); fewer makes the result partial."""
    finetune: FinetuneConfig = FinetuneConfig(
        batch_size=256, epochs=10, learning_rates=(1e-4,), head_lr_multiplier=10.0
    )
    """Optimization of the fine-tuning (ViLT's values; the paper's own are not public)."""


@dataclass(frozen=True)
class GlueConfig(Checked, path="evaluate.glue"):
    """GLUE as pixels: sentence pairs on one page, whole model fine-tuned, nine numbers and their
    mean (paper §4.3)."""

    root: Input[Name]
    """Folder with CoLA/, SST-2/, MRPC/, STS-B/, QQP/, MNLI/, QNLI/, RTE/ in the official TSV
    layouts, or parquet files."""
    tasks: Annotated[tuple[Name, ...], AtLeastOne] = (
        "MNLI",
        "QQP",
        "QNLI",
        "SST-2",
        "CoLA",
        "STS-B",
        "MRPC",
        "RTE",
    )
    """Which tasks; the mean is only given for all eight."""
    separator: str = "[SEP]"
    """Rendered between two sentences; from memory of the paper."""
    dataset: Input[Name] = "glue"
    """Name in metrics and tables."""
    limit_train: Whole = 0
    """Take at most this many training rows per task; 0 = all. Makes the result partial."""
    finetune: FinetuneConfig = FinetuneConfig()
    """Optimization of the fine-tuning: BERT's protocol."""


@dataclass(frozen=True)
class Xm3600Config(Checked, path="evaluate.xm3600"):
    """Crossmodal-3600: retrieval per language, unweighted mean (paper §4.4)."""

    captions: Input[Name]
    """captions.jsonl in XM3600's line schema."""
    images: Input[Name]
    """Folder of `<image/key>.jpg` (or .png)."""
    dataset: Input[Name] = "xm3600"
    """Name in metrics and tables."""
    languages: Annotated[tuple[Name, ...], AtLeastOne] = XM3600_LANGUAGES
    """Languages to evaluate; fewer than all 36 makes the result partial."""
    which_captions: Literal["all", "first"] = "all"
    """All captions of an image, any of which is a hit; or only the first."""
    expect_images: Input[Count] = 3600
    """Expected number of images; fewer makes the result partial."""
    limit: Whole = 0
    """Take at most this many images; 0 = all."""


@dataclass(frozen=True)
class EvaluateConfig(Checked, path="evaluate"):
    """The five evaluations. One that is None (or empty) is not run, and the report says so."""

    imagenet: ImagenetConfig | None = None
    """Zero-shot and few-shot classification."""
    retrieval: OneOrMany[tuple[RetrievalConfig, ...]] = ()
    """Image-text retrieval, on any number of benchmarks, each with its own `dataset`."""
    vqa: VqaConfig | None = None
    """Visual question answering."""
    glue: GlueConfig | None = None
    """Language understanding."""
    xm3600: Xm3600Config | None = None
    """Multilingual retrieval."""
    batch_size: Runtime[Count] = 256
    """Pictures decoded ahead of the tower, and examples that a fine-tuned tower predicts at once;
    no digit of a result depends on it."""
    bootstrap_samples: Count = 1000
    """Resamples behind each 95 % interval."""
    precision: Literal["float32", "tf32", "bfloat16"] = "float32"
    """What embeddings are computed in; the results say so where it is not float32. On a GPU the
    others are several times faster: benchmarks/RESULTS.md shows how far the figures move."""

    def deciding(self) -> dict[str, Any]:
        """Without `precision` while it is float32, as before there was a choice."""
        found = super().deciding()
        if self.precision == "float32":
            del found["precision"]
        return found

    def check_together(self) -> None:
        """Raise ConfigError where two benchmarks have one name."""
        names = [config.dataset for config in self.retrieval]
        twice = next((name for name in names if names.count(name) > 1), "")
        require(
            not twice,
            f"evaluate.retrieval has two benchmarks with the dataset {twice!r}; metrics are named"
            " by it, so give each its own.",
        )
