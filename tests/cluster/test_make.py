"""The Makefile's own targets against the doubles: register, activate, run, deactivate."""

from __future__ import annotations

import base64
import json
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cluster import Cluster
from double_rules import STOCK_LIMITS
from flytekit import FlyteContextManager
from flytekit.core.type_engine import TypeEngine
from flytekit.models.literals import Literal
from registered import VENV, Checkout, said, worked

from clippo_core.config import RunConfig, presets

pytestmark = pytest.mark.slow
PLANS = {"pretrain_and_evaluate", "weekly_retraining", "nightly_evaluation"}


@pytest.fixture(scope="module")
def cluster(s3_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """An empty cluster; what is launched on it does not run."""
    with Cluster(s3_server, tmp_path_factory.mktemp("no-image")) as cluster:
        cluster.admin.propeller = None
        yield cluster


@pytest.fixture(scope="module")
def checkout(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    folder = tmp_path_factory.mktemp("project")
    return Checkout(folder, cluster.configuration(folder))


def plans(cluster: Cluster, version: str) -> set[str]:
    """Launch plans of a version that have a name of their own."""
    return {name for _, _, name, known in cluster.admin.plans if known == version} & PLANS


def test_register_again_and_for_another_shape(cluster: Cluster, checkout: Checkout) -> None:
    worked(checkout.make("register"))
    version = checkout.version()
    assert plans(cluster, version) == PLANS
    commit = version.removesuffix("-laptop")
    for (_, _, name, _), spec in cluster.admin.tasks.items():
        assert spec.template.container.image.endswith(f":{commit}"), name
    before = len(cluster.admin.tasks)
    worked(checkout.make("register"))
    assert len(cluster.admin.tasks) == before
    worked(checkout.make("register", CLIPPO_CLUSTER="h200x8"))
    assert plans(cluster, checkout.version("h200x8")) == PLANS
    assert len(cluster.admin.tasks) == 2 * before
    assert not cluster.admin.active


def test_deactivate_finds_the_version_that_is_active(cluster: Cluster, checkout: Checkout) -> None:
    name = ("clippo", "production", "weekly_retraining")
    worked(checkout.make("register"))
    worked(checkout.make("activate", "PLAN=weekly_retraining"))
    first = checkout.version()
    assert cluster.admin.active[name] == first
    (checkout.folder / "Makefile").open("a").write("# changed\n")
    checkout.commit()
    worked(checkout.make("register"))
    assert checkout.version() != first and cluster.admin.active[name] == first
    done = checkout.make("deactivate", "PLAN=weekly_retraining")
    worked(done)
    assert first in done.stdout and not cluster.admin.active
    again = checkout.make("deactivate", "PLAN=weekly_retraining")
    worked(again)
    assert "is not active in clippo/production" in again.stdout


def test_run_launches_what_was_registered(
    cluster: Cluster, checkout: Checkout, tmp_path: Path
) -> None:
    worked(checkout.make("register"))
    config = tmp_path / "run.json"
    wanted = presets.demo(cluster.store.uri("runs"))
    config.write_text(json.dumps(asdict(wanted)))
    worked(checkout.make("run", f"CONFIG={config}"))
    (execution,) = cluster.admin.executions.values()
    assert execution.plan.version == checkout.version()
    assert execution.inputs.literals["kickoff_time"].scalar.primitive.datetime.seconds == 0
    literal = Literal.from_flyte_idl(execution.inputs.literals["config"])
    context = FlyteContextManager.current_context()
    assert TypeEngine.to_python_value(context, literal, RunConfig) == wanted


def test_flytekits_own_command_launches_it_too(
    cluster: Cluster, checkout: Checkout, tmp_path: Path
) -> None:
    """The kickoff time is given, and integers stay integers."""
    worked(checkout.make("register"))
    config = tmp_path / "run.json"
    config.write_text(json.dumps(asdict(presets.demo(cluster.store.uri("runs")))))
    words = ["run", "-p", "clippo", "-d", "production", "remote-launchplan"]
    words += ["pretrain_and_evaluate", "--config", str(config)]
    done = subprocess.run(
        [VENV / "bin" / "pyflyte", "-c", checkout.configuration, *words],
        cwd=checkout.folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
    worked(done)
    execution = list(cluster.admin.executions.values())[-1]
    literal = Literal.from_flyte_idl(execution.inputs.literals["config"])
    context = FlyteContextManager.current_context()
    assert TypeEngine.to_python_value(context, literal, RunConfig).train.steps == 730


def test_run_launches_any_plan_with_a_config_of_ones_own(
    cluster: Cluster, checkout: Checkout, tmp_path: Path
) -> None:
    """Of the demo and the weekly plan the config is a default, which pyflyte cannot read."""
    worked(checkout.make("register"))
    config = tmp_path / "run.json"
    config.write_text(json.dumps(asdict(presets.demo(cluster.store.uri("runs")))))
    for plan in ("demo", "weekly_retraining"):
        worked(checkout.make("run", f"PLAN={plan}", f"CONFIG={config}"))
        assert list(cluster.admin.executions.values())[-1].plan.name == plan
    before = len(cluster.admin.executions)
    done = checkout.make("run", f"CONFIG={config}", "VERSION=nobody-laptop")
    assert done.returncode != 0 and "is not registered as version nobody-laptop" in said(done)
    config.write_text('{"nmae": "demo"}')
    done = checkout.make("run", f"CONFIG={config}")
    assert done.returncode != 0 and "nmae" in said(done) and "Traceback" not in said(done)
    assert len(cluster.admin.executions) == before


def test_what_is_not_committed_is_not_registered(cluster: Cluster, checkout: Checkout) -> None:
    before = len(cluster.admin.tasks)
    changed = checkout.folder / "tasks" / "gate.py"
    text = changed.read_text()
    changed.write_text(text + "\n# edited\n")
    try:
        for target in ("register", "images"):
            done = checkout.make(target)
            assert done.returncode != 0 and "Commit first" in done.stdout
            assert "tasks/gate.py" in done.stdout
    finally:
        changed.write_text(text)
    assert len(cluster.admin.tasks) == before


def test_preflight_says_all_that_is_missing(
    s3_server: str, checkout: Checkout, tmp_path: Path
) -> None:
    with Cluster(s3_server, checkout.folder, projects=()) as cluster:
        words = ["preflight", f"FLYTE={cluster.configuration(tmp_path)}"]
        done = checkout.make(*words, "ROOT=s3://nowhere/runs", CLIPPO_CLUSTER="h100x8x8")
        assert done.returncode != 0 and "no project clippo" in done.stdout, said(done)
        for hint in ("PyTorchJob", "PodTemplate clippo-h100x8x8", "see WEEKLY", "see OPERATORS"):
            assert hint in done.stdout, said(done)
        cluster.admin.projects.add("clippo")
        cluster.admin.limits = STOCK_LIMITS
        done = checkout.make(*words, "ROOT=s3://nowhere/runs")
        assert done.returncode != 0
        for kind in ("CPU", "MEMORY"):
            assert f"Requested {kind}" in done.stdout, said(done)
        assert f"Version {checkout.version()} is not registered" in done.stdout
        cluster.admin.limits = {}
        worked(checkout.make("register", words[1]))
        done = checkout.make(*words, "ROOT=s3://nowhere/runs")
        assert done.returncode != 0
        assert "cannot write, read and delete below s3://nowhere/runs" in done.stdout, said(done)
        assert "no secret clippo with a key webhook" in done.stdout
        cluster.pods.secrets = {("clippo", "webhook"): "https://hook"}
        done = checkout.make(*words, f"ROOT={cluster.store.uri('runs')}")
        worked(done)
        assert "Nothing is missing in clippo/production" in done.stdout


def test_what_flyte_does_not_do_is_one_sentence(
    cluster: Cluster, checkout: Checkout, tmp_path: Path
) -> None:
    nobody = cluster.configuration(tmp_path).read_text().replace(cluster.admin.endpoint, "[::1]:9")
    (tmp_path / "nobody.yaml").write_text(nobody)
    silent = f"FLYTE={tmp_path / 'nobody.yaml'}"
    for words, told in (
        (["abort", "EXECUTION=f0"], "no execution f0"),
        (["deactivate", "PLAN=weekly_retraining", silent], "[::1]:9"),
    ):
        done = checkout.make(*words)
        assert done.returncode != 0 and "Traceback" not in said(done), said(done)
        assert told in done.stderr and "did not do it" in done.stderr


@pytest.mark.parametrize(
    "options, words",
    [
        ({"limits": STOCK_LIMITS}, "greater than current limit set in the platform configuration"),
        ({"projects": ("flytesnacks",)}, "project [clippo] and domain [production]"),
    ],
)
def test_what_a_fresh_cluster_lacks_is_said(
    s3_server: str, checkout: Checkout, tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    with Cluster(s3_server, tmp_path, **options) as fresh:
        done = checkout.make("register", f"FLYTE={fresh.configuration(tmp_path)}")
    assert done.returncode != 0 and words in said(done)


def test_ci_logs_in_without_a_browser(s3_server: str, checkout: Checkout, tmp_path: Path) -> None:
    asked: list[str] = []

    class Provider(BaseHTTPRequestHandler):
        """An identity provider that knows one application."""

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            asked.append(base64.b64decode(self.headers["Authorization"].split()[1]).decode())
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"access_token": "let-me-in", "expires_in": 3600}')

    with ThreadingHTTPServer(("127.0.0.1", 0), Provider) as provider:
        threading.Thread(target=provider.serve_forever, daemon=True).start()
        endpoint = f"http://127.0.0.1:{provider.server_port}/token"
        with Cluster(s3_server, tmp_path, token="let-me-in", token_endpoint=endpoint) as cluster:
            configuration = f"FLYTE={cluster.configuration(tmp_path)}"
            done = checkout.make(
                "register",
                configuration,
                FLYTE_CREDENTIALS_AUTH_MODE="client_credentials",
                FLYTE_CREDENTIALS_CLIENT_ID="ci",
                FLYTE_CREDENTIALS_CLIENT_SECRET="hush",
            )
            worked(done)
            assert plans(cluster, checkout.version()) == PLANS
        provider.shutdown()
    assert set(asked) == {"ci:hush"} and "hush" not in said(done)
