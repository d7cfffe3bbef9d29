"""A double of FlytePropeller: walks a compiled workflow node by node, one real pod per attempt.

Bindings, subworkflows, maps, failure policy and failure node, cache, retries and deadlines follow
the files of the backend that each rule names (flyteorg/flyte, branch master, 89cf9cc);
test_double_propeller.py breaks each. What a pod is stands in double_pod.py.
"""

from __future__ import annotations

import math
import threading
import time
import traceback
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

from double_admin import Execution
from double_bindings import before, bound, cache_key
from double_pod import Ended, Pods
from double_rules import Phase, key
from flyteidl.admin import node_execution_pb2
from flyteidl.core import execution_pb2, identifier_pb2, literals_pb2, types_pb2, workflow_pb2

SYSTEM_RETRIES = 3
"""flytepropeller/pkg/controller/config/config.go: MaxNodeRetriesOnSystemFailures."""
FINISH_OTHERS = workflow_pb2.WorkflowMetadata.FAIL_AFTER_EXECUTABLE_NODES_COMPLETE
NodePhase = execution_pb2.NodeExecution
SYSTEM, USER = execution_pb2.ExecutionError.SYSTEM, execution_pb2.ExecutionError.USER


class Failed(Exception):
    """A node, and with it its workflow, failed."""

    def __init__(self, error: Any) -> None:
        super().__init__(error.message)
        self.error = error


@dataclass
class Node:
    """What happened to one node, or to one item of a map."""

    path: str
    """Ids from the root's node to this one, as FlytePropeller joins them: n4-0-n2."""
    task: str
    phase: int = NodePhase.RUNNING
    attempts: list[Ended] = field(default_factory=list)
    from_cache: bool = False
    deck: str = ""
    """Address of deck.html; empty = none."""

    @property
    def phase_name(self) -> str:
        name: str = NodePhase.Phase.Name(self.phase)
        return name

    def record(self, execution: Any) -> Any:
        identifier = identifier_pb2.NodeExecutionIdentifier(
            node_id=self.path, execution_id=execution
        )
        closure = node_execution_pb2.NodeExecutionClosure(phase=self.phase, deck_uri=self.deck)
        return node_execution_pb2.NodeExecution(id=identifier, closure=closure)


class Propeller:
    """Call it with an execution; at most `parallel` pods run at a time."""

    def __init__(self, pods: Pods, parallel: int = 2) -> None:
        self.pods = pods
        self.cache: dict[str, Any] = {}
        self.timeouts: dict[str, float] = {}
        """By a word in a task's name: seconds instead of its timeout, for no test waits a day."""
        self._slots = threading.Semaphore(parallel)

    def __call__(self, execution: Execution) -> None:
        execution.phase = Phase.RUNNING
        try:
            outputs = _Walk(self, execution).workflow(
                execution.workflow.primary.template, execution.inputs, ""
            )
            execution.outputs, ended = outputs, Phase.SUCCEEDED
        except Failed as failed:
            execution.error, ended = failed.error, Phase.FAILED
        except Exception:
            # A fault of the double must not look like a workflow that still runs.
            message = traceback.format_exc()
            execution.error = execution_pb2.ExecutionError(code="Double", message=message)
            ended = Phase.FAILED
        if execution.phase != Phase.ABORTED:
            execution.phase = ended


class _Walk:
    """One execution's way through its workflow."""

    def __init__(self, propeller: Propeller, execution: Execution) -> None:
        self.propeller, self.execution = propeller, execution
        closure = execution.workflow
        self.tasks = {key(one.template.id): one.template for one in closure.tasks}
        self.inner = {key(one.template.id): one.template for one in closure.sub_workflows}
        # flytepropeller/pkg/controller/nodes/executor.go: a subworkflow's nodes ask the execution's
        # policy, which is the root's.
        self.finish_others = closure.primary.template.metadata.on_failure == FINISH_OTHERS

    def workflow(self, template: Any, inputs: Any, path: str) -> Any:
        """Outputs of a workflow. Raises Failed after its failure node has run."""
        outputs = {"start-node": inputs, "": inputs}
        try:
            self._nodes(template, outputs, path)
        except Failed as failed:
            if template.HasField("failure_node"):
                self._failure_node(template.failure_node, outputs, path, failed.error)
            raise
        return bound(template.outputs, outputs)

    def _nodes(self, template: Any, outputs: dict[str, Any], path: str) -> None:
        nodes = {n.id: n for n in template.nodes if n.id not in ("start-node", "end-node")}
        waiting, running, failed = dict(nodes), dict[Future[Any], str](), list[Failed]()
        with ThreadPoolExecutor(len(nodes) or 1) as threads:
            while waiting or running:
                for name in list(waiting) if self.finish_others or not failed else []:
                    if before(nodes[name]) <= set(outputs):
                        node = waiting.pop(name)
                        running[threads.submit(self._node, node, outputs, path)] = name
                if not running:
                    break
                for done in wait(running, return_when=FIRST_COMPLETED).done:
                    name = running.pop(done)
                    try:
                        outputs[name] = done.result()
                    except Failed as error:
                        failed.append(error)
                        if not self.finish_others:
                            self.propeller.pods.kill(self.execution.id.name)
        if failed:
            # executor.go keeps the last one that failed, or stops at the first.
            raise failed[-1 if self.finish_others else 0]

    def _failure_node(self, node: Any, outputs: dict[str, Any], path: str, error: Any) -> None:
        """flytepropeller/pkg/controller/nodes/resolve.go: ResolveErrorInputLiteralData names the
        failure node itself as the one that failed. If it fails, its error masks the first one
        (nodes/subworkflow/subworkflow.go, workflow/executor.go).
        """
        bindings = [one for one in node.inputs if one.var != "err"]
        inputs = bound(bindings, outputs)
        if len(bindings) < len(node.inputs):
            union = inputs.literals["err"].scalar.union
            union.value.scalar.error.message = error.message
            union.value.scalar.error.failed_node_id = node.id
            union.type.simple = types_pb2.ERROR
            union.type.structure.tag = "FlyteError"
        self._task(node, self._template(node), inputs, f"{path}{node.id}")

    def _node(self, node: Any, outputs: dict[str, Any], path: str) -> Any:
        inputs, path = bound(node.inputs, outputs), f"{path}{node.id}"
        if node.HasField("workflow_node"):
            inner = self.inner[key(node.workflow_node.sub_workflow_ref)]
            return self.workflow(inner, inputs, f"{path}-0-")
        if node.HasField("array_node"):
            return self._map(node, inputs, path)
        return self._task(node, self._template(node), inputs, path)

    def _template(self, node: Any) -> Any:
        return self.tasks[key(node.task_node.reference_id)]

    def _map(self, node: Any, inputs: Any, path: str) -> Any:
        """flytepropeller/pkg/controller/nodes/array/handler.go: one pod per item, each of which
        gets the whole list and its index; with too few successes the node fails.
        """
        array = node.array_node
        lists = {
            name: literal.collection.literals
            for name, literal in inputs.literals.items()
            if literal.HasField("collection") and name not in array.bound_inputs
        }
        sizes = {len(items) for items in lists.values()}
        if len(sizes) != 1:
            raise Failed(_error("InvalidArrayLength", "input arrays have different lengths", USER))
        size, template = sizes.pop(), self._template(array.node)

        def item(index: int) -> Any:
            mine = literals_pb2.LiteralMap()
            mine.CopyFrom(inputs)
            for name, items in lists.items():
                mine.literals[name].CopyFrom(items[index])
            return self._task(array.node, template, inputs, f"{path}-n{index}", mine, index)

        with ThreadPoolExecutor(array.parallelism or size or 1) as threads:
            futures = [threads.submit(item, index) for index in range(size)]
        failed = {n: one.exception() for n, one in enumerate(futures) if one.exception()}
        needed = size
        if array.WhichOneof("success_criteria") == "min_success_ratio":
            needed = math.ceil(array.min_success_ratio * size)
        if size - len(failed) < needed:
            message = "\n".join(f"[{index}]: {error}" for index, error in failed.items())
            raise Failed(_error("", message, execution_pb2.ExecutionError.UNKNOWN))
        outputs = literals_pb2.LiteralMap()
        for name in template.interface.outputs.variables:
            collection = outputs.literals[name].collection
            collection.SetInParent()
            for index, future in enumerate(futures):
                literal = collection.literals.add()
                if index in failed:
                    literal.scalar.none_type.SetInParent()
                else:
                    literal.CopyFrom(future.result().literals[name])
        return outputs

    def _task(
        self,
        node: Any,
        template: Any,
        inputs: Any,
        path: str,
        keyed: Any = None,
        index: int | None = None,
    ) -> Any:
        """Outputs of a task, from the cache or from its pods. `keyed`: the inputs that decide the
        cache's key, where they are not `inputs`.
        """
        record = Node(path, template.id.name)
        self.execution.nodes.append(record)
        cached = cache_key(template, keyed or inputs) if template.metadata.discoverable else ""
        if cached in self.propeller.cache:
            record.from_cache, record.phase = True, NodePhase.SUCCEEDED
            return self.propeller.cache[cached]
        try:
            with self.propeller._slots:
                outputs = self._attempts(node, template, inputs, record, index)
        except Failed:
            record.phase = NodePhase.FAILED
            raise
        record.phase = NodePhase.SUCCEEDED
        if cached:
            self.propeller.cache[cached] = outputs
        return outputs

    def _attempts(
        self, node: Any, template: Any, inputs: Any, record: Node, index: int | None
    ) -> Any:
        """flytepropeller/pkg/controller/nodes/executor.go: isEligibleForRetry and execute;
        compiler/transformers/k8s/node.go: the node's deadline over all attempts is twice the
        timeout.
        """
        # compiler/transformers/k8s/utils.go: computeRetryStrategy, computeDeadline.
        retries = node.metadata.retries.retries or template.metadata.retries.retries
        timeout = node.metadata.timeout.ToTimedelta().total_seconds()
        shorter = [s for word, s in self.propeller.timeouts.items() if word in record.task]
        timeout = shorter[0] if timeout and shorter else timeout
        queued, system_failures = time.monotonic(), 0
        while True:
            left = 2 * timeout - (time.monotonic() - queued) if timeout else math.inf
            ended = self.propeller.pods.run(
                self.execution,
                template,
                inputs,
                record.path,
                attempt=len(record.attempts),
                timeout=min(timeout or math.inf, left),
                index=index,
            )
            record.attempts.append(ended)
            record.deck = ended.deck or record.deck
            if ended.error is None:
                return ended.outputs
            if timeout and time.monotonic() - queued >= 2 * timeout:
                message = f"task active timeout [{2 * timeout:g}s] expired"
                raise Failed(_error("TimeoutExpired", message, USER))
            if not ended.is_recoverable:
                raise Failed(ended.error)
            is_system = ended.error.kind == SYSTEM
            if is_system:
                now, most = system_failures, SYSTEM_RETRIES
            else:
                now, most = len(record.attempts) - system_failures, retries + 1
            if now >= most or self.execution.phase == Phase.ABORTED:
                kind = execution_pb2.ExecutionError.ErrorKind.Name(ended.error.kind)
                message = (
                    f"[{now}/{most}] currentAttempt done. Last Error: {kind}::{ended.error.message}"
                )
                raise Failed(_error(f"RetriesExhausted|{ended.error.code}", message, USER))
            system_failures += is_system


def _error(code: str, message: str, kind: int) -> Any:
    return execution_pb2.ExecutionError(code=code, message=message, kind=kind)
