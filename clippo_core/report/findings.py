"""What the report measured itself, as lines of a table: each with what guessing or nothing would
give, its n and where it comes from.

    modality gap | cosine of a pair | linear separability | patch kernel
    patches against tokens, by each definition of a length

It measures nothing: numbers come from `gather.py`, published ones from whoever asks. Metrics of
evaluations stand in `rows.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

from clippo_core.measure.insight import Insight
from clippo_core.measure.lengths import shorter_than
from clippo_core.report import digits

DEFINITIONS = {"patches": "patches with ink", "rows": "rows × patches in a row"}
"""CLIPPO's two lengths of a text, as `Lengths` names them and as people do."""


@dataclass(frozen=True)
class Finding:
    """One line."""

    what: str
    value: str
    beside: str
    """What to compare it with, and what that is."""
    n: str
    source: str = ""


def geometry_findings(insight: Insight) -> list[Finding]:
    """Gap, cosines, separability and patch kernel; lines of what could not be measured are left
    out.
    """
    n = len(insight.photo_points)
    pairs, found = f"{digits.count(n)} pairs", []
    if insight.gap is not None:
        found.append(
            Finding(
                "modality gap, 0 to 2",
                digits.value(insight.gap),
                "0: equal means",
                pairs,
                insight.pairs_from,
            )
        )
        beside = f"{digits.value(insight.other_cosine)}: photo and another photo's text"
        found.append(
            Finding(
                "cosine of a photo and its text",
                digits.value(insight.matched_cosine),
                beside,
                pairs,
                insight.pairs_from,
            )
        )
    if insight.separability is not None:
        source = f"Linear classifier, five folds, scored on those held out. {insight.pairs_from}"
        told = digits.share(100 * insight.separability)
        found.append(
            Finding(
                "photos told from texts, %",
                told,
                "50.0: guessing",
                f"{digits.count(2 * n)} points",
                source.strip(),
            )
        )
    if len(insight.shares):
        k, directions = len(insight.shares), min(insight.n_filters - 1, insight.components[0].size)
        beside = (
            f"{digits.share(100 * k / directions)}: all directions alike"
            if directions >= k
            else digits.MISSING
        )
        total = digits.share(100 * float(insight.shares.sum()))
        what = f"variance in the patch kernel's first {k} components, %"
        found.append(
            Finding(
                what,
                total,
                beside,
                f"{digits.count(insight.n_filters)} filters",
                "The checkpoint's weights.",
            )
        )
    return found


def length_findings(insight: Insight) -> list[Finding]:
    """For each tokenizer and each definition: in how many languages CLIPPO's length is the
    smaller.
    """
    n = f"{digits.count(sum(one.n_texts for one in insight.lengths))} texts"
    return [
        Finding(
            f"languages with fewer {words} than pieces of {name}",
            str(shorter),
            f"of {languages}",
            n,
            insight.lengths_from,
        )
        for name in (insight.lengths[0].tokens if insight.lengths else ())
        for definition, words in DEFINITIONS.items()
        for shorter, languages in [shorter_than(insight.lengths, name, by=definition)]
    ]
