"""The rules of FlytePropeller's double, each broken once, on real pods of a small project."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from cluster import Cluster, small_cluster, story
from flyteidl.core import literals_pb2
from flyteidl.service import dataproxy_pb2, dataproxy_pb2_grpc

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def small(s3_server: str) -> Iterator[Cluster]:
    with small_cluster(s3_server) as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def undisturbed(small: Cluster) -> Iterator[None]:
    """No fault and no secret is left from another test."""
    yield
    small.pods.oom, small.pods.fault, small.pods.secrets = {}, None, {}


def integer(n: int) -> Any:
    return literals_pb2.Literal(
        scalar=literals_pb2.Scalar(primitive=literals_pb2.Primitive(integer=n))
    )


def integers(*numbers: int) -> Any:
    items = [integer(n) for n in numbers]
    return literals_pb2.Literal(collection=literals_pb2.LiteralCollection(literals=items))


def run(cluster: Cluster, workflow: str, **inputs: Any) -> Any:
    return cluster.run(f"small_app.{workflow}", "1", inputs)


def link(cluster: Cluster, execution: Any, node: str) -> str:
    """The signed address of a node's deck, as the console asks for it."""
    request = dataproxy_pb2.CreateDownloadLinkRequest(
        artifact_type=dataproxy_pb2.ARTIFACT_TYPE_DECK
    )
    request.node_execution_id.execution_id.CopyFrom(execution.id)
    request.node_execution_id.node_id = node
    with grpc.insecure_channel(cluster.admin.endpoint) as channel:
        proxy = dataproxy_pb2_grpc.DataProxyServiceStub(channel)
        (url,) = proxy.CreateDownloadLink(request).pre_signed_urls.signed_url
    return url


def text(execution: Any, name: str = "o0") -> str:
    assert execution.phase_name == "SUCCEEDED", story(execution)
    value: str = execution.outputs.literals[name].scalar.primitive.string_value
    return value


def test_outputs_deck_and_cache(small: Cluster) -> None:
    first = run(small, "doubled", n=integer(21))
    assert first.outputs.literals["o0"].scalar.primitive.integer == 42, story(first)
    (node,) = first.nodes
    assert not node.from_cache and len(node.attempts) == 1
    deck = small.store.read(small.store.name(node.deck))
    assert b"<b>42</b>" in deck and small.store.content_type(small.store.name(node.deck))
    assert urllib.request.urlopen(link(small, first, node.path), timeout=30).read() == deck
    again = run(small, "doubled", n=integer(21))
    assert again.nodes[0].from_cache and again.outputs == first.outputs
    other = run(small, "doubled", n=integer(22))
    assert not other.nodes[0].from_cache


def test_what_a_user_calls_recoverable_is_retried_with_its_checkpoint(small: Cluster) -> None:
    execution = run(small, "tried")
    assert text(execution) == "77"
    (node,) = execution.nodes
    errors = [one.error and one.error.message for one in node.attempts]
    assert "seen nothing" in errors[0] and "seen 7" in errors[1] and errors[2] is None


def test_what_a_user_does_not_call_recoverable_is_not_retried(small: Cluster) -> None:
    execution = run(small, "doubled", n=integer(13))
    assert execution.phase_name == "FAILED"
    assert len(execution.nodes[0].attempts) == 1
    assert "ValueError: 13 is unlucky" in execution.error.message


def test_a_pod_without_memory_costs_a_retry_of_the_users(small: Cluster) -> None:
    small.pods.oom = {"small_app.double": 1}
    execution = run(small, "doubled", n=integer(31))
    assert execution.phase_name == "FAILED" and "[1/1] currentAttempt" in execution.error.message
    assert f"[{execution.id.name}-n0-0] terminated" in execution.error.message
    assert "OOMKilled" in execution.error.message


def test_a_lost_node_costs_a_retry_of_the_systems(small: Cluster) -> None:
    def lose(task: str, attempt: int, process: subprocess.Popen[bytes]) -> None:
        if attempt == 0:
            os.killpg(process.pid, signal.SIGKILL)

    small.pods.fault = lose
    execution = run(small, "doubled", n=integer(32))
    assert execution.outputs.literals["o0"].scalar.primitive.integer == 64, story(execution)
    assert len(execution.nodes[0].attempts) == 2


def test_outputs_that_are_missing_are_an_error(small: Cluster) -> None:
    def end(task: str, attempt: int, process: subprocess.Popen[bytes]) -> None:
        os.killpg(process.pid, signal.SIGTERM)

    small.pods.fault = end
    execution = run(small, "doubled", n=integer(33))
    assert execution.phase_name == "FAILED"
    assert "exit code" in execution.error.message or "Outputs not" in execution.error.message


def test_pods_share_nothing_but_the_store(small: Cluster, monkeypatch: Any) -> None:
    monkeypatch.setenv("AWS_PROFILE", "the-developer")
    assert text(run(small, "clean")) == "[] [][] []"


def test_only_who_asks_for_a_secret_gets_it(small: Cluster) -> None:
    small.pods.secrets = {("Clippo", "Webhook"): "https://hook"}
    execution = run(small, "secrets")
    assert (text(execution), text(execution, "o1")) == ("https://hook", "nothing")


def test_a_secret_that_is_not_there_is_no_failure_of_the_pod(small: Cluster) -> None:
    execution = run(small, "secrets")
    assert execution.phase_name == "FAILED" and "ValueError" in execution.error.message


def test_a_pod_that_hangs_ends_at_its_timeout(small: Cluster) -> None:
    execution = run(small, "hanging")
    assert execution.phase_name == "FAILED"
    assert "task active timeout [6s] expired" in execution.error.message
    assert len(execution.nodes[0].attempts) == 2  # five retries, but twice the timeout in all
    assert "timeout [3s]" in execution.nodes[0].attempts[0].error.message


def test_the_roots_policy_lets_others_finish_and_handlers_are_told(small: Cluster) -> None:
    execution = run(small, "patient")
    assert execution.phase_name == "FAILED", story(execution)
    ended = {node.path: node.phase_name for node in execution.nodes}
    assert ended == {
        "n0-0-n0": "FAILED",
        "n0-0-fn0": "SUCCEEDED",
        "n1": "SUCCEEDED",
        "n2": "SUCCEEDED",
    }
    (told,) = (node for node in execution.nodes if node.path.endswith("fn0"))
    assert "TOLD 13" in told.attempts[0].log and "13 is unlucky" in told.attempts[0].log
    # Flyte names the handler, not the node that failed.
    assert "fn0" in told.attempts[0].log


def test_the_usual_policy_stops_at_the_first_failure(small: Cluster) -> None:
    execution = run(small, "impatient")
    assert execution.phase_name == "FAILED"
    assert len(execution.nodes) < 5, story(execution)


def test_the_pods_of_a_pytorch_job_meet_through_what_the_operator_tells_them(
    small: Cluster,
) -> None:
    """kubeflow/training-operator pkg/controller.v1/pytorch/envvar.go and elastic.go."""
    execution = small.run("ranks_app.met", "1")
    told = {"PET_NNODES": "2:2", "PET_NPROC_PER_NODE": "1", "PET_RDZV_BACKEND": "c10d"}
    said = text(execution)
    assert said.startswith(f"3 {told} 2 "), story(execution)
    assert re.search(r"worker-[01]$", said)


def test_a_map_has_a_pod_and_a_cache_per_item(small: Cluster) -> None:
    execution = run(small, "mapped", n=integers(1, 2))
    found = execution.outputs.literals["o0"].collection.literals
    assert [one.scalar.primitive.integer for one in found] == [10, 20], story(execution)
    assert [len(node.attempts) for node in execution.nodes] == [1, 1]
    more = run(small, "mapped", n=integers(2, 3))
    assert {node.path: node.from_cache for node in more.nodes} == {"n0-n0": True, "n0-n1": False}
    found = more.outputs.literals["o0"].collection.literals
    assert [one.scalar.primitive.integer for one in found] == [20, 30]


def test_a_map_of_which_no_item_has_to_succeed_has_none_for_those_that_failed(
    small: Cluster,
) -> None:
    execution = run(small, "forgiven", n=integers(13, 14))
    assert execution.phase_name == "SUCCEEDED", story(execution)
    failed, made = execution.outputs.literals["o0"].collection.literals
    assert failed.scalar.HasField("none_type") and made.scalar.primitive.integer == 140
    assert {node.path: node.phase_name for node in execution.nodes} == {
        "n0-n0": "FAILED",
        "n0-n1": "SUCCEEDED",
    }


def test_a_map_over_nothing_starts_no_pod(small: Cluster) -> None:
    execution = run(small, "forgiven", n=integers())
    assert execution.phase_name == "SUCCEEDED", story(execution)
    assert not execution.nodes and not execution.outputs.literals["o0"].collection.literals


def test_one_failed_item_fails_the_map_and_is_named(small: Cluster) -> None:
    execution = run(small, "mapped", n=integers(13, 4))
    assert execution.phase_name == "FAILED" and "[0]: " in execution.error.message
    again = run(small, "mapped", n=integers(4))
    assert again.nodes[0].from_cache and again.phase_name == "SUCCEEDED"
