"""The changes to flytekit: right for the installed version, and left out for another one."""

from __future__ import annotations

import dataclasses
import inspect
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import flytekit
import pytest
from flytekit import task
from flytekit.configuration import ImageConfig, SerializationSettings
from flytekit.core.type_engine import DataclassTransformer
from flytekit.tools.translator import get_serializable
from flytekitplugins.kfpytorch import Elastic
from flytekitplugins.kfpytorch.task import PytorchElasticFunctionTask

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


def elastic_task(shape: settings.ClusterShape, kind: type[Elastic]) -> PytorchElasticFunctionTask:
    """A task of this project's settings, declared with `kind` of Elastic."""

    def work(steps: int) -> int:
        return steps

    options = settings.training()
    fields = {f.name: getattr(options["task_config"], f.name) for f in dataclasses.fields(Elastic)}
    sizes = {"nnodes": shape.nodes, "nproc_per_node": shape.processes_per_node}
    options["task_config"] = kind(**fields | sizes)
    return task(**options)(work)


def compiled(declared: PytorchElasticFunctionTask) -> bytes:
    """The task as it is registered."""
    image = ImageConfig.from_images("example.org/cpu:1", {"train": "example.org/train:1"})
    options = SerializationSettings(image, project="p", domain="d", version="v")
    entity = get_serializable(OrderedDict(), options, declared)
    return bytes(entity.template.to_flyte_idl().SerializeToString(deterministic=True))


@pytest.mark.parametrize("shape", settings.SHAPES)
def test_elastic_of_one_size_is_the_plugins_own(shape: str) -> None:
    ours = elastic_task(settings.SHAPES[shape], flytekit_shim.ElasticOfOneSize)
    theirs = elastic_task(settings.SHAPES[shape], Elastic)
    assert type(ours) is not type(theirs) is PytorchElasticFunctionTask
    assert compiled(ours) == compiled(theirs)
    assert vars(ours).keys() == vars(theirs).keys()
    for name in ("min_nodes", "max_nodes", "rdzv_backend"):
        assert getattr(ours, name) == getattr(theirs, name), name


def test_elastic_of_another_version_is_declared_by_the_plugin(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(flytekit, "__version__", "1.99.0")
    own = PytorchElasticFunctionTask.__init__
    declared: list[Any] = []

    def noting(self: Any, *args: Any, **kwargs: Any) -> None:
        declared.append(self)
        own(self, *args, **kwargs)

    monkeypatch.setattr(PytorchElasticFunctionTask, "__init__", noting)
    ours = elastic_task(settings.SHAPES["h100x8x8"], flytekit_shim.ElasticOfOneSize)
    assert declared == [ours] and (ours.min_nodes, ours.max_nodes) == (8, 8)
