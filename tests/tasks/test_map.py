"""Maps over partitions, on Flyte's own terms: what an item's cache key is made of, one item in a
pod, and how large a list of a thousand partitions is.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgpack
import pytest
from conftest import PROJECT
from flyteidl.core import literals_pb2
from flytekit import FlyteContextManager, map_task
from flytekit.configuration import ImageConfig, SerializationSettings
from flytekit.core import local_cache
from flytekit.core.type_engine import TypeEngine

from clippo_core import storage
from clippo_core.config import DataConfig, RenderConfig, SourceConfig
from clippo_core.data import parts
from clippo_core.data.partitions import MAX_PARTITIONS, make_partitions
from clippo_core.data.validate import measure as measuring
from clippo_core.data.validate.facts import Facts
from clippo_core.run.records import Part, PartitionPlan
from tasks.validate import measure


def literals(values: dict[str, Any], types: dict[str, Any]) -> bytes:
    """Inputs as they cross tasks."""
    context = FlyteContextManager.current_context()
    found = TypeEngine.dict_to_literal_map(context, values, types)
    data: bytes = found.to_flyte_idl().SerializeToString()
    return data


def three(root: str) -> list[Part]:
    """Partitions of three files below `root`."""
    for n in range(3):
        storage.write_text(f"{root}/data/{n}.txt", "".join(f"line {n} {i}\n" for i in range(4)))
    source = SourceConfig("sentences", f"{root}/data/*.txt", name="text")
    data = DataConfig((source,), text_pair_share=1.0, partition_bytes=1)
    return make_partitions(data, f"{root}/prepared")


def test_the_list_of_a_thousand_partitions_is_small() -> None:
    listed = [Part(f"exclusions/{n:032x}.parquet", f"{n:064x}", 2**40) for n in range(10**3)]
    assert len(listed) == MAX_PARTITIONS
    assert len(literals({"facts": listed}, {"facts": list[Part]})) < 200_000


def test_two_bound_plans_have_two_cache_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """flytekit's cache answers for a list that was measured, and not for the same list with
    another plan.
    """
    monkeypatch.setattr(local_cache, "CACHE_LOCATION", str(tmp_path / "cache"))
    monkeypatch.setattr(local_cache.LocalTaskCache, "_initialized", False)
    asked = []
    real = measuring.measure

    def counted(plan: PartitionPlan, partition: Part) -> Part:
        asked.append(partition)
        return real(plan, partition, False)

    monkeypatch.setattr(measuring, "measure", counted)
    cut = three(str(tmp_path))
    found = []
    for image_px in (64, 96, 64):
        plan = PartitionPlan(f"{tmp_path}/prepared", RenderConfig(image_px=image_px))
        found.append(map_task(functools.partial(measure, plan=plan))(partition=cut))
    assert found[0] == found[2] and not set(map(str, found[0])) & set(map(str, found[1]))
    assert asked == cut * 2


@pytest.mark.slow
def test_one_item_runs_as_a_pod_would_run_it(s3: str, tmp_path: Path) -> None:
    """Of three partitions the second is measured, and no other."""
    cut, prepared = three(s3), f"{s3}/prepared"
    plan = PartitionPlan(prepared, RenderConfig(image_px=64))
    types = {"partition": list[Part], "plan": PartitionPlan}
    storage.write_bytes(f"{s3}/inputs.pb", literals({"partition": cut, "plan": plan}, types))
    environment = os.environ | {
        "FLYTE_AWS_ENDPOINT": os.environ["AWS_ENDPOINT_URL_S3"],
        "FLYTE_AWS_ACCESS_KEY_ID": os.environ["AWS_ACCESS_KEY_ID"],
        "FLYTE_AWS_SECRET_ACCESS_KEY": os.environ["AWS_SECRET_ACCESS_KEY"],
        "FLYTE_FAIL_ON_ERROR": "true",
        "FLYTE_K8S_ARRAY_INDEX": "1",
        "BATCH_JOB_ARRAY_INDEX_VAR_NAME": "FLYTE_K8S_ARRAY_INDEX",
        "HOME": str(tmp_path),
    }
    settings = SerializationSettings(ImageConfig.auto(img_name="image:1"))
    command = map_task(functools.partial(measure, plan=plan)).get_command(settings)
    filled = {
        "{{.input}}": f"{s3}/inputs.pb",
        "{{.outputPrefix}}": f"{s3}/out",
        "{{.rawOutputDataPrefix}}": f"{s3}/raw",
        "{{.checkpointOutputPrefix}}": f"{s3}/check",
        "{{.prevCheckpointPrefix}}": '""',
    }
    assert command[0] == "pyflyte-map-execute"
    words = [str(Path(sys.executable).with_name(command[0]))]
    words += [filled.get(word, word) for word in command[1:]]
    done = subprocess.run(
        words, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    made = [file.name for file in storage.list_files(f"{prepared}/facts")]
    assert sum(name.endswith(".json") for name in made) == 1
    [answer] = [one for one in storage.list_files(f"{s3}/out") if one.name.endswith("outputs.pb")]
    outputs = literals_pb2.LiteralMap.FromString(storage.read_bytes(answer.uri))
    part = Part(**msgpack.unpackb(outputs.literals["o0"].scalar.binary.value))
    facts = parts.read(prepared, part, Facts)
    assert (facts.partition, facts.n_records) == (cut[1], 2)
