"""Templates to HTML: every value is escaped, because captions, file names and error messages come
from outside.

    fragment("expectations", report=report) -> Markup
    deck(fragment, …) -> str for the Flyte console

Only three things enter unescaped, all made by this package: a Figure's svg, the training curves
(`live.py`) and the stylesheet. Layout stands in `templates/`.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clippo_core.extras import optional_import
from clippo_core.report import digits
from clippo_core.report.style import DECK_CSS

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

TEMPLATES = Path(__file__).with_name("templates")

LONGEST_TEXT = 280
"""Characters of a caption or reason that are shown; the rest becomes an ellipsis."""


def fragment(template: str, **values: Any) -> Markup:
    """`templates/<template>.html.jinja` with `values` filled in, escaped; a value that is missing
    raises jinja2.UndefinedError.
    """
    with optional_import():
        from markupsafe import Markup

    return Markup(_environment().get_template(f"{template}.html.jinja").render(**values))


def deck(*fragments: Markup) -> str:
    """Fragments as one deck: a single element that brings its own styles."""
    with optional_import():
        from markupsafe import escape

    return (
        '<div class="deck'
        f' page"><style>{DECK_CSS}</style>{"".join(escape(part) for part in fragments)}</div>'
    )


def shorten(text: object, longest: int = LONGEST_TEXT) -> str:
    """`text` as one line of at most `longest` characters."""
    words = " ".join(str(text)[: 4 * longest].split())
    return words if len(words) <= longest else words[: longest - 1] + "…"


def breakable(name: object) -> Markup:
    """A metric's or a setting's name, escaped, that may be broken after `/`, `_` and `.`."""
    with optional_import():
        from markupsafe import Markup, escape

    return Markup(re.sub(r"([/_.])", r"\1<wbr>", str(escape(name))))


def language(code: str) -> str:
    """A language's code, with a word for the one that says there is none (ISO 639-2: numbers,
    symbols).
    """
    return "zxx (no language)" if code == "zxx" else code


@functools.cache
def _environment() -> Environment:
    with optional_import():
        from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        share=digits.share,
        interval=digits.interval,
        count=digits.count,
        value=digits.value,
        duration=digits.duration,
        size=digits.size,
        shorten=shorten,
        breakable=breakable,
        language=language,
    )
    return environment
