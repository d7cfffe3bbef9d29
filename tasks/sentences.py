"""What `pyflyte run` says about a mistake: our sentence, and no traceback above it.

    error: train.stpes: there is no such field; did you mean `steps`?

flytekit prints the traceback of every error; `pyflyte -v run ...` still does. Another error than
the package's own is printed as before. Written for one version of flytekit, as `flytekit_shim.py`.
"""

from __future__ import annotations

import inspect
import os
import sys
from typing import Any

from clippo_core.errors import ClippoError

_SHOWN = "flytekit.clis.sdk_in_container.utils"
_ASKED = "flytekit.interaction.click_types"


def say_sentences() -> bool:
    """Let a `pyflyte` that runs in this process say our errors in a sentence; whether it does."""
    shown, asked = sys.modules.get(_SHOWN), sys.modules.get(_ASKED)
    original = getattr(shown, "pretty_print_traceback", None)
    kind = getattr(asked, "JsonParamType", None)
    if original is None or kind is None or hasattr(original, "__wrapped__"):
        return False  # no pyflyte, or done already
    if list(inspect.signature(original).parameters) != ["e", "verbosity"]:
        return False

    def said(e: Exception, verbosity: int = 1) -> None:
        sentence = _sentence(e)
        if verbosity or not sentence:
            original(e, verbosity)
        else:
            print(f"error: {sentence}", file=sys.stderr)

    vars(said)["__wrapped__"] = original
    vars(shown)["pretty_print_traceback"] = said
    parse = kind._parse

    def parsed(self: Any, value: Any, param: Any) -> Any:
        """As flytekit; a file that is not there is called so, and not a text that is no json."""
        is_text = isinstance(value, str) and value.lstrip()[:1] not in ("{", "[")
        if is_text and not os.path.exists(value):
            raise asked.click.BadParameter(f"{value}: there is no such file.")  # type: ignore[union-attr]
        return parse(self, value, param)

    kind._parse = parsed
    return True


def _sentence(error: BaseException | None) -> str:
    """What one of the package's errors says, without the line that flytekit puts above it."""
    while error is not None and not isinstance(error, ClippoError):
        error = error.__cause__
    lines = str(error or "").split("\n")
    if lines[0].startswith("Error encountered while executing"):
        lines = [line.removeprefix("  ") for line in lines[1:]]
    return "\n".join(lines)
