"""A YAML text from outside, its aliases followed before anything is made of it.

    a: &a [x, x]      an alias stands for all of what it names, so that nine such lines name a
    b: &b [*a, *a]    thousand million values: a library that writes them into a sentence takes the
    c: [*b, *b]       memory of the machine

Values are plain ones: texts, numbers, dates, lists, objects. Nothing is made by a name in the text.
"""

from __future__ import annotations

from typing import Any

from clippo_core.errors import ClippoError, DataError
from clippo_core.extras import optional_import
from clippo_core.untrusted.limits import LIMITS, Limits
from clippo_core.untrusted.names import reason, refusal

_OPEN = -1
"""Stands for the size of a node whose inner ones are being counted."""


def load_yaml(
    text: str, where: str, *, error: type[ClippoError] = DataError, limits: Limits = LIMITS
) -> Any:
    """The value of a YAML text; None for an empty one. Raises `error` for a text that is damaged or
    nested too deeply, or that stands for too much once its aliases are followed.
    """
    with optional_import():
        import yaml

    fault = f"it has {len(text):,} characters of YAML"
    try:
        if len(text) <= limits.yaml_bytes:
            loader = yaml.SafeLoader(text)
            root = loader.get_single_node()
            size = _size(root, {}, limits.json_depth) if root else 0
            if size <= limits.yaml_expanded_bytes:
                return loader.construct_document(root) if root else None
            fault = f"its YAML stands for {size:,} characters once its aliases are followed"
    except (yaml.YAMLError, ValueError, TypeError, ArithmeticError, RecursionError) as caught:
        fault = f"its YAML is damaged ({reason(caught)})"
    raise refusal(error, where, fault, "shorten or correct it")


def _size(node: Any, known: dict[int, int], depth: int) -> int:
    """Characters of a node's values, and one for each value, with aliases followed. Raises
    ValueError.
    """
    size = known.setdefault(id(node), _OPEN)
    if size == _OPEN:
        if depth == 0:
            raise ValueError("it is nested too deeply")
        inner = node.value if isinstance(node.value, list) else []
        nodes = [one for each in inner for one in (each if isinstance(each, tuple) else (each,))]
        size = 1 + (len(node.value) if isinstance(node.value, str) else 0)
        for one in nodes:
            if known.get(id(one)) == _OPEN:
                raise ValueError("an alias names what it stands in")
            size += _size(one, known, depth - 1)
        known[id(node)] = size
    return size
