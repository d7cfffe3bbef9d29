"""Hints of config fields: each states its type, its range and what the field decides, once.

    steps: Count = 250_000                a whole number above 0
    loader_workers: Runtime[Whole] = 4    a whole number from 0, which decides no result
    images: Input[Name]                   the address of data, which must not be empty

`check.py` holds values against these hints; `identity.py` and the report read the marks.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

T = TypeVar("T")


class Mark(enum.Enum):
    """What a field decides beyond its type."""

    RUNTIME = "runtime"
    """Only how a run is carried out (workers, timeouts, memory, saving): never its result."""
    INPUT = "input"
    """Which data go in, and how they are stored: part of the result, but not of the method."""
    ONE_OR_MANY = "one or many"
    """A list that is also read from a single object, or from null for none."""


@dataclass(frozen=True)
class Check:
    """A rule for one value: `holds(value)`, or else the value is refused with `must`."""

    holds: Callable[[Any], bool]
    must: str
    """The remedy, as the end of a sentence: "render.image_px is 100; <must>."."""


Runtime = Annotated[T, Mark.RUNTIME]
Input = Annotated[T, Mark.INPUT]
OneOrMany = Annotated[T, Mark.ONE_OR_MANY]

Count = Annotated[int, Check(lambda n: n > 0, "it must be positive")]
Whole = Annotated[int, Check(lambda n: n >= 0, "it must not be negative")]
Positive = Annotated[float, Check(lambda x: x > 0, "it must be positive")]
NotNegative = Annotated[float, Check(lambda x: x >= 0, "it must not be negative")]
Share = Annotated[float, Check(lambda x: 0 <= x <= 1, "it is a share, 0 to 1")]
Name = Annotated[str, Check(bool, "it must not be empty")]
# A Literal of numbers would be a schema that flytekit cannot read back from a registered version.
ZeroStage = Annotated[int, Check(lambda n: 0 <= n <= 3, "use 0, 1, 2 or 3")]
PagePx = Annotated[
    int, Check(lambda n: n >= 32 and n % 16 == 0, "it must be a multiple of 16 and at least 32")
]


def field_hints(cls: type) -> dict[str, Any]:
    """Field name -> resolved hint, with marks and checks, of a dataclass."""
    return _field_hints(cls)


def is_marked(cls: type, name: str, *marks: Mark) -> bool:
    """Whether field `name` of the dataclass `cls` bears one of `marks`."""
    hint = field_hints(cls)[name]
    found = typing.get_args(hint)[1:] if typing.get_origin(hint) is Annotated else ()
    return any(mark in found for mark in marks)


@functools.cache
def _field_hints(cls: type) -> dict[str, Any]:
    hints = typing.get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}
