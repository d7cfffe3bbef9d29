"""The page of all runs: every verdict with its numbers, and a link to the report beside it."""

from __future__ import annotations

from pathlib import Path

from html_reader import Reader

from clippo_core.report.runs import verdicts, write_runs_page
from clippo_core.run import history
from clippo_core.run.history import Promotion
from clippo_core.run.records import Metric, Verdict


def record(root: Path, number: int, promoted: bool, value: float, reason: str = "r") -> Promotion:
    model = f"{root}/demo-{number:012d}/checkpoints/step-00000010"
    verdict = Verdict(promoted, reason, model, "")
    metrics = {"numbers/i2t_recall@1": Metric(value, value - 5, value + 5, 1.0, 100)}
    return Promotion(number, "the gate", f"2026-11-0{number}", verdict, "w", 10, metrics=metrics)


def test_every_verdict_stands_with_numbers_and_a_link(tmp_path):
    pointer = str(tmp_path / "promoted-demo.json")
    for number, promoted, value in ((1, True, 60.0), (2, False, 40.0), (3, True, 66.0)):
        history.append(pointer, record(tmp_path, number, promoted, value, "<b>words</b>"))
    uri = write_runs_page(str(tmp_path))
    page = Path(uri).read_text(encoding="utf-8")
    reader = Reader(page)
    rows = [row for row in reader.rows if row and row[0][:1].isdigit()]
    assert [row[0].split()[:2] for row in rows] == [
        ["3", "promoted"], ["2", "refused"], ["1", "promoted"],
    ]  # fmt: skip
    assert "current" in rows[0][0] and "current" not in rows[2][0]
    assert rows[1][1].replace(" ", "") == "40.035.0–45.0"
    links = [attributes["href"] for tag, attributes in reader.tags if tag == "a"]
    assert links == [f"demo-{number:012d}/report.html" for number in (3, 2, 1)]
    assert "<b>words" not in page, "reasons name files and captions: they are escaped"


def test_a_name_whose_records_are_damaged_does_not_take_the_page_with_it(tmp_path, caplog):
    history.append(str(tmp_path / "promoted-good.json"), record(tmp_path, 1, True, 60.0))
    (tmp_path / "promotions" / "bad").mkdir(parents=True)
    (tmp_path / "promotions" / "bad" / "0001.json").write_text("{")
    assert list(verdicts(str(tmp_path))) == ["good"]
    assert "bad is left out" in caplog.text


def test_before_the_first_verdict_the_page_says_so(tmp_path):
    page = Path(write_runs_page(str(tmp_path))).read_text(encoding="utf-8")
    assert "No model was judged yet." in page
