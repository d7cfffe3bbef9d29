"""The rules of FlyteAdmin's double, each broken once through its gRPC service."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from cluster import APP, IN_THE_IMAGE, Cluster, small_cluster
from conftest import PROJECT
from double_admin import Execution
from double_rules import RUNNING, STOCK_LIMITS, Phase, quantity
from flyteidl.admin import common_pb2, execution_pb2, launch_plan_pb2, task_pb2, workflow_pb2
from flyteidl.core import identifier_pb2, literals_pb2, tasks_pb2, types_pb2
from flyteidl.service import dataproxy_pb2, dataproxy_pb2_grpc

Resources = tasks_pb2.Resources
PLACE = {"project": "clippo", "domain": "production"}


@pytest.fixture(scope="module")
def small(s3_server: str) -> Iterator[Cluster]:
    with small_cluster(s3_server) as cluster:
        cluster.admin.propeller = None  # these tests ask what is accepted, not what runs
        yield cluster


def test_pods_hold_what_the_images_hold() -> None:
    for recipe in (PROJECT / "containers").glob("*.Dockerfile"):
        lines = re.findall(r"^COPY --chown=\S+ (.+) \S+$", recipe.read_text(), re.M)
        copied = {name for line in lines for name in line.split()}
        assert copied == set(IN_THE_IMAGE), recipe.name


def identifier(kind: int, name: str, version: str = "1", **place: str) -> Any:
    return identifier_pb2.Identifier(
        resource_type=kind, name=name, version=version, **(PLACE | place)
    )


def refused(call: Any, request: Any, code: str = "INVALID_ARGUMENT") -> str:
    """What the service says when it refuses."""
    with pytest.raises(grpc.RpcError) as raised:
        call(request)
    assert raised.value.code().name == code, raised.value.details()
    details: str = raised.value.details()
    return details


def task(name: str = "new", requests: Any = (), limits: Any = (), **place: str) -> Any:
    request = task_pb2.TaskCreateRequest(id=identifier(identifier_pb2.TASK, name, **place))
    resources = request.spec.template.container.resources
    for entries, wanted in ((resources.requests, requests), (resources.limits, limits)):
        for kind, value in dict(wanted).items():
            entries.add(name=Resources.ResourceName.Value(kind), value=value)
    return request


def plan(cluster: Cluster, name: str = "new", workflow: str = "doubled") -> Any:
    """A launch plan of one of the small app's workflows, without any default."""
    request = launch_plan_pb2.LaunchPlanCreateRequest(
        id=identifier(identifier_pb2.LAUNCH_PLAN, name)
    )
    request.spec.workflow_id.CopyFrom(identifier(identifier_pb2.WORKFLOW, f"small_app.{workflow}"))
    return request


def integer(n: int) -> Any:
    primitive = literals_pb2.Primitive(integer=n)
    return literals_pb2.Literal(scalar=literals_pb2.Scalar(primitive=primitive))


def test_quantities_are_those_of_kubernetes() -> None:
    assert quantity("128Gi") == 128 * 2**30 and quantity("500m") == 0.5
    assert quantity("16") == 16 and quantity("1G") < quantity("1Gi")


def test_project_and_domain_must_exist(small: Cluster) -> None:
    create = small.client.CreateTask
    assert "project [nowhere] and domain" in refused(create, task(project="nowhere"))
    assert "unrecognized by system" in refused(create, task(domain="sunday"))


def test_a_stock_flyte_has_limits(small: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small.admin, "limits", STOCK_LIMITS)
    create = small.client.CreateTask
    message = refused(create, task("big", {"MEMORY": "4Gi"}))
    assert "Requested MEMORY default [4Gi] is greater than current limit" in message
    message = refused(create, task("big", {"CPU": "1"}, {"CPU": "4"}))
    assert "Requested CPU limit [4] is greater than current limit" in message
    create(task("fits", {"MEMORY": "1Gi", "CPU": "2", "GPU": "1"}))
    # What is not requested is not compared.
    create(task("only-limited", {}, {"MEMORY": "4Gi"}))


def test_a_request_stays_below_its_own_limit(small: Cluster) -> None:
    create = small.client.CreateTask
    assert "Please fix" in refused(create, task("odd", {"MEMORY": "2Gi"}, {"MEMORY": "1Gi"}))
    assert "must equal" in refused(create, task("odd", {"GPU": "1"}, {"GPU": "2"}))


def test_a_version_never_changes(small: Cluster) -> None:
    create = small.client.CreateTask
    create(task("once", {"CPU": "1"}))
    assert "identical" in refused(create, task("once", {"CPU": "1"}), "ALREADY_EXISTS")
    assert "different structure already exists" in refused(create, task("once", {"CPU": "2"}))


def test_the_order_of_upstream_nodes_is_no_difference(small: Cluster) -> None:
    known = identifier(identifier_pb2.WORKFLOW, "small_app.both-orders")
    task_id = identifier(identifier_pb2.TASK, "small_app.double")
    for order in (["a", "b"], ["b", "a"]):
        request = workflow_pb2.WorkflowCreateRequest(id=known)
        for name in ("a", "b", "c"):
            node = request.spec.template.nodes.add(id=name)
            node.task_node.reference_id.CopyFrom(task_id)
        request.spec.template.nodes[2].upstream_node_ids.extend(order)
        if order == ["a", "b"]:
            small.client.CreateWorkflow(request)
        else:
            assert "identical" in refused(small.client.CreateWorkflow, request, "ALREADY_EXISTS")


def test_what_is_referred_to_must_be_there(small: Cluster) -> None:
    request = workflow_pb2.WorkflowCreateRequest(id=identifier(identifier_pb2.WORKFLOW, "lost"))
    node = request.spec.template.nodes.add(id="n0")
    node.task_node.reference_id.CopyFrom(identifier(identifier_pb2.TASK, "nobody"))
    assert "missing entity of type TASK" in refused(small.client.CreateWorkflow, request)
    lost = plan(small, workflow="nobody")
    assert "missing entity of type WORKFLOW" in refused(small.client.CreateLaunchPlan, lost)
    get = common_pb2.ObjectGetRequest(id=identifier(identifier_pb2.LAUNCH_PLAN, "nobody"))
    refused(small.client.GetLaunchPlan, get, "NOT_FOUND")


def test_a_schedule_needs_a_value_for_every_input(small: Cluster) -> None:
    create = small.client.CreateLaunchPlan
    request = plan(small, "weekly")
    request.spec.entity_metadata.schedule.cron_schedule.schedule = "0 2 * * 0"
    assert "unbound required input. [n]" in refused(create, request)
    request.spec.fixed_inputs.literals["n"].CopyFrom(integer(3))
    request.spec.entity_metadata.schedule.kickoff_time_input_arg = "n"
    assert "[n] is not free" in refused(create, request)
    del request.spec.fixed_inputs.literals["n"]
    request.spec.default_inputs.parameters["n"].var.type.simple = types_pb2.INTEGER
    request.spec.default_inputs.parameters["n"].default.CopyFrom(integer(3))
    assert "must reference a datetime" in refused(create, request)
    request.spec.entity_metadata.schedule.kickoff_time_input_arg = ""
    create(request)
    request.spec.default_inputs.parameters["other"].required = True
    assert "unexpected default_input other" in refused(create, request)


def test_one_version_of_a_launch_plan_is_active(small: Cluster) -> None:
    name = common_pb2.NamedEntityIdentifier(name="switched", **PLACE)
    active = launch_plan_pb2.ActiveLaunchPlanRequest(id=name)
    refused(small.client.GetActiveLaunchPlan, active, "NOT_FOUND")

    def switch(version: str, state: int) -> None:
        which = identifier(identifier_pb2.LAUNCH_PLAN, "switched", version)
        update = launch_plan_pb2.LaunchPlanUpdateRequest(id=which, state=state)
        small.client.UpdateLaunchPlan(update)

    for version in ("1", "2"):
        request = plan(small, "switched")
        request.id.version = version
        small.client.CreateLaunchPlan(request)
        switch(version, launch_plan_pb2.ACTIVE)
    assert small.client.GetActiveLaunchPlan(active).id.version == "2"
    # Switching off a version that is not the active one changes nothing, and says nothing.
    switch("1", launch_plan_pb2.INACTIVE)
    assert small.client.GetActiveLaunchPlan(active).id.version == "2"
    switch("2", launch_plan_pb2.INACTIVE)
    refused(small.client.GetActiveLaunchPlan, active, "NOT_FOUND")
    listed = small.client.ListLaunchPlans(common_pb2.ResourceListRequest(id=name, limit=1))
    assert [one.id.version for one in listed.launch_plans] == ["2"]


def test_inputs_are_merged_and_checked(small: Cluster) -> None:
    request = plan(small, "half-fixed", "mapped")
    request.spec.fixed_inputs.literals["by"].CopyFrom(integer(7))
    small.client.CreateLaunchPlan(request)
    numbers = literals_pb2.Literal(collection=literals_pb2.LiteralCollection())
    execution = small.launch("half-fixed", "1", {"n": numbers})
    assert execution.inputs.literals["by"].scalar.primitive.integer == 7
    for inputs, said in (({}, "n missing"), ({"x": numbers}, "invalid input x")):
        with pytest.raises(grpc.RpcError, match=said):
            small.launch("half-fixed", "1", inputs)


def test_relaunched_is_the_version_with_the_inputs_that_were_given(small: Cluster) -> None:
    request = plan(small, "launched-again", "mapped")
    request.spec.fixed_inputs.literals["by"].CopyFrom(integer(7))
    small.client.CreateLaunchPlan(request)
    numbers = literals_pb2.Literal(collection=literals_pb2.LiteralCollection())
    first = small.launch("launched-again", "1", {"n": numbers})
    first.phase = Phase.ABORTED
    again = small.client.RelaunchExecution(execution_pb2.ExecutionRelaunchRequest(id=first.id))
    second = small.admin.executions[again.id.name]
    assert second is not first and second.plan == first.plan and second.inputs == first.inputs
    lost = identifier_pb2.WorkflowExecutionIdentifier(name="nobody", **PLACE)
    unknown = execution_pb2.ExecutionRelaunchRequest(id=lost)
    refused(small.client.RelaunchExecution, unknown, "NOT_FOUND")


def test_a_concurrency_policy_counts_the_running_ones(small: Cluster) -> None:
    for version in ("1", "2"):
        request = plan(small, "alone")
        request.id.version = version
        request.spec.concurrency_policy.max = 1
        small.client.CreateLaunchPlan(request)
    first: Execution = small.launch("alone", "1", {"n": integer(1)})
    assert first.phase in RUNNING
    with pytest.raises(grpc.RpcError, match="concurrency limit") as raised:
        small.launch("alone", "2", {"n": integer(1)})
    assert raised.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    first.phase = Phase.SUCCEEDED
    small.launch("alone", "2", {"n": integer(1)})


def test_data_goes_up_and_decks_come_down_by_signed_addresses(small: Cluster) -> None:
    with grpc.insecure_channel(small.admin.endpoint) as channel:
        proxy = dataproxy_pb2_grpc.DataProxyServiceStub(channel)
        up = proxy.CreateUploadLocation(
            dataproxy_pb2.CreateUploadLocationRequest(
                **PLACE, filename="code.tgz", content_md5=b"0" * 16
            )
        )
        kind = {"Content-Type": "application/octet-stream"}
        put = urllib.request.Request(up.signed_url, b"code", kind, method="PUT")
        urllib.request.urlopen(put, timeout=30).close()
        assert small.store.read(small.store.name(up.native_url)) == b"code"
        execution = small.launch("small_app.doubled", "1", {"n": integer(1)})
        request = dataproxy_pb2.CreateDownloadLinkRequest(
            artifact_type=dataproxy_pb2.ARTIFACT_TYPE_DECK
        )
        request.node_execution_id.execution_id.CopyFrom(execution.id)
        request.node_execution_id.node_id = "n0"
        refused(proxy.CreateDownloadLink, request, "NOT_FOUND")


def test_who_has_no_token_is_sent_away(s3_server: str) -> None:
    with Cluster(s3_server, APP, token="let-me-in") as cluster:
        refused(cluster.client.CreateTask, task(), "UNAUTHENTICATED")
        known = (("authorization", "Bearer let-me-in"),)
        cluster.client.CreateTask(task(), metadata=known)
