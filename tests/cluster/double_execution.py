"""One run of a workflow, as both doubles know it, and the nodes of a workflow's templates."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from double_rules import Phase
from flyteidl.admin import execution_pb2
from flyteidl.core import literals_pb2
from google.protobuf.timestamp_pb2 import Timestamp


@dataclass
class Execution:
    """One run of a workflow; FlytePropeller's double fills it."""

    id: Any
    spec: Any
    plan: Any
    workflow: Any
    """The compiled closure."""
    inputs: Any
    """All of them: given, defaults and fixed ones."""
    given: Any
    """What the request held."""
    phase: int = Phase.QUEUED
    error: Any = None
    outputs: Any = field(default_factory=literals_pb2.LiteralMap)
    nodes: list[Any] = field(default_factory=list)
    """A double_propeller.Node for each node, in the order in which they started."""
    created: Timestamp = field(default_factory=Timestamp)

    @property
    def phase_name(self) -> str:
        name: str = Phase.Phase.Name(self.phase)
        return name


def record_of(execution: Execution) -> Any:
    closure = execution_pb2.ExecutionClosure(
        phase=execution.phase,
        created_at=execution.created,
        started_at=execution.created,
        workflow_id=execution.workflow.primary.template.id,
        computed_inputs=execution.inputs,
    )
    if execution.error is not None:
        closure.error.CopyFrom(execution.error)
    return execution_pb2.Execution(id=execution.id, spec=execution.spec, closure=closure)


def nodes_of(template: Any, inner: Any) -> Iterator[Any]:
    for workflow in (template, *inner):
        yield from workflow.nodes
        if workflow.HasField("failure_node"):
            yield workflow.failure_node


def task_of(node: Any) -> Any:
    """The id of a node's task, of a map's items too; None where it runs no task."""
    target = node.array_node.node if node.HasField("array_node") else node
    return target.task_node.reference_id if target.HasField("task_node") else None
