"""The folder that holds an embedded collection, in clip-retrieval's layout.

    DIR/img_emb/img_emb_0.npy            [rows, dim], one row a picture; unit rows
        text_emb/text_emb_0.npy          the same of texts
        metadata/metadata_0.parquet      row by row: key, image_path, caption
        text_metadata/metadata_0.parquet of texts, where there are pictures as well
        bad.tsv                          what could not be embedded, with the reason
        embedding.json                   model, settings, and each finished shard: written last

A shard counts from the moment in which embedding.json names it. Every file appears whole or not at
all and holds no time of day, so a run that was killed and started again leaves equal bytes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np

from clippo_core import storage
from clippo_core.config import decode
from clippo_core.errors import ConfigError, DataError, NotFoundError
from clippo_core.extras import optional_import
from clippo_core.search.inputs import Item
from clippo_core.untrusted.arrays import map_npy
from clippo_core.untrusted.json import at, load_json
from clippo_core.untrusted.limits import LIMITS
from clippo_core.untrusted.names import printable, refusal
from clippo_core.untrusted.parquet import Kind, open_parquet

Side = Literal["images", "texts"]
T = TypeVar("T")
FACTS, BAD = "embedding.json", "bad.tsv"
_BAD_HEAD = "kind\tname\treason\n"
_ROWS = {"images": "img_emb", "texts": "text_emb"}
_GROUP_ROWS = 10_000
"""Rows of one group of the metadata."""
_HEADER_BYTES = 128
"""What numpy writes before the values of a table of plain numbers."""


@dataclass(frozen=True)
class Shard:
    """A finished shard."""

    inputs: int
    """Items that were read for it; those that are no rows are in bad.tsv."""
    rows: int
    sha256: str
    """Over the names of its items."""


@dataclass(frozen=True)
class Facts:
    """embedding.json: what made the embeddings, and how far they are."""

    model: str
    """As it was named; a local one by its whole path."""
    weights_sha256: str
    render_digest: str
    precision: Literal["float32", "tf32", "bfloat16"]
    preprocess: Literal["squash", "fewshot"]
    dtype: Literal["float32", "float16"]
    dim: int
    shard_size: int
    """Items of a shard; the last one may have fewer."""
    images: tuple[Shard, ...] = ()
    texts: tuple[Shard, ...] = ()

    def shards(self, side: Side) -> tuple[Shard, ...]:
        """The finished shards of one side."""
        return self.images if side == "images" else self.texts


@dataclass(frozen=True)
class Row:
    """What the metadata say about a row."""

    key: str
    address: str
    caption: str


def read_facts(folder: str) -> Facts:
    """embedding.json of a folder. Raises NotFoundError, DataError."""
    uri = storage.join(folder, FACTS)
    try:
        text = storage.read_text(uri)
    except NotFoundError:
        raise NotFoundError(
            f"{folder}: it holds no embeddings (no {FACTS}); make them with `clippo embed MODEL"
            f" --images … --out {folder}`."
        ) from None
    return read_record(Facts, text, uri, "embed the collection again")


def read_record(kind: type[T], text: str, uri: str, remedy: str) -> T:
    """A record of its kind from the json text of a file. Raises DataError, with the remedy."""
    plain = at(load_json(text, uri, max_bytes=LIMITS.json_header_bytes), dict, uri)
    try:
        return decode(kind, plain)
    except ConfigError as error:
        raise refusal(DataError, uri, str(error).rstrip("."), remedy) from error


def resumed(folder: str, wanted: Facts) -> Facts:
    """The facts to go on from: those of the folder where it was begun with the same model and
    settings, else `wanted`, written there. Raises ConfigError where others made it, StorageError
    where it cannot be written.
    """
    if not storage.exists(storage.join(folder, FACTS)):
        write_facts(folder, wanted)
        return wanted
    found = read_facts(folder)
    for name in (
        "weights_sha256",
        "render_digest",
        "precision",
        "preprocess",
        "dtype",
        "shard_size",
    ):
        ours, theirs = getattr(wanted, name), getattr(found, name)
        if ours != theirs:
            raise ConfigError(
                f"{folder}: it was begun with {name} {printable(str(theirs), 16)}, and not"
                f" {printable(str(ours), 16)}; name another folder, or remove this one."
            )
    return found


def write_facts(folder: str, facts: Facts) -> None:
    """Put embedding.json."""
    text = json.dumps(dataclasses.asdict(facts), indent=1, ensure_ascii=False)
    storage.write_text(storage.join(folder, FACTS), text + "\n")


def names_digest(items: Sequence[Item]) -> str:
    """sha256 (hex) over what a shard is made of."""
    total = hashlib.sha256()
    for item in items:
        total.update(f"{item.name}\n{item.address}\n".encode(errors="surrogatepass"))
    return total.hexdigest()


class ShardRows:
    """The rows of a shard under way, in memory as they will lie in their file."""

    def __init__(self, rows: int, dim: int, dtype: str) -> None:
        self._bytes = np.empty(_HEADER_BYTES + rows * dim * np.dtype(dtype).itemsize, np.uint8)
        self._values = self._bytes[_HEADER_BYTES:].view(dtype).reshape(rows, dim)
        self.done = 0

    def add(self, rows: np.ndarray) -> None:
        """Append rows [n, dim]."""
        self._values[self.done : self.done + len(rows)] = rows
        self.done += len(rows)

    def npy(self) -> memoryview:
        """The file's bytes, with the rows that were added."""
        header = io.BytesIO()
        values = self._values[: self.done]
        np.lib.format.write_array_header_1_0(
            header, np.lib.format.header_data_from_array_1_0(values)
        )
        assert header.tell() == _HEADER_BYTES
        self._bytes[:_HEADER_BYTES] = np.frombuffer(header.getvalue(), np.uint8)
        return memoryview(self._bytes)[: _HEADER_BYTES + values.nbytes]  # type: ignore[arg-type]


def write_shard(
    folder: str, facts: Facts, side: Side, rows: ShardRows, good: Sequence[Item], inputs: Shard,
    bad: Sequence[Item], apart: bool,
) -> Facts:  # fmt: skip
    """Put a finished shard, and last the facts that name it, which are returned.

    apart: whether texts have metadata of their own, because the folder holds pictures as well.
    """
    number = len(facts.shards(side))
    uri = _rows_uri(folder, side, number)
    npy = rows.npy()  # as it lies in memory; a bucket's client takes nothing but bytes
    storage.write_bytes(uri, npy if storage.is_local(uri) else bytes(npy))  # type: ignore[arg-type]
    storage.write_bytes(_metadata_uri(folder, side, number, apart), _parquet(side, good))
    _write_bad(folder, facts, side, bad)
    shards = (*facts.shards(side), inputs)
    facts = dataclasses.replace(facts, **{side: shards})  # type: ignore[arg-type]
    write_facts(folder, facts)
    return facts


def shard_rows(folder: str, facts: Facts, side: Side, number: int) -> np.ndarray:
    """The rows of a finished shard, [rows, dim], mapped from its file. Raises DataError where they
    are not those that embedding.json names.
    """
    uri = _rows_uri(folder, side, number)
    rows = map_npy(storage.fetch(uri), uri, error=DataError)
    wanted = (facts.shards(side)[number].rows, facts.dim)
    if rows.shape != wanted or rows.dtype != np.dtype(facts.dtype):
        fault = f"it holds {rows.dtype} {rows.shape}, and {FACTS} says {facts.dtype} {wanted}"
        raise refusal(DataError, uri, fault, "embed the collection again")
    return rows


def shard_metadata(folder: str, facts: Facts, side: Side, number: int) -> list[Row]:
    """What the metadata say about each row of a finished shard. Raises DataError."""
    uri = _metadata_uri(folder, side, number, bool(facts.images))
    columns = _COLUMNS[side]
    with open(storage.fetch(uri), "rb") as file:
        table = open_parquet(file, uri, {name: Kind.TEXT for name in columns})
        groups = [table.read_group(group).columns for group in range(len(table.group_rows))]
    found = [
        Row(one.get("key", ""), one.get("image_path", ""), one["caption"])
        for group in groups
        for one in (
            dict(zip(columns, values, strict=True))
            for values in zip(*(group[name] for name in columns), strict=True)
        )
    ]
    if len(found) != facts.shards(side)[number].rows:
        fault = f"it has {len(found):,} rows, and {FACTS} says {facts.shards(side)[number].rows:,}"
        raise refusal(DataError, uri, fault, "embed the collection again")
    return found


_COLUMNS = {"images": ("key", "image_path", "caption"), "texts": ("caption",)}


def _rows_uri(folder: str, side: Side, number: int) -> str:
    return storage.join(folder, _ROWS[side], f"{_ROWS[side]}_{number}.npy")


def _metadata_uri(folder: str, side: Side, number: int, apart: bool) -> str:
    place = "text_metadata" if side == "texts" and apart else "metadata"
    return storage.join(folder, place, f"metadata_{number}.parquet")


def _parquet(side: Side, items: Sequence[Item]) -> bytes:
    with optional_import():
        import pyarrow as pa
        import pyarrow.parquet as pq

    columns = (
        {"caption": [item.name for item in items]}
        if side == "texts"
        else {
            "key": [item.name for item in items],
            "image_path": [item.address for item in items],
            "caption": [item.caption for item in items],
        }
    )
    found = io.BytesIO()
    schema = pa.schema([(name, pa.string()) for name in columns])
    # In small groups and without dictionaries, of which texts that all differ would fill one.
    table = pa.table(columns, schema)
    pq.write_table(table, found, _GROUP_ROWS, compression="zstd", use_dictionary=False)
    return found.getvalue()


def _write_bad(folder: str, facts: Facts, side: Side, bad: Sequence[Item]) -> None:
    """bad.tsv: as many lines as finished shards have items without a row, then the new ones."""
    uri = storage.join(folder, BAD)
    n_kept = sum(one.inputs - one.rows for one in (*facts.images, *facts.texts))
    lines = storage.read_text(uri).split("\n")[1 : n_kept + 1] if n_kept else []
    lines += [f"{side}\t{printable(item.name)}\t{printable(item.problem, 500)}" for item in bad]
    if lines:
        storage.write_text(uri, _BAD_HEAD + "".join(f"{line}\n" for line in lines))
