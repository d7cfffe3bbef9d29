"""The task `validate`: Great Expectations over every pair; fails naming the rows, or lists what is
left out.
"""

from __future__ import annotations

from flytekit import Deck, task

from clippo_core.run.records import ValidatePlan, ValidationReport
from tasks import settings


@task(
    **settings.processing(),
    cache=settings.cached("clippo_core.data.validate.expectations"),
    enable_deck=True,
    deck_fields=(),
)
def validate(plan: ValidatePlan) -> ValidationReport:
    """Check the pairs before anything is spent on them."""
    from clippo_core.data.validate.expectations import validate as validate_pairs
    from clippo_core.report.decks import validation_deck

    report = validate_pairs(plan)
    Deck("Expectations", validation_deck(report))
    return report
