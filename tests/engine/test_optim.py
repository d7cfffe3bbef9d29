"""Adafactor against an independent numpy statement of big_vision's chain, AdamW against torch's,
and the schedule.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from clippo_core.errors import CheckpointError, ConfigError
from clippo_core.optim import Adafactor, AdamW, Fragment, adafactor, adamw, rsqrt_schedule
from clippo_core.optim.factors import Block

SHAPES = {  # name -> (shape, view or None)
    "qkv.kernel": ((3 * 96, 80), (3, 2, 48, 80)),
    "out.kernel": ((80, 96), (80, 2, 48)),
    "mlp.kernel": ((130, 80), None),
    "mlp2.kernel": ((130, 80), None),
    "narrow.kernel": ((31, 200), None),
    "conv.kernel": ((64, 3, 16, 16), None),
    "posemb": ((1, 49, 80), None),
    "bias": ((80,), None),
    "t": ((1,), None),
}
VIEWS = {name: view for name, (_, view) in SHAPES.items() if view}
DECAYED = {name for name in SHAPES if name.endswith("kernel")}


def parameters(seed: int = 0, dtype: torch.dtype = torch.float32) -> dict[str, torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.nn.Parameter(
            torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) * 0.1
        )
        for name, (shape, _) in SHAPES.items()
    }


def gradients(step: int, scale: float = 0.02) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(100 + step)
    return {
        name: (rng.normal(size=shape) * scale * (1 + i)).astype(np.float32)
        for i, (name, (shape, _)) in enumerate(SHAPES.items())
    }


def to_bfloat16(x: np.ndarray) -> np.ndarray:
    """Round float32 to the nearest bfloat16, ties to even; kept as float32."""
    bits = x.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


class Reference:
    """big_vision's chain, said again in numpy: clip -> factored rms -> momentum -> lr -> + decay ->
    schedule.
    """

    def __init__(
        self, weights: dict[str, np.ndarray], bfloat16: bool, clip: float, wide: type = np.float32
    ):
        self.w, self.bfloat16, self.clip, self.wide = (
            {k: v.astype(wide) for k, v in weights.items()},
            bfloat16,
            clip,
            wide,
        )
        self.state: dict[str, tuple] = {}
        self.m = {k: np.zeros(v.shape, wide) for k, v in weights.items()}
        self.t = 0

    def step(
        self, grads: dict[str, np.ndarray], multiplier: float, lr: float = 1e-3, wd: float = 1e-4
    ) -> float:
        self.t += 1
        norm = math.sqrt(sum(float((g.astype(np.float64) ** 2).sum()) for g in grads.values()))
        beta = min(0.999, 1 - self.t**-0.8)
        for name, w in self.w.items():
            g = grads[name].astype(self.wide) * self.wide(min(1.0, self.clip / norm))
            shape = VIEWS.get(name, w.shape)
            x = g.reshape(shape)
            order = np.argsort(shape)
            if len(shape) > 1 and shape[order[-2]] >= 32:
                d1, d0 = order[-2], order[-1]
                row, col = self.state.get(name, (0.0, 0.0))
                row = beta * row + (1 - beta) * (x**2 + 1e-30).mean(d0, keepdims=True)
                col = beta * col + (1 - beta) * (x**2 + 1e-30).mean(d1, keepdims=True)
                self.state[name] = (row, col)
                u = x * (row / row.mean(d1, keepdims=True)) ** -0.5 * col**-0.5
            else:
                (v,) = self.state.get(name, (0.0,))
                v = beta * v + (1 - beta) * (x**2 + 1e-30)
                self.state[name] = (v,)
                u = x * v**-0.5
            u = u.reshape(w.shape)
            kept = (
                to_bfloat16(self.m[name] * np.float32(0.8984375))
                if self.bfloat16
                else self.wide(0.9) * self.m[name]
            )
            m = (kept + self.wide(1 - 0.9) * u).astype(self.wide)
            self.m[name] = to_bfloat16(m) if self.bfloat16 else m
            update = lr * m + (wd * w if name in DECAYED else 0)
            self.w[name] = (w - multiplier * update).astype(self.wide)
        return norm


def run(
    optimizer: Adafactor | AdamW,
    weights: dict[str, torch.nn.Parameter],
    steps: range,
    clip_scale: float = 0.02,
) -> list[float]:
    norms = []
    for step in steps:
        for name, gradient in gradients(step, clip_scale).items():
            weights[name].grad = torch.from_numpy(gradient).to(weights[name].dtype)
        optimizer.step(rsqrt_schedule(step, 40, 5, 10, 5))
        norms.append(optimizer.grad_norm)
    return norms


def as_on_a_gpu(optimizer: Adafactor | AdamW) -> None:
    """Large bundles, and a step that does not count is computed all the same."""
    optimizer.in_cache = False


WAYS = {
    "in cache": lambda optimizer: None,
    "as on a GPU": as_on_a_gpu,
    "compiled": lambda optimizer: optimizer.compile(),
}


@pytest.mark.parametrize("clip", [1.0, 1e9])
@pytest.mark.parametrize(
    "bfloat16, way",
    [
        (False, "in cache"),
        (True, "in cache"),
        (False, "as on a GPU"),
        (True, "as on a GPU"),
        pytest.param(True, "compiled", marks=pytest.mark.slow),
    ],
)
def test_adafactor_equals_the_references_chain(bfloat16, way, clip, monkeypatch):
    monkeypatch.setattr(adafactor, "CACHED_ELEMENTS", 1000)  # the parameters are small
    weights = parameters()
    reference = Reference(
        {k: v.detach().numpy().copy() for k, v in weights.items()}, bfloat16, clip
    )
    dtype = torch.bfloat16 if bfloat16 else torch.float32
    optimizer = Adafactor(
        weights.items(), 1e-3, 1e-4, DECAYED, momentum_dtype=dtype, views=VIEWS, clip_norm=clip
    )
    WAYS[way](optimizer)
    norms = run(optimizer, weights, range(20))
    expected = [
        reference.step(gradients(step), rsqrt_schedule(step, 40, 5, 10, 5)) for step in range(20)
    ]
    assert norms == pytest.approx(expected, rel=1e-5)
    assert min(norms) > 1  # so that the clip at 1 acts
    for name, weight in weights.items():
        difference = np.abs(weight.detach().numpy() - reference.w[name])
        # A momentum between two bfloat16 numbers may round either way: then an element differs by
        # lr times their distance.
        assert (difference > 1e-6).mean() <= (0.001 if bfloat16 else 0), name
        assert difference.max() <= (5e-5 if bfloat16 else 1e-6), name


def test_adafactor_in_float64_equals_the_chain_closely():
    weights = parameters(dtype=torch.float64)
    reference = Reference(
        {k: v.detach().numpy().copy() for k, v in weights.items()}, False, 1.0, wide=np.float64
    )
    optimizer = Adafactor(
        weights.items(),
        1e-3,
        1e-4,
        DECAYED,
        momentum_dtype=torch.float32,
        views=VIEWS,
        clip_norm=1.0,
    )
    run(optimizer, weights, range(20))
    for step in range(20):
        reference.step(gradients(step), rsqrt_schedule(step, 40, 5, 10, 5))
    for name, weight in weights.items():
        np.testing.assert_allclose(weight.detach().numpy(), reference.w[name], atol=1e-12, rtol=0)


@pytest.mark.parametrize("way", ["in cache", "as on a GPU"])
def test_adamw_equals_torchs(way, monkeypatch):
    monkeypatch.setattr(adamw, "CACHED_ELEMENTS", 5000)
    ours, theirs = parameters(), parameters()
    optimizer = AdamW(
        ours.items(), 1e-3, 1e-3 * 0.1, DECAYED, (0.9, 0.95), clip_norm=1.0, rates={"t": 10.0}
    )
    WAYS[way](optimizer)
    groups = [
        {"params": [theirs[name] for name in DECAYED], "weight_decay": 0.1},
        {
            "params": [w for name, w in theirs.items() if name not in DECAYED | {"t"}],
            "weight_decay": 0.0,
        },
        {"params": [theirs["t"]], "weight_decay": 0.0, "lr": 1e-2},
    ]
    reference = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95))
    rates = [group["lr"] for group in reference.param_groups]
    run(optimizer, ours, range(20))
    for step in range(20):
        for name, gradient in gradients(step).items():
            theirs[name].grad = torch.from_numpy(gradient)
        torch.nn.utils.clip_grad_norm_(theirs.values(), 1.0)
        for group, rate in zip(reference.param_groups, rates, strict=True):
            group["lr"] = rate * rsqrt_schedule(step, 40, 5, 10, 5)
        reference.step()
    for name, weight in ours.items():
        torch.testing.assert_close(weight, theirs[name], atol=2e-6, rtol=0)


@pytest.mark.parametrize("kind", [Adafactor, AdamW])
def test_state_goes_on_bit_for_bit(kind):
    options = {"views": VIEWS} if kind is Adafactor else {}
    straight, first = parameters(), parameters()
    run(kind(straight.items(), 1e-3, 1e-4, DECAYED, clip_norm=1.0, **options), straight, range(6))
    optimizer = kind(first.items(), 1e-3, 1e-4, DECAYED, clip_norm=1.0, **options)
    run(optimizer, first, range(3))
    again = {name: torch.nn.Parameter(w.detach().clone()) for name, w in first.items()}
    second = kind(again.items(), 1e-3, 1e-4, DECAYED, clip_norm=1.0, **options)
    second.load_full_state(optimizer.full_state())
    run(second, again, range(3, 6))
    for name, weight in straight.items():
        assert torch.equal(weight, again[name]), name


def test_views_are_factored_as_the_reference_factors_them():
    weights = parameters()
    optimizer = Adafactor(weights.items(), 1e-3, 0.0, set(), views=VIEWS)
    run(optimizer, weights, range(1))
    state = {key: tuple(value.shape) for key, value in optimizer.full_state().items()}
    assert state["qkv.kernel/v_row"] == (3, 2, 48) and state["qkv.kernel/v_col"] == (
        3,
        2,
        80,
    )  # per projection and head
    assert state["out.kernel/v_row"] == (80, 2) and state["out.kernel/v_col"] == (2, 48)
    assert state["mlp.kernel/v_row"] == (130,) and state["mlp.kernel/v_col"] == (80,)
    assert state["posemb/v_row"] == (1, 49) and state["posemb/v_col"] == (1, 80)
    for name in ("narrow.kernel", "conv.kernel", "bias", "t"):  # the second largest dim is below 32
        assert state[f"{name}/v"] == SHAPES[name][0]
    assert optimizer.full_state()["mlp.kernel/momentum"].dtype == torch.bfloat16


def test_a_parameter_without_gradient_decays_like_one_with_zeros():
    ours, zeros = parameters(), parameters()
    for weights, missing in ((ours, None), (zeros, 0.0)):
        optimizer = Adafactor(weights.items(), 1e-3, 1e-2, DECAYED, views=VIEWS)
        for name, w in weights.items():
            w.grad = None if name == "mlp.kernel" and missing is None else torch.zeros_like(w)
        optimizer.step(1.0)
    for name, weight in ours.items():
        assert torch.equal(weight, zeros[name])


@pytest.mark.parametrize("kind", [Adafactor, AdamW])
@pytest.mark.parametrize("way", ["in cache", "as on a GPU"])
def test_a_gradient_that_is_not_finite_changes_nothing(kind, way):
    weights = parameters()
    with torch.no_grad():
        weights["bias"][:7] = -0.0  # whose sign a sum with 0 loses
    options = {"views": VIEWS} if kind is Adafactor else {}
    optimizer = kind(weights.items(), 1e-3, 1e-4, DECAYED, clip_norm=1.0, **options)
    WAYS[way](optimizer)
    run(optimizer, weights, range(2))
    before = {key: value.clone() for key, value in (optimizer.full_state() | weights).items()}
    for value in (float("inf"), float("nan")):
        weights["bias"].grad = torch.full_like(weights["bias"], value)
        optimizer.step(1.0)
        assert not math.isfinite(optimizer.grad_norm)
        for key, value in (optimizer.full_state() | weights).items():
            assert torch.equal(bits(value), bits(before[key])), key


def bits(tensor: torch.Tensor) -> torch.Tensor:
    whole = {2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    return tensor.detach().view(whole)


@pytest.mark.parametrize("cut", [1, 37, 1000, 10**9])
def test_pieces_of_a_slice_are_all_of_it_in_whole_rows(cut):
    view = (3, 5, 2, 4, 3)  # 3 matrices of 5 rows of 24
    for start, stop in ((0, 360), (7, 353), (24, 72), (50, 60), (119, 121), (100, 100 + 140)):
        block = Block(0, view, 0, [Fragment("w", start, stop - start)])
        block.cut(cut)
        assert block.pieces[0].offset == 0
        for piece, after in zip(block.pieces, [*block.pieces[1:], None], strict=True):
            end = piece.offset + piece.length
            assert end == (after.offset if after else stop - start)
            assert piece.length <= max(cut, 24)
            assert (start + end) % 24 == 0 or not after
        values = torch.arange(360.0)
        expected = torch.zeros(360)
        expected[start:stop] = values[start:stop] ** 2
        rows, columns = torch.zeros(1, 3, 5, 2, 1, 3), torch.zeros(1, 3, 1, 2, 4, 3)
        block.add_sums(values[start:stop], rows, columns)
        assert torch.equal(rows[0], expected.view(view).sum(3, True))
        assert torch.equal(columns[0], expected.view(view).sum(1, True))


def test_what_does_not_fit_is_refused():
    weights = parameters()
    with pytest.raises(ConfigError, match="view"):
        Adafactor(weights.items(), 1e-3, 0.0, set(), views={"bias": (81,)})
    with pytest.raises(ConfigError, match="nonesuch"):
        Adafactor(weights.items(), 1e-3, 0.0, {"nonesuch"})
    with pytest.raises(ConfigError, match="positive"):
        AdamW(weights.items(), 0.0, 0.0, set())
    optimizer = Adafactor(weights.items(), 1e-3, 0.0, set())
    state = optimizer.full_state()
    with pytest.raises(CheckpointError, match="bias/momentum"):
        optimizer.load_full_state({k: v for k, v in state.items() if k != "bias/momentum"})
    with pytest.raises(CheckpointError, match="shape"):
        optimizer.load_full_state(state | {"t/v": torch.zeros(2)})
    with pytest.raises(ConfigError, match="before its first step"):
        optimizer.place(torch.zeros(80), [Fragment("bias", 0, 80)])


def test_schedule_equals_big_visions_values():
    paper = [
        rsqrt_schedule(s, 250_000, 10_000, 10_000, 10_000)
        for s in (0, 5_000, 10_000, 62_500, 125_000, 240_000, 250_000)
    ]
    assert paper == pytest.approx([0, 0.5, 1, 0.4, 0.28284, 0.20412, 0], abs=1e-5)
    assert rsqrt_schedule(0, 10, 0, 5, 0) == 1.0
    for s in range(0, 400, 7):  # COCO's sanity run, by big_vision's other way to write it
        value = (
            1
            / math.sqrt((100 + max(s - 100, 0)) / 100)
            * np.clip(s / 100, 0, 1)
            * np.clip((400 - s) / 100, 0, 1)
        )
        assert rsqrt_schedule(s, 400, 100, 100, 100) == pytest.approx(value, abs=1e-12)
    with pytest.raises(ConfigError):
        rsqrt_schedule(-1, 10, 1, 1, 1)
    with pytest.raises(ConfigError):
        rsqrt_schedule(1, 10, 1, 0, 1)
