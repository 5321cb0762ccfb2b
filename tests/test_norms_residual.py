"""Centred residual branches: nothing that the slopes can do exceeds the certified bound, by dense float64 matrices."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from fimtheory import norms
from fimtheory.errors import ShapeError
from fimtheory.norms import Correlation, residual
from fimtheory.norms.toeplitz import toeplitz

SLOPES = [(0.0, 1.0), (-0.129, 1.129), (-0.5, 1.5), (-1.0, 0.0), (0.0, 0.25), (-1.0, 1.0)]
APART = (0.5, 1.0)  # of a leaky ReLU: 0 is none of them
SLACK = 1 + 1e-12


def matrix(given, size):
    kernel = given.kernel.double()
    if given.row_scale is not None:
        kernel = kernel * given.row_scale[0].reshape(-1, *[1] * (kernel.dim() - 1))
    return torch.block_diag(*toeplitz(kernel, given.geometry(size)))


def product(maps, slopes):
    whole = maps[0]
    for each, d in zip(maps[1:], slopes, strict=True):
        whole = each @ (d[:, None] * whole)
    return whole


def worst(straight, maps, intervals, sweeps=2):
    """Largest ``||P + W_m D ... D W_1||`` found by moving the slopes of one border at a time to the better ends."""
    best = 0.0
    for share in (torch.zeros, torch.ones, torch.rand):
        slopes = [torch.where(share(len(w)) > 0.5, b, a).double() for w, (a, b) in zip(maps, intervals, strict=False)]
        for _ in range(sweeps):
            for k, (low, high) in enumerate(intervals):
                left, values, right = torch.linalg.svd(straight + product(maps, slopes))
                best = max(best, float(values[0]))
                before = product(maps[: k + 1], slopes[:k]) @ right[0]
                after = left[:, 0] @ product(maps[k + 1 :], slopes[k + 1 :])
                slopes[k] = torch.where(after * before > 0, high, low).double()
        best = max(best, float(torch.linalg.matrix_norm(straight + product(maps, slopes), 2)))
    return best


@st.composite
def blocks(draw):
    """A residual block: two to four correlations with a shortcut that moves alike, and the size of its input."""
    torch.manual_seed(draw(st.integers(0, 2**20)))
    count, depth = draw(st.sampled_from([1, 2])), draw(st.integers(2, 4))
    size = tuple(draw(st.integers(7, 8) if count == 1 else st.integers(4, 5)) for _ in range(count))
    channels = [draw(st.integers(1, 3)) for _ in range(depth + 1)]
    scales = [draw(st.sampled_from([1.0, 1e-3, 1e3, 1e-200, 1e150])), *(1.0,) * (depth - 2)]
    branch, here, (taps, move, reach) = [], size, (1, 1, 0)
    for inputs, outputs, scale in zip(channels, channels[1:], (*scales, 1 / scales[0]), strict=False):
        k = draw(st.sampled_from([1, 2, 3] if count == 1 else [1, 3]))
        s, p = draw(st.sampled_from([1, 1, 2]) if move == 1 else st.just(1)), draw(st.integers(0, k - 1))
        groups = draw(st.sampled_from([1, inputs])) if outputs % inputs == 0 else 1
        weight = kernel(draw, outputs, inputs // groups, k, count) * scale
        branch.append(Correlation(weight, (s,) * count, (p,) * count, row_scale(draw, outputs), groups))
        assume(all(n + 2 * p >= k for n in here))
        here = branch[-1].geometry(here).output_size
        taps, reach, move = taps + move * (k - 1), reach + move * p, move * s
    if draw(st.booleans()) and channels[0] == channels[-1] and move == 1 and here == size:
        eye = torch.eye(channels[0], dtype=torch.float64).reshape(channels[0], channels[0], *[1] * count)
        return branch, Correlation(eye, (1,) * count, (0,) * count), size
    straight = Correlation(kernel(draw, channels[-1], channels[0], 1, count), (move,) * count, (0,) * count)
    assume(straight.geometry(size).output_size == here and reach <= taps - 1)
    return branch, straight, size


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

    @settings(
        max_examples=100, deadline=None, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow]
    )
    @given(blocks(), st.data())
    def run(block, data):
        branch, straight, size = block
        padded = [side == 0 and any(each.padding) for each in branch[1:]]
        own = [data.draw(st.sampled_from(SLOPES if pads else [*SLOPES, APART])) for pads in padded]
        maps, here = [], size
        for each in branch:
            maps.append(matrix(each, here))
            here = each.geometry(here).output_size
        p = matrix(straight, size)
        found, bound = worst(p, maps, own), centred_bound(branch, straight, size, own)
        assert found <= bound * SLACK
        if found > 0:
            ratios.append(bound / found)

    run()
    assert len(ratios) > 20
    assert min(ratios) < 1.001, "somewhere the bound is attained"
    if side:
        assert sorted(ratios)[len(ratios) // 2] < 2


def centred_bound(branch, straight, size, intervals):
    centres = [(a + b) / 2 for a, b in intervals]
    radii = [(b - a) / 2 for a, b in intervals]
    bound = norms.centred_residual(branch, straight, size, (math.prod(centres), 2.0**-50)).upper
    for cuts in itertools.product([False, True], repeat=len(intervals)):
        if any(cuts):
            runs = [[branch[0]]]
            for each, cut in zip(branch[1:], cuts, strict=True):
                runs = [*runs, [each]] if cut else [*runs[:-1], [*runs[-1], each]]
            share = math.prod(r if cut else abs(c) for c, r, cut in zip(centres, radii, cuts, strict=True))
            bound += share * norms.equilibrated_product(runs, size).upper
    return bound


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
@given(blocks(), st.lists(st.booleans(), min_size=3, max_size=3))
def test_a_product_bounds_its_matrices(block, cuts):
    """Each term's bound by itself, against the matrices cut at random by signs, which commute with all diagonals."""
    branch, _, size = block
    maps, here, runs = [], size, [[branch[0]]]
    for each in branch:
        maps.append(matrix(each, here))
        here = each.geometry(here).output_size
    cut = cuts[: len(branch) - 1]
    for each, own in zip(branch[1:], cut, strict=True):
        runs = [*runs, [each]] if own else [*runs[:-1], [*runs[-1], each]]
    assume(len(runs) > 1)
    upper = norms.equilibrated_product(runs, size).upper
    intervals = [(-1.0, 1.0) if own else (1.0, 1.0) for own in cut]
    assert worst(torch.zeros_like(product(maps, [torch.ones(len(w)).double() for w in maps[:-1]])), maps, intervals) \
        <= upper * SLACK  # fmt: skip


def test_balancing_pays_and_costs_no_truth():
    torch.manual_seed(0)
    first, second = torch.randn(6, 4, 1).double(), torch.randn(5, 6, 1).double()
    shares = torch.tensor([1e-3, 1e3, 1.0, 10.0, 0.1, 1.0]).double()
    a = Correlation(first * shares[:, None, None], (1,), (0,))
    b = Correlation(second / shares[:, None], (1,), (0,))
    plain = float(torch.linalg.matrix_norm(a.kernel[..., 0], 2) * torch.linalg.matrix_norm(b.kernel[..., 0], 2))
    balanced = norms.equilibrated_product([[a], [b]], (1,)).upper
    assert balanced < plain / 50
    assert balanced >= float(torch.linalg.matrix_norm(b.kernel[..., 0] @ a.kernel[..., 0], 2)) / SLACK


def test_sizes_that_do_not_meet_are_refused():
    one = Correlation(torch.ones(1, 1, 3), (1,), (1,))
    with pytest.raises(ShapeError, match="outputs of different sizes"):
        norms.centred_residual([one, one], Correlation(torch.ones(1, 1, 1), (2,), (0,)), (6,), (0.5, 0.0))
    wide = Correlation(torch.ones(1, 1, 7), (1,), (3,))
    with pytest.raises(ShapeError, match="reads beyond"):
        norms.centred_residual([one, one], wide, (2000,), (0.5, 0.0))


def test_huge_and_tiny_weights_cancel():
    huge, tiny = torch.full((1, 1, 1), 1e300, dtype=torch.float64), torch.full((1, 1, 1), 1e-300, dtype=torch.float64)
    first, second, straight = (Correlation(k, (1,), (0,)) for k in (huge, tiny, torch.ones(1, 1, 1)))
    norm = norms.centred_residual([first, second], straight, (1,), (0.5, 0.0))
    assert math.isclose(norm.upper, 1.5, rel_tol=1e-7)
    assert math.isclose(norms.equilibrated_product([[first], [second]], (1,)).upper, 1.0, rel_tol=1e-7)
