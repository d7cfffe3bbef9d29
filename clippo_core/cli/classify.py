"""`clippo classify`: zero-shot classes of images."""

from __future__ import annotations

import argparse
import json

from clippo_core.cli.options import Names, add_command, add_model, lines, load

EXAMPLES = """\
Zero-shot: each name is put into every template, rendered as an image, and embedded by the same
tower as the photos.

  clippo classify clippo_b16_yfcc100m dog.jpg --names dog cat 'ice cream'
  clippo classify model.npz photos/*.jpg --names-file classes.txt \\
    --template 'a photo of a {}.' --template '{}' --json
"""


def add(names: Names) -> None:
    """Add the command."""
    command = add_command(names, "classify", classify, "zero-shot classes of images", EXAMPLES)
    add_model(command)
    command.add_argument("image", nargs="+", help="pictures, local or s3://")
    command.add_argument("--names", nargs="+", default=[], help="class names")
    command.add_argument("--names-file", metavar="FILE", help="one class name per line")
    command.add_argument(
        "--template",
        action="append",
        metavar="SENTENCE",
        help="with {} for the name; may be repeated",
    )
    command.add_argument("--top", type=int, default=5, help="classes shown per image (default 5)")
    command.add_argument("--json", action="store_true", help="one JSON object per line")


def classify(chosen: argparse.Namespace) -> None:
    """The likeliest names of each image, one line each."""
    names = [*chosen.names, *(lines(chosen.names_file) if chosen.names_file else [])]
    model = load(chosen)
    templates = chosen.template or ["{}"]
    shares = model.classify(chosen.image, names, templates, batch_size=chosen.batch_size)
    for image, row in zip(chosen.image, shares, strict=True):
        best = row.argsort()[::-1][: chosen.top]
        if chosen.json:
            print(
                json.dumps(
                    {"image": image, "classes": {names[i]: round(float(row[i]), 6) for i in best}},
                    ensure_ascii=False,
                )
            )
        else:
            print(f"{image}\t" + "\t".join(f"{names[i]} {100 * row[i]:.1f} %" for i in best))
