"""Nearest neighbours of a vector among the rows of a collection: exact, or by a graph of usearch or
faiss where one of them is installed.

    exact            every row, in blocks: the k largest q · row     nothing to build
    usearch, faiss   some rows only, along a graph (HNSW)            built once; fast for millions

What a graph finds is scored again with the rows themselves, so cosines are exact either way; what
it may miss is measured when it is built: recall@10 = the share of the exact ten that it finds.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from clippo_core import storage
from clippo_core.errors import ConfigError, DataError
from clippo_core.search import collection
from clippo_core.search.collection import Facts, Side

Kind = Literal["exact", "usearch", "faiss"]
Candidates = Callable[[np.ndarray, int], np.ndarray]
"""(a unit vector [dim], how many) -> rows, whole numbers [at most so many]."""
KS = 10
_QUERIES = 200
"""Rows, and as many texts, that the recall is measured with."""
_BLOCK_ROWS = 65_536
_CONNECTIVITY, _EFFORT = 32, 128
"""Neighbours of a graph's node; nodes that a search or an insertion looks at."""


@dataclass(frozen=True)
class IndexFacts:
    """index/SIDE.json: an index and what it was measured at."""

    kind: Kind
    rows: int
    embeddings: str
    """sha256 over the shards that it was built of."""
    n_queries: int
    recall_images: float
    """recall@10 in percent of rows asking for their neighbours."""
    recall_texts: float | None
    """The same of texts asking for pictures; None where the collection holds no text."""
    milliseconds: float
    """Of one search, and of one that looks at every row."""
    exact_milliseconds: float


class Rows:
    """All rows of one side of a collection, mapped from their files."""

    def __init__(self, folder: str, facts: Facts, side: Side) -> None:
        shards = range(len(facts.shards(side)))
        self.parts = [collection.shard_rows(folder, facts, side, number) for number in shards]
        self.starts = np.cumsum([0, *(len(part) for part in self.parts)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def at(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Some of the rows, float32 [n, dim]."""
        return np.stack([self._one(int(row)) for row in rows]).astype(np.float32)

    def place(self, row: int) -> tuple[int, int]:
        """(shard, row in it) of a row."""
        shard = int(np.searchsorted(self.starts, row, side="right")) - 1
        return shard, row - int(self.starts[shard])

    def nearest(self, vector: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k rows of the largest cosine with a unit vector, best first (of equal ones the first
        row), and the cosines.
        """
        best, scores = np.empty(0, np.int64), np.empty(0, np.float32)
        for part, start in zip(self.parts, self.starts, strict=False):
            for begin in range(0, len(part), _BLOCK_ROWS):
                found = np.asarray(part[begin : begin + _BLOCK_ROWS], np.float32) @ vector
                rows = start + begin + np.arange(len(found))
                if len(found) > k:
                    kept = np.flatnonzero(found >= np.partition(found, -k)[-k])  # equal ones, too
                    rows, found = rows[kept], found[kept]
                best, scores = np.concatenate([best, rows]), np.concatenate([scores, found])
                order = np.lexsort((best, -scores))[:k]
                best, scores = best[order], scores[order]
        return best, scores

    def _one(self, row: int) -> np.ndarray:
        shard, place = self.place(row)
        return self.parts[shard][place]


def choose(wanted: str = "auto") -> Kind:
    """The kind of index to build: usearch or faiss, whichever is installed first, else exact.
    Raises ConfigError for a kind that is not installed.
    """
    if wanted == "exact":
        return "exact"
    kinds: tuple[Kind, ...] = ("usearch", "faiss")
    found = [kind for kind in kinds if importlib.util.find_spec(kind)]
    if wanted == "auto":
        return found[0] if found else "exact"
    if wanted not in found:
        package = {"faiss": "faiss-cpu"}.get(wanted, wanted)
        raise ConfigError(
            f"{wanted} is not installed; pip install {package}, or run `clippo index` with --kind"
            " exact."
        )
    return "usearch" if wanted == "usearch" else "faiss"


def build(folder: str, facts: Facts, side: Side, kind: Kind) -> IndexFacts:
    """Build an index of one side, measure it, and write it into the folder (a local one). Raises
    ConfigError, DataError, StorageError.
    """
    rows = Rows(folder, facts, side)
    if not len(rows):
        raise DataError(f"{folder}: it holds no {side} to index.")
    path = _file(folder, side, kind)
    if kind != "exact":
        path.parent.mkdir(exist_ok=True)
        _BUILD[kind](rows, facts.dim, path)
    candidates = _opened(kind, path, facts.dim)
    chosen = np.random.default_rng(0).permutation(len(rows))[:_QUERIES]
    own = rows.at(chosen)
    recall, took, took_exact = _measure(rows, candidates, own)
    recall_texts = None
    if side == "images" and facts.texts:
        texts = Rows(folder, facts, "texts")
        if len(texts):
            some = np.random.default_rng(0).permutation(len(texts))[:_QUERIES]
            recall_texts = _measure(rows, candidates, texts.at(some))[0]
    found = IndexFacts(
        kind, len(rows), _digest(facts, side), len(own), recall, recall_texts, took, took_exact
    )
    text = json.dumps(dataclasses.asdict(found), indent=1)
    storage.write_text(_facts_uri(folder, side), text + "\n")
    return found


def read(folder: str, facts: Facts, side: Side) -> tuple[IndexFacts | None, Candidates | None]:
    """What `build` left, and what finds candidates by it; (None, None) where there is no index, and
    no candidates where it is exact. Raises ConfigError for one that is out of date, or whose
    library is not installed.
    """
    uri = _facts_uri(folder, side)
    if not storage.exists(uri):
        return None, None
    text = storage.read_text(uri)
    found = collection.read_record(IndexFacts, text, uri, "run `clippo index` again")
    if found.embeddings != _digest(facts, side):
        raise ConfigError(
            f"{folder}: its index was built of other embeddings; run `clippo index {folder}` again."
        )
    return found, _opened(choose(found.kind), _file(folder, side, found.kind), facts.dim)


def search(
    rows: Rows, candidates: Candidates | None, vector: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """As `Rows.nearest`, among all rows or what an index finds."""
    if candidates is None:
        return rows.nearest(vector, k)
    found = candidates(vector, k)
    scores = rows.at(found) @ vector if len(found) else np.empty(0, np.float32)
    order = np.lexsort((found, -scores))[:k]
    return found[order], scores[order]


def _measure(
    rows: Rows, candidates: Candidates | None, queries: np.ndarray
) -> tuple[float, float, float]:
    """(recall@10 in percent, milliseconds a search, milliseconds an exact search)."""
    k, shares = min(KS, len(rows)), []
    begin = time.perf_counter()
    exact = [rows.nearest(query, k)[0] for query in queries]
    between = time.perf_counter()
    found, end = exact, between + (between - begin)
    if candidates is not None:
        found = [search(rows, candidates, query, k)[0] for query in queries]
        end = time.perf_counter()
    for one, other in zip(exact, found, strict=True):
        shares.append(len(np.intersect1d(one, other)) / k)
    each = 1000 / len(queries)
    return 100 * float(np.mean(shares)), each * (end - between), each * (between - begin)


def _build_usearch(rows: Rows, dim: int, path: Path) -> None:
    from usearch.index import Index

    index = Index(
        ndim=dim, metric="ip", dtype="f32", connectivity=_CONNECTIVITY,
        expansion_add=_EFFORT, expansion_search=_EFFORT,
    )  # fmt: skip
    for part, start in zip(rows.parts, rows.starts, strict=False):
        index.add(start + np.arange(len(part)), np.asarray(part, np.float32))
    index.save(str(path))


def _build_faiss(rows: Rows, dim: int, path: Path) -> None:
    import faiss

    index = faiss.IndexHNSWFlat(dim, _CONNECTIVITY, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = _EFFORT
    for part in rows.parts:
        index.add(np.ascontiguousarray(part, np.float32))
    faiss.write_index(index, str(path))


_BUILD: dict[str, Callable[[Rows, int, Path], None]] = {
    "usearch": _build_usearch,
    "faiss": _build_faiss,
}


def _opened(kind: Kind, path: Path, dim: int) -> Candidates | None:
    """What finds candidates by an index file, which `build` made on this machine."""
    if kind == "exact":
        return None
    if not path.is_file():
        raise ConfigError(f"{path}: the index is gone; run `clippo index` again.")
    if kind == "usearch":
        from usearch.index import Index

        graph = Index(ndim=dim, metric="ip", dtype="f32", expansion_search=_EFFORT)
        graph.view(str(path))
        return lambda vector, k: graph.search(vector, k).keys.astype(np.int64)
    import faiss

    index = faiss.read_index(str(path))
    index.hnsw.efSearch = _EFFORT

    def by_faiss(vector: np.ndarray, k: int) -> np.ndarray:
        found: np.ndarray = index.search(vector[None], k)[1][0]
        return found[found >= 0]

    return by_faiss


def _digest(facts: Facts, side: Side) -> str:
    """sha256 over the shards, and the weights that made them."""
    said = [facts.weights_sha256, *(dataclasses.astuple(shard) for shard in facts.shards(side))]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()


def _facts_uri(folder: str, side: Side) -> str:
    return storage.join(folder, "index", f"{side}.json")


def _file(folder: str, side: Side, kind: Kind) -> Path:
    if not storage.is_local(folder):
        raise ConfigError(f"{folder}: an index lies in a local folder; copy the embeddings first.")
    return storage.local_path(folder) / "index" / f"{side}.{kind}"
