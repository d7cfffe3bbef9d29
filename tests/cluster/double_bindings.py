"""What a node waits for, what it gets, and under which key its outputs are remembered, as
FlytePropeller's double resolves it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

from double_rules import key
from flyteidl.core import literals_pb2


def before(node: Any) -> set[str]:
    """Ids of the nodes that must be done before `node` starts."""
    named = {source for binding in node.inputs for source in _sources(binding.binding)}
    return (set(node.upstream_node_ids) | named) - {"start-node", ""}


def _sources(binding: Any) -> Iterator[str]:
    kind = binding.WhichOneof("value")
    if kind == "promise":
        yield binding.promise.node_id
    elif kind == "collection":
        for one in binding.collection.bindings:
            yield from _sources(one)
    elif kind == "map":
        for one in binding.map.bindings.values():
            yield from _sources(one)


def bound(bindings: Any, outputs: dict[str, Any]) -> Any:
    """flytepropeller/pkg/controller/nodes/resolve.go: Resolve. Attributes of outputs are refused,
    for this project wires whole values only.
    """
    values = literals_pb2.LiteralMap()
    for one in bindings:
        values.literals[one.var].CopyFrom(_literal(one.binding, outputs))
    return values


def _literal(binding: Any, outputs: dict[str, Any]) -> Any:
    kind, literal = binding.WhichOneof("value"), literals_pb2.Literal()
    if kind == "promise":
        if binding.promise.attr_path:
            raise NotImplementedError(f"{binding.promise}: an attribute of an output")
        literal.CopyFrom(outputs[binding.promise.node_id].literals[binding.promise.var])
    elif kind == "scalar":
        literal.scalar.CopyFrom(binding.scalar)
    elif kind == "collection":
        literal.collection.SetInParent()
        for one in binding.collection.bindings:
            literal.collection.literals.add().CopyFrom(_literal(one, outputs))
    elif kind == "map":
        literal.map.SetInParent()
        for name, one in binding.map.bindings.items():
            literal.map.literals[name].CopyFrom(_literal(one, outputs))
    return literal


def cache_key(template: Any, inputs: Any) -> str:
    """flytepropeller/pkg/controller/nodes/catalog/datacatalog/transformer.go: project, domain and
    name of the task, its cache version, its interface, and the inputs.
    """
    ignored = set(template.metadata.cache_ignore_input_vars)
    named = literals_pb2.LiteralMap()
    for name, literal in inputs.literals.items():
        if name not in ignored:
            named.literals[name].CopyFrom(literal)
    parts = [*key(template.id)[:3], template.metadata.discovery_version]
    digest = hashlib.sha256("\n".join(parts).encode())
    for message in (template.interface, named):
        digest.update(message.SerializeToString(deterministic=True))
    return digest.hexdigest()
