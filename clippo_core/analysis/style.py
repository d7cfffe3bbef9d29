"""One look for every page and figure: colours that colour-blind readers tell apart, light and dark, and the base stylesheet.

Colours are named by role. An SVG that stands inside a page says `var(--series-1, #0072b2)`, so that the page's light or dark
variant applies; alone, the fallback does. No script, no font file, nothing from a network.
"""

from __future__ import annotations

SERIES: tuple[str, ...] = ("#0072b2", "#d55e00", "#00876c", "#a8518a", "#8a6d00")
"""Data colours on light ground, in order of use (after Okabe and Ito's colour-blind safe set, each at least 3:1 on white)."""

SERIES_DARK: tuple[str, ...] = ("#5db7ee", "#ff9254", "#35c7a2", "#e39ac6", "#d9b64a")
"""The same roles on dark ground."""


def series(position: int) -> str:
    """CSS colour of the data series at `position`, with its light variant as the fallback."""
    return f"var(--series-{position % len(SERIES) + 1}, {SERIES[position % len(SERIES)]})"


def _variables(colours: tuple[str, ...]) -> str:
    return "".join(f"--series-{position + 1}:{colour};" for position, colour in enumerate(colours))


BASE_CSS = f"""
:root{{color-scheme:light dark;--ground:#fff;--ink:#1b1f24;--soft:#57606a;--line:#d5dae0;--panel:#f5f7f9;--good:#00704f;--bad:#b3261e;
--warn:#8a5a00;{_variables(SERIES)}}}
@media (prefers-color-scheme:dark){{:root{{--ground:#15181c;--ink:#e6e9ec;--soft:#a0a8b1;--line:#3a4149;--panel:#1e2328;--good:#4fcf9f;
--bad:#ff8a80;--warn:#f0b44c;{_variables(SERIES_DARK)}}}}}
*{{box-sizing:border-box}}
body{{margin:0;background:var(--ground);color:var(--ink);font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans",sans-serif}}
main{{max-width:1000px;margin:0 auto;padding:24px 20px 64px}}
h1{{font-size:1.7rem;line-height:1.2;margin:0 0 .3em}}
.soft{{color:var(--soft)}}
.charts{{display:grid;grid-template-columns:repeat(auto-fit,minmax(300px,1fr));gap:18px 24px;margin:18px 0}}
.chart{{margin:0}}
.chart figcaption{{font-size:.9rem;font-weight:600}}
.chart figcaption span{{font-weight:400;color:var(--soft)}}
.chart svg{{display:block;width:100%;height:auto;overflow:visible}}
.facts{{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:10px;margin:16px 0;padding:0}}
.facts div{{background:var(--panel);border-radius:6px;padding:8px 12px}}
.facts dt{{font-size:.8rem;color:var(--soft)}}
.facts dd{{margin:0;font-size:1.1rem;font-variant-numeric:tabular-nums}}
progress{{width:100%;height:12px;accent-color:var(--series-1)}}
"""
