"""The towers that the paper compares CLIPPO with: text as SentencePiece tokens, everything else the
same.

    one_tower_clip   1T-CLIP   patches ─┐
                               tokens ──┴▶ one trunk, one MAP head, one Dense
    two_tower_clip   CLIP*     patches ──▶ trunk, MAP head, Dense
                               tokens ──▶ another trunk, last token, another Dense
    tokens                     [n, text_tokens], padded with EOS

Token and patch embeddings have positions of their own. Attention is not masked: the end-of-sentence
token fills a text up, as in the reference (big_vision models/proj/image_text/text_transformer.py,
whose tower ends with the last token and has no MAP head). Where 1T-CLIP is not in the authors'
code, these sizes reproduce the paper's 118 and 349 million parameters. The
tokenizer is in `text.py`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from clippo_core.config import ModelConfig
from clippo_core.models.tower import (
    Recompute,
    Tower,
    layer_norm,
    project,
    run_blocks,
    transformer_blocks,
    unit_rows,
)


class OneTowerClip(Tower):
    """1T-CLIP: the trunk, MAP head and Dense are shared; texts enter as tokens."""

    def __init__(self, config: ModelConfig, image_px: int, vocab_size: int) -> None:
        super().__init__(config, image_px)
        self.token_embed = nn.Embedding(vocab_size, config.width)
        self.text_pos_embed = nn.Parameter(torch.empty(1, config.text_tokens, config.width))
        self._note_names()

    def _both_features(self, photos: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        if self.pos_embed.shape[1] != self.text_pos_embed.shape[1]:
            return self._photo_features(photos), self._features(self._text_tokens(text))
        features = self._features(torch.cat([self._photo_tokens(photos), self._text_tokens(text)]))
        return features[: len(photos)], features[len(photos) :]

    def _text_tokens(self, encoded: Tensor) -> Tensor:
        return self.token_embed(encoded.long()) + self.text_pos_embed


class TwoTowerClip(Tower):
    """CLIP*: the image tower under timm's names, and a text tower under `text.`"""

    def __init__(self, config: ModelConfig, image_px: int, vocab_size: int) -> None:
        super().__init__(config, image_px)
        self.text = TextTower(config, vocab_size)
        self._note_names()

    def pooled_encoded_text(self, encoded: Tensor) -> Tensor:
        """The text tower's last token, [n, text_tokens] -> [n, width]."""
        self.text.recompute = self.recompute
        return self.text(encoded)

    def _both_features(self, photos: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        return self._photo_features(photos), unit_rows(
            project(self.text.head, self.pooled_encoded_text(text))
        )

    def _projection(self, text: bool = False) -> nn.Linear:
        return self.text.head if text else self.head


class TextTower(nn.Module):
    """Tokens [n, text_tokens] -> the last position's state [n, width], before its `head`."""

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        super().__init__()
        self.recompute: Recompute = "none"
        self.token_embed = nn.Embedding(vocab_size, config.width)
        self.pos_embed = nn.Parameter(torch.empty(1, config.text_tokens, config.width))
        self.blocks = transformer_blocks(config)
        self.norm = layer_norm(config.width)
        self.head = nn.Linear(config.width, config.embed_dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """Token ids [n, text_tokens] -> [n, width]."""
        return run_blocks(
            self.blocks, self.norm, self.token_embed(tokens.long()) + self.pos_embed, self.recompute
        )[:, -1]
