"""Evaluations of one model, whatever its form: equal metrics, a table, a page; and what is said
where something is missing.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import PROJECT
from drawn import phrases, write_karpathy
from forms import drawn_tower, forms_of

from clippo_core.cli.main import main


@pytest.fixture(scope="module")
def forms(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """One tower in all its forms."""
    return forms_of(drawn_tower(), str(tmp_path_factory.mktemp("forms")))


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that asks for retrieval on forty drawn texts, each photo with a stranger's, too."""
    folder = tmp_path_factory.mktemp("benchmark")
    first, second = phrases(40), phrases(40, start=1000)
    files = write_karpathy(folder, first, list(zip(first, second, strict=True)))
    path = folder / "evaluate.json"
    path.write_text(json.dumps({"retrieval": [{**files, "dataset": "drawn"}]}))
    return path


def results_in(words: str) -> list[dict[str, Any]]:
    """What stands beside the page that the last lines name."""
    report = re.search(r"^Report: (.+)$", words, re.M)
    assert report is not None and "Hits and misses" in Path(report[1]).read_text()
    found: list[dict[str, Any]] = json.loads(Path(report[1]).with_name("results.json").read_text())
    return found


def test_five_forms_give_equal_metrics(
    forms: dict[str, str], asked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = {}
    for form, name in forms.items():
        assert main(["evaluate", name, str(asked), "--root", str(tmp_path / form)]) == 0
        words = capsys.readouterr().out
        assert re.search(r"^drawn/t2i_recall@1 +\d", words, re.M), words
        (result,) = results_in(words)
        metrics[form] = result["metrics"]
    assert len(metrics) == 6 and 0 < metrics["run"]["drawn/t2i_recall@1"]["value"] < 100
    for form, found in metrics.items():
        assert found == metrics["run"], form


def test_what_is_missing_is_a_sentence(
    forms: dict[str, str], asked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, root = forms["exported"], ["--root", str(tmp_path / "runs")]
    values = json.loads(asked.read_text())
    values["retrieval"][0]["annotations"] = "nowhere.json"
    (tmp_path / "wrong.json").write_text(json.dumps(values))
    (tmp_path / "nothing.json").write_text("{}")
    (tmp_path / "typo.json").write_text('{"retreival": []}')
    for words, sentence in (
        (["gone.npz", str(asked)], "gone.npz"),
        ([model, "gone.json"], "gone.json"),
        ([model, str(tmp_path / "typo.json")], "typo.json: .*retreival"),
        ([model, str(tmp_path / "nothing.json")], "Nothing could be evaluated: no evaluation was"),
        ([model, str(tmp_path / "wrong.json")], "Nothing could be evaluated: retrieval .*nowhere"),
        ([model, str(asked), "--only", "glue"], "has no evaluation glue"),
        ([model, str(asked), "--only", "gleu"], "there is no evaluation 'gleu'"),
    ):
        assert main(["evaluate", *words, *root]) == 2
        said = capsys.readouterr().err.strip().splitlines()[-1]
        assert re.match(f"error: .*{sentence}", said), said


def test_a_run_that_fails_in_part_says_so(
    forms: dict[str, str], asked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = json.loads(asked.read_text())
    values["glue"] = {"root": str(tmp_path / "no_glue")}
    (tmp_path / "run.json").write_text(json.dumps({"name": "x", "evaluate": values}))
    words = ["evaluate", forms["run"], str(tmp_path / "run.json"), "--root", str(tmp_path / "r")]
    assert main(words) == 2
    found = capsys.readouterr()
    assert found.out.strip().splitlines()[-1] == "Failed: glue"
    assert found.err.strip().endswith("error: not everything could be evaluated: glue failed.")
    assert [result["failure"] == "" for result in results_in(found.out)] == [True, False]
    assert main([*words, "--only", "retrieval"]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("form", ["big_vision", "pointer"])
def test_the_workflow_ends_with_a_table_and_a_report(
    form: str, forms: dict[str, str], asked: Path, tmp_path: Path, flyte_home: Path
) -> None:
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("pyflyte")), "run", "workflows",
            "evaluate_checkpoint", "--checkpoint", forms[form], "--evaluate", str(asked),
            "--root", str(tmp_path / "runs"),
        ],
        cwd=PROJECT, env=os.environ, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "EvalResult(" not in done.stdout
    assert re.search(r"^drawn/t2i_recall@1 +\d", done.stdout, re.M), done.stdout
    assert [r["name"] for r in results_in(done.stdout)][1] == "retrieval"
