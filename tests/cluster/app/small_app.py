"""A small Flyte project with one task per rule of the doubles; its own image, and no torch."""

from __future__ import annotations

import functools
import os
import time
from datetime import timedelta
from pathlib import Path

from flytekit import (
    Cache,
    Deck,
    Secret,
    WorkflowFailurePolicy,
    current_context,
    map_task,
    task,
    workflow,
)
from flytekit.exceptions.user import FlyteRecoverableException
from flytekit.types.error import FlyteError

WEBHOOK = Secret(group="Clippo", key="Webhook")


@task(cache=Cache(version="1"), enable_deck=True, deck_fields=())
def double(n: int) -> int:
    """Twice n; refuses 13."""
    if n == 13:
        raise ValueError("13 is unlucky")
    Deck("Number", f"<b>{2 * n}</b>")
    return 2 * n


@task(retries=2)
def third_time(n: int) -> str:
    """Fails twice in a way that a retry cures; notes with Flyte how often it was tried."""
    checkpoint = current_context().checkpoint
    before = checkpoint.read().decode() if checkpoint.prev_exists() else ""
    checkpoint.write(f"{before}{n}".encode())
    if len(before) < 2:
        raise FlyteRecoverableException(f"seen {before or 'nothing'}")
    return before


@task
def leave(n: int) -> str:
    """Leaves files wherever a process may, and says what earlier pods left there."""
    places = [Path.cwd(), Path.home(), Path(os.environ["TMPDIR"])]
    found = [str(path) for place in places for path in place.glob("left-*")]
    for place in places:
        (place / f"left-{n}").touch()
    return f"{found} {sorted(set(os.environ) & {'PYTEST_CURRENT_TEST', 'AWS_PROFILE'})}"


@task
def both(first: str, second: str) -> str:
    return first + second


@task(secret_requests=[WEBHOOK])
def asks() -> str:
    return current_context().secrets.get(WEBHOOK.group, WEBHOOK.key)


@task
def does_not_ask() -> str:
    try:
        return current_context().secrets.get(WEBHOOK.group, WEBHOOK.key)
    except ValueError:
        return "nothing"


@task(timeout=timedelta(seconds=3), retries=5)
def hang() -> int:
    time.sleep(3600)
    return 0


@task
def tell(n: int, err: FlyteError | None = None) -> None:
    """The failure handler: leaves in the log what it was told."""
    print("TOLD", n, repr(err))


@workflow
def doubled(n: int = 3) -> int:
    return double(n=n)


@workflow
def tried(n: int = 7) -> str:
    return third_time(n=n)


@workflow
def clean() -> str:
    first = leave(n=1)
    second = leave(n=2)
    first >> second
    return both(first=first, second=second)


@workflow
def secrets() -> tuple[str, str]:
    return asks(), does_not_ask()


@workflow
def hanging() -> int:
    return hang()


@workflow(on_failure=tell)
def inner(n: int) -> int:
    return double(n=double(n=n))


@workflow(failure_policy=WorkflowFailurePolicy.FAIL_AFTER_EXECUTABLE_NODES_COMPLETE)
def patient(n: int = 13) -> tuple[int, int]:
    """One branch fails, in a workflow inside; the other has two nodes, one after the other."""
    return inner(n=n), double(n=double(n=4))


@workflow
def impatient(n: int = 13) -> tuple[int, int]:
    return double(n=n), double(n=double(n=double(n=double(n=5))))


@task(cache=Cache(version="1"), retries=1)
def times(n: int, by: int) -> int:
    if n == 13:
        raise ValueError("13 is unlucky")
    return n * by


@workflow
def mapped(n: list[int], by: int = 10) -> list[int]:
    return map_task(functools.partial(times, by=by))(n=n)


@workflow
def forgiven(n: list[int], by: int = 10) -> list[int | None]:
    """A map of which no item has to succeed."""
    return map_task(functools.partial(times, by=by), min_success_ratio=0.0)(n=n)
