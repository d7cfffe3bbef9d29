"""Names from outside: keys of records, members of tars, file names in annotations.

A name that can be used is UTF-8 without control characters, of bounded length, relative, and does
not lead out of its folder. Whether the file exists is for others to see.
"""

from __future__ import annotations

import unicodedata

from clippo_core.errors import ClippoError
from clippo_core.untrusted.limits import LIMITS, Limits

_HIDDEN = {"Cc": "a control character", "Cs": "a lone surrogate", "Zl": "a line end"}
_HIDDEN["Zp"] = _HIDDEN["Zl"]


def read_name(raw: str | bytes, limits: Limits = LIMITS) -> tuple[str, str]:
    """(name, problem) of a key, member name or file name; the problem is empty for a usable name.

    A name with a problem comes back printable and short, fit for a sentence and nothing else.
    """
    if isinstance(raw, bytes):
        try:
            raw = raw.decode()
        except UnicodeDecodeError:
            return printable(raw), "its name is not UTF-8"
    problem = name_problem(raw, limits)
    return (printable(raw) if problem else raw), problem


def name_problem(name: str, limits: Limits = LIMITS) -> str:
    """Why a name cannot be used, as a part of a sentence; empty for one that can."""
    hidden = hidden_in(name)
    if hidden:
        return f"its name holds {hidden}"
    n_bytes = len(name.encode())
    if n_bytes > limits.name_bytes:
        return f"its name has {n_bytes:,} bytes, more than {limits.name_bytes:,}"
    parts = name.split("/")
    if max(len(part.encode()) for part in parts) > limits.name_part_bytes:
        return f"a part of its name has more than {limits.name_part_bytes} bytes"
    if name.startswith("/"):
        return "its name is absolute"
    if ".." in parts:
        return "its name leads out of its folder"
    if parts[-1] in ("", "."):
        return "its name is empty or that of a folder"
    return ""


def is_unicode(text: str) -> bool:
    """Whether a text can be written as UTF-8: json allows half a surrogate pair, which is no
    character.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def printable(raw: str | bytes, characters: int = 200) -> str:
    """A name or address for a sentence: one line of UTF-8, escaped and cut short."""
    text = (
        raw[: 4 * characters].decode(errors="backslashreplace") if isinstance(raw, bytes) else raw
    )
    shown = "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text[: characters + 1]
    )
    return shown if len(shown) <= characters else shown[: characters - 1] + "…"


def refusal(error: type[ClippoError], where: str, fault: str, remedy: str) -> ClippoError:
    """The exception that refuses a file: one sentence of its address, the fault and the remedy."""
    return error(f"{printable(where)}: {printable(fault, 500)}; {printable(remedy, 500)}.")


def reason(fault: BaseException, characters: int = 160) -> str:
    """A library's words about a fault, as one short line that is the same in every process."""
    import re

    words = " ".join(str(fault).split()) or type(fault).__name__
    return printable(re.sub(r"<[^<>]* at 0x[0-9a-fA-F]+>", "the file", words), characters)


def hidden_in(name: str) -> str:
    """What a name holds that cannot be shown; empty = nothing."""
    if name.isascii() and name.isprintable():
        return ""
    found = (_HIDDEN.get(unicodedata.category(character)) for character in name)
    return next((words for words in found if words), "")
