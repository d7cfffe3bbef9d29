"""Fuzz decoders and readers within limits on memory and time; the first failure is kept.

    python tests/fuzz/fuzz.py                   50 examples of every format, always the same ones
    python tests/fuzz/fuzz.py tar npz --examples 500
    python tests/fuzz/fuzz.py tar --seconds 600              new examples for ten minutes
    python tests/fuzz/fuzz.py tar --seconds 600 --coverage   guided by coverage, with atheris

A file that fails is written to tests/fuzz/cases/<format>/, where the tests find it. It prints one
line of json for each format.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from every_format import STRATEGIES
from hypothesis import HealthCheck, Phase, given, seed, settings

sys.path.append(str(Path(__file__).parents[1] / "support"))

CASES = Path(__file__).parent / "cases"
MORE_BYTES = 2**30
"""Memory that decoding may take beyond what the imports took; a lie about a size asks for more."""
EXAMPLE_SECONDS = 3.0
"""CPU time of one example, of which the slowest takes about 0.3."""


def limit_resources(cpu_seconds: int) -> None:
    """Bound this process's memory and CPU time; what passes them raises or is killed."""
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if sys.platform == "linux" else 0
    if pages:
        bound = pages * resource.getpagesize() + MORE_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (bound, bound))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds))


def check_one(
    name: str, check: Callable[[bytes], bool], data: bytes, count: dict[str, int]
) -> None:
    """One example: right or refused, and quickly. A failing one is kept among the cases."""
    folder = CASES / name
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / f"unfinished-{os.getpid()}"  # stays where the process is killed by it
    unfinished.write_bytes(data)
    start = time.process_time()
    try:
        accepted = check(data)
        seconds = time.process_time() - start
        assert seconds < EXAMPLE_SECONDS, f"{seconds:.1f} s for {len(data):,} bytes"
    except BaseException:
        unfinished.replace(folder / hashlib.sha256(data).hexdigest()[:16])
        raise
    unfinished.unlink()
    count["read" if accepted else "refused"] += 1


def each_example(name: str, examples: int, first_seed: int, use: Callable[[bytes], None]) -> None:
    """Call `use` with so many examples of a format."""

    @seed(first_seed)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate,),
        print_blob=False,
    )
    @given(STRATEGIES[name])
    def every_example(data: bytes) -> None:
        use(data)

    every_example()


def run(name: str, examples: int, seconds: float, first_seed: int) -> dict[str, object]:
    """Examples of one format: `examples` of them, or as many as `seconds` allow."""
    from every_check import CHECKS

    count = {"read": 0, "refused": 0}
    start, round_number = time.monotonic(), 0
    while round_number == 0 or time.monotonic() - start < seconds:
        each_example(
            name,
            examples,
            first_seed + round_number,
            lambda data: check_one(name, CHECKS[name], data, count),
        )
        round_number += 1
    return {"format": name, **count, "seconds": round(time.monotonic() - start, 1)}


def run_guided(name: str, seconds: float) -> None:
    """Bytes that atheris finds by coverage, from files that the strategies draw. Never returns."""
    import atheris

    included = ["clippo_core", "zipfile", "zlib"]
    with atheris.instrument_imports(include=included):
        from every_check import CHECKS
    corpus = Path(tempfile.mkdtemp(prefix=f"fuzz-{name}-"))
    each_example(
        name,
        200,
        0,
        lambda data: (corpus / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data) and None,
    )
    count = {"read": 0, "refused": 0}
    options = [f"-max_total_time={seconds:.0f}", "-rss_limit_mb=3000", "-timeout=10"]
    options += [f"-artifact_prefix={corpus}/", "-max_len=20000", "-print_final_stats=1"]
    atheris.Setup(
        [sys.argv[0], *options, str(corpus)],
        lambda data: check_one(name, CHECKS[name], data, count),
    )
    atheris.Fuzz()


def main() -> None:
    """See the module's text."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "formats", nargs="*", metavar="FORMAT", help=f"of {', '.join(STRATEGIES)}; default all"
    )
    parser.add_argument(
        "--examples", type=int, default=50, help="examples of each format (in each round)"
    )
    parser.add_argument(
        "--seconds", type=float, default=0, help="go on for so long with each format"
    )
    parser.add_argument(
        "--seed", type=int, default=None, help="default: 0, and a random one with --seconds"
    )
    parser.add_argument(
        "--coverage", action="store_true", help="let coverage guide it (one format)"
    )
    chosen = parser.parse_args()
    names = chosen.formats or list(STRATEGIES)
    if unknown := set(names) - set(STRATEGIES):
        parser.error(
            f"no such format: {', '.join(sorted(unknown))}; there are {', '.join(STRATEGIES)}"
        )
    if chosen.coverage:
        run_guided(names[0], chosen.seconds or 60)
    first_seed = (
        random.SystemRandom().randrange(2**32)
        if chosen.seconds and chosen.seed is None
        else chosen.seed or 0
    )
    import model_readers  # noqa: F401  what torch takes is no example's memory

    limit_resources(60 + int(len(names) * (chosen.seconds + chosen.examples) * 2))
    for name in names:
        print(json.dumps({"format": name, "seed": first_seed}), file=sys.stderr, flush=True)
        print(json.dumps(run(name, chosen.examples, chosen.seconds, first_seed)), flush=True)


if __name__ == "__main__":
    main()
