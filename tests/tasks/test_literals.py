"""Results and verdicts cross tasks as Flyte literals: what goes in comes out, in both formats."""

from __future__ import annotations

import pytest
from flytekit.core.context_manager import FlyteContextManager
from flytekit.core.type_engine import TypeEngine

from clippo_core.run.records import Comparison, EvalResult, Metric, Verdict

METRICS = {
    "coco/i2t_recall@1": Metric(40.0, 38, 42.5, 0.1, 5000, "0.02 % of the queries tie"),
    "coco/i2t_tie_share": Metric(0.0, n=5000),
    "glue/average": Metric(why_not="it is the mean of nine numbers, and 8 of them are there"),
    "vqav2/number": Metric(-1.5e-17, 1 / 3, 2 / 3, None, 1),
}
RESULTS = [
    EvalResult(
        "retrieval",
        "coco",
        "test",
        "every caption",
        5000,
        METRICS,
        counts={"images": 5000},
        main_metrics=["coco/i2t_recall@1"],
        weights_sha256="a" * 64,
        scores="predictions.parquet",
        scores_sha256="b" * 64,
        is_partial=True,
    ),
    EvalResult.failed("vqa", "vqav2", "DataError: gone"),
    EvalResult.skipped("xm3600", "not configured for this run"),
]
COMPARED = {"coco/i2t_recall@1": Comparison(39.0, 40.0, 0.5, 3, "other files")}
VERDICT = Verdict(True, "Promoted.", "runs/a", "", COMPARED)


@pytest.mark.parametrize(("is_old", "kind"), [("false", "binary"), ("true", "generic")])
def test_each_value_comes_back_in_both_formats(is_old: str, kind: str, monkeypatch) -> None:
    """binary: MessagePack; generic: Struct, which knows no integers."""
    monkeypatch.setenv("FLYTE_USE_OLD_DC_FORMAT", is_old)
    context = FlyteContextManager.current_context()
    for value in (*RESULTS, VERDICT):
        hint = type(value)
        # The engine itself would answer from its cache of literals, whatever the format.
        transformer = TypeEngine.get_transformer(hint)
        literal = transformer.to_literal(context, value, hint, TypeEngine.to_literal_type(hint))
        assert getattr(literal.scalar, kind) is not None
        again = TypeEngine.to_python_value(context, literal, hint)
        assert again == value
        for metric in again.metrics.values() if hint is EvalResult else ():
            assert isinstance(metric, Metric) and type(metric.n) is int
            for number in (metric.value, metric.low, metric.high, metric.chance):
                assert number is None or type(number) is float


def test_the_list_of_results_comes_back() -> None:
    context, hint = FlyteContextManager.current_context(), list[EvalResult]
    wanted = TypeEngine.to_literal_type(hint)
    literal = TypeEngine.to_literal(context, RESULTS, hint, wanted)
    assert TypeEngine.to_python_value(context, literal, hint) == RESULTS
