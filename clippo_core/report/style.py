"""One look for every page and figure: colours that colour-blind readers tell apart, light and dark,
and the base stylesheet.

Colours are named by role. An SVG that stands inside a page says `var(--series-1, #0072b2)`, so that
the page's light or dark variant applies; alone, the fallback does. No script, no font file, nothing
from a network.
"""

from __future__ import annotations

SERIES: tuple[str, ...] = ("#0072b2", "#d55e00", "#00876c", "#a8518a", "#8a6d00")
"""Data colours on light ground, in order of use (after Okabe and Ito's colour-blind safe set, each
at least 3:1 on white)."""

SERIES_DARK: tuple[str, ...] = ("#5db7ee", "#ff9254", "#35c7a2", "#e39ac6", "#d9b64a")
"""The same roles on dark ground."""


def series(position: int) -> str:
    """CSS colour of the data series at `position`, with its light variant as the fallback."""
    return f"var(--series-{position % len(SERIES) + 1}, {SERIES[position % len(SERIES)]})"


def _variables(colours: tuple[str, ...]) -> str:
    return "".join(f"--series-{position + 1}:{colour};" for position, colour in enumerate(colours))


_LIGHT = (
    "--ground:#fff;--ink:#1b1f24;--soft:#57606a;--line:#d5dae0;--panel:#f5f7f9;"
    "--good:#00704f;--bad:#b3261e;--warn:#855400;" + _variables(SERIES)
)
_DARK = (
    "--ground:#15181c;--ink:#e6e9ec;--soft:#a0a8b1;--line:#3a4149;--panel:#1e2328;"
    "--good:#4fcf9f;--bad:#ff8a80;--warn:#f0b44c;" + _variables(SERIES_DARK)
)
_TYPE = (
    'background:var(--ground);color:var(--ink);font:16px/1.5 system-ui,-apple-system,"Segoe'
    ' UI",Roboto,"Noto Sans",sans-serif'
)

PARTS_CSS = """
.page *{box-sizing:border-box}
.page h1{font-size:1.75rem;line-height:1.2;margin:0 0 .3em}
.page h2{font-size:1.3rem;line-height:1.3;margin:2.2em 0 .5em;padding-top:.6em;\
border-top:1px solid var(--line)}
.page h3{font-size:1.08rem;margin:1.6em 0 .4em}
.page h4{font-size:.95rem;margin:1.1em 0 .3em}
.page p{margin:.5em 0}.page a{color:var(--series-1)}
.soft{color:var(--soft)}.good{color:var(--good)}.bad{color:var(--bad)}.warn{color:var(--warn)}
.small{font-size:.85rem}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(300px,1fr));gap:18px 24px;\
margin:18px 0}
.chart{margin:0}
.chart figcaption{font-size:.9rem;font-weight:600}
.chart figcaption span{font-weight:400;color:var(--soft)}
.chart svg,.figure svg{display:block;width:100%;height:auto}
.chart svg{overflow:visible}
.figure{margin:1.4em 0;break-inside:avoid}
.figure figcaption{font-weight:600;margin-bottom:.4em}
.figure p{font-size:.85rem;color:var(--soft);margin:.2em 0}
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(330px,1fr));gap:4px 28px}
.figures .figure{margin:.7em 0;min-width:0}.figures .figure.wide{grid-column:1/-1}
.facts{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:10px;\
margin:16px 0;padding:0}
.facts div{background:var(--panel);border-radius:6px;padding:8px 12px}
.facts dt{font-size:.8rem;color:var(--soft)}
.facts dd{margin:0;font-size:1.1rem;font-variant-numeric:tabular-nums;overflow-wrap:anywhere}
.page progress{width:100%;height:12px;accent-color:var(--series-1)}
.scroll{overflow-x:auto;margin:.8em 0}
.page table{border-collapse:collapse;width:100%;font-size:.9rem;line-height:1.35}
.page caption{text-align:left;font-size:.85rem;color:var(--soft);padding-bottom:.4em}
.page th,.page td{padding:5px 10px 5px 0;text-align:left;vertical-align:top;\
border-bottom:1px solid var(--line)}
.page thead th{font-size:.8rem;color:var(--soft);font-weight:600;vertical-align:bottom}
.page .num{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap;padding-right:16px}
.page tbody th{font-weight:400}
.page td.num .small{white-space:normal}
.metrics{table-layout:fixed}.metrics.withpaper{min-width:760px}
.metrics th:nth-child(1){width:40%}
.metrics.withpaper th:nth-child(1){width:27%}.metrics.withpaper th:nth-child(2){width:15%}\
.metrics.withpaper th:nth-child(3){width:11%}
.metrics.withpaper th:nth-child(4){width:9%}.metrics.withpaper th:nth-child(5){width:19%}
.headline{font-size:1.15rem;margin:.9em 0}.headline strong{font-size:1.9rem;line-height:1.2}
.page tr.group th{padding-top:1.3em;font-weight:600;border-bottom-color:var(--soft)}
.page tr.group p{font-weight:400;margin:.2em 0}
.page code{font:.92em ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;overflow-wrap:anywhere}
.badge{display:inline-block;border:1px solid currentColor;border-radius:4px;padding:0 6px;\
font-size:.78rem;line-height:1.5;
color:var(--warn);font-weight:600;white-space:nowrap}
.note{border-left:4px solid var(--series-1);background:var(--panel);padding:8px 14px;\
margin:14px 0;border-radius:0 6px 6px 0}
.note.isbad{border-color:var(--bad)}.note.isgood{border-color:var(--good)}
.pairs{display:grid;grid-template-columns:repeat(auto-fill,minmax(230px,1fr));gap:16px 20px;\
margin:14px 0}
.pair{margin:0;font-size:.85rem;line-height:1.35;break-inside:avoid;min-width:0}
.pair .pictures{display:flex;gap:4px;align-items:flex-start;flex-wrap:wrap;margin-bottom:4px}
.pair img{display:block;width:calc(50% - 2px);height:auto;border-radius:3px;background:#7f7f7f}
.pair .pictures.single img{width:60%}
.pair img.drawn{image-rendering:pixelated}
.pair .first{width:calc(50% - 2px);background:var(--panel);padding:6px;border-radius:3px;\
overflow-wrap:anywhere}
.pair bdi{overflow-wrap:anywhere}.page td bdi,.page th bdi{overflow-wrap:break-word}
.pair dl{display:grid;grid-template-columns:auto 1fr;gap:0 8px;margin:0}.pair dt{color:var(--soft)}\
.pair dd{margin:0;min-width:0}
.bar{display:block;height:9px;background:var(--series-1);min-width:1px;margin-top:5px}
.picture{display:flex;flex-direction:column;width:calc(50% - 2px)}.picture img{width:100%}
.pair .pictures.single .picture{width:60%}.pair .pictures.single img{width:100%}
.facts dt{overflow-wrap:anywhere}
@media (max-width:640px){
.figure{overflow-x:auto}.figure.wide svg{min-width:600px}
.metrics.withpaper{min-width:0}.metrics thead{display:none}
.metrics,.metrics tbody,.metrics tr{display:block;width:100%}
.metrics th,.metrics td{display:block;width:auto!important;border:0;padding:1px 0}
.metrics tr{border-bottom:1px solid var(--line);padding:8px 0}
.metrics td.num{display:flex;justify-content:space-between;gap:12px;text-align:right;padding:1px 0}
.metrics td:empty{display:none!important}
.page tbody th{min-width:9em}
.metrics td.small[data-label]::before{margin-right:10px}
.metrics td[data-label]::before{content:attr(data-label);color:var(--soft);text-align:left}
}
.page details{margin:.6em 0}.page summary{cursor:pointer;color:var(--series-1)}
"""
"""Rules for what stands inside an element of class `page`: pages and decks alike."""

PAGE_CSS = f"""
:root{{color-scheme:light dark;{_LIGHT}}}
@media (prefers-color-scheme:dark){{:root{{{_DARK}}}}}
body{{margin:0;{_TYPE}}}
main{{max-width:1040px;margin:0 auto;padding:24px 20px 64px}}
nav{{display:flex;flex-wrap:wrap;gap:2px 14px;font-size:.9rem;margin:.8em 0}}\
nav a{{color:var(--series-1)}}
@media print{{:root{{color-scheme:light;{_LIGHT}}}html{{font-size:11px}}body{{font-size:1rem}}\
main{{max-width:none;padding:0}}
nav{{display:none}}
h2,h3,h4{{break-after:avoid}}tr,.pair,.figure{{break-inside:avoid}}\
.page *{{print-color-adjust:exact}}.scroll{{overflow:visible}}}}
{PARTS_CSS}"""
"""A page of its own: light or dark as the reader's system is, light on paper. Its <main> has class
`page`."""

DECK_CSS = f".deck{{color-scheme:light;{_LIGHT}{_TYPE};max-width:1040px}}{PARTS_CSS}"
"""A fragment in the Flyte console, whose frame is white."""
