"""The metrics of the five evaluations by name: numpy in, float out, non-finite input refused.

    zero-shot, few-shot   accuracy                                      `classification.py`
    retrieval             recall@k: any right item, ties last           `ranking.py`
    VQA                   the official accuracy                         `vqa_text.py`
    GLUE                  accuracy, F1, Matthews, Spearman; the mean    `glue_scores.py`

Shares are 0..1, correlations -1..1. This module is for callers outside of the evaluations, which
import the modules themselves: whoever imports this one depends on the code of every evaluation.
"""

from clippo_core.evaluate.checks import finite, is_constant
from clippo_core.evaluate.glue.scores import GLUE_METRICS, glue_average, glue_score
from clippo_core.evaluate.imagenet.classification import (
    few_shot_predict,
    few_shot_ridge,
    zero_shot_accuracy,
    zero_shot_ranks,
)
from clippo_core.evaluate.ranking import Ranking, chance_recall, recall_at_k, retrieval_ranks
from clippo_core.evaluate.vqa.text import normalise as normalise_answer
from clippo_core.evaluate.vqa.text import vqa_accuracy

__all__ = [
    "GLUE_METRICS",
    "Ranking",
    "chance_recall",
    "few_shot_predict",
    "few_shot_ridge",
    "finite",
    "glue_average",
    "glue_score",
    "is_constant",
    "normalise_answer",
    "recall_at_k",
    "retrieval_ranks",
    "vqa_accuracy",
    "zero_shot_accuracy",
    "zero_shot_ranks",
]
