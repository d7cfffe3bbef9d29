"""Pretraining without Flyte: `python -m clippo_core.train PLAN.json MANIFEST`, alone or under
torchrun, on any machine.

    torchrun --nproc-per-node 8 -m clippo_core.train runs/NAME/plan.json runs/NAME/shards

PLAN.json is a PretrainPlan as `records.dumps` writes it, MANIFEST the folder of the prepared
shards. The exit code is 0 when the run is finished, 143 when SIGTERM stopped it and a checkpoint is
committed, 1 for a failure that the last line explains.
"""

from __future__ import annotations

import argparse
import logging
import sys

from clippo_core import storage
from clippo_core.config import decode, parse_json
from clippo_core.data.shards import open_manifest
from clippo_core.errors import ClippoError, Preempted
from clippo_core.report.tracker import watcher
from clippo_core.run import records
from clippo_core.run.records import PretrainPlan
from clippo_core.train.loop import pretrain


def main() -> int:
    """Run as the command line says; the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m clippo_core.train", description="Pretrain, or go on pretraining, a tower."
    )
    parser.add_argument("plan", help="a PretrainPlan in JSON (path or s3://)")
    parser.add_argument("manifest", help="folder of the prepared shards")
    parser.add_argument(
        "--previous", default="", help="checkpoints of an earlier attempt, if they are elsewhere"
    )
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    try:
        plan = decode(PretrainPlan, parse_json(storage.read_text(given.plan), given.plan))
        manifest = open_manifest(given.manifest)
        print(
            records.dumps(pretrain(plan, manifest, previous=given.previous, watch=watcher)), end=""
        )
    except Preempted as error:
        print(error, file=sys.stderr)
        return Preempted.EXIT_CODE
    except ClippoError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
