"""Configs refuse: the base class that checks every value, and the strict decoder of JSON.

    decode(RunConfig, {"train": {"stpes": 5}, …})
    -> ConfigError: train.stpes: there is no such field; did you mean `steps`?

Python, files, `--set`, the console's Struct (whose numbers are all doubles) and MessagePack go
through the same code. All faults of one value are raised together, one per line. `lenient`
ignores unknown fields, for records that another version wrote. Nothing is executed.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import types
import typing
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self, TypeVar, cast

from clippo_core.config.hints import Check, Mark, field_hints, is_marked
from clippo_core.errors import ConfigError
from clippo_core.untrusted.json import load_json
from clippo_core.untrusted.limits import LIMITS
from clippo_core.untrusted.names import printable

T = TypeVar("T")
C = TypeVar("C")

MAX_FAULTS = 50
"""So many faults of one value are named; a whole RunConfig has some 150 fields."""
ANOTHER_VERSION = (
    "If another version of this project wrote it, write it anew with this one: a config with "
    "`clippo preset`, a launch plan with `make register`."
)


def require(condition: bool, sentence: str) -> None:
    """Raise ConfigError with `sentence` unless `condition` holds."""
    if not condition:
        raise ConfigError(sentence)


@dataclass(frozen=True)
class Checked:
    """Base of every config: values are checked against their hints when one is made.

    A subclass names its place in RunConfig (`class OptimConfig(Checked, path="optim")`) for the
    sentences, and may state rules between its fields in `check_together`.
    """

    PATH = ""  # without a hint, or Flyte would take it for a field

    def __init_subclass__(cls, path: str = "") -> None:
        cls.PATH = path

    def __post_init__(self) -> None:
        reader = _Reader()
        for name, hint in field_hints(type(self)).items():
            value = reader.value(hint, getattr(self, name), _dotted(self.PATH, name))
            object.__setattr__(self, name, value)
        reader.finish()
        self.check_together()

    def check_together(self) -> None:
        """Raise ConfigError where fields that are right alone cannot work together."""

    def deciding(self) -> dict[str, Any]:
        """The fields that decide a result, by name."""
        names = [name for name in field_hints(type(self)) if not self.is_runtime(name)]
        return {name: getattr(self, name) for name in names}

    @classmethod
    def is_runtime(cls, name: str) -> bool:
        """Whether the field `name` decides only how a run is carried out."""
        return is_marked(cls, name, Mark.RUNTIME)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The config in a JSON text; `pyflyte run --config` calls this. Raises ConfigError."""
        return decode(cls, parse_json(text, cls.__name__, LIMITS.json_header_bytes))

    @classmethod
    def __pre_deserialize__(cls, values: dict[Any, Any]) -> dict[str, Any]:
        """Called by the decoder of Flyte's literals (mashumaro). Raises ConfigError."""
        found: dict[str, Any] = dataclasses.asdict(decode(cls, values, registered=True))
        return found


def parse_json(text: str, what: str, max_bytes: int = 0) -> Any:
    """The content of a JSON text of at most `max_bytes` (0 = as many as any json may have). Raises
    ConfigError, calling it `what`, for one that is no JSON, too large or deep, holds NaN or
    infinity, or names one key twice in an object."""
    return load_json(
        text, what, error=ConfigError, remedy="correct it", unique_keys=True, max_bytes=max_bytes
    )


def decode(cls: type[T], values: Any, *, lenient: bool = False, registered: bool = False) -> T:
    """The dataclass `cls` of plain dicts, lists, numbers and texts, as JSON gives them.

    lenient: ignore fields that `cls` does not have. registered: `values` is a literal that Flyte
    stored, perhaps long ago. Raises ConfigError with one line per fault, each with its path.
    """
    reader = _Reader(lenient, registered)
    found = reader.fields(cls, values, getattr(cls, "PATH", ""))
    reader.finish()
    return cast(T, found)


def replace(config: C, **changes: Any) -> C:
    """`dataclasses.replace` that also reaches into nested configs: replace(run, train__steps=10).

    Raises ConfigError for a field that is not there and for a value that cannot work.
    """
    names = [field.name for field in dataclasses.fields(config)]  # type: ignore[arg-type]
    inside = getattr(config, "PATH", "")
    direct: dict[str, Any] = {}
    nested: dict[str, dict[str, Any]] = {}
    for path, value in changes.items():
        head, _, rest = path.partition("__")
        if head not in names:
            raise ConfigError(_unknown(_dotted(inside, head), head, names)[0])
        if rest:
            nested.setdefault(head, {})[rest] = value
        else:
            direct[head] = value
    for head, inner in nested.items():
        part = getattr(config, head)
        if not dataclasses.is_dataclass(part):
            raise ConfigError(f"{_dotted(inside, head)} is {_shown(part)}, without fields to set.")
        direct[head] = replace(part, **inner)
    return dataclasses.replace(config, **direct)  # type: ignore[type-var]


def to_json(config: Any) -> str:
    """A config as indented JSON, for a folder or a console."""
    return json.dumps(dataclasses.asdict(config), indent=2, ensure_ascii=False)


class _Reader:
    """Converts values to their hints and collects what is wrong with them."""

    def __init__(self, lenient: bool = False, registered: bool = False):
        self._lenient, self._registered = lenient, registered
        self._faults: list[str] = []
        self._is_foreign = False
        """Whether the fields are those of another version, by all appearances."""

    def finish(self) -> None:
        """Raise ConfigError if there was any fault."""
        if self._faults:
            named, n_more = self._faults[:MAX_FAULTS], len(self._faults) - MAX_FAULTS
            more = [f"There are {n_more:,} more faults."] if n_more > 0 else []
            raise ConfigError("\n".join(named + more + [ANOTHER_VERSION] * self._is_foreign))

    def value(self, hint: Any, value: Any, path: str) -> Any:
        """`value` as `hint` wants it; a value that cannot be is noted as a fault."""
        origin, arguments = typing.get_origin(hint), typing.get_args(hint)
        if origin is Annotated:
            return self._annotated(arguments[0], arguments[1:], value, path)
        if origin in (typing.Union, types.UnionType):
            wanted = [argument for argument in arguments if argument is not types.NoneType]
            return None if value is None else self.value(wanted[0], value, path)
        if origin is Literal:
            return self._one_of(arguments, value, path)
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            return value if isinstance(value, hint) else self.fields(hint, value, path)
        if origin in (list, tuple):
            return self._items(origin, arguments, value, path)
        if origin is dict:
            if not isinstance(value, dict):
                return self._refuse(path, value, "it must be an object")
            return {
                key: self.value(arguments[1], item, _dotted(path, str(key)))
                for key, item in value.items()
            }
        return value if hint is Any else self._scalar(hint, value, path)

    def fields(self, cls: type, values: Any, path: str) -> Any:
        """The dataclass `cls` of the fields in `values`."""
        if not isinstance(values, dict):
            must = f"it must be an object with the fields of {cls.__name__}"
            return self._refuse(path or cls.__name__, values, must)
        before, hints = len(self._faults), field_hints(cls)
        for name in values:
            if name not in hints and not self._lenient:
                if len(self._faults) >= MAX_FAULTS:  # to look for a similar name takes time
                    self._faults.append("")
                    continue
                sentence, is_near = _unknown(_dotted(path, str(name)), str(name), list(hints))
                self._note(sentence, is_foreign=not is_near)
        found = {}
        for field in dataclasses.fields(cls):
            if field.name in values:
                inside = _dotted(path, field.name)
                found[field.name] = self.value(hints[field.name], values[field.name], inside)
            elif field.default is field.default_factory is dataclasses.MISSING:
                self._note(f"{_dotted(path, field.name)} is missing; it must be given.", True)
        if len(self._faults) > before:
            return None
        try:
            return cls(**found)
        except ConfigError as error:
            sentence = str(error)
            self._note(sentence if sentence.startswith(path) else f"{path}: {sentence}")

    def _annotated(self, hint: Any, marks: tuple[Any, ...], value: Any, path: str) -> Any:
        before = len(self._faults)
        if Mark.ONE_OR_MANY in marks and not isinstance(value, (list, tuple)):
            value = [] if value is None else [value]
        found = self.value(hint, value, path)
        for mark in marks:
            if isinstance(mark, Check) and len(self._faults) == before and not mark.holds(found):
                self._refuse(path, found, mark.must)
        return found

    def _one_of(self, choices: tuple[Any, ...], value: Any, path: str) -> Any:
        for choice in choices:  # 1.0 is 1, because a console knows no integers; True is not
            if choice == value and isinstance(choice, bool) == isinstance(value, bool):
                return choice
        words = [repr(choice) for choice in choices]
        return self._refuse(path, value, f"use {', '.join(words[:-1])} or {words[-1]}")

    def _items(self, kind: type, hints: tuple[Any, ...], value: Any, path: str) -> Any:
        if not isinstance(value, (list, tuple)):
            return self._refuse(path, value, "it must be a list")
        if kind is tuple and hints[-1] is not Ellipsis:
            if len(value) != len(hints):
                return self._refuse(path, value, f"it must have {len(hints)} items")
        else:
            hints = hints[:1] * len(value)
        pairs = enumerate(zip(hints, value, strict=True))
        return kind(self.value(hint, item, f"{path}[{place}]") for place, (hint, item) in pairs)

    def _scalar(self, hint: Any, value: Any, path: str) -> Any:
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if hint is float:
            if not is_number or not _is_finite(value):
                return self._refuse(path, value, "it must be a finite number")
            return float(value)
        if hint is int:
            if not is_number or not _is_finite(value) or int(value) != value:
                return self._refuse(path, value, "it must be a whole number")
            return int(value)
        if not isinstance(value, hint):
            words = {bool: "true or false", str: "text"}
            return self._refuse(path, value, f"it must be {words.get(hint, hint.__name__)}")
        return value

    def _refuse(self, path: str, value: Any, must: str) -> None:
        self._note(f"{path} is {_shown(value)}; {must}.")

    def _note(self, sentence: str, is_foreign: bool | None = None) -> None:
        """`is_foreign`: None for a wrong value; else whether a field's name looks foreign."""
        lines = (printable(line, 1000) for line in sentence.split("\n"))
        self._faults.append("\n".join(lines))
        self._is_foreign |= bool(is_foreign) or (is_foreign is not None and self._registered)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:79] + "…"


def _dotted(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _unknown(path: str, name: str, names: list[str]) -> tuple[str, bool]:
    """(The sentence for a field that is not there, whether a similar one is.)"""

    def distance(other: str) -> tuple[int, int]:
        """Letters without a partner in the other name, then the difference in length."""
        letters = len(name) + len(other)
        ratio = difflib.SequenceMatcher(None, name[:60], other).ratio()
        return round((1 - ratio) * letters), abs(len(name) - len(other))

    cutoff = 0.66 if len(name) > 2 else 0.5  # one wrong letter of three, or of two
    alike = difflib.get_close_matches(name[:60], names, cutoff=cutoff)
    near = min(alike, key=distance, default="")
    sentence = f"{path}: there is no such field"
    return (f"{sentence}; did you mean `{near}`?" if near else f"{sentence}."), bool(near)


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an int beyond the floats
        return False
