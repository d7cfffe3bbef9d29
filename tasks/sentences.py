"""What `pyflyte run` says about a mistake: our sentence, and no traceback above it.

    error: train.stpes: there is no such field; did you mean `steps`?

flytekit prints the traceback of every error; `pyflyte -v run ...` still does. Of an error in a rank
of a training, Elastic keeps the kind and the words. Another error than the package's own is printed
as before. Written for one version of flytekit, as `flytekit_shim.py`.
"""

from __future__ import annotations

import inspect
import logging
import os
import sys
from pathlib import Path
from typing import Any

from clippo_core import errors
from clippo_core.errors import ClippoError
from clippo_core.untrusted.json import load_json

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
        """As flytekit; a file that is not there, or no json, is called so."""
        if not isinstance(value, str) or value.lstrip()[:1] in ("{", "["):
            return parse(self, value, param)
        try:
            if value.endswith((".yaml", ".yml")) and os.path.exists(value):
                return parse(self, value, param)
            return load_json(Path(value).read_bytes(), value, error=errors.ConfigError)
        except FileNotFoundError:
            fault = f"{value}: there is no such file."
        except (ClippoError, OSError) as error:
            fault = str(error)
        raise asked.click.BadParameter(fault)  # type: ignore[union-attr]

    kind._parse = parsed
    # It writes a rank's traceback as well, which is in what is printed of other errors than ours.
    logging.getLogger("torch.distributed.elastic.multiprocessing.api").setLevel(logging.CRITICAL)
    return True


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
