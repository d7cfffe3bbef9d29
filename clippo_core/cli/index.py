"""`clippo index`: nearest neighbours made fast, and how many of them are found."""

from __future__ import annotations

import argparse

from clippo_core.cli.options import Names, add_command
from clippo_core.search import collection, index

EXAMPLES = """\
Builds an index beside the embeddings and measures it against exact search.

  clippo index photos.emb
  clippo index photos.emb --kind exact

auto takes usearch, else faiss, whichever is installed (pip install usearch); without them search
looks at every row, which needs no index and misses nothing.
"""


def add(names: Names) -> None:
    """Add the command."""
    command = add_command(
        names, "index", run, "an index of a folder of embeddings, and its recall", EXAMPLES
    )
    command.add_argument("folder", metavar="DIR", help="what `clippo embed --out DIR` wrote")
    command.add_argument("--kind", choices=("auto", "exact", "usearch", "faiss"), default="auto")


def run(chosen: argparse.Namespace) -> None:
    """Index every side that the folder has."""
    facts = collection.read_facts(chosen.folder)
    kind = index.choose(chosen.kind)
    sides: tuple[collection.Side, ...] = ("images", "texts")
    for side in sides:
        if not sum(shard.rows for shard in facts.shards(side)):
            continue
        found = index.build(chosen.folder, facts, side, kind)
        print(f"{found.rows:,} {side}: {kind} index")
        asked = f"{found.n_queries:,} of the {side} asking"
        recall = f"  recall@{index.KS} {found.recall_images:.1f} % ({asked})"
        if found.recall_texts is not None:
            recall += f", {found.recall_texts:.1f} % (texts asking)"
        print(f"{recall}, against exact search")
        milliseconds = f"  {found.exact_milliseconds:.2f} ms a search that looks at every row"
        if kind != "exact":
            milliseconds += f", {found.milliseconds:.2f} ms by the index"
        print(milliseconds)
