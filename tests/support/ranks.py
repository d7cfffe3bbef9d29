"""Training processes that a test can kill: forked from a server that has imported everything once,
one per rank.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
import time
from multiprocessing import forkserver
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from clippo_core import storage
from clippo_core.errors import NotFoundError
from clippo_core.run import journal
from clippo_core.run.records import Manifest, PretrainPlan, dumps

TESTS = Path(__file__).resolve().parent
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["warm"])


class Training:
    """`ranks` processes that train `plan`, as torchrun would start them; `timeout_s` ends a test
    that hangs.
    """

    def __init__(self, plan: PretrainPlan, shards: Manifest, ranks: int = 1, name: str = "attempt"):
        self.plan = plan
        folder = Path(plan.stage.root).parent
        file, self.log = folder / f"{name}.json", folder / f"{name}.log"
        file.write_text(dumps(plan))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        arguments = [
            (rank, ranks, port, str(file), shards.uri, str(self.log)) for rank in range(ranks)
        ]
        self.processes: list[ForkServerProcess] = [
            CONTEXT.Process(target=_run, args=a, daemon=True) for a in arguments
        ]
        _start_server()
        for process in self.processes:
            process.start()

    def send(self, signum: signal.Signals, rank: int = 0) -> None:
        """Signal one rank."""
        pid = self.processes[rank].pid
        assert pid is not None
        os.kill(pid, signum)

    def wait_for_step(self, step: int, timeout_s: float = 90.0) -> None:
        """Return when the journal has this step. Raises AssertionError with the log where it does
        not come.
        """
        limit = time.monotonic() + timeout_s
        while time.monotonic() < limit:
            if steps_of(self.plan)[-1:] >= [step]:
                return
            assert any(process.is_alive() for process in self.processes), self.log.read_text()
            time.sleep(0.005)
        raise AssertionError(f"step {step} did not come: {self.log.read_text()}")

    def exit_codes(self, timeout_s: float = 120.0) -> list[int | None]:
        """Exit codes of all ranks, when all have ended; None for one that has not within
        `timeout_s`, which is then killed.
        """
        limit = time.monotonic() + timeout_s
        for process in self.processes:
            process.join(max(0.0, limit - time.monotonic()))
        codes = [process.exitcode for process in self.processes]
        for process in self.processes:
            process.kill()
            process.join()
        return codes


def steps_of(plan: PretrainPlan) -> list[int]:
    """Steps in the run's journal."""
    try:
        return [
            line["step"] for line in journal.read(storage.join(plan.stage.root, "journal.jsonl"))
        ]
    except NotFoundError:
        return []


def _start_server() -> None:
    """Start the server, once, where it finds what it is to import: Python 3.11 forgets to tell it
    the path.
    """
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(
        filter(None, [str(TESTS), str(TESTS.parents[1]), before])
    )
    forkserver.ensure_running()
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before


def _run(rank: int, ranks: int, port: int, plan: str, shards: str, log: str) -> None:
    """One rank, from its environment and command line to its exit code."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    if ranks > 1:
        world = {
            "RANK": rank,
            "LOCAL_RANK": rank,
            "WORLD_SIZE": ranks,
            "LOCAL_WORLD_SIZE": ranks,
            "MASTER_PORT": port,
        }
        os.environ.update(
            {name: str(value) for name, value in world.items()}, MASTER_ADDR="127.0.0.1"
        )
    from clippo_core.train.__main__ import main

    sys.argv = ["train", plan, shards]
    code = main()
    sys.stdout.flush()
    os._exit(code)  # as a rank whose peers are lost ends: without waiting for them
