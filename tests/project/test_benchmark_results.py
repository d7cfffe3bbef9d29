"""The harness of the benchmarks, and that RESULTS.md says what their JSON says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PROJECT

sys.path.insert(0, str(PROJECT / "benchmarks"))
import measure  # noqa: E402  # benchmarks/ is no package


def test_every_block_of_results_is_what_its_json_gives() -> None:
    command = [sys.executable, "benchmarks/measure.py", "--check"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_contestants_take_turns_and_warm_up_rounds_do_not_count() -> None:
    ran: list[str] = []
    now = iter(float(n * n) for n in range(100))  # each call later takes longer
    contestants = {name: lambda name=name: ran.append(name) for name in "abc"}
    seconds = measure.timed(contestants, 2, warm_up=1, clock=lambda: next(now))
    assert ran == list("cababcbca")  # each round begins with another one
    assert seconds["a"] == [13.0, 33.0] and seconds["b"] == [17.0, 25.0]
    assert measure.paired(seconds, "a")["b"] == [25 / 33, (17 / 13 + 25 / 33) / 2, 17 / 13]
    assert measure.rates(26, [13, 26, 2]) == [1, 2, 13]


def test_cpu_time_counts_what_is_computed_and_not_what_is_waited_for() -> None:
    spin = "n = 0\nwhile n < 3_000_000: n += 1"
    work = {
        "waits": lambda: subprocess.run(["sleep", "0.4"], check=True),
        "computes": lambda: subprocess.run([sys.executable, "-c", spin], check=True),
    }
    seconds = measure.timed(work, 1, warm_up=0)
    assert seconds["waits"][0] < 0.05 < seconds["computes"][0]


def test_a_table_goes_into_its_block_and_nothing_else_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/speed.py", "--of", "two words"])
    rows = [["ours", [0.5, 1.25, 2.0], 10_240], ["none", None, "not run"]]
    tables = [measure.table({"": "", "s": ".1f", "pairs": ",d"}, rows, "Both:")]
    measure.report("speed", tables, "CPU time", packages=["numpy"], out=tmp_path / "speed.json")
    said = capsys.readouterr().out
    assert "`python benchmarks/speed.py --of 'two words'` — " in said.replace("\n", " ")
    assert "| ours | 1.2 [0.5, 2.0] | 10,240 |\n| none |  | not run |" in said
    page = "# Results\n\n<!-- speed -->\nold\n<!-- end -->\n\nBy hand.\n"
    now = measure.filled(page, tmp_path)
    assert now == f"# Results\n\n<!-- speed -->\n{said.rstrip()}\n<!-- end -->\n\nBy hand.\n"
    assert measure.filled(now, tmp_path) == now

    found = json.loads((tmp_path / "speed.json").read_text())
    found["tables"][0]["rows"][0][2] = 10_241
    (tmp_path / "speed.json").write_text(json.dumps(found))
    assert "10,241" in measure.filled(now, tmp_path) != now


@pytest.mark.parametrize("page", ["", "<!-- other -->\n<!-- end -->", "<!-- speed -->\nno end"])
def test_a_json_without_a_block_is_refused(page: str, tmp_path: Path) -> None:
    (tmp_path / "speed.json").write_text("{}")
    with pytest.raises(ValueError, match=r"has blocks for .* holds \['speed'\]"):
        measure.filled(page, tmp_path)


def test_results_name_no_folder_of_the_machine() -> None:
    for path in sorted(measure.RESULTS.glob("*.json")):
        command = json.loads(path.read_text())["command"]
        assert " /" not in command and (PROJECT / command.split()[1]).is_file(), path
