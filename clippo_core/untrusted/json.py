"""json from outside: strict UTF-8, bounded in size, depth and number of values; then typed access.

    entries = field(load_json(data, uri), "images", list[dict], uri)
    name = field(entry, "filename", str, uri, path=f"images[{number}]")

Depth and lone surrogates are looked for in the raw bytes, by whole-array operations, so that a file
of 300 MB costs no walk over its values. Which fields a format has is for its reader to know.
"""

from __future__ import annotations

import json
import math
import re
import sys
from typing import Any, NoReturn, TypeVar, cast, get_args, get_origin

from clippo_core.errors import ClippoError, DataError
from clippo_core.untrusted.limits import LIMITS, Limits
from clippo_core.untrusted.names import is_unicode, printable, refusal

T = TypeVar("T")
_REMEDY = "fetch or write it again"
_BOM = b"\xef\xbb\xbf"
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_SURROGATE_PAIR = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}")
_STEP_BYTES = 2**22
_WORDS = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}
_WORDS |= {list: "a list", dict: "an object", object: "a value"}  # type: ignore[dict-item]


class _Fault(ValueError):
    """What the parser's hooks refuse."""


def load_json(
    data: bytes | str,
    where: str,
    *,
    error: type[ClippoError] = DataError,
    remedy: str = _REMEDY,
    unique_keys: bool = False,
    lone_surrogates: bool = False,
    max_bytes: int = 0,
    limits: Limits = LIMITS,
) -> Any:
    """The value of a json text. A byte order mark in front is dropped.

    unique_keys: refuse an object with the same key twice (Python takes the last); it costs time,
    and is for manifests and headers. lone_surrogates: let escaped halves of characters through, for
    files of many records, of which only the one that holds it is bad; `at` refuses such a text.
    max_bytes: bound on the size; 0 = limits.json_bytes. Raises `error` for what is no UTF-8, no
    json, too long, too deep, or holds a lone surrogate, a number that is not finite, or a whole
    number of thousands of digits.
    """
    try:
        raw = data.encode() if isinstance(data, str) else data
        raw = raw.removeprefix(_BOM)
        fault = _fault_before_parsing(raw, max_bytes or limits.json_bytes, limits)
        if not fault and not lone_surrogates and _has_lone_surrogate(raw):
            fault = "its json holds a lone surrogate (half a character, \\ud800 to \\udfff)"
        if fault:
            raise refusal(error, where, fault, remedy)
        return json.loads(
            raw.decode(),
            parse_constant=_refuse_constant,
            parse_float=_finite,
            object_pairs_hook=_unique if unique_keys else None,
        )
    except ClippoError:  # which may be a ValueError
        raise
    except UnicodeEncodeError:
        raise refusal(error, where, "the text holds a lone surrogate", remedy) from None
    except UnicodeDecodeError as fault:
        words = f"it is not UTF-8 (at byte {fault.start:,})"
        raise refusal(error, where, words, remedy) from None
    except json.JSONDecodeError as fault:
        words = f"it is not valid json at line {fault.lineno} column {fault.colno}"
        raise refusal(error, where, f"{words} ({fault.msg})", remedy) from None
    except RecursionError:
        raise refusal(error, where, "its json is nested too deeply", remedy) from None
    except _Fault as fault:
        raise refusal(error, where, str(fault), remedy) from None
    except ValueError:  # int() of more digits than Python turns into a number
        words = "its json holds a whole number of thousands of digits"
        raise refusal(error, where, words, remedy) from None


def at(
    value: object,
    kind: type[T],
    where: str,
    path: str = "",
    *,
    error: type[ClippoError] = DataError,
) -> T:
    """`value` of `load_json` if it is of `kind`.

    kind: str, int, float, bool, list, dict, object (anything), list[kind] or dict[str, kind].

    A whole number lies within 64 bits, and true is no number; for float, a whole number is turned
    into one. path: where the value stands, for the sentence. Raises `error`.
    """
    origin, inner = get_origin(kind), get_args(kind)
    if origin is list:
        items = at(value, list, where, path, error=error)
        found: Any = [
            item if type(item) is inner[0] and inner[0] in (dict, list)
            else at(item, inner[0], where, f"{path}[{place}]", error=error)
            for place, item in enumerate(items)
        ]  # fmt: skip
        return cast(T, found)
    if origin is dict:
        pairs = at(value, dict, where, path, error=error)
        found = {
            name: at(one, inner[1], where, _dotted(path, name), error=error)
            for name, one in pairs.items()
        }
        return cast(T, found)
    if kind is object:
        return cast(T, value)
    if kind is float and type(value) in (int, float):
        if not abs(cast(float, value)) <= sys.float_info.max:
            raise refusal(error, where, f"{path or 'it'} is beyond every number", "correct it")
        return cast(T, float(cast(float, value)))
    if type(value) is not kind:
        _refuse_kind(value, kind, where, path, error)
    if kind is str and not is_unicode(cast(str, value)):
        raise refusal(error, where, f"{path or 'it'} holds a lone surrogate", "correct it")
    if kind is int and not -(2**63) <= cast(int, value) < 2**63:
        raise refusal(error, where, f"{path or 'it'} is a number beyond 64 bits", "correct it")
    return value


def field(
    value: object,
    name: str,
    kind: type[T],
    where: str,
    path: str = "",
    *,
    error: type[ClippoError] = DataError,
) -> T:
    """The field `name` of an object, of `kind` (see `at`). Raises `error` where it is missing."""
    if type(value) is not dict:
        _refuse_kind(value, dict, where, path, error)
    if name not in value:
        raise refusal(error, where, f"{_dotted(path, name)} is missing", "add it")
    found = value[name]
    is_plain = found.isascii() if type(found) is str else type(found) not in (int, float)
    if type(found) is kind and is_plain:
        return found  # what files of millions of values hold, without a sentence being made ready
    return at(found, kind, where, _dotted(path, name), error=error)


def optional(
    value: object,
    name: str,
    kind: type[T],
    default: T,
    where: str,
    path: str = "",
    *,
    error: type[ClippoError] = DataError,
) -> T:
    """As `field`; `default` where the field is missing or null."""
    if type(value) is dict and value.get(name) is None:
        return default
    return field(value, name, kind, where, path, error=error)


def _fault_before_parsing(raw: bytes, max_bytes: int, limits: Limits) -> str:
    """What is wrong with a json text, as far as it shows without parsing; empty = nothing."""
    if len(raw) > max_bytes:
        return f"its json has {len(raw):,} bytes, more than {max_bytes:,}"
    if not raw.strip():
        return "it is empty, and no json"
    opened = raw.count(b"[") + raw.count(b"{")
    if opened + raw.count(b",") > limits.json_values:
        return f"its json holds more than {limits.json_values:,} values"
    if opened > limits.json_depth and _depth(raw) > limits.json_depth:
        return f"its json is nested more than {limits.json_depth} deep"
    return ""


def _has_lone_surrogate(raw: bytes) -> bool:
    """Whether a json text holds an escape of half a character."""
    if not _SURROGATE.search(raw):
        return False
    # What is put in their place keeps the halves of two pairs from meeting.
    return bool(_SURROGATE.search(_SURROGATE_PAIR.sub(b"-", raw.replace(b"\\\\", b"--"))))


def _depth(raw: bytes) -> int:
    """How deep lists and objects lie within one another, brackets in texts aside."""
    import numpy as np

    kept = b'"[]{}'
    others = bytes(set(range(256)) - set(kept))
    value = np.zeros(256, np.int64)
    value[list(b"[{")], value[list(b"]}")] = 1, -1
    deepest = depth = quotes = start = 0
    while start < len(raw):
        end = min(start + _STEP_BYTES, len(raw))
        while end < len(raw) and raw[end - 1] == ord("\\"):  # an escape stays in one step
            end += 1
        step = raw[start:end].replace(b"\\\\", b"").replace(b'\\"', b"").translate(None, others)
        found = np.frombuffer(step, np.uint8)
        number = np.cumsum(found == ord('"')) + quotes
        levels = np.cumsum(value[found] * (number % 2 == 0)) + depth
        if len(found):
            deepest, depth, quotes = (
                max(deepest, int(levels.max())),
                int(levels[-1]),
                int(number[-1]),
            )
        start = end
    return deepest


def _refuse_constant(name: str) -> NoReturn:
    raise _Fault(f"its json holds {name}, which is no number")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise _Fault(f"its json holds {printable(digits, 40)}, which is beyond every number")
    return number


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for place, name in enumerate(names) if name in names[:place])
        raise _Fault(f"its json has the key {printable(twice, 60)!r} twice in one object")
    return found


def _refuse_kind(
    value: object, kind: type, where: str, path: str, error: type[ClippoError]
) -> NoReturn:
    shown = f", {printable(value, 40)!r}" if isinstance(value, str) else ""
    shown = f", {value}" if isinstance(value, (bool, float)) else shown
    is_now = "null" if value is None else _WORDS.get(type(value), type(value).__name__)
    fault = f"{path or 'it'} is {is_now}{shown}, and must be {_WORDS[kind]}"
    raise refusal(error, where, fault, "correct it")


def _dotted(path: str, name: str) -> str:
    return f"{path}.{printable(name, 60)}" if path else printable(name, 60)
