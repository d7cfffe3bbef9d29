"""`clippo tokenizer`: a SentencePiece model for the baselines that read tokens."""

from __future__ import annotations

import argparse
from collections.abc import Iterable

from clippo_core.cli.options import Names, add_command, lines
from clippo_core.errors import ConfigError

EXAMPLES = """\
Lower-cased, with byte fallback, ids as T5's; what model.tokenizer of 1T-CLIP and CLIP* names.

From a run's sources, and from text files:
  clippo tokenizer --config run.json --out captions.model
  clippo tokenizer en.txt de.txt --size 8000 --out ende.model
"""


def add(names: Names) -> None:
    """Add the command."""
    summary = "a SentencePiece model for the baselines that read tokens"
    command = add_command(names, "tokenizer", tokenizer, summary, EXAMPLES)
    command.add_argument("file", nargs="*", help="one text per line, UTF-8")
    command.add_argument(
        "--config",
        default="",
        metavar="RUN.json",
        help="take the texts of this run's sources instead",
    )
    command.add_argument(
        "--size",
        type=int,
        default=32_000,
        help="pieces (default 32,000); fewer where the text gives no more",
    )
    command.add_argument("--out", required=True, metavar="FILE.model")


def tokenizer(chosen: argparse.Namespace) -> None:
    """A SentencePiece model for the token towers, from text files or a run's own sources."""
    from clippo_core import models, storage
    from clippo_core.config import RunConfig

    if bool(chosen.file) == bool(chosen.config):
        raise ConfigError(
            "give text files, or --config RUN.json for the captions and sentences of a run's"
            " sources."
        )
    texts: Iterable[str] = (line for path in chosen.file for line in lines(path))
    if chosen.config:
        try:
            config = RunConfig.from_json(storage.read_text(chosen.config))
        except ConfigError as error:
            raise ConfigError(f"{chosen.config}: {error}") from error
        texts = models.corpus(config.data)
    models.train_tokenizer(texts, chosen.out, chosen.size)
    print(f"{chosen.out}: {models.load_tokenizer(chosen.out).get_piece_size():,} pieces")
