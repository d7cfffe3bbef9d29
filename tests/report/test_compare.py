"""Ours beside published numbers and chance."""

import csv
import io
import xml.etree.ElementTree as ElementTree
from types import SimpleNamespace

from clippo_core.evaluate import results
from clippo_core.published import Published
from clippo_core.report import compare
from clippo_core.run.records import EvalResult, Metric


def result(**fields):
    values = {
        "name": "glue",
        "dataset": "glue",
        "split": "dev",
        "protocol": "BERT's",
        "n_examples": 277,
        "metrics": {
            "glue/average": Metric(75.0, 74.0, 76.0, 40.0, 277),
            "glue/rte_accuracy": Metric(61.5, n=277),
        },
        "main_metrics": ["glue/average"],
        "weights_sha256": "a" * 64,
    }
    return EvalResult(**{**values, **fields})


def lookup(metric):
    values = {"glue/average": (74.4, 76.6, 70.0)}.get(metric, ())
    return [
        Published(value, f"model {value}", "<data>", metric, "a table | of theirs", "primary")
        for value in values
    ]


def average(*metric, **fields):
    return result(metrics={"glue/average": Metric(*metric)}, **fields)


def rows_of(*found):
    return compare.compare(found, beside=(), lookup=lookup)


def lines(*found):
    """The comparison's lines, as values by name."""
    return [SimpleNamespace(**line) for line in compare.lines_of(rows_of(*found))]


def test_judged_against_the_interval():
    rows = lines(result())
    assert [(row.published, round(row.difference, 1), row.verdict) for row in rows] == [
        (74.4, 0.6, "within the interval"),
        (76.6, -1.6, "lower"),
        (70.0, 5.0, "higher"),
    ]
    assert {row.against_chance for row in rows} == {"above chance"} and {
        row.metric for row in rows
    } == {"glue/average"}
    every = compare.compare([result()], beside=(), lookup=lookup, only_main=False)
    last = compare.lines_of(every)[-1]
    assert (last["metric"], last["published"], last["verdict"]) == ("glue/rte_accuracy", None, "")
    assert [row.metric for row in rows_of(result())] == ["glue/average"], (
        "one row for three numbers"
    )


def test_partial_demo_not_run_and_failed_are_not_judged():
    partial = lines(result(is_partial=True, is_demo=True))
    assert {row.verdict for row in partial} == {"not comparable: demo and partial"} and partial[
        0
    ].difference is not None
    why = "eight of nine"
    missing = lines(result(metrics={"glue/average": Metric(why_not=why)}))
    assert len(missing) == 3 and {(row.verdict, row.difference, row.status) for row in missing} == {
        ("", None, "not run: eight of nine")
    }
    failed = lines(EvalResult.failed("vqa", "vqav2", "DataError: gone"))
    assert [(row.metric, row.status) for row in failed] == [("vqav2/*", "failed: DataError: gone")]
    bare = lines(average(75.0, None, None, 40.0, 277))
    assert {row.verdict for row in bare} == {"not judged: no interval"}
    weak = lines(average(75.0, 39.0, 76.0, 40.0, 277))
    assert weak[0].against_chance == "not above chance"


def test_table_and_file_say_the_same(tmp_path):
    other = average(60.0, 59.0, 61.0, 40.0, 277, weights_sha256="b" * 64)
    rows = rows_of(result(), other)
    text = compare.to_markdown(rows)
    assert (
        "| glue/average | aaaaaaaa | 75.0 [74.0, 76.0] | 40.0 | 277 | 74.4 model 74.4, &lt;data>"
        " (1) | +0.6 | within the interval" in text
    )
    assert text.count("\n1. a table | of theirs (primary)") == 1
    read = list(csv.DictReader(io.StringIO(compare.to_csv(rows))))
    assert len(read) == 6 and read[0]["published"] == "74.4" and read[0]["trust"] == "primary"


def test_files_from_real_results_and_the_published_table(tmp_path):
    for weights in ("a", "b"):
        results.write_result(
            str(tmp_path / weights / "evaluations" / "glue"), result(weights_sha256=weights * 64)
        )
    uris = compare.write_comparison(
        str(tmp_path), results.read_results(str(tmp_path)), {"a" * 64: "ours & more"}
    )
    assert [uri.rpartition("/")[2] for uri in uris] == ["compare.csv", "compare.md", "compare.svg"]
    text = (tmp_path / "compare.md").read_text()
    assert "ours & more" in text and "CLIPPO B/16, C4" in text and "BERT-Base" not in text
    assert "PIXEL" in compare.to_markdown(compare.compare([result()], beside=("PIXEL",)))
    drawn = "".join(ElementTree.parse(tmp_path / "compare.svg").getroot().itertext())
    assert (
        "glue/average  (n = 277)" in drawn
        and "ours & more, 95 % interval" in drawn
        and "published" in drawn
    )
    assert compare.figure([]) == ""
