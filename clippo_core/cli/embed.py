"""`clippo embed`: embeddings of pictures and texts, into a folder of shards or one .npz."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clippo_core import storage
from clippo_core.cli.options import Names, add_command, add_model, load
from clippo_core.errors import ConfigError, DataError
from clippo_core.extras import optional_import
from clippo_core.search import collection, embedding, inputs
from clippo_core.search.collection import Side
from clippo_core.search.inputs import Item
from clippo_core.storage import local

if TYPE_CHECKING:
    import numpy as np

    from clippo_core.embedder import Clippo

EXAMPLES = """\
Writes unit rows; the dot product of two rows is their cosine.

A folder of pictures, for `clippo index` and `clippo search`:
  clippo embed clippo_b16_yfcc100m --images photos --out photos.emb
Tars of webdataset, or a list, or what a pipe names:
  clippo embed model.safetensors --images 'shards/{00000..00099}.tar' --out shards.emb
  find /data -name '*.jpg' | clippo embed model.safetensors --images - --out data.emb
Texts, one a line:
  clippo embed model.safetensors --texts captions.txt --out captions.emb
A few of both into one file:
  clippo embed model.safetensors --images 1.jpg 2.jpg --texts names.txt --out few.npz

The folder has the layout of clip-retrieval: img_emb/img_emb_0.npy, text_emb/text_emb_0.npy and
metadata/metadata_0.parquet (key, image_path, caption), one of each for 100,000 items. Killed and
started again, the same command goes on behind the last shard. Pictures that cannot be read are
listed in bad.tsv.

The .npz holds `images` [n, d] and `texts` [n, d] as float32, and their names as UTF-8 lines:
bytes(file["text_names"]).decode().split("\\n").
"""
_OTHERS = (".npy", ".parquet", ".csv", ".tsv", ".json", ".pt", ".h5", ".txt", ".safetensors")
"""Endings of files that somebody may expect; a folder may be called anything else."""
_SHOWN = 5
"""Bad pictures that are named on the terminal."""


def add(names: Names) -> None:
    """Add the command."""
    command = add_command(
        names, "embed", embed, "embeddings of pictures and texts, resumable", EXAMPLES
    )
    add_model(command)
    command.add_argument(
        "--images",
        nargs="+",
        metavar="PATH",
        default=[],
        help="pictures, folders, .tar files, lists of paths (- is standard input); local or s3://",
    )
    command.add_argument(
        "--texts", metavar="FILE", help="one text per line, UTF-8; - is standard input"
    )
    command.add_argument(
        "--preprocess",
        choices=("squash", "fewshot"),
        default="squash",
        help="fewshot cuts the middle out of a larger squash",
    )
    command.add_argument(
        "--out", required=True, metavar="DIR", help="a folder (local or s3://), or FILE.npz"
    )
    command.add_argument(
        "--bad",
        choices=("skip", "fail"),
        default="skip",
        help="fail: stop at the first picture or text that cannot be used",
    )
    command.add_argument(
        "--dtype",
        choices=("float32", "float16"),
        default="float32",
        help="of a folder's rows; float16 takes half the room",
    )
    command.add_argument(
        "--shard-size",
        type=int,
        default=embedding.SHARD_SIZE,
        help="items of a shard (default 100,000)",
    )


def embed(chosen: argparse.Namespace) -> None:
    """Embed what was named; all that can be wrong with it is said before the model is loaded."""
    from clippo_core.opening import find_model

    if chosen.texts is None and not chosen.images:
        raise ConfigError("there is nothing to embed; give --images PATH… or --texts FILE (or -).")
    if chosen.batch_size < 1:
        raise ConfigError(f"--batch-size is {chosen.batch_size}; it must be at least 1.")
    is_file = _check_target(chosen.out)
    if not is_file:
        with optional_import():
            import pyarrow.parquet  # noqa: F401  metadata are written with it
    inputs.check(chosen.images, chosen.texts)
    sides: dict[Side, Iterable[Item]] = {}
    if chosen.images:
        sides["images"] = inputs.pictures(chosen.images)
    if chosen.texts is not None:
        sides["texts"] = inputs.texts(chosen.texts)
    found = find_model(chosen.model)
    model = load(chosen, found)
    if is_file:
        _into_file(chosen, model, sides)
    else:
        _into_folder(chosen, model, found.uri, sides)


def _check_target(out: str) -> bool:
    """Whether the target is an .npz; raises for one that cannot be written."""
    is_file, is_local = out.endswith(".npz"), storage.is_local(out)
    if not is_local:
        storage.exists(out)  # a bucket that is not there, or may not be read, says so
        return is_file
    path = storage.local_path(out)
    if is_file and path.is_dir() or not is_file and path.is_file():
        raise ConfigError(f"{out}: it is there already, as a {'folder' if is_file else 'file'}.")
    if path.suffix.lower() in _OTHERS and not path.is_dir():
        raise ConfigError(f"{out}: no {path.suffix} is written; name a folder, or FILE.npz.")
    if is_file and not path.parent.is_dir():
        raise ConfigError(f"{out}: there is no folder {path.parent}; make it, or correct the name.")
    if not is_file:
        with local.explained(out, "written"):
            local.make_folder(path)
    if not os.access(path.parent if is_file else path, os.W_OK):
        raise ConfigError(f"{out}: this user may not write there; choose another place.")
    return is_file


def _into_folder(
    chosen: argparse.Namespace, model: Clippo, name: str, sides: dict[Side, Iterable[Item]]
) -> None:
    """name: the address that loads this very model again."""
    name = str(Path(name).absolute()) if Path(name).exists() else name
    fresh = embedding.facts_of(model, name, chosen.preprocess, chosen.dtype, chosen.shard_size)
    facts = collection.resumed(chosen.out, fresh)
    for side, items in sides.items():
        facts = embedding.embed_collection(
            model, chosen.out, facts, side, items, batch_size=chosen.batch_size,
            skip_bad=chosen.bad == "skip", say=_say,
        )  # fmt: skip
    n_rows = {side: sum(one.rows for one in facts.shards(side)) for side in sides}
    n_bad = sum(one.inputs for one in (*facts.images, *facts.texts)) - sum(
        one.rows for one in (*facts.images, *facts.texts)
    )
    _finish(chosen.out, n_rows, facts.dim, n_bad, f"see {storage.join(chosen.out, collection.BAD)}")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _into_file(
    chosen: argparse.Namespace, model: Clippo, sides: dict[Side, Iterable[Item]]
) -> None:
    import numpy as np

    arrays: dict[str, np.ndarray] = {}
    bad: list[Item] = []
    for side, items in sides.items():
        names, rows = list[str](), [np.empty((0, model.model.embed_dim), np.float32)]
        for good, found in embedding.batches(
            model, side, list(items), bad, chosen.batch_size, chosen.preprocess,
            skip_bad=chosen.bad == "skip",
        ):  # fmt: skip
            names += [item.name for item in good]
            rows.append(found)
        arrays |= {side: np.concatenate(rows), f"{side[:-1]}_names": _as_lines(names)}
    for item in bad[:_SHOWN]:
        print(f"left out: {item.problem}", file=sys.stderr)
    content = io.BytesIO()
    np.savez(content, **arrays)  # type: ignore[arg-type]
    storage.write_bytes(chosen.out, content.getvalue())
    n_rows = {side: len(arrays[side]) for side in sides}
    _finish(chosen.out, n_rows, model.model.embed_dim, len(bad), "named above")


def _as_lines(names: list[str]) -> np.ndarray:
    """Names as the UTF-8 bytes of lines: numpy's texts would each take the room of the longest."""
    import numpy as np

    return np.frombuffer("\n".join(names).encode(), np.uint8)


def _finish(out: str, n_rows: dict[Any, int], dim: int, n_bad: int, where: str) -> None:
    sizes = ", ".join(f"{count:,} {side}" for side, count in n_rows.items())
    if not sum(n_rows.values()):
        raise DataError(
            f"{out}: nothing could be embedded; {n_bad:,} items were left out ({where})."
        )
    left = f"; {n_bad:,} left out, {where}" if n_bad else ""
    print(f"{out}: {sizes}, {dim} numbers each{left}")
