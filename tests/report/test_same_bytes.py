"""Results and pages are functions of their inputs: two processes with other hash seeds, in other
folders, leave the same bytes.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PROJECT

PROGRAM = """
import dataclasses, os, pathlib, sys
from drawn import PX, evaluate_plan, phrases, tiny_checkpoint, write_karpathy
from test_report import made_run

from clippo_core.config import DataConfig, EvaluateConfig, RenderConfig, RetrievalConfig
from clippo_core.config import SourceConfig
from clippo_core.data.prepare import validate
from clippo_core.evaluate.registry import EVALUATIONS
from clippo_core.published import published
from clippo_core.report import decks
from clippo_core.report.page import report_page
from clippo_core.report.rows import summary_table
from clippo_core.run.records import StagePlan, ValidatePlan, dumps

here = pathlib.Path()
texts = phrases(30)
fields = write_karpathy(here / "set", texts, [(text, text + " again") for text in texts])
whole = (here / "set/images/0007.png").read_bytes()
for name, picture in (("0003", b""), ("0004", b"x"), ("0005", whole[:9]), ("0006", whole[:-40])):
    (here / "set/images" / f"{name}.png").write_bytes(picture)
lines = ["en\\tde\\tone\\teins", "fr\\tja\\tdeux\\t四十二"] * 9 + ["a\\tb\\tc", "x", "\\t"]
(here / "pairs.tsv").write_bytes("\\n".join(lines).encode() + b"\\na\\t\\xff")
sources = (
    SourceConfig("karpathy", fields["annotations"], images=fields["images"], split="test"),
    SourceConfig("tsv", "pairs.tsv", languages=("sv", "sw")),
)
others = phrases(20, 500)
shown = write_karpathy(here / "bench", others, [(text, text + " too") for text in others])
evaluate = EvaluateConfig(
    retrieval=(
        RetrievalConfig(**shown, dataset="drawn", expect_images=20),
        RetrievalConfig(**shown, dataset="other", expect_images=20),
        RetrievalConfig(**fields, dataset="broken", expect_images=30),
    )
)
data = DataConfig(sources, max_bad_share=0.9)
stage = StagePlan("run", 0, "digest")
report = validate(stage, data, RenderConfig(image_px=64), evaluate).report
checkpoint = tiny_checkpoint(here)
plan = evaluate_plan("run", retrieval=evaluate.retrieval)
result = EVALUATIONS["retrieval"].run(checkpoint, plan, progress=False)
record = dataclasses.replace(
    made_run(),
    validation=report,
    results=[result],
    examples={"retrieval": decks.read_examples("run/evaluations/retrieval")},
    timings={},
)
pages = {
    "validation.json": dumps(report),
    "validation.html": decks.validation_deck(report),
    "evaluation.html": decks.evaluation_deck(result, "run/evaluations/retrieval"),
    "report.html": report_page(record, published, written_at=0),
    "summary.txt": summary_table([result]),
}
for name, text in pages.items():
    (here / name).write_text(text)
print(sum(one.failed for one in report.expectations), len(result.metrics))
"""


@pytest.mark.slow
def test_two_processes_with_other_hash_seeds_leave_the_same_bytes(tmp_path: Path) -> None:
    paths = (PROJECT, PROJECT / "tests/support", PROJECT / "tests/report")
    running, found = {}, []
    for seed in ("1", "2"):
        folder = tmp_path / f"in-{seed}"
        folder.mkdir()
        running[folder] = subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            cwd=folder,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(map(str, paths)),
                "PYTHONHASHSEED": seed,
                "XDG_CACHE_HOME": str(tmp_path / "cache"),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    for folder, process in running.items():
        told, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors[-3000:]
        broken, metrics = map(int, told.split()[-2:])
        assert broken > 6 and metrics > 6, "the data are too good to tell anything"
        files = (path for path in folder.rglob("*") if path.is_file())
        found.append({str(path.relative_to(folder)): path.read_bytes() for path in files})
    one, two = found
    assert one.keys() == two.keys()
    differ = {name for name in one if one[name] != two[name]}
    assert {Path(name).name for name in differ} <= {"timings.json"}, sorted(differ)
    written = {Path(name).name for name in one}
    assert {"result.json", "predictions.parquet", "examples.json", "report.html"} <= written
