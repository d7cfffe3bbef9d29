"""YAML from outside: plain values, or one sentence."""

from __future__ import annotations

import itertools
import time

import pytest

from clippo_core.errors import DataError
from clippo_core.untrusted.yaml import load_yaml

CARD = """
license: mit
configs:
- &a {config_name: default, data_files: data/train-*}
- *a
dates: [2026-12-01]
"""


def test_a_card_of_the_hub() -> None:
    found = load_yaml(CARD, "README.md")
    assert found["configs"] == [{"config_name": "default", "data_files": "data/train-*"}] * 2
    assert load_yaml("", "README.md") is None


def bomb(levels: int, first: str = "[x, x, x, x, x, x, x, x, x]") -> str:
    lines = [f"a0: &a0 {first}"]
    for one, two in itertools.pairwise(range(levels)):
        lines.append(f"a{two}: &a{two} [{', '.join([f'*a{one}'] * 9)}]")
    return "\n".join(lines)


MERGED = "\n".join(
    [
        "a0: &a0 {x: 1, y: 2}",
        *(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}], x{n}: 1}}" for n in range(1, 40)),
    ]
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (bomb(9), "once its aliases are followed"),
        (bomb(40), "once its aliases are followed"),
        (bomb(6, "x" * 10_000), "once its aliases are followed"),
        (MERGED, "once its aliases are followed"),
        ("a: &a [*a, *a]", "an alias names what it stands in"),
        ("a: &a\n  b: &b [*a, *a]\n  c: [*b, *b]", "an alias names what it stands in"),
        ("[" * 10_000, "YAML is damaged"),
        ("{a: " * 80 + "1" + "}" * 80, "nested too deeply"),
        ("a: !!python/object/apply:os.system ['true']", "could not determine a constructor"),
        ("a: [", "YAML is damaged"),
        ("a: " + "9" * 5000, "YAML is damaged"),
        ("{[a]: b}", "YAML is damaged"),
        ("a: 2001-99-99", "YAML is damaged"),
        ("# " + "x" * (1 << 20), "characters of YAML"),
    ],
)
def test_what_is_refused(text: str, words: str) -> None:
    start = time.process_time()
    with pytest.raises(DataError, match=words) as found:
        load_yaml(text, "README.md")
    assert str(found.value).startswith("README.md: ") and "\n" not in str(found.value)
    assert time.process_time() - start < 20
