"""Every decoder of what comes from outside, against files that were made to break it.

The examples run in a child process with bounds on memory and CPU time, which is `fuzz.py`.
CLIPPO_FUZZ_SECONDS=600 makes the slow test go on for ten minutes with each format.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from checks import Refused, outcome
from every_check import CHECKS
from every_format import STRATEGIES

from clippo_core.errors import DataError

HERE = Path(__file__).parent
CASES = sorted(path for path in (HERE / "cases").glob("*/*") if path.is_file())


def fuzz(*options: str, timeout: float) -> list[dict[str, object]]:
    """What the program counted for each format; fails with its words where an example failed."""
    done = subprocess.run(
        [sys.executable, str(HERE / "fuzz.py"), *options],
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=HERE.parent.parent,
        env={
            **os.environ,
            "PYTHONPATH": f"{HERE.parent.parent}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
        },
    )
    assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout}\n{done.stderr[-4000:]}"
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_every_format_has_a_check_and_examples() -> None:
    assert set(CHECKS) == set(STRATEGIES)


DECODERS = [name for name, check in CHECKS.items() if check.__module__ == "checks"]
READERS = [name for name in CHECKS if name not in DECODERS]


@pytest.mark.parametrize(("names", "examples"), [(DECODERS, "40"), (READERS, "20")])
def test_some_examples_of_each_format(names: list[str], examples: str) -> None:
    counts = fuzz(*names, "--examples", examples, timeout=120)
    for count in counts:
        assert count["refused"] or count["format"] in ("lines", "text"), count
    # So few examples of a reader's format may all be bad; the slow test asks each for a good one.
    blind = [count["format"] for count in counts if not count["read"]]
    assert len(blind) <= (names is READERS) * len(names) // 4, f"no example was accepted: {blind}"


@pytest.mark.slow
@pytest.mark.parametrize("name", list(STRATEGIES))
def test_many_examples(name: str) -> None:
    seconds = os.environ.get("CLIPPO_FUZZ_SECONDS", "")
    options = ["--seconds", seconds] if seconds else ["--seed", "1"]
    examples = "400" if name in DECODERS else "200"
    (count,) = fuzz(name, "--examples", examples, *options, timeout=300 + float(seconds or 0))
    assert count["read"]


@pytest.mark.parametrize("path", CASES, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_files_that_once_failed(path: Path) -> None:
    CHECKS[path.parent.name](path.read_bytes())


def test_the_checks_can_fail() -> None:
    def differs(calls: list[int]) -> int:
        calls.append(1)
        return len(calls)

    def raises(words: str) -> None:
        raise DataError(words)

    where = "s3://bucket/of a stranger/é.file"
    assert outcome(lambda: raises(f"{where}: it is cut short; fetch it again.")) == Refused(
        f"{where}: it is cut short; fetch it again."
    )
    calls: list[int] = []
    with pytest.raises(AssertionError, match="two calls differ"):
        outcome(lambda: differs(calls))
    for words in ("it is cut short.", f"{where}: a\nb.", f"{where}: <BytesIO at 0x7f00aabbccdd>."):
        with pytest.raises(AssertionError):
            outcome(lambda words=words: raises(words))
    with pytest.raises(KeyError):
        outcome(lambda: {}["a traceback"])
