"""What every test shares: where the real slices lie, and a home of its own for Flyte's local
cache.
"""

from __future__ import annotations

import logging
import os
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent
SLICES = PROJECT.parent / "shared" / "data"
OLD_FONT = PROJECT.parent / "shared" / "fonts" / "unifont-9.0.06"
GPU_TESTS = PROJECT / "tests" / "gpu"

# Helpers of the tests, and tools, by their plain names; also for the processes that tests start.
HELPERS = [str(PROJECT / folder) for folder in ("tests/support", "tests", "tests/engine", "tools")]
sys.path += HELPERS
os.environ["PYTHONPATH"] = os.pathsep.join(
    [*filter(None, [os.environ.get("PYTHONPATH")]), *HELPERS]
)

os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
# Many test processes on few cores: more threads would only fight for them.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what lies in tests/gpu, before tests are selected by their markers."""
    for item in items:
        if GPU_TESTS in item.path.parents:
            item.add_marker(pytest.mark.gpu)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test of tests/gpu where there is no CUDA device."""
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("this machine has no CUDA device; `make test-gpu` needs one")


@pytest.fixture(scope="session")
def slices() -> Path:
    """Folder of the real benchmark slices; skips the test where it is absent."""
    if not SLICES.is_dir():
        pytest.skip("the folder ../shared/data with real benchmark slices is absent")
    return SLICES


@pytest.fixture
def flyte_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of its own, so that Flyte's local cache and configuration are empty; for tests that
    start `pyflyte`.
    """
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    return home


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """Address of a local S3 server (moto)."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """s3:// address of an empty bucket of its own on the local server, with the environment set to
    reach it.
    """
    import boto3

    for name in (
        "AWS_ENDPOINT_URL",
        "FLYTE_AWS_ENDPOINT",
        "FLYTE_AWS_ACCESS_KEY_ID",
        "FLYTE_AWS_SECRET_ACCESS_KEY",
        "AWS_PROFILE",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3_server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    name = f"bucket-{secrets.token_hex(6)}"
    boto3.session.Session().client("s3", region_name="us-east-1").create_bucket(Bucket=name)
    return f"s3://{name}"
