"""`clippo embed`: embeddings of texts and images."""

from __future__ import annotations

import argparse
from typing import Any

from clippo_core.cli.options import Names, add_command, add_model, lines, load
from clippo_core.errors import ConfigError

EXAMPLES = """\
Writes float32 unit rows; the dot product of two rows is their cosine.

  clippo embed clippo_b16_yfcc100m --images photos/*.jpg --out photos.npz
  printf 'a dog\\na cat\\n' | clippo embed model.safetensors --texts - --out texts.npz

texts.npz holds `texts` [n, d] and `text_names` [n]; photos.npz `images` [n, d] and `image_names`
[n]. One command may be given both --texts and --images.
"""


def add(names: Names) -> None:
    """Add the command."""
    command = add_command(
        names, "embed", embed, "embeddings of texts and images, as .npz", EXAMPLES
    )
    add_model(command)
    command.add_argument(
        "--texts", metavar="FILE", help="one text per line, UTF-8; - is standard input"
    )
    command.add_argument(
        "--images", nargs="+", metavar="FILE", default=[], help="pictures, local or s3://"
    )
    command.add_argument(
        "--preprocess",
        choices=("squash", "fewshot"),
        default="squash",
        help="fewshot cuts the middle out of a larger squash",
    )
    command.add_argument("--out", required=True, metavar="FILE.npz")


def embed(chosen: argparse.Namespace) -> None:
    """Embeddings of texts and images into an .npz."""
    import numpy as np

    if chosen.texts is None and not chosen.images:
        raise ConfigError("there is nothing to embed; give --texts FILE (or -) or --images FILE…")
    model = load(chosen)
    arrays: dict[str, Any] = {}
    if chosen.texts is not None:
        texts = lines(chosen.texts)
        arrays |= {
            "texts": model.embed_texts(texts, batch_size=chosen.batch_size),
            "text_names": np.array(texts),
        }
    if chosen.images:
        images = model.embed_images(
            chosen.images, preprocess=chosen.preprocess, batch_size=chosen.batch_size
        )
        arrays |= {"images": images, "image_names": np.array(chosen.images)}
    np.savez(chosen.out, **arrays)
    sizes = ", ".join(
        f"{len(arrays[what])} {what}" for what in ("texts", "images") if what in arrays
    )
    print(f"{chosen.out}: {sizes}, {model.tower.config.embed_dim} numbers each")
