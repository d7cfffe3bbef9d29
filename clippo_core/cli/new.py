"""`clippo new`: a run on one's own data, from the paths of the data."""

from __future__ import annotations

import argparse
import sys

from clippo_core.cli.options import Names, add_command

EXAMPLES = """\
Looks at the data, counts them, and prints a run for them as JSON; what was found goes to standard
error. Edit it, check it, and give it to `pyflyte run workflows pretrain_and_evaluate --config`.

A folder with x.jpg beside x.txt:
  clippo new mine --pairs photos > run.json
Several sources, and a benchmark to be measured on:
  clippo new mine --pairs pairs.csv 'web/*.tar' --retrieval dataset.json photos > run.json

PATH is a folder of pictures with texts, a csv with a header, tars (a folder, web/{0000..0999}.tar),
a dataset of Hugging Face (org/name) or parquet files, Karpathy's or COCO's json, XM3600's or C4's
json lines, a text file, or two line-aligned ones (train.en=train.de). The pictures of a json are
looked for beside it; else name them: dataset.json=photos. All may lie on s3://.
"""


def add(names: Names) -> None:
    """Add the command."""
    command = add_command(names, "new", new, "a run on your own data, as JSON", EXAMPLES)
    command.add_argument("name", metavar="NAME", help="of the run; models of one name compete")
    command.add_argument(
        "--pairs", nargs="+", required=True, action="extend", metavar="PATH", help="see above"
    )
    command.add_argument(
        "--retrieval",
        nargs=2,
        action="append",
        default=[],
        metavar=("ANNOTATIONS", "IMAGES"),
        help="Karpathy's or COCO's json and its pictures, to be evaluated on; may be repeated",
    )
    command.add_argument(
        "--size",
        choices=("tiny", "b16"),
        default="tiny",
        help="tiny: without a GPU; b16: the paper's tower",
    )


def new(chosen: argparse.Namespace) -> None:
    """A run's configuration for these data."""
    from clippo_core.config import to_json
    from clippo_core.run.proposal import propose

    config, notes = propose(chosen.name, chosen.pairs, chosen.retrieval, chosen.size)
    print("\n".join(notes), file=sys.stderr)
    print(to_json(config))
