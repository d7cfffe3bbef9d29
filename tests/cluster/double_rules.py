"""What FlyteAdmin refuses, one function per rule, each with the file of the backend that it comes
from (flyteorg/flyte, branch master, 89cf9cc); test_double_admin.py breaks each.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import grpc
from flyteidl.core import execution_pb2, literals_pb2, tasks_pb2, types_pb2

Phase = execution_pb2.WorkflowExecution
RUNNING = (Phase.QUEUED, Phase.RUNNING, Phase.SUCCEEDING, Phase.FAILING)
DOMAINS = ("development", "staging", "production")
STOCK_LIMITS = {"CPU": "2", "MEMORY": "1Gi", "GPU": "1"}
"""What FlyteAdmin allows one task where its operator configured nothing
(flyteadmin/pkg/runtime/task_resource_provider.go)."""
UNITS = {"m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
UNITS |= {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
Key = tuple[str, str, str, str]


class Refused(Exception):
    """What FlyteAdmin answers instead of doing it."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code


def invalid(message: str) -> Refused:
    return Refused(grpc.StatusCode.INVALID_ARGUMENT, message)


def key(identifier: Any) -> Key:
    return (identifier.project, identifier.domain, identifier.name, identifier.version)


def quantity(text: str) -> float:
    """A Kubernetes quantity, such as 128Gi, as a number."""
    unit = text.lstrip("0123456789.")
    return float(text.removesuffix(unit)) * UNITS.get(unit, 1)


def project_exists(projects: set[str], identifier: Any) -> None:
    """flyteadmin/pkg/manager/impl/validation/project_validator.go: ValidateProjectAndDomain."""
    project, domain = identifier.project, identifier.domain
    if project not in projects:
        raise invalid(
            f"failed to validate that project [{project}] and domain [{domain}] are"
            f" registered, err: [missing entity of type project with identifier {project}]"
        )
    if domain not in DOMAINS:
        raise invalid(f"domain [{domain}] is unrecognized by system")


def within_limits(platform_limits: dict[str, str], resources: Any) -> None:
    """flyteadmin/pkg/manager/impl/validation/task_validator.go: validateResource."""
    name = tasks_pb2.Resources.ResourceName.Name
    limits = {name(one.name): one.value for one in resources.limits}
    for one in resources.requests:
        kind, asked = name(one.name), one.value
        limit, platform = limits.get(kind), platform_limits.get(kind)
        if kind == "GPU" and limit and quantity(limit) != quantity(asked):
            raise invalid("For extended resource 'gpu' the default must equal the limit")
        if limit and quantity(limit) < quantity(asked):
            raise invalid(
                f"Requested {kind} default [{asked}] is greater than the limit [{limit}]."
                " Please fix your configuration"
            )
        for which, value in (("limit", limit), ("default", asked)):
            if value and platform and quantity(value) > quantity(platform):
                raise invalid(
                    f"Requested {kind} {which} [{value}] is greater than current limit set in"
                    f" the platform configuration [{platform}]. Please contact Flyte Admins to"
                    " change these limits or consult the configuration"
                )


def immutable(known: dict[Key, Any], identifier: Any, spec: Any, kind: str) -> None:
    """flyteadmin/pkg/manager/impl/task_manager.go, workflow_manager.go and
    launch_plan_manager.go, by the digest of util/digests.go.
    """
    before = known.setdefault(key(identifier), spec)
    if before is spec:
        return
    if before.SerializeToString(deterministic=True) == spec.SerializeToString(deterministic=True):
        message = f"{kind} with identical structure already exists"
        raise Refused(grpc.StatusCode.ALREADY_EXISTS, message)
    raise invalid(
        f"{identifier.name} {kind} with different structure already exists. (Please register a"
        f" new version of the {kind}):"
    )


def expected_inputs(workflow: Any, spec: Any) -> None:
    """flyteadmin/pkg/manager/impl/validation/launch_plan_validator.go:
    checkAndFetchExpectedInputForLaunchPlan. Adds the workflow's other inputs as required ones.
    """
    variables = workflow.interface.inputs.variables
    for name in (*spec.default_inputs.parameters, *spec.fixed_inputs.literals):
        if name not in variables:
            raise invalid(f"unexpected default_input {name}")
    for name, variable in variables.items():
        if name not in spec.fixed_inputs.literals:
            parameter = spec.default_inputs.parameters[name]
            if not parameter.WhichOneof("behavior"):
                parameter.var.CopyFrom(variable)
                parameter.required = True


def schedule(spec: Any) -> None:
    """launch_plan_validator.go: validateSchedule."""
    plan = spec.entity_metadata.schedule
    if not plan.WhichOneof("ScheduleExpression"):
        return
    kickoff = plan.kickoff_time_input_arg
    for name, parameter in spec.default_inputs.parameters.items():
        if parameter.required and name != kickoff:
            raise invalid(
                "Cannot create a launch plan with a schedule if there is an unbound required"
                f" input. [{name}] is required"
            )
    if kickoff and kickoff not in spec.default_inputs.parameters:
        raise invalid(
            "Cannot create a schedule with a KickoffTimeInputArg that does not point to a free"
            f" input. [{kickoff}] is not free or does not exist."
        )
    if kickoff:
        kind = spec.default_inputs.parameters[kickoff].var.type.simple
        if kind != types_pb2.DATETIME:
            raise invalid("KickoffTimeInputArg must reference a datetime input.")


def merged_inputs(spec: Any, given: Any) -> Any:
    """flyteadmin/pkg/manager/impl/validation/execution_validator.go:
    CheckAndFetchInputsForExecution.
    """
    inputs = literals_pb2.LiteralMap()
    expected = spec.default_inputs.parameters
    for name, literal in given.literals.items():
        if name not in expected:
            raise invalid(f"invalid input {name}")
        inputs.literals[name].CopyFrom(literal)
    for name, parameter in expected.items():
        if name not in given.literals:
            if parameter.required:
                raise invalid(f"expected_inputs {name} missing")
            inputs.literals[name].CopyFrom(parameter.default)
    for name, literal in spec.fixed_inputs.literals.items():
        inputs.literals[name].CopyFrom(literal)
    return inputs


def concurrency(executions: Iterable[Any], plan: Any, limit: int) -> None:
    """flyteadmin/pkg/manager/impl/execution_manager.go: checkLaunchPlanConcurrency counts the
    running executions of all versions of a launch plan.
    """
    running = [
        one for one in executions if key(one.plan)[:3] == key(plan)[:3] and one.phase in RUNNING
    ]
    if limit and len(running) >= limit:
        message = (
            f"concurrency limit ({limit}) reached for launch plan {plan.name}; skipping execution"
        )
        raise Refused(grpc.StatusCode.RESOURCE_EXHAUSTED, message)
