"""What runs: `pyflyte run workflows NAME`. Re-exported here, so that the package itself is the
place to run them from.
"""

from workflows.evaluation import (
    evaluate_checkpoint,
    evaluate_glue,
    evaluate_imagenet,
    evaluate_promoted,
    evaluate_retrieval,
    evaluate_vqa,
    evaluate_xm3600,
)
from workflows.pipeline import demo, pretrain_and_evaluate
from workflows.preflight import preflight
from workflows.retention import retention
from workflows.retraining import nightly_evaluation, weekly_retention, weekly_retraining

__all__ = [
    "demo",
    "evaluate_checkpoint",
    "evaluate_glue",
    "evaluate_imagenet",
    "evaluate_promoted",
    "evaluate_retrieval",
    "evaluate_vqa",
    "evaluate_xm3600",
    "nightly_evaluation",
    "preflight",
    "pretrain_and_evaluate",
    "retention",
    "weekly_retention",
    "weekly_retraining",
]
