"""Which kernel computes attention: the decision with given times, and the kernels' equality."""

from __future__ import annotations

import json
import socket

import attention_ranks
import pytest
import torch
import torch.multiprocessing as mp
import torch.nn.functional as F

from clippo_core.config import ModelConfig
from clippo_core.engine.attention import (
    KERNELS,
    choose_attention,
    probe_seconds,
    using_attention,
)

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


def never(name: str) -> float:
    raise AssertionError(f"{name} was probed")


@pytest.fixture
def capability(monkeypatch):
    """What torch says of the GPU that this machine may not have."""

    def give(major: int, minor: int = 0) -> None:
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (major, minor))

    return give


@pytest.mark.parametrize(
    ("flash", "cudnn", "chosen"),
    [
        (1.0, 0.5, "cudnn"),
        (0.5, 1.0, "flash"),
        (1.0, 0.99, "flash"),  # within the noise
        (1.0, float("inf"), "flash"),
        (float("inf"), 1.0, "cudnn"),
        (float("inf"), float("inf"), "flash"),
    ],
)
def test_a_hopper_gpu_takes_the_faster_kernel(capability, flash, cudnn, chosen):
    capability(9)
    times = {"flash": flash, "cudnn": cudnn}
    assert choose_attention("auto", "", GPU, times.__getitem__) == chosen


def test_what_is_known_is_not_probed(capability):
    capability(9)
    assert choose_attention("math", "cudnn", GPU, never) == "math"  # said by hand
    assert choose_attention("auto", "cudnn", GPU, never) == "cudnn"  # kept
    assert choose_attention("auto", "", CPU, never) == ""
    capability(8, 6)
    assert choose_attention("auto", "", GPU, never) == ""


def test_every_kernel_gives_the_same_attention_and_leaves_no_trace():
    q, k, v = torch.randn(3, 2, 4, 9, 8, generator=torch.Generator().manual_seed(0))
    expected = ((q @ k.mT) / 8**0.5).softmax(-1) @ v
    before = torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.math_sdp_enabled()
    for name in ("", *KERNELS):
        with using_attention(name):
            found = F.scaled_dot_product_attention(q, k, v)
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    assert before == (
        torch.backends.cuda.flash_sdp_enabled(),
        torch.backends.cuda.math_sdp_enabled(),
    )


def test_the_named_kernel_is_the_one_that_runs():
    q = torch.randn(1, 2, 9, 8)

    def operators(name: str) -> set[str]:
        with torch.profiler.profile() as profile, using_attention(name):
            F.scaled_dot_product_attention(q, q, q)
        return {event.key for event in profile.key_averages()}

    assert "aten::_scaled_dot_product_attention_math" in operators("math")
    assert "aten::_scaled_dot_product_flash_attention_for_cpu" in operators("flash")


def test_the_probe_runs_a_kernel_and_knows_one_that_cannot():
    model = ModelConfig(width=64, num_heads=1)
    state = torch.get_rng_state()
    assert 0 < probe_seconds("math", model, 224, "float32", CPU) < 60
    assert probe_seconds("cudnn", model, 224, "float32", CPU) == float("inf")
    assert torch.equal(torch.get_rng_state(), state)


def test_rank_0_decides_for_all(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(attention_ranks.main, (port, str(tmp_path)), 2)
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    assert found == [["cudnn", ["flash", "cudnn"]], ["cudnn", []]]
