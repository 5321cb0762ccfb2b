"""Centred residual branches: nothing that the slopes can do exceeds the certified bound, by dense float64 matrices."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from fimtheory import norms
from fimtheory.errors import ShapeError
from fimtheory.norms import Correlation, residual
from fimtheory.norms.toeplitz import toeplitz

SLOPES = [(0.0, 1.0), (-0.129, 1.129), (-0.5, 1.5), (-1.0, 0.0), (0.0, 0.25)]
SLACK = 1 + 1e-12


def matrix(given, size):
    kernel = given.kernel.double()
    if given.row_scale is not None:
        kernel = kernel * given.row_scale[0].reshape(-1, *[1] * (kernel.dim() - 1))
    return toeplitz(kernel, given.geometry(size))[0]


def worst(straight, first, second, low, high, sweeps=2):
    """Largest ``||P + B D A||`` found by moving all slopes to the ends that the top vectors prefer, a few times."""
    low, high = (torch.tensor(end, dtype=torch.float64) for end in (low, high))
    best = 0.0
    for share in (torch.zeros(len(first)), torch.ones(len(first)), torch.rand(len(first)).round()):
        d = torch.where(share > 0, high, low)
        for _ in range(sweeps):
            left, values, right = torch.linalg.svd(straight + second @ (d[:, None] * first))
            best = max(best, float(values[0]))
            d = torch.where((left[:, 0] @ second) * (first @ right[0]) > 0, high, low)
        best = max(best, float(torch.linalg.matrix_norm(straight + second @ (d[:, None] * first), 2)))
    return best


@st.composite
def blocks(draw):
    """A residual block: two correlations with a shortcut that moves alike, and the size of its input."""
    torch.manual_seed(draw(st.integers(0, 2**20)))
    count = draw(st.sampled_from([1, 2]))
    inputs, middle, outputs = (draw(st.integers(1, 3)) for _ in range(3))
    size = tuple(draw(st.integers(7, 8) if count == 1 else st.integers(5, 6)) for _ in range(count))
    taps = [draw(st.sampled_from([1, 2, 3])) for _ in range(2)]
    stride = draw(st.sampled_from([1, 2]) if min(size) > 5 else st.just(1))
    padding = [draw(st.integers(0, k - 1)) for k in taps]
    scale = draw(st.sampled_from([1.0, 1e-3, 1e3, 1e-200, 1e150]))
    first = Correlation(kernel(draw, middle, inputs, taps[0], count) * scale, (stride,) * count, (padding[0],) * count,
                        row_scale(draw, middle))  # fmt: skip
    second = Correlation(kernel(draw, outputs, middle, taps[1], count) / scale, (1,) * count, (padding[1],) * count,
                         row_scale(draw, outputs))  # fmt: skip
    reach = stride * padding[1] + padding[0]
    assume(all(n >= taps[1] - 2 * padding[1] for n in first.geometry(size).output_size))
    total = second.geometry(first.geometry(size).output_size).output_size
    if draw(st.booleans()) and outputs == inputs and stride == 1 and total == size:
        eye = torch.eye(inputs, dtype=torch.float64).reshape(inputs, inputs, *[1] * count)
        return first, second, Correlation(eye, (1,) * count, (0,) * count), size
    straight = Correlation(kernel(draw, outputs, inputs, 1, count), (stride,) * count, (0,) * count)
    assume(straight.geometry(size).output_size == total and reach <= stride * (taps[1] - 1) + taps[0] - 1)
    return first, second, straight, size


def kernel(draw, outputs, inputs, taps, count):
    kind = draw(st.sampled_from(["random", "rank one", "zero row", "zero", "ones"]))
    made = torch.randn(outputs, inputs, *[taps] * count, dtype=torch.float64)
    match kind:
        case "rank one":
            made = made[:, :1, ...].sum(tuple(range(1, made.dim())), keepdim=True) * made[:1]
        case "zero row":
            made[0] = 0.0
        case "zero":
            made = torch.zeros_like(made)
        case "ones":
            made = torch.ones_like(made)
    return made


def row_scale(draw, channels):
    if draw(st.booleans()):
        return None
    return torch.linspace(-1.5, 2.0, channels, dtype=torch.float64), 4 * 2.0**-53


@pytest.mark.parametrize("side", [residual._SIDE, 0], ids=["finite", "lattice"])
def test_no_slopes_exceed_the_centred_bound(side, monkeypatch):
    monkeypatch.setattr(residual, "_SIDE", side)
    ratios = []

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
    @given(blocks(), st.sampled_from(SLOPES))
    def run(block, slopes):
        first, second, straight, size = block
        middle = first.geometry(size).output_size
        low, high = slopes
        a, b, p = matrix(first, size), matrix(second, middle), matrix(straight, size)
        norm = norms.centred_residual(first, second, straight, size, ((low + high) / 2, 2.0**-53))
        product = norms.equilibrated_product(first, second, size)
        bound = norm.upper + (high - low) / 2 * product.upper
        assert norm.upper * SLACK >= torch.linalg.matrix_norm(p + (low + high) / 2 * b @ a, 2) or side == 0
        found = worst(p, a, b, low, high)
        assert found <= bound * SLACK
        if found > 0:
            ratios.append(bound / found)

    run()
    assert len(ratios) > 20
    assert min(ratios) < 1.001, "somewhere the bound is attained"
    if side:
        assert sorted(ratios)[len(ratios) // 2] < 1.5


def test_balancing_pays_and_costs_no_truth():
    torch.manual_seed(0)
    first, second = torch.randn(6, 4, 1).double(), torch.randn(5, 6, 1).double()
    shares = torch.tensor([1e-3, 1e3, 1.0, 10.0, 0.1, 1.0]).double()
    a = Correlation(first * shares[:, None, None], (1,), (0,))
    b = Correlation(second / shares[:, None], (1,), (0,))
    plain = float(torch.linalg.matrix_norm(a.kernel[..., 0], 2) * torch.linalg.matrix_norm(b.kernel[..., 0], 2))
    balanced = norms.equilibrated_product(a, b, (1,)).upper
    assert balanced < plain / 50
    assert balanced >= float(torch.linalg.matrix_norm(b.kernel[..., 0] @ a.kernel[..., 0], 2)) / SLACK


def test_sizes_that_do_not_meet_are_refused():
    one = Correlation(torch.ones(1, 1, 3), (1,), (1,))
    with pytest.raises(ShapeError, match="outputs of different sizes"):
        norms.centred_residual(one, one, Correlation(torch.ones(1, 1, 1), (2,), (0,)), (6,), (0.5, 0.0))
    wide = Correlation(torch.ones(1, 1, 7), (1,), (3,))
    with pytest.raises(ShapeError, match="reads beyond"):
        norms.centred_residual(one, one, wide, (2000,), (0.5, 0.0))


def test_huge_and_tiny_weights_cancel():
    huge, tiny = torch.full((1, 1, 1), 1e300, dtype=torch.float64), torch.full((1, 1, 1), 1e-300, dtype=torch.float64)
    first, second, straight = (Correlation(k, (1,), (0,)) for k in (huge, tiny, torch.ones(1, 1, 1)))
    norm = norms.centred_residual(first, second, straight, (1,), (0.5, 0.0))
    assert math.isclose(norm.upper, 1.5, rel_tol=1e-7)
    assert math.isclose(norms.equilibrated_product(first, second, (1,)).upper, 1.0, rel_tol=1e-7)
