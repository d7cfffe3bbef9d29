"""The page on which a training run is watched: small, self-refreshing, made again every few seconds
beside the journal.

    step 412 of 730 ▓▓▓▓▓▓▓░░░░░   loss · learning rate · logit scale
    positive against mean negative similarity · pairs per second

It must not hold up training: under 100 ms for 10,000 steps, a few kB of HTML, no script and nothing
from a network. The report shows the same curves (`curves.py`).
"""

from __future__ import annotations

import html
import math
import time
from typing import Any

import numpy as np

from clippo_core.report import digits
from clippo_core.report.curves import CHARTS, by_step, draw, number_of
from clippo_core.report.style import PAGE_CSS

LINKS = (
    '<p class="small">Once the run is evaluated: <a href="report.html">its report</a> · <a'
    ' href="../index.html">all runs and verdicts</a></p>'
)


def training_page(
    records: list[dict[str, Any]],
    title: str,
    total_steps: int,
    refresh_seconds: int = 10,
    *,
    written_at: float | None = None,
    has_links: bool = False,
) -> str:
    """A complete HTML page of the journal's `records` (any order; of several lines for one step the
    last counts).

    It asks the browser to load it again every `refresh_seconds`, until the last of `total_steps` is
    done. `written_at` is the time shown, in seconds since 1970 (None: now). Missing and non-finite
    values leave gaps. `has_links`: to the pages that will stand beside it in the run's folder.
    """
    steps = by_step(records)
    last = steps[-1] if steps else {}
    done = int(last.get("step", 0))
    finished = bool(total_steps) and done >= total_steps
    refresh = "" if finished else f'<meta http-equiv="refresh" content="{int(refresh_seconds)}">'
    stamp = time.strftime(
        "%Y-%m-%d %H:%M:%S UTC", time.gmtime(time.time() if written_at is None else written_at)
    )
    state = "finished" if finished else f"loads itself again every {int(refresh_seconds)} s"
    name = html.escape(title)
    links = LINKS if has_links else ""
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">{refresh}<meta name="viewport"'
        f' content="width=device-width,initial-scale=1"><title>'
        f"{digits.count(done)}/{digits.count(total_steps)} {name}</title>"
        f"<style>{PAGE_CSS}</style></head>"
        f'<body><main class="page"><h1>{name}</h1><p class="soft">Written {stamp};'
        f" {state}.</p>{links}{training_charts(records, total_steps)}</main></body></html>\n"
    )


def training_charts(records: list[dict[str, Any]], total_steps: int) -> str:
    """Progress bar, latest numbers and curves as one HTML fragment; it stands in an element of
    class `page`, with the page's styles.
    """
    steps = by_step(records)
    if not steps:
        return '<p class="soft">No step is done yet.</p>'
    charts = "".join(draw(chart, steps) for chart in CHARTS)
    done, total = int(steps[-1]["step"]), max(total_steps, int(steps[-1]["step"]))
    bar = (
        f'<progress value="{done}" max="{total}" aria-label="steps done">{done} of'
        f" {total}</progress>"
    )
    return f'{bar}{_facts(steps, total)}<div class="charts">{charts}</div>'


def seconds_left(records: list[dict[str, Any]], total_steps: int) -> float | None:
    """Estimate of the training time left, from the median speed of the last 50 steps; None where
    the speed is unknown.
    """
    steps = by_step(records)
    speeds = [
        speed
        for speed in (number_of(step, "pairs_per_second") for step in steps[-50:])
        if math.isfinite(speed) and speed > 0
    ]
    done, pairs = (
        (steps[-1]["step"], number_of(steps[-1], "pairs_seen")) if steps else (0, math.nan)
    )
    if not speeds or not math.isfinite(pairs) or done <= 0:
        return None
    return max(total_steps - done, 0) * pairs / done / float(np.median(speeds))


def _facts(steps: list[dict[str, Any]], total: int) -> str:
    last = steps[-1]
    skipped = int(last.get("skipped") or 0)
    entries = [
        ("step", f"{digits.count(int(last['step']))} of {digits.count(total)}"),
        ("time left, about", digits.duration(seconds_left(steps, total))),
        ("loss, nats", digits.value(number_of(last, "loss"))),
        ("learning rate", digits.value(number_of(last, "lr"))),
        ("logit scale", digits.value(number_of(last, "logit_scale"))),
        (
            "matching − others",
            digits.value(
                number_of(last, "positive_similarity") - number_of(last, "negative_similarity")
            ),
        ),
        ("pairs per second", digits.value(number_of(last, "pairs_per_second"))),
        ("skipped steps", digits.count(skipped)),
    ]
    if math.isfinite(number_of(last, "accuracy")):
        entries.append(("own pair ranked first", f"{100 * number_of(last, 'accuracy'):.0f} %"))
    if math.isfinite(number_of(last, "data_wait_share")):
        entries.append(("waiting for data", f"{100 * number_of(last, 'data_wait_share'):.0f} %"))
    if math.isfinite(number_of(last, "mfu")):
        entries.append(("model FLOPs used", f"{100 * number_of(last, 'mfu'):.0f} %"))
    if math.isfinite(number_of(last, "peak_memory_gib")):
        entries.append(("peak memory, GiB", digits.value(number_of(last, "peak_memory_gib"))))
    return (
        '<dl class="facts">'
        + "".join(f"<div><dt>{name}</dt><dd>{text}</dd></div>" for name, text in entries)
        + "</dl>"
    )
