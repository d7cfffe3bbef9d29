"""A double of FlyteAdmin: its gRPC service on a free port of this machine, in memory.

It answers the calls that pyflyte and this project make, and refuses what FlyteAdmin refuses. Each
rule names the file of the backend that it comes from (flyteorg/flyte, branch master, 89cf9cc), and
test_double_admin.py breaks each. `propeller` is called with every new execution.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from concurrent import futures
from typing import Any, Self

import grpc
from double_execution import Execution as Execution
from double_execution import nodes_of, record_of, task_of
from double_proxy import Proxy
from double_rules import (
    DOMAINS,
    Key,
    Phase,
    Refused,
    concurrency,
    expected_inputs,
    immutable,
    invalid,
    key,
    merged_inputs,
    project_exists,
    schedule,
    within_limits,
)
from double_store import Store
from flyteidl.admin import (
    execution_pb2,
    launch_plan_pb2,
    node_execution_pb2,
    project_pb2,
    task_pb2,
    workflow_pb2,
)
from flyteidl.core import (
    compiler_pb2,
    identifier_pb2,
)
from flyteidl.service import (
    admin_pb2_grpc,
    auth_pb2_grpc,
    dataproxy_pb2_grpc,
    identity_pb2_grpc,
    signal_pb2_grpc,
)


class Admin(admin_pb2_grpc.AdminServiceServicer, Proxy):
    """Runs while it is entered, at `endpoint`. `limits` are the platform's, by resource; without
    `token` nobody has to log in, and `token_endpoint` is where one gets it.
    """

    def __init__(
        self,
        store: Store,
        propeller: Callable[[Execution], None] | None = None,
        projects: tuple[str, ...] = ("clippo",),
        limits: dict[str, str] | None = None,
        token: str = "",
        token_endpoint: str = "",
    ) -> None:
        self.store, self.propeller = store, propeller
        self.token, self.token_endpoint = token, token_endpoint
        self.projects, self.limits = set(projects), limits or {}
        self.tasks: dict[Key, Any] = {}
        self.workflows: dict[Key, Any] = {}
        self.plans: dict[Key, Any] = {}
        self.active: dict[tuple[str, ...], str] = {}
        """Version by (project, domain, name)."""
        self.executions: dict[str, Execution] = {}
        self.created: list[Key] = []
        """Launch plans in the order in which they came."""

    def __enter__(self) -> Self:
        size = 64 << 20
        self._server = grpc.server(
            futures.ThreadPoolExecutor(16),
            interceptors=[_Answering(self)],
            options=[("grpc.max_receive_message_length", size), ("grpc.so_reuseport", 0)],
        )
        admin_pb2_grpc.add_AdminServiceServicer_to_server(self, self._server)
        dataproxy_pb2_grpc.add_DataProxyServiceServicer_to_server(self, self._server)
        auth_pb2_grpc.add_AuthMetadataServiceServicer_to_server(self, self._server)
        signal_pb2_grpc.add_SignalServiceServicer_to_server(
            signal_pb2_grpc.SignalServiceServicer(), self._server
        )
        identity_pb2_grpc.add_IdentityServiceServicer_to_server(
            identity_pb2_grpc.IdentityServiceServicer(), self._server
        )
        self.endpoint = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._server.stop(1).wait()

    # Registration ------------------------------------------------------------------------------

    def CreateTask(self, request: Any, context: Any) -> Any:
        project_exists(self.projects, request.id)
        within_limits(self.limits, request.spec.template.container.resources)
        immutable(self.tasks, request.id, request.spec, "task")
        return task_pb2.TaskCreateResponse()

    def CreateWorkflow(self, request: Any, context: Any) -> Any:
        project_exists(self.projects, request.id)
        spec = request.spec
        for node in nodes_of(spec.template, spec.sub_workflows):
            reference = task_of(node)
            if reference and key(reference) not in self.tasks:
                raise invalid(f"missing entity of type TASK with identifier {reference}")
            # The compiler sorts what a client sends in the order of a set
            # (flytepropeller/pkg/compiler/workflow_compiler.go).
            node.upstream_node_ids[:] = sorted(node.upstream_node_ids)
        inner = sorted(spec.sub_workflows, key=lambda workflow: str(workflow.id.name))
        del spec.sub_workflows[:]
        spec.sub_workflows.extend(inner)
        immutable(self.workflows, request.id, spec, "workflow")
        return workflow_pb2.WorkflowCreateResponse()

    def CreateLaunchPlan(self, request: Any, context: Any) -> Any:
        project_exists(self.projects, request.id)
        spec = request.spec
        if key(spec.workflow_id) not in self.workflows:
            raise invalid(f"missing entity of type WORKFLOW with identifier {spec.workflow_id}")
        expected_inputs(self.workflows[key(spec.workflow_id)].template, spec)
        schedule(spec)
        is_new = key(request.id) not in self.plans
        immutable(self.plans, request.id, spec, "launch plan")
        if is_new:
            self.created.append(key(request.id))
        return launch_plan_pb2.LaunchPlanCreateResponse()

    # What is registered -------------------------------------------------------------------------

    def GetTask(self, request: Any, context: Any) -> Any:
        return task_pb2.Task(
            id=request.id,
            closure=task_pb2.TaskClosure(compiled_task=self._compiled_task(request.id)),
        )

    def GetWorkflow(self, request: Any, context: Any) -> Any:
        _known(self.workflows, request.id, "WORKFLOW")
        closure = workflow_pb2.WorkflowClosure(compiled_workflow=self._compiled(request.id))
        return workflow_pb2.Workflow(id=request.id, closure=closure)

    def GetLaunchPlan(self, request: Any, context: Any) -> Any:
        _known(self.plans, request.id, "LAUNCH_PLAN")
        return self._plan(key(request.id))

    def GetActiveLaunchPlan(self, request: Any, context: Any) -> Any:
        name = (request.id.project, request.id.domain, request.id.name)
        if name not in self.active:
            message = f"No active launch plan could be found for {':'.join(name)}"
            raise Refused(grpc.StatusCode.NOT_FOUND, message)
        return self._plan((*name, self.active[name]))

    def ListLaunchPlans(self, request: Any, context: Any) -> Any:
        name = (request.id.project, request.id.domain, request.id.name)
        newest = [one for one in reversed(self.created) if one[:3] == name]
        found = [self._plan(one) for one in newest[: request.limit or None]]
        return launch_plan_pb2.LaunchPlanList(launch_plans=found)

    def UpdateLaunchPlan(self, request: Any, context: Any) -> Any:
        """flyteadmin/pkg/manager/impl/launch_plan_manager.go: enableLaunchPlan switches the version
        that was active off; disableLaunchPlan touches only the version that it is given.
        """
        _known(self.plans, request.id, "LAUNCH_PLAN")
        *name, version = key(request.id)
        if request.state == launch_plan_pb2.ACTIVE:
            self.active[tuple(name)] = version
        elif self.active.get(tuple(name)) == version:
            del self.active[tuple(name)]
        return launch_plan_pb2.LaunchPlanUpdateResponse()

    def ListProjects(self, request: Any, context: Any) -> Any:
        domains = [project_pb2.Domain(id=domain, name=domain) for domain in DOMAINS]
        names = sorted(self.projects)
        found = [project_pb2.Project(id=name, name=name, domains=domains) for name in names]
        return project_pb2.Projects(projects=found)

    def _plan(self, identifier: Key) -> Any:
        spec = self.plans[identifier]
        is_active = self.active.get(identifier[:3]) == identifier[3]
        workflow = self.workflows[key(spec.workflow_id)].template
        names = dict(zip(("project", "domain", "name", "version"), identifier, strict=True))
        kind = identifier_pb2.LAUNCH_PLAN
        return launch_plan_pb2.LaunchPlan(
            id=identifier_pb2.Identifier(resource_type=kind, **names),
            spec=spec,
            closure=launch_plan_pb2.LaunchPlanClosure(
                state=launch_plan_pb2.ACTIVE if is_active else launch_plan_pb2.INACTIVE,
                expected_inputs=spec.default_inputs,
                expected_outputs=workflow.interface.outputs,
            ),
        )

    def _compiled_task(self, identifier: Any) -> Any:
        spec = _known(self.tasks, identifier, "TASK")
        task = compiler_pb2.CompiledTask(template=spec.template)
        task.template.id.CopyFrom(identifier)
        return task

    def _compiled(self, identifier: Any) -> Any:
        """The closure that FlytePropeller gets: the workflow, those inside it, and their tasks."""
        spec = self.workflows[key(identifier)]
        closure = compiler_pb2.CompiledWorkflowClosure()
        closure.primary.template.CopyFrom(spec.template)
        closure.primary.template.id.CopyFrom(identifier)
        for inner in spec.sub_workflows:
            closure.sub_workflows.add().template.CopyFrom(inner)
        references = map(task_of, nodes_of(spec.template, spec.sub_workflows))
        for reference in {key(one): one for one in references if one}.values():
            closure.tasks.add().CopyFrom(self._compiled_task(reference))
        return closure

    # Executions ---------------------------------------------------------------------------------

    def CreateExecution(self, request: Any, context: Any) -> Any:
        project_exists(self.projects, request)
        spec = _known(self.plans, request.spec.launch_plan, "LAUNCH_PLAN")
        inputs = merged_inputs(spec, request.inputs)
        concurrency(self.executions.values(), request.spec.launch_plan, spec.concurrency_policy.max)
        name = request.name or f"f{uuid.uuid4().hex[:19]}"
        execution = Execution(
            identifier_pb2.WorkflowExecutionIdentifier(
                project=request.project, domain=request.domain, name=name
            ),
            request.spec,
            request.spec.launch_plan,
            self._compiled(spec.workflow_id),
            inputs,
            request.inputs,
        )
        execution.created.GetCurrentTime()
        self.executions[name] = execution
        if self.propeller:
            threading.Thread(target=self.propeller, args=(execution,), daemon=True).start()
        return execution_pb2.ExecutionCreateResponse(id=execution.id)

    def RelaunchExecution(self, request: Any, context: Any) -> Any:
        """flyteadmin/pkg/manager/impl/execution_manager.go: RelaunchExecution takes the launch plan
        in its version and the inputs that were given; defaults are filled in anew.
        """
        before = self.running(request.id)
        again = execution_pb2.ExecutionCreateRequest(
            project=before.id.project,
            domain=before.id.domain,
            name=request.name,
            spec=before.spec,
            inputs=before.given,
        )
        return self.CreateExecution(again, context)

    def GetExecution(self, request: Any, context: Any) -> Any:
        return record_of(self.running(request.id))

    def GetExecutionData(self, request: Any, context: Any) -> Any:
        execution = self.running(request.id)
        return execution_pb2.WorkflowExecutionGetDataResponse(
            full_inputs=execution.inputs, full_outputs=execution.outputs
        )

    def ListNodeExecutions(self, request: Any, context: Any) -> Any:
        execution = self.running(request.workflow_execution_id)
        found = [node.record(execution.id) for node in execution.nodes]
        return node_execution_pb2.NodeExecutionList(node_executions=found)

    def TerminateExecution(self, request: Any, context: Any) -> Any:
        self.running(request.id).phase = Phase.ABORTED
        return execution_pb2.ExecutionTerminateResponse()

    def running(self, identifier: Any) -> Execution:
        if identifier.name not in self.executions:
            raise Refused(grpc.StatusCode.NOT_FOUND, f"no execution {identifier.name}")
        return self.executions[identifier.name]


class _Answering(grpc.ServerInterceptor):
    """Turns Refused into gRPC's status, and asks for the token where one is needed."""

    def __init__(self, admin: Admin) -> None:
        self.admin = admin

    def intercept_service(self, continuation: Any, details: Any) -> Any:
        handler = continuation(details)
        if handler is None:
            return None
        said = dict(details.invocation_metadata).get("authorization")
        is_open = "AuthMetadataService" in details.method
        is_known = is_open or not self.admin.token or said == f"Bearer {self.admin.token}"

        def answer(request: Any, context: Any) -> Any:
            if not is_known:
                context.abort(grpc.StatusCode.UNAUTHENTICATED, "token is missing or wrong")
            try:
                return handler.unary_unary(request, context)
            except Refused as refused:
                context.abort(refused.code, str(refused))

        return grpc.unary_unary_rpc_method_handler(
            answer, handler.request_deserializer, handler.response_serializer
        )


def _known(entities: dict[Key, Any], identifier: Any, kind: str) -> Any:
    if key(identifier) not in entities:
        message = f"missing entity of type {kind} with identifier {identifier}"
        raise Refused(grpc.StatusCode.NOT_FOUND, message)
    return entities[key(identifier)]
