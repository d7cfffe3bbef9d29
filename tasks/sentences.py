"""What `pyflyte run` says about a mistake: our sentence, and no traceback above it; and its help.

    error: train.stpes: there is no such field; did you mean `steps`?

flytekit prints the traceback of every error; `pyflyte -v run ...` still does. Of an error in a rank
of a training, Elastic keeps the kind and the words. Another error than the package's own is printed
as before. Written for one version of flytekit, as `flytekit_shim.py`.
"""

from __future__ import annotations

import functools
import inspect
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from clippo_core import errors
from clippo_core.errors import ClippoError
from clippo_core.untrusted.json import load_json

_CLI = "flytekit.clis.sdk_in_container"
_HELP = {
    "config": "A run: its JSON, or a file that holds it, as `clippo new NAME --pairs PATH` and"
    " `clippo preset NAME` print one. clippo_core/config/ says what each field means.",
    "evaluate": "The part `evaluate` of a run: its JSON, or a file that holds it.",
}
"""What stands in the place of a JSON schema of some hundred lines."""


def say_sentences() -> bool:
    """Let a `pyflyte` that runs in this process say our errors in a sentence; whether it does."""
    names = (f"{_CLI}.utils", f"{_CLI}.run", "flytekit.interaction.click_types")
    shown, command, asked = (sys.modules.get(name) for name in names)
    original = getattr(shown, "pretty_print_traceback", None)
    kind, option = getattr(asked, "JsonParamType", None), getattr(command, "to_click_option", None)
    if original is None or kind is None or option is None or hasattr(original, "__wrapped__"):
        return False  # no pyflyte, or done already
    if list(inspect.signature(original).parameters) != ["e", "verbosity"]:
        return False
    vars(shown)["pretty_print_traceback"] = _briefly(original)
    vars(command)["to_click_option"] = _without_schema(option)
    kind._parse = _reading_files(kind._parse, vars(asked)["click"].BadParameter)
    # It writes a rank's traceback as well, which is in what is printed of other errors than ours.
    logging.getLogger("torch.distributed.elastic.multiprocessing.api").setLevel(logging.CRITICAL)
    return True


def _briefly(original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def said(e: Exception, verbosity: int = 1) -> None:
        sentence = _sentence(e)
        if verbosity or not sentence:
            original(e, verbosity)
        else:
            print(f"error: {sentence}", file=sys.stderr)

    return said


def _without_schema(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def option(*args: Any, **kwargs: Any) -> Any:
        """As flytekit, with words for the schema of an input."""
        made = original(*args, **kwargs)
        if ': {"' in (made.help or ""):
            made.help = _HELP.get(made.name, "JSON, or a file that holds it.")
            made.show_default = False  # as long
        return made

    return option


def _reading_files(
    original: Callable[..., Any], refused: type[Exception]
) -> Callable[[Any, Any, Any], Any]:
    def parsed(self: Any, value: Any, param: Any) -> Any:
        """As flytekit; a file that is not there, or no json, is called so."""
        if not isinstance(value, str) or value.lstrip()[:1] in ("{", "["):
            return original(self, value, param)
        try:
            if value.endswith((".yaml", ".yml")) and os.path.exists(value):
                return original(self, value, param)
            return load_json(Path(value).read_bytes(), value, error=errors.ConfigError)
        except FileNotFoundError:
            fault = f"{value}: there is no such file."
        except (ClippoError, OSError) as error:
            fault = str(error)
        raise refused(fault)

    return parsed


def _sentence(error: BaseException | None) -> str:
    """What one of the package's errors says, without the line that flytekit puts above it; empty
    where another error is the reason.
    """
    raised = error
    while raised is not None:
        for failure in getattr(raised, "failures", {}).values():  # of Elastic's ChildFailedError
            if found := _of_rank(failure.message):
                return found
        raised = raised.__cause__ or raised.__context__
    while error is not None and not isinstance(error, ClippoError):
        error = error.__cause__
    lines = str(error or "").split("\n")
    if lines[0].startswith("Error encountered while executing"):
        lines = [line.removeprefix("  ") for line in lines[1:]]
    return "\n".join(lines)


def _of_rank(message: Any) -> str:
    """What a rank's error says, if it is one of the package's and no other rank's fault."""
    noted = message.get("message", "") if isinstance(message, dict) else ""
    name, _, words = noted.partition(": ")
    kind = getattr(errors, name, None)
    is_own = isinstance(kind, type) and issubclass(kind, ClippoError)
    return words if is_own and kind is not errors.LostRankError else ""
