"""How every benchmark measures, and how its figures come into RESULTS.md.

    python benchmarks/measure.py            write RESULTS.md's blocks from benchmarks/results/*.json
    python benchmarks/measure.py --check    exit 1 where a block is not what its JSON gives

`timed` lets contestants take turns in one process, so that a busy machine disturbs all of them;
`paired` compares them round by round. `report` prints the tables and stores them as JSON with the
machine, the load and the command. A block of RESULTS.md lies between `<!-- NAME -->` and
`<!-- end -->`; what stands outside of blocks is written by hand.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import re
import resource
import shlex
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

FOLDER = Path(__file__).resolve().parent
PAGE, RESULTS = FOLDER / "RESULTS.md", FOLDER / "results"
BLOCK = re.compile(r"<!-- (?!end )(\w+) -->\n.*?<!-- end -->", re.S)
_LOAD_BEFORE = os.getloadavg()[0]

Cell = float | str | list[float] | None
"""A number, words, the spread of a number (its least, median and most), or nothing."""


def cpu_seconds() -> float:
    """CPU time of this process on all its threads, and of its children that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def timed(
    contestants: Mapping[str, Callable[[], object]],
    rounds: int,
    *,
    warm_up: int = 1,
    on_gpu: bool = False,
    clock: Callable[[], float] = cpu_seconds,
) -> dict[str, list[float]]:
    """Name -> seconds of each round: CPU time, or on a GPU wall time from idle to idle.

    In every round each contestant runs once, and another one begins; `warm_up` rounds more come
    before them and do not count.
    """
    names, seconds = list(contestants), {name: [0.0] * rounds for name in contestants}
    for number in range(-warm_up, rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            taken = _once(contestants[name], on_gpu, clock)
            if number >= 0:
                seconds[name][number] = taken
    return seconds


def _once(run: Callable[[], object], on_gpu: bool, clock: Callable[[], float]) -> float:
    if not on_gpu:
        start = clock()
        run()
        return clock() - start
    import torch

    torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def spread(values: Iterable[float]) -> list[float]:
    """The least, the median and the most."""
    ordered = sorted(values)
    return [ordered[0], median(ordered), ordered[-1]]


def rates(n: float, seconds: Iterable[float]) -> list[float]:
    """Spread of n things per second."""
    return spread(n / taken for taken in seconds)


def paired(seconds: Mapping[str, Sequence[float]], of: str) -> dict[str, list[float]]:
    """Name -> spread of its seconds over those of the contestant `of` in the same round."""
    return {
        name: spread(one / other for one, other in zip(own, seconds[of], strict=True))
        for name, own in seconds.items()
    }


def alone(*words: str, threads: int = 0) -> dict[str, Any]:
    """Run this benchmark again with these words, in a process of its own, and return what `tell`
    said there. threads: of its matrix products; 0 = as they are. Raises CalledProcessError.
    """
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    limits = dict.fromkeys(names, str(threads)) if threads else {}
    command = [sys.executable, sys.argv[0], *words]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=os.environ | limits)
    return json.loads(done.stdout.splitlines()[-1])


def tell(result: Mapping[str, Any]) -> None:
    """Say a result to the process that called `alone`, with this one's `cpu_seconds` and
    `peak_mib`.
    """
    status = Path("/proc/self/status").read_text()  # ru_maxrss would count the parent's too
    peak = int(re.findall(r"VmHWM:\s+(\d+)", status)[0]) / 1024
    print(json.dumps({"cpu_seconds": cpu_seconds(), "peak_mib": peak, **result}))


def table(columns: Mapping[str, str], rows: Iterable[Sequence[Cell]], title: str = "") -> Any:
    """A table for `report`: column -> how its numbers are written (`,.1f`), and the cells of each
    row. Of a spread the median is shown, its ends in brackets. Columns without a value are left
    out.
    """
    rows = list(rows)
    kept = [n for n in range(len(columns)) if any(row[n] is not None for row in rows)]
    titles = list(columns)
    return {
        "title": title,
        "columns": {titles[n]: columns[titles[n]] for n in kept},
        "rows": [[row[n] for n in kept] for row in rows],
    }


def report(
    name: str,
    tables: Sequence[Any],
    clock: str,
    *,
    packages: Sequence[str] = (),
    out: Path | None = None,
) -> None:
    """Print the tables, and store them in benchmarks/results/NAME.json (NAME_gpu.json where torch
    has one), or `out`.

    clock: what was timed and how, for people: "CPU time of one thread". packages: those whose
    versions matter.
    """
    found = {
        "command": shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "date": f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}",
        "machine": machine(),
        "load": [round(_LOAD_BEFORE, 1), round(os.getloadavg()[0], 1)],
        "clock": clock,
        "versions": {package: metadata.version(package) for package in packages},
        "tables": list(tables),
    }
    print(markdown(found))
    path = out or RESULTS / f"{name}{'_gpu' * _has_gpu()}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def machine() -> str:
    """The GPU where torch sees one, or the CPU's name and the number of its cores."""
    if _has_gpu():
        return sys.modules["torch"].cuda.get_device_name()
    try:
        named = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    except OSError:
        named = None
    return f"{named[1] if named else platform.machine()}, {os.cpu_count()} cores"


def _has_gpu() -> bool:
    """Whether this benchmark imported torch, and it has a GPU."""
    torch = sys.modules.get("torch")
    return torch is not None and torch.cuda.is_available()


def markdown(found: Mapping[str, Any]) -> str:
    """What the JSON of a benchmark says, as a block of RESULTS.md."""
    before, after = found["load"]
    versions = "".join(f", {name} {version}" for name, version in found["versions"].items())
    about = (
        f"`{found['command']}` — {found['machine']}, {found['clock']}, load {before} before and"
        f" {after} after{versions}, {found['date']}."
    )
    parts = [textwrap.fill(about, 100, break_on_hyphens=False, break_long_words=False)]
    for one in found["tables"]:
        formats = list(one["columns"].values())
        lines = ["| " + " | ".join(one["columns"]) + " |", "|---" * len(formats) + "|"]
        for row in one["rows"]:
            cells = (written(cell, how) for cell, how in zip(row, formats, strict=True))
            lines.append("| " + " | ".join(cells) + " |")
        title = textwrap.fill(one["title"], 100)
        parts += [title] * bool(title) + ["\n".join(lines)]
    return "\n\n".join(parts)


def written(cell: Cell, how: str) -> str:
    """A cell as people read it."""
    if cell is None or isinstance(cell, str):
        return cell or ""
    values = cell if isinstance(cell, list) else [cell]
    words = [format(value, how).replace("%", " %") for value in values]
    least, middle, most = words * (3 // len(words))
    return middle if least == most else f"{middle} [{least}, {most}]"


def filled(page: str, results: Path = RESULTS) -> str:
    """RESULTS.md with each block as its JSON gives it. Raises ValueError where a block has no JSON
    or a JSON no block.
    """
    names = sorted(BLOCK.findall(page))
    there = sorted(path.stem for path in results.glob("*.json"))
    if names != there:
        raise ValueError(f"RESULTS.md has blocks for {names}, and {results.name}/ holds {there}.")

    def block(match: re.Match[str]) -> str:
        found = json.loads((results / f"{match[1]}.json").read_text(encoding="utf-8"))
        return f"<!-- {match[1]} -->\n{markdown(found)}\n<!-- end -->"

    return BLOCK.sub(block, page)


def main() -> None:
    """Write or check RESULTS.md."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true")
    checks = parser.parse_args().check
    page = PAGE.read_text(encoding="utf-8")
    now = filled(page)
    if checks and now != page:
        raise SystemExit("RESULTS.md is not what results/*.json give: run benchmarks/measure.py.")
    PAGE.write_text(now, encoding="utf-8")


if __name__ == "__main__":
    main()
