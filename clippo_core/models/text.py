"""Texts as a tower reads them: rendered for CLIPPO, SentencePiece tokens for the baselines.

    clippo, image_only   list of n str ─▶ column masks uint16 [n, H/16, W]
                                          (`rendering/`; expanded on the device)
    token towers         list of n str ─▶ token ids int32 [n, text_tokens]
                                          lower-cased (ASCII), sticky EOS

Sticky EOS: a text ends with EOS, is filled up with EOS, and one that is too long is cut so that its
last token is EOS (big_vision pp/ops_text.py). `train_tokenizer` makes a SentencePiece model from a
text file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from clippo_core import storage
from clippo_core.config import DataConfig, ModelConfig, RenderConfig
from clippo_core.data.sources.kinds import TextRecord, read_source
from clippo_core.errors import ClippoError, ConfigError, NotFoundError, RenderError
from clippo_core.extras import optional_import
from clippo_core.rendering import Renderer, TextEncoder
from clippo_core.untrusted.names import reason, refusal

TOKENIZER_BYTES = 2**28
"""Longest SentencePiece model that is opened; one of 250,000 pieces has 5 MB."""
_ASCII_LOWER = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}


def text_encoder(model: ModelConfig, render: RenderConfig) -> TextEncoder:
    """What turns texts into the input of the tower of `model`. Raises what `load_tokenizer`
    does.
    """
    if model.kind in ("one_tower_clip", "two_tower_clip"):
        return TokenEncoder(model.tokenizer, model.text_tokens)
    return Renderer.from_config(render)


class TokenEncoder:
    """SentencePiece tokens of fixed length. `tokenizer` as in `load_tokenizer`, whose errors it
    raises.
    """

    def __init__(self, tokenizer: str | bytes, text_tokens: int) -> None:
        self.tokenizer = tokenizer
        self.text_tokens = text_tokens
        self.processor = load_tokenizer(tokenizer)

    def __call__(self, texts: Sequence[str], /) -> np.ndarray:
        """Token ids, int32 [n, text_tokens]. Raises RenderError for a text that is no str, naming
        its position.
        """
        for position, text in enumerate(texts):
            if not isinstance(text, str):
                raise RenderError(
                    f"text {position} is {type(text).__name__}, not str; decode it first."
                )
        eos = self.processor.eos_id()
        tokens = np.full((len(texts), self.text_tokens), eos, np.int32)
        for row, ids in zip(
            tokens, self.processor.encode([ascii_lower(text) for text in texts]), strict=True
        ):
            kept = ids[: self.text_tokens - 1]
            row[: len(kept)] = kept
        return tokens

    @property
    def digest(self) -> str:
        """sha256 (hex) over everything that decides a token."""
        facts = f"sentencepiece sticky-eos ascii-lower {self.text_tokens} ".encode()
        return hashlib.sha256(facts + self.processor.serialized_model_proto()).hexdigest()

    def __reduce__(self) -> tuple[Any, ...]:
        return TokenEncoder, (self.tokenizer, self.text_tokens)


def ascii_lower(text: str) -> str:
    """A to Z in lower case, as the reference does; lone surrogates, which UTF-8 and SentencePiece
    do not have, become `?`.
    """
    return text.translate(_ASCII_LOWER).encode("utf-8", "replace").decode()


def load_tokenizer(tokenizer: str | bytes) -> Any:
    """The SentencePieceProcessor of a model file (path, s3:// address, or its bytes).

    Raises NotFoundError; ConfigError where it is no such file, or has no end-of-sentence piece.
    """
    with optional_import():
        from sentencepiece import SentencePieceProcessor

    name = tokenizer if isinstance(tokenizer, str) else "the tokenizer"
    try:
        content = (
            storage.read_bytes(tokenizer, TOKENIZER_BYTES)
            if isinstance(tokenizer, str)
            else tokenizer
        )
    except NotFoundError as error:
        raise NotFoundError(
            f"{name}: no such SentencePiece model. Give model.tokenizer the path of one (T5's and"
            " mT5's `spiece.model` serve), or make one with clippo_core.models.train_tokenizer."
        ) from error
    try:
        if not content or len(content) > TOKENIZER_BYTES:
            raise RuntimeError(f"it has {len(content):,} bytes")
        processor = SentencePieceProcessor(model_proto=content)
    except (RuntimeError, OSError) as error:
        fault = f"it is no SentencePiece model ({reason(error)})"
        raise refusal(ConfigError, name, fault, "give the `.model` file of one") from error
    if processor.eos_id() < 0:
        raise ConfigError(
            f"{name} has no end-of-sentence piece; train it with eos_id >= 0, as train_tokenizer"
            " does."
        )
    return processor


def corpus(data: DataConfig) -> Iterator[str]:
    """Every text of a run's sources, captions and both sides of sentence pairs: what a tokenizer
    for that run is trained on.
    """
    for source in data.sources:
        for record in read_source(source):
            if not record.problem:
                yield from (
                    (record.first, *record.texts)
                    if isinstance(record, TextRecord)
                    else record.texts
                )


def train_tokenizer(texts: Iterable[str], path: str, vocab_size: int = 32_000) -> str:
    """Train a SentencePiece unigram model from `texts` into the file `path`; ids as T5's: pad 0,
    EOS 1, unknown 2, no BOS.

    A corpus too small for `vocab_size` gives fewer pieces. Rare characters become bytes, so that no
    text is one unknown piece (which would make a tokenizer look short). Texts are lower-cased as
    `TokenEncoder` does. Returns `path`. Raises ConfigError where no model comes out.
    """
    import io

    with optional_import():
        from sentencepiece import SentencePieceTrainer

    model = io.BytesIO()
    settings: Any = {
        "model_type": "unigram",
        "byte_fallback": True,
        "character_coverage": 0.9995,
        "hard_vocab_limit": False,
    }
    ids: Any = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
    limits: Any = {
        "input_sentence_size": 2_000_000,
        "max_sentence_length": 16_384,
        "num_threads": 1,
        "minloglevel": 2,
    }
    sentences = (ascii_lower(text) for text in texts if text.strip())
    try:
        SentencePieceTrainer.train(
            sentence_iterator=sentences,
            model_writer=model,
            vocab_size=vocab_size,
            **settings,
            **ids,
            **limits,
        )
    except ClippoError:  # of the texts
        raise
    except (RuntimeError, OSError, ValueError) as error:
        raise ConfigError(
            f"no tokenizer of {vocab_size} pieces comes out of this text: {error}"
        ) from error
    storage.write_bytes(path, model.getvalue())
    return path
