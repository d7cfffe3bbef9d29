"""Config of the tower."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from clippo_core.config.check import Checked, require
from clippo_core.config.hints import Count, Positive

PROMOTED = "promoted"
"""model.initial_weights: whatever is promoted under this run's name."""


@dataclass(frozen=True)
class ModelConfig(Checked, path="model"):
    """Which tower. Defaults are CLIPPO B/16 (paper, Table 1; big_vision
    models/proj/clippo/one_tower.py)."""

    kind: Literal["clippo", "one_tower_clip", "two_tower_clip", "image_only"] = "clippo"
    """`clippo`: one tower for photos and rendered text. `one_tower_clip`: shared trunk, token
    embedding. `two_tower_clip`: CLIP*. `image_only`: a ViT for VQA's baseline."""
    width: Count = 768
    """Width of the transformer."""
    depth: Count = 12
    """Number of blocks."""
    num_heads: Count = 12
    """Attention heads per block."""
    mlp_dim: Count = 3072
    """Hidden width of the MLPs."""
    embed_dim: Count = 768
    """Width of the embedding that is contrasted."""
    initial_logit_scale: Positive = 10.0
    """exp(t) at step 0."""
    separate_patch_embeddings: bool = False
    """Ablation: one patch embedding for photos, another for rendered text."""
    separate_heads: bool = False
    """Ablation: one head for photos, another for rendered text."""
    tokenizer: str = ""
    """SentencePiece model file, for one_tower_clip and two_tower_clip."""
    text_tokens: Count = 196
    """Length of a tokenized text, for one_tower_clip and two_tower_clip."""
    initial_weights: str = ""
    """Weights to start from, with a new optimizer and a schedule of its own; empty = from scratch.

    A big_vision .npz (everything but head, MAP head and class token), a run's checkpoint (the whole
    tower), or `promoted`: the model that is promoted under this run's name when it is planned."""
    skip_blank_rows: bool = False
    """Experiment, not the paper: rendered text enters the tower without its trailing blank rows,
    packed, from the first step on. 1.74 times fewer FLOPs with Flickr8k's captions, counted; not
    measured on a GPU."""

    PATCH_PX = 16

    def check_together(self) -> None:
        """Width, heads, tokenizer and ablations fit the kind of tower."""
        require(
            self.width % self.num_heads == 0,
            f"model.width {self.width} does not divide into {self.num_heads} heads; change one.",
        )
        require(
            self.kind not in ("one_tower_clip", "two_tower_clip") or bool(self.tokenizer),
            f"model.kind {self.kind} needs model.tokenizer, the path of a SentencePiece model.",
        )
        require(
            self.kind == "clippo" or not (self.separate_patch_embeddings or self.separate_heads),
            f"model.separate_patch_embeddings, separate_heads: {self.kind} has no such ablation.",
        )
        require(
            self.kind == "clippo" or not self.skip_blank_rows,
            f"model.skip_blank_rows is about rendered text; {self.kind} reads none.",
        )

    def check_start(self) -> None:
        """Raise ConfigError for a *start of training* from weights that were trained with another
        forward pass (blank rows skipped or not). Loading a finished tower is fine."""
        scratch = "model.skip_blank_rows is for training from scratch"
        require(
            not (self.skip_blank_rows and self.initial_weights),
            f"{scratch}; {self.initial_weights} was trained on whole pages. Drop one of the two.",
        )
