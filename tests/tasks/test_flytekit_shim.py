"""The change to flytekit: right for the installed version, and left out with a sentence for another
one.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import flytekit
import pytest
from flytekit.core.type_engine import DataclassTransformer

from clippo_core.config import RenderConfig, SourceConfig
from tasks import flytekit_shim, settings

Unpatched = Callable[[DataclassTransformer, Any], Any]


@pytest.fixture
def unpatched(monkeypatch: pytest.MonkeyPatch) -> Unpatched:
    """flytekit's own method, back in its place until the test ends."""
    assert settings.SHAPE  # its import made the change
    own = inspect.unwrap(DataclassTransformer.get_literal_type)
    assert own is not DataclassTransformer.get_literal_type
    monkeypatch.setattr(DataclassTransformer, "get_literal_type", own)
    return own


def test_the_installed_flytekit_remembers(unpatched: Unpatched) -> None:
    assert flytekit_shim.remember_schemas()
    transformer = DataclassTransformer()
    for kind in (RenderConfig, SourceConfig):
        first, second = transformer.get_literal_type(kind), transformer.get_literal_type(kind)
        assert first == second == unpatched(transformer, kind)
        assert first is not second
        first.metadata["title"] = "changed by its owner"
        assert transformer.get_literal_type(kind) == second


def test_a_schema_is_built_once(unpatched: Unpatched, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[Any] = []

    def counting(self: DataclassTransformer, t: Any) -> Any:
        built.append(t)
        return unpatched(self, t)

    monkeypatch.setattr(DataclassTransformer, "get_literal_type", counting)
    assert flytekit_shim.remember_schemas()
    transformer = DataclassTransformer()
    for _ in range(3):
        transformer.get_literal_type(RenderConfig)
    assert built == [RenderConfig]


def test_another_version_is_left_alone(
    unpatched: Unpatched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flytekit, "__version__", "1.99.0")
    with pytest.warns(UserWarning, match=r"flytekit 1\.99\.0 is not the 1\.16\.x"):
        assert not flytekit_shim.remember_schemas()
    assert DataclassTransformer.get_literal_type is unpatched


def test_another_signature_is_left_alone(
    unpatched: Unpatched, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wider(self: DataclassTransformer, t: Any, depth: int = 0) -> Any:
        return unpatched(self, t)

    monkeypatch.setattr(DataclassTransformer, "get_literal_type", wider)
    with pytest.warns(UserWarning, match="get_literal_type takes self, t, depth"):
        assert not flytekit_shim.remember_schemas()
    assert DataclassTransformer.get_literal_type is wider
