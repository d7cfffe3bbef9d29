"""A task as a pod runs it: `pyflyte-execute` with the arguments of the packaged task, inputs and
outputs in a bucket, everything on s3://.
"""

from __future__ import annotations

import datetime
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import PROJECT
from flyteidl.core import literals_pb2

from clippo_core import storage
from clippo_core.config import DataConfig, RunConfig, SourceConfig, replace
from clippo_core.run.records import ValidatePlan, from_dict

EXECUTE = Path(sys.executable).with_name("pyflyte-execute")


@pytest.mark.slow
def test_plan_runs_as_a_pod_would_run_it(s3: str, tmp_path: Path) -> None:
    storage.write_text(f"{s3}/data/sentences.txt", "one\ntwo\nthree\nfour\n")
    source = SourceConfig("sentences", f"{s3}/data/sentences.txt")
    config = replace(
        RunConfig("pod", DataConfig((source,), text_pair_share=1.0), root=f"{s3}/runs"),
        train__steps=30_000,
    )
    storage.write_bytes(f"{s3}/in/inputs.pb", inputs(config))
    environment = os.environ | {
        "FLYTE_AWS_ENDPOINT": os.environ["AWS_ENDPOINT_URL_S3"],
        "FLYTE_AWS_ACCESS_KEY_ID": os.environ["AWS_ACCESS_KEY_ID"],
        "FLYTE_AWS_SECRET_ACCESS_KEY": os.environ["AWS_SECRET_ACCESS_KEY"],
        "FLYTE_FAIL_ON_ERROR": "true",
        "HOME": str(tmp_path),
    }
    command = [
        EXECUTE,
        "--inputs",
        f"{s3}/in/inputs.pb",
        "--output-prefix",
        f"{s3}/out",
        "--raw-output-data-prefix",
        f"{s3}/raw",
    ]
    command += ["--resolver", "flytekit.core.python_auto_container.default_task_resolver", "--"]
    command += ["task-module", "tasks.plan", "task-name", "plan"]
    done = subprocess.run(
        command, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    names = {file.name for file in storage.list_files(f"{s3}/out")}
    assert {"outputs.pb", "deck.html"} <= names and not any(
        name.startswith("error") for name in names
    )
    outputs = literals_pb2.LiteralMap.FromString(storage.read_bytes(f"{s3}/out/outputs.pb"))
    assert {"validate", "render", "pretrain", "gate"} <= set(outputs.literals)
    plan = from_dict(ValidatePlan, unpacked(outputs.literals["validate"]))
    assert plan.stage.root.startswith(f"{s3}/runs/pod-") and plan.data == config.data


def inputs(config: RunConfig) -> bytes:
    """The serialized inputs of `plan`."""
    from flytekit import FlyteContextManager
    from flytekit.core.type_engine import TypeEngine

    values = {
        "config": config,
        "kickoff_time": datetime.datetime(2026, 11, 22, tzinfo=datetime.UTC),
    }
    types = {"config": RunConfig, "kickoff_time": datetime.datetime}
    literals = TypeEngine.dict_to_literal_map(FlyteContextManager.current_context(), values, types)
    data: bytes = literals.to_flyte_idl().SerializeToString()
    return data


def unpacked(literal: Any) -> dict[str, Any]:
    """A dataclass literal's plain content: MessagePack, as Flyte sends it."""
    import msgpack

    content: dict[str, Any] = msgpack.unpackb(literal.scalar.binary.value)
    return content
