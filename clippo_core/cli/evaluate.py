"""`clippo evaluate`: the evaluations of one model, in this process."""

from __future__ import annotations

import argparse
from typing import Any

from clippo_core.cli.options import MODEL, Names, add_command
from clippo_core.errors import ConfigError, EvaluationError

EXAMPLES = """\
Ends with a table, and the path of a page with all numbers and examples. FILE.json holds the
evaluations and their files, as in the part `evaluate` of a run; a whole run's file serves, too.

  clippo evaluate clippo_b16_yfcc100m evaluate.json
  clippo evaluate runs/promoted-demo.json run.json --only retrieval vqa

For instance, with one benchmark:
  {"retrieval": [{"dataset": "coco", "annotations": "dataset_coco.json", "images": "val2014"}]}
What is there already for the same weights, files and code is not computed again. The exit code is 2
where an evaluation failed.
"""


def add(names: Names) -> None:
    """Add the command."""
    summary = "the evaluations of one model: a table and a page"
    command = add_command(names, "evaluate", evaluate, summary, EXAMPLES)
    command.epilog = MODEL
    command.add_argument("model", metavar="MODEL", help="see below")
    command.add_argument("evaluate", metavar="FILE.json", help="which evaluations, on which files")
    command.add_argument(
        "--only", nargs="+", metavar="NAME", default=[], help="of those, these: imagenet, glue, …"
    )
    command.add_argument(
        "--root", default="runs", metavar="FOLDER", help="where results go (default: runs)"
    )


def evaluate(chosen: argparse.Namespace) -> None:
    """Evaluate one model."""
    from clippo_core.evaluate.registry import EVALUATIONS, evaluation
    from clippo_core.opening import model_info
    from clippo_core.report.evaluated import conclude
    from clippo_core.run.evaluation_plans import plan_evaluations
    from clippo_core.run.folder import RunFolder

    config = _read(chosen.evaluate)
    for name in chosen.only:
        if not evaluation(name).configs(config):
            raise ConfigError(f"{chosen.evaluate} has no evaluation {name}.")
    asked = [
        name
        for name, one in EVALUATIONS.items()
        if one.configs(config) and (not chosen.only or name in chosen.only)
    ]
    info = model_info(chosen.model)
    plans = plan_evaluations(config, info, chosen.root)
    results = [EVALUATIONS[name].attempt(info, plans[name]) for name in asked]
    folders = {name: RunFolder(plans[name].stage.root).evaluation(name) for name in asked}
    print(conclude(info, results, folders, chosen.root).words)
    failed = [result.name for result in results if result.failure]
    if failed:
        raise EvaluationError(f"not everything could be evaluated: {', '.join(failed)} failed.")


def _read(path: str) -> Any:
    """The evaluations in a file, alone or as part of a run's configuration."""
    from clippo_core import storage
    from clippo_core.config import EvaluateConfig, decode, parse_json

    try:
        values = parse_json(storage.read_text(path), "EvaluateConfig")
        is_run = isinstance(values, dict) and isinstance(values.get("evaluate"), dict)
        return decode(EvaluateConfig, values["evaluate"] if is_run else values)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
