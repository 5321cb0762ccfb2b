"""Black-box estimates against the dense oracle, closed forms and the statistics of their claims; what goes wrong."""

import json
import math
import runpy
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import lam_from, log10_lam
from torch import nn

import fimtheory as ft
from fimtheory import cli, zoo
from fimtheory.blackbox import HttpQuery, OnnxQuery, SklearnQuery, reading
from fimtheory.blackbox.answers import Answers, understood
from fimtheory.blackbox.bias import least_biased
from fimtheory.blackbox.differences import error
from fimtheory.blackbox.embedding import CentredLogits, Roots
from fimtheory.blackbox.number_format import NumberFormat, number_format
from fimtheory.claims import Status
from fimtheory.command_output import OUT
from fimtheory.data import load_data
from fimtheory.errors import AnswerError, DataError, FormatError, QueryError, SourceError
from fimtheory.estimators.sketch import confidence_limits
from fimtheory.fisher import double

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"
EXACT = Answers(NumberFormat("float64", None, 2.0**-53, 0.0), None)


def net(seed, size=12, classes=4, gain=2.0):
    """A small smooth classifier in float64, and inputs for it."""
    generator = torch.Generator().manual_seed(seed)
    module = nn.Sequential(nn.Linear(size, 10), nn.Tanh(), nn.Linear(10, classes)).double().eval()
    for p in module.parameters():
        p.data = gain * torch.randn(p.shape, generator=generator, dtype=torch.float64) / math.sqrt(p.shape[-1])
    return module, torch.randn(3, size, generator=generator, dtype=torch.float64)


def truth(module, x):
    """lam at each input, by the oracle."""
    return torch.tensor([10 ** log10_lam(module, each) for each in x], dtype=torch.float64)


class Box:
    """A module as a black box that counts its inputs, and fails when told to."""

    def __init__(self, module, outputs="probabilities", change=lambda answer: answer, fail_after=math.inf):
        self.module, self.outputs, self.change, self.fail_after = module, outputs, change, fail_after
        self.asked, self.calls = 0, []

    def __call__(self, x):
        if self.asked + len(x) > self.fail_after:
            raise ConnectionError("gone")
        self.asked += len(x)
        self.calls.append(x)
        with torch.no_grad():
            logits = self.module(torch.as_tensor(x, dtype=torch.float64))
        return self.change(logits if self.outputs == "logits" else logits.softmax(1))


def decimals(count):
    return lambda answer: torch.round(answer, decimals=count)


def held(found, lam):
    return ((found.lower <= lam) & (lam <= found.upper)).double().mean().item()


# ---- limits -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spectrum", [[1.0] * 9, [1.0] + [0.0] * 8, [1.0, 0.9, 0.5, 0.1], [1.0] * 40])
@pytest.mark.parametrize("probes", [20, 90])
def test_each_limit_holds_as_often_as_it_says(spectrum, probes):
    """2,000 draws: each side may fail in 2.5 % of them, and three standard deviations more."""
    rng = np.random.default_rng(0)
    gaussian = rng.standard_normal((2000, len(spectrum), probes))
    sketches = np.sqrt(spectrum)[None, :, None] * gaussian
    top = torch.from_numpy(np.linalg.eigvalsh(sketches @ sketches.transpose(0, 2, 1) / probes)[:, -1])
    lower, upper = confidence_limits(top, probes, len(spectrum), 0.95)
    allowed = 0.025 + 3 * math.sqrt(0.025 * 0.975 / 2000)
    assert (lower > 1).double().mean() <= allowed
    assert (upper < 1).double().mean() <= allowed
    if spectrum[1] == 0:  # one eigenvalue: the upper limit is exact
        assert (upper < 1).double().mean() >= 0.025 - 3 * math.sqrt(0.025 * 0.975 / 2000)


def test_the_bias_of_the_top_eigenvalue_is_taken_off():
    rng = np.random.default_rng(1)
    spectrum = np.array([1.0, 0.6, 0.4, 0.3, 0.2, 0.2, 0.1, 0.1])
    sketches = np.sqrt(spectrum)[None, :, None] * rng.standard_normal((1500, 8, 60))
    values = torch.from_numpy(np.linalg.svd(sketches, compute_uv=False) ** 2 / 60)
    corrected = torch.stack([least_biased(each, 60) for each in values])
    assert abs(corrected.mean() - 1) < 0.03 < values[:, 0].mean() - 1
    assert least_biased(torch.zeros(4), 60) == 0


# ---- number formats ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "name", "quantum"),
    [
        (lambda p: np.round(p, 4), "4 decimals", 1e-4),
        (lambda p: np.round(p, 2), "2 decimals", 1e-2),
        (lambda p: np.float64(np.float32(np.round(p, 4))), "4 decimals", 1e-4),
        (lambda p: np.round(p * 255) / 255, "multiples of 1/255", 1 / 255),
        (lambda p: np.round(p * 1024) / 1024, "multiples of 2^-10", 2.0**-10),
        (lambda p: np.float64(np.float16(p)), "float16", None),
        (lambda p: np.float64(np.float32(p)), "float32", None),
        (lambda p: torch.from_numpy(p).bfloat16().double().numpy(), "bfloat16", None),
        (lambda p: np.vectorize(lambda v: float(f"{v:.3e}"))(p), "4 significant digits", None),
        (lambda p: p, "float64", None),
    ],
)
def test_number_formats_are_recognised_and_bound_the_rounding(change, name, quantum):
    exact = np.random.default_rng(0).dirichlet([0.3] * 7, 50)
    rounded = change(exact)
    found = number_format(rounded)
    assert (found.name, found.quantum) == (name, quantum)
    spacing = found.half_spacing(torch.from_numpy(rounded)).numpy()
    assert (np.abs(rounded - exact) <= spacing * (1 + 1e-6) + 1e-12 * (quantum is not None)).all()
    assert spacing.max() < 1.01 * max(0.51 * (quantum or 0), 0.004)


def test_an_answer_that_never_moves_counts_as_rounded_coarsely():
    assert number_format(np.full((9, 4), 0.25)).quantum == 0.25


# ---- embeddings -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("gain", [1.0, 6.0])
def test_the_jacobian_of_the_embedding_has_the_norm_of_the_theorem(seed, gain):
    module, x = net(seed, gain=gain)
    lam = truth(module, x)
    for at, expected in zip(x, lam, strict=True):
        moves = 1e-5 * torch.eye(12, dtype=torch.float64)
        with torch.no_grad():
            centre, plus, minus = (module(points) for points in (at[None], at + moves, at - moves))
        chart = CentredLogits(centre[0], EXACT)
        columns = (chart.points(plus) - chart.points(minus)) / 2e-5
        norm = torch.linalg.matrix_norm(columns, 2).item() ** 2 * 2.0**chart.exponent
        assert norm == pytest.approx(expected.item(), rel=1e-6)
        p, up, down = centre.softmax(1), plus.softmax(1), minus.softmax(1)
        roots = Roots(p[0], torch.cat([p, up, down]), EXACT)
        columns = (roots.points(up) - roots.points(down)) / 2e-5
        assert torch.linalg.matrix_norm(columns, 2).item() ** 2 == pytest.approx(expected.item(), rel=1e-5)


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 9), st.sampled_from([1e-1, 1e-2, 1e-4, 2.0**-8]), st.floats(0.05, 3), st.integers(0, 10**6))
def test_what_rounding_moves_is_within_the_blur(classes, quantum, spread, seed):
    rng = np.random.default_rng(seed)
    p = torch.from_numpy(rng.dirichlet([spread] * classes, 20))
    rounded = torch.round(p / quantum) * quantum
    known = Answers(NumberFormat("rounded", quantum, 0.0, 0.0), None)
    chart = Roots(rounded[0], rounded, known)
    apart = chart.points(rounded)[:, None] - chart.points(rounded)[None, :]
    exact = Roots(rounded[0], p, EXACT).points(p)
    wrong = (apart - (exact[:, None] - exact[None, :])).abs()
    blur = chart.blur(rounded)
    assert (wrong <= blur[:, None] + blur[None, :] + 1e-12).all()
    f = torch.from_numpy(rng.normal(0, 5, (20, classes)))
    rounded = torch.round(f / quantum) * quantum
    logits = CentredLogits(rounded[0], known)
    assert ((logits.points(rounded) - logits.points(f)).abs() <= logits.blur(rounded) * (1 + 1e-9)).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 6), st.floats(0.125, 40), st.floats(0.001, 0.4), st.integers(0, 10**6))
def test_rounded_logits_at_the_centre_distort_by_no_more_than_is_said(classes, size, quantum, seed):
    rng = np.random.default_rng(seed)
    f, J = torch.from_numpy(rng.normal(0, size, classes)), torch.from_numpy(rng.normal(0, 1, (classes, 3)))
    rounded = torch.round(f / quantum) * quantum
    known = Answers(NumberFormat("rounded", quantum, 0.0, 0.0), None)
    moved = (lam_from(J, rounded) - lam_from(J, f)) / 2
    assert abs(moved) <= math.log10(CentredLogits(rounded, known).distortion) + 1e-9


# ---- differences ------------------------------------------------------------------------------------------------


def measured(curve, step=1.0, ratio=2.0):
    """The error found for a curve of one coordinate, and its true error."""
    at = lambda t: torch.tensor([[curve(t)]], dtype=torch.float64)  # noqa: E731
    pairs = [(at(s), at(-s)) for s in (step, ratio * step)]
    found = error(at(0.0)[0], pairs[0], pairs[1], torch.tensor([step], dtype=torch.float64), ratio).item()
    slope = (curve(1e-6) - curve(-1e-6)) / 2e-6
    return found, abs((curve(step) - curve(-step)) / (2 * step) - slope)


def test_the_error_of_a_difference_is_found_in_closed_form():
    assert measured(lambda t: 3 * t + 5 * t * t) == (0, pytest.approx(0, abs=1e-9))
    found, true = measured(lambda t: t + 0.25 * t**3)  # the leading term counts three times
    assert found == pytest.approx(3 * true)
    found, _ = measured(lambda t: 3.0 * max(t, 0.0))  # a kink at 0 of slope change 3
    assert found == pytest.approx(1.5)
    for step in (0.1, 0.3, 1.0):
        found, true = measured(math.tanh, step)
        assert found >= true


def test_kinks_at_uniform_distances_are_found_in_mean_square():
    places = (np.arange(1000) + 0.5) / 500  # up to twice the step
    pairs = [measured(lambda t, c=c: max(t - c, 0.0)) for c in places]
    found, true = np.square(pairs).mean(0)
    assert found == pytest.approx(true, rel=0.6)
    assert found >= true


# ---- the estimate -----------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 70), st.integers(2, 12), st.sampled_from([0.1, 1.0, 4.0]), st.booleans())
def test_a_basis_finds_lam_and_knows_its_error(seed, size, classes, gain, logits):
    module, x = net(seed, size, classes, gain)
    outputs = "logits" if logits else "probabilities"
    found = ft.estimate_black_box(Box(module, outputs), x, outputs=outputs)
    lam = truth(module, x)
    assert found.method == "basis"
    assert found.status == Status.HEURISTIC
    assert (found.difference_error < 1e-4).all()
    assert ((found.lam / lam - 1).abs() <= 4 * found.difference_error).all()  # the interval is about 2 of these
    torch.testing.assert_close(found.log10_lam, lam.log10(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("outputs", ["logits", "probabilities"])
@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_intervals_of_a_basis_hold_lam(outputs, kind):
    """90 intervals each; they rest on errors seen along 8 of 20 directions, and hold in 99.7 % of 5,700."""
    shares = []
    for seed in range(30):
        module, x = net(seed, 20, 2 + seed % 4, 4.0)
        box = Box(module, outputs, lambda answer: answer.to(kind))
        shares.append(held(ft.estimate_black_box(box, x, outputs=outputs), truth(module, x)))
    assert np.mean(shares) >= 0.97


def test_a_sketch_holds_lam_as_often_as_it_says_and_is_near():
    """180 intervals of 3 inputs; the level is 90 %, and the estimates have a standard deviation of 15 %."""
    module, x = net(3, size=200, classes=6)
    lam = truth(module, x)
    runs = [ft.estimate_black_box(Box(module), x, level=0.9, seed=seed) for seed in range(60)]
    share = np.mean([held(run, lam) for run in runs])
    near = np.mean([((run.lam / lam - 1).abs() < 0.3).double().mean() for run in runs])
    assert share >= 0.9
    assert near >= 0.85
    assert {run.status for run in runs} == {Status.CONFIDENCE}
    assert {run.method for run in runs} == {"sketch"}
    assert 0.95 < np.mean([(run.lam / lam).mean() for run in runs]) < 1.08
    with mock.patch.object(Roots, "points", lambda self, p: p.sqrt()):  # without the factor 2
        assert np.mean([held(ft.estimate_black_box(Box(module), x, seed=seed), lam) for seed in range(5)]) < 0.3


@pytest.mark.parametrize("method", ["basis", "sketch"])
@pytest.mark.parametrize("change", [decimals(4), decimals(3), lambda p: p.half(), lambda p: p.bfloat16()])
def test_rounded_answers_widen_the_interval(method, change):
    module, x = net(7, classes=5, gain=2.5)
    x = torch.cat([x + 0.3 * k for k in range(8)])
    found = ft.estimate_black_box(Box(module, change=change), x, method=method)
    assert held(found, truth(module, x)) >= 0.95
    assert (found.difference_error > 1e-3).all()


def test_without_the_widening_intervals_of_rounded_answers_fail():
    module, x = net(7, classes=5, gain=2.5)
    x = torch.cat([x + 0.3 * k for k in range(8)])
    with (
        mock.patch.object(reading, "error", lambda centre, near, far, step, ratio: torch.zeros_like(step)),
        mock.patch.object(Roots, "blur", lambda self, p: torch.zeros(len(p), 5, dtype=torch.float64)),
    ):
        found = ft.estimate_black_box(Box(module, change=decimals(4)), x)
    assert held(found, truth(module, x)) < 0.2


def test_classes_rounded_to_zero_leave_an_upper_limit_that_counts_them():
    """Of p = (1 - 1e-5, 1e-5) to 4 decimals nothing moves; lam is small, and may be as large as the quantum hides."""
    module = nn.Linear(3, 2).double().eval()
    module.weight.data = torch.tensor([[20.0, 0, 0], [-20.0, 0, 0]], dtype=torch.float64)
    module.bias.data = torch.tensor([5.8, -5.8], dtype=torch.float64)
    x = torch.tensor([[0.0, 0, 0], [0.29, 0, 0], [-0.29, 0.1, 0], [-0.25, 0.1, 0.1]], dtype=torch.float64)
    found = ft.estimate_black_box(Box(module, change=decimals(4)), x, step=0.01)
    assert found.quantum == 1e-4
    assert found.number_format == "4 decimals"
    assert "4 decimals" in found.note
    assert found.lam[0] == found.lower[0] == 0
    assert held(found, truth(module, x)) == 1
    assert found.upper.isfinite().all()
    assert found.difference_error[0] == math.inf


@pytest.mark.parametrize("gap", [12.0, 40.0, 300.0])
@pytest.mark.parametrize("outputs", ["logits", "probabilities"])
def test_saturation_costs_nothing(gap, outputs):
    module, x = net(1)
    module[2].bias.data[2] += gap
    found = ft.estimate_black_box(Box(module, outputs), x, outputs=outputs)
    expected = torch.tensor([log10_lam(module, each) for each in x], dtype=torch.float64)
    assert expected.max() < 3 - 0.4 * gap
    torch.testing.assert_close(found.log10_lam, expected, rtol=0, atol=1e-4)
    assert (found.lower < found.upper).all()


def test_logits_beyond_the_range_of_float64():
    module, x = net(1)
    module[2].bias.data[2] += 2000
    found = ft.estimate_black_box(Box(module, "logits"), x, outputs="logits")
    with torch.no_grad():  # all but the runner-up are negligible beside the top class: lam = p_2 |grad margin|^2 ...
        shifted = double(module)
        shifted[2].bias.data[2] -= 1960
    expected = torch.tensor([log10_lam(shifted, each) for each in x], dtype=torch.float64) - 1960 / math.log(10)
    torch.testing.assert_close(found.log10_lam, expected, rtol=0, atol=1e-4)
    assert found.lam.tolist() == [0.0] * 3


def test_a_kink_at_the_input_is_seen():
    """A service that clips its inputs has one-sided derivatives at the ends, and no lam there."""
    module, x = net(2)
    x[:, :6] = 0
    found = ft.estimate_black_box(Box(lambda v: module(v.clamp(min=0))), x.abs())
    assert (found.difference_error > 0.1).all()


def test_a_black_box_that_does_not_move_has_lam_zero():
    found = ft.estimate_black_box(lambda x: np.tile([[0.2137219371, 0.7862780629]], (len(x), 1)), np.ones((2, 5)))
    assert found.lam.tolist() == [0.0, 0.0]
    assert (found.upper < 1e-9).all()


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, np.float32, np.float64])
def test_the_black_box_gets_what_the_inputs_are(kind):
    module, _ = net(4)
    x = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float64)
    given = torch.from_numpy(x).to(kind) if isinstance(kind, torch.dtype) else x.astype(kind)
    box = Box(nn.Sequential(nn.Flatten(), module), change=lambda p: p.tolist())
    found = ft.estimate_black_box(box, given)
    assert {(type(call), call.dtype, tuple(call.shape[1:])) for call in box.calls} == {
        (type(given), given.dtype, (3, 4))
    }
    lam = truth(module, torch.as_tensor(given, dtype=torch.float64).flatten(1))
    assert held(found, lam) == 1
    torch.testing.assert_close(found.lam, lam, rtol=0.02, atol=0)


@settings(max_examples=20, deadline=None)
@given(st.integers(44, 420), st.integers(1, 4), st.integers(1, 90), st.booleans(), st.integers(1, 100))
def test_a_budget_is_never_exceeded(queries, inputs, size, stepped, batch):
    module, _ = net(5, size=size)
    box = Box(module)
    x = np.random.default_rng(0).normal(size=(inputs, size))
    found = ft.estimate_black_box(box, x, queries=queries, step=1e-4 if stepped else None, batch=batch)
    assert box.asked == found.queries == found.evaluations <= queries * inputs
    assert max(map(len, box.calls)) <= batch
    if found.method == "sketch":
        assert box.asked > (queries - 2) * inputs
        assert found.probes >= (queries - 40) // 2


def test_fewer_probes_give_a_wider_interval_and_far_fewer_an_error():
    module, x = net(6, size=300)
    widths = []
    for queries in (44, 100, 400):
        found = ft.estimate_black_box(Box(module), x, queries=queries)
        widths.append((found.upper / found.lower).max().item())
        assert held(found, truth(module, x)) == 1
    assert widths[0] > 3 * widths[1] > 3 * widths[2]
    with pytest.raises(DataError, match="43 queries for each input are too few for any statement: give at least 44"):
        ft.estimate_black_box(Box(module), x, queries=43)
    with pytest.raises(DataError, match="do not cover the 300 directions of an input; give at least 640"):
        ft.estimate_black_box(Box(module), x, method="basis")
    assert ft.estimate_black_box(Box(module), x, queries=640, method="basis").method == "basis"


def test_equal_seeds_give_equal_estimates_however_queries_are_grouped():
    module, x = net(8, size=120)
    first = ft.estimate_black_box(Box(module), x, seed=3, batch=7)
    again = ft.estimate_black_box(Box(module), x, seed=3)
    other = ft.estimate_black_box(Box(module), x, seed=4)
    torch.testing.assert_close(first.lam, again.lam, rtol=1e-6, atol=0)
    assert not torch.equal(first.lam, other.lam)
    assert len(repr(first).splitlines()) == 1


# ---- answers that leave classes out -----------------------------------------------------------------------------


def top(k, masked=False):
    """Keep the k largest probabilities; the others are zero, or masked."""

    def change(p):
        kept = torch.zeros_like(p, dtype=torch.bool).scatter(1, p.topk(k, dim=1).indices, True)
        answer = torch.where(kept, p, 0.0)
        return np.ma.masked_array(answer.numpy(), ~kept.numpy()) if masked else answer

    return change


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("size", [12, 150])
def test_top_k_gives_lower_limits_only(masked, size):
    module, x = net(9, size=size, classes=8)
    lam = truth(module, x)
    found = ft.estimate_black_box(Box(module, change=top(3, masked)), x)
    assert found.top_k == 3
    assert found.upper.isinf().all()
    assert "no upper limit" in found.note
    assert (found.lower > 0).all()
    assert (found.lower <= lam).all()
    if size == 12:  # all directions: lam of the three classes and "other", by autograd
        for at, value in zip(x, found.lam, strict=True):
            kept = module(at[None])[0].topk(3).indices

            def merged(v, kept=kept):
                p = module(v[None]).softmax(1)[0, kept]
                return torch.cat([p, 1 - p.sum(0, keepdim=True)])

            scaled = torch.func.jacrev(merged)(at) / merged(at).sqrt()[:, None]
            assert value.item() == pytest.approx(torch.linalg.matrix_norm(scaled, 2).item() ** 2, rel=1e-5)


def test_merging_classes_never_raises_lam():
    rng = np.random.default_rng(0)
    for _ in range(200):
        p, J = torch.from_numpy(rng.dirichlet([0.4] * 6)), torch.from_numpy(rng.normal(0, 3, (6, 4)))
        moved = p[:, None] * (J - p @ J)  # the Jacobian of p
        whole = moved.T @ (moved / p[:, None])
        rows = torch.cat([moved[:3], moved[3:].sum(0, keepdim=True)])
        mass = torch.cat([p[:3], p[3:].sum(0, keepdim=True)])
        coarse = rows.T @ (rows / mass[:, None])
        assert torch.linalg.eigvalsh(whole - coarse)[0] >= -1e-9 * whole.norm()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: (p == p.amax(1, keepdim=True)).double(), "labels only"),
        (lambda p: 2 * p, "sums to 2, expected 1"),
        (lambda p: p - 0.3, "for a probability"),
        (lambda p: p[:, :3] / p.sum(1, keepdim=True), "expected 1"),
        (lambda p: p * math.nan, "nan for a probability"),
        (lambda p: torch.where(p == p[0, 0], math.nan, p), "nan for a probability"),
        (lambda p: p / 0, "inf for a probability"),
        (lambda p: p[:, :1], r"shape \(6, 1\)"),
        (lambda p: p[:, 0], r"shape \(6,\)"),
        (lambda p: p[1:], r"shape \(5, 4\)"),
        (lambda p: [["a"] * 4] * len(p), "no matrix of real numbers"),
        (lambda p: [[0.5, 0.5], [1.0]], "no matrix of real numbers"),
        (lambda p: None, "no matrix of real numbers"),
        (lambda p: top(2)(p) / top(2)(p).sum(1, keepdim=True), "normalised again"),
        (lambda p: p if len(p) == 6 else torch.cat([p, p], 1) / 2, "8 classes, and with 4 before"),
        (lambda p: (p * (1 + torch.rand_like(p))).log().softmax(1), "answered in two ways"),
    ],
)  # fmt: skip
def test_answers_that_are_no_distributions_are_refused(change, message):
    module, x = net(10)
    with pytest.raises(AnswerError, match=message):
        ft.estimate_black_box(Box(module, change=change), x)


def test_a_black_box_that_exits_ends_the_run_at_once():
    module, x = net(10)
    with pytest.raises(QueryError, match=r"it called sys.exit\(3\)"):
        ft.estimate_black_box(Box(module, change=lambda p: sys.exit(3)), x, timeout=30.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.softmax(1), "these are probabilities"),
        (lambda f: torch.where(f == f.amax(), math.nan, f), "NaN or infinite"),
        (lambda f: top(2, masked=True)(f), "left logits out"),
        (lambda f: f + torch.randn_like(f), "answered in two ways"),
    ],
)
def test_answers_that_are_no_logits_are_refused(change, message):
    module, x = net(10)
    with pytest.raises(AnswerError, match=message):
        ft.estimate_black_box(Box(module, "logits", change), x, outputs="logits")


def test_a_little_noise_is_measured():
    module, x = net(11)
    noise = torch.Generator().manual_seed(0)
    noisy = lambda f: f + 1e-6 * torch.randn(f.shape, generator=noise, dtype=f.dtype)  # noqa: E731
    found = ft.estimate_black_box(Box(module, "logits", noisy), x, outputs="logits")
    lam = truth(module, x)
    assert held(found, lam) == 1
    assert (found.difference_error < 0.1).all()
    assert ((found.upper / found.lower).log() > 1e-4).all()


def test_top_classes_without_one_in_common_are_refused():
    p = torch.tensor([[0.6, 0.0, 0.0], [0.0, 0.5, 0.0]], dtype=torch.float64)
    with pytest.raises(AnswerError, match="no class is named in all answers"):
        Roots(p[0], p, Answers(NumberFormat("float64", None, 2.0**-53, 0.0), 1))


def test_a_saturated_answer_among_others_is_no_label():
    p = np.array([[1.0, 0.0, 0.0], [0.5, 0.3, 0.2]])
    assert understood(p, "probabilities").top_k is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"outputs": "scores"}, "outputs is 'scores'"),
        ({"method": "exact"}, "method is 'exact'"),
        ({"queries": 200.0}, "queries is 200.0"),
        ({"level": 1.0}, "level is 1.0"),
        ({"batch": 0}, "batch is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"step": 0.0}, "step is 0.0"),
        ({"scale": math.inf}, "scale is inf"),
        ({"timeout": -1.0}, "timeout is -1.0"),
        ({"x": [[1.0, 2.0]]}, "inputs are a list"),
        ({"x": np.ones((2, 3), int)}, "inputs are int64"),
        ({"x": torch.ones(2, 3, dtype=torch.int32)}, "inputs are torch.int32"),
        ({"x": np.ones(3)}, "non-empty batch"),
        ({"x": np.full((1, 3), np.nan)}, "NaN or infinite"),
        ({"query": 3}, "the black box is a int"),
    ],
)
def test_bad_options(options, message):
    given = {"query": lambda x: x, "x": np.ones((1, 3))} | options
    with pytest.raises(DataError, match=message):
        ft.estimate_black_box(given.pop("query"), given.pop("x"), **given)


# ---- failing and resuming ---------------------------------------------------------------------------------------


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 599), st.integers(5, 90))
def test_a_run_that_was_cut_short_asks_nothing_twice(tmp_path_factory, fail_after, batch):
    path = tmp_path_factory.mktemp("kept") / "answers.npz"
    module, x = net(12, size=150)
    whole = ft.estimate_black_box(Box(module), x, batch=batch)
    box = Box(module, fail_after=fail_after)
    with pytest.raises(QueryError, match=r"ConnectionError: gone; the answers are kept in .*; the same call") as caught:
        ft.estimate_black_box(box, x, batch=batch, checkpoint=path)
    assert caught.value.queries_done == box.asked > fail_after - batch
    assert f"after {box.asked} of 600 queries, {caught.value.inputs_done} of 3 inputs done" in str(caught.value)
    partial = caught.value.partial
    assert caught.value.inputs_done == (0 if partial is None else len(partial.lam))
    box.fail_after = math.inf
    found = ft.estimate_black_box(box, x, batch=batch, checkpoint=path)
    assert box.asked == 600
    for field in ("lam", "lower", "upper", "step", "difference_error"):
        torch.testing.assert_close(getattr(found, field), getattr(whole, field), rtol=1e-6, atol=0)
        if partial is not None:
            torch.testing.assert_close(
                getattr(found, field)[: len(partial.lam)], getattr(partial, field), rtol=1e-6, atol=0
            )
    again = ft.estimate_black_box(box, x, batch=batch, checkpoint=path)
    assert torch.equal(again.lam, found.lam)
    assert (whole.reused, found.reused, again.reused) == (0, caught.value.queries_done, 600)
    assert box.asked == 600


def test_without_a_checkpoint_the_error_says_how_to_keep_answers_and_has_what_was_finished():
    module, x = net(12, size=150)
    with pytest.raises(QueryError, match=r"give checkpoint=FILE\.npz, or --checkpoint FILE\.npz$") as caught:
        ft.estimate_black_box(Box(module, fail_after=430), x)
    assert (caught.value.inputs_done, len(caught.value.partial.lam)) == (2, 2)
    assert isinstance(caught.value.__cause__.__cause__, ConnectionError)
    torch.testing.assert_close(
        caught.value.partial.lam, ft.estimate_black_box(Box(module), x).lam[:2], rtol=1e-6, atol=0
    )


def test_an_interrupt_keeps_the_answers(tmp_path):
    module, x = net(12, size=150)
    box = Box(module)

    def interrupted(v):
        if box.asked > 300:
            raise KeyboardInterrupt
        return box(v)

    path = tmp_path / "answers.npz"
    with pytest.raises(KeyboardInterrupt):
        ft.estimate_black_box(interrupted, x, checkpoint=path, batch=50)
    ft.estimate_black_box(box, x, checkpoint=path)
    assert box.asked == 600
    assert [each.name for each in tmp_path.iterdir()] == ["answers.npz"]


def test_checkpoints_of_other_runs_and_damaged_ones_are_refused(tmp_path):
    path = tmp_path / "answers.npz"
    module, x = net(13)
    ft.estimate_black_box(Box(module), x, checkpoint=path)
    good = path.read_bytes()
    for options, message in [
        ({"seed": 1}, "kept for seed 0, and this run has 1"),
        ({"queries": 44}, "kept for method basis, and this run has sketch"),
        ({"step": 0.1}, "kept for step None, and this run has 0.1"),
        ({"x": x + 1}, "kept for inputs"),
    ]:
        given = {"x": x} | options
        with pytest.raises(FormatError, match=message):
            ft.estimate_black_box(Box(module), given.pop("x"), checkpoint=path, **given)
        assert path.read_bytes() == good
    for damaged in (good[: len(good) // 2], b"", b"PK\x03\x04 nothing", good[:300] + b"\0" * 40 + good[340:]):
        path.write_bytes(damaged)
        with pytest.raises(FormatError, match=r"answers\.npz: "):
            ft.estimate_black_box(Box(module), x, checkpoint=path)
    np.savez(path, run=np.array([{}], dtype=object), answers=np.zeros((2, 4)))
    with pytest.raises(FormatError, match="allow_pickle=False"):
        ft.estimate_black_box(Box(module), x, checkpoint=path)
    np.savez(path, answers=np.zeros((2, 4)))
    with pytest.raises(FormatError, match="not a checkpoint"):
        ft.estimate_black_box(Box(module), x, checkpoint=path)
    for name in ("answers.json", "nowhere/answers.npz"):
        with pytest.raises(FormatError, match=r"ends in \.npz, in an existing directory"):
            ft.estimate_black_box(Box(module), x, checkpoint=tmp_path / name)


def test_a_call_that_takes_too_long_is_given_up():
    module, x = net(13)
    box, release = Box(module), threading.Event()

    def slow(v):
        if box.asked > 30:
            release.wait(20)
        return box(v)

    began = time.monotonic()
    with pytest.raises(QueryError, match=r"no answer within 0\.2 s"):
        ft.estimate_black_box(slow, x, timeout=0.2, batch=20)
    assert time.monotonic() - began < 5
    release.set()
    assert ft.estimate_black_box(box, x, timeout=20).method == "basis"


# ---- adapters ---------------------------------------------------------------------------------------------------


def test_a_classifier_of_scikit_learn():
    from sklearn.linear_model import LogisticRegression
    from sklearn.svm import LinearSVC

    train, test = load_data("digits:train", (1, 8, 8), n=400), load_data("digits:test", (1, 8, 8), n=6)
    classifier = LogisticRegression(max_iter=50, tol=0.1).fit(train.inputs.double().flatten(1).numpy(), train.labels)
    x = test.inputs.double()
    found = ft.estimate_black_box(SklearnQuery(classifier), x.numpy())
    module = nn.Linear(64, 10).double()
    module.weight.data, module.bias.data = torch.from_numpy(classifier.coef_), torch.from_numpy(classifier.intercept_)
    lam = truth(nn.Sequential(nn.Flatten(), module), x)
    assert held(found, lam) == 1
    torch.testing.assert_close(found.lam, lam, rtol=1e-5, atol=0)
    with pytest.raises(DataError, match="LinearSVC has no predict_proba"):
        SklearnQuery(LinearSVC())


def onnx_file(path, module, batch, outputs=("logits",)):
    """Write the two layers of ``net`` as ONNX, with a batch of fixed size or of any ("B")."""
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper

    arrays = {"W": module[0].weight, "b": module[0].bias, "V": module[2].weight, "c": module[2].bias}
    nodes = [
        helper.make_node("Gemm", ["x", "W", "b"], ["h"], transB=1),
        helper.make_node("Tanh", ["h"], ["t"]),
        helper.make_node("Gemm", ["t", "V", "c"], ["logits"], transB=1),
        helper.make_node("Softmax", ["logits"], ["p"], axis=1),
    ]
    value = lambda name, size: helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, size])  # noqa: E731
    graph = helper.make_graph(
        nodes, "net", [value("x", 12)], [value(name, 4) for name in outputs],
        [numpy_helper.from_array(t.detach().float().numpy(), name) for name, t in arrays.items()],
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(made, path)
    return path


@pytest.mark.parametrize("batch", ["B", 1, 16])
def test_an_onnx_file(tmp_path, batch):
    pytest.importorskip("onnxruntime")
    module, x = net(14)
    path = onnx_file(tmp_path / "net.onnx", module, batch)
    query = OnnxQuery(path)
    assert query.input_shape == (12,)
    found = ft.estimate_black_box(query, x.numpy(), outputs="logits")
    lam = truth(double(module.float()), x)
    assert found.number_format == "float32"
    assert held(found, lam) == 1
    torch.testing.assert_close(found.lam, lam, rtol=0.01, atol=0)


def test_an_onnx_file_with_several_outputs_and_bad_ones(tmp_path):
    pytest.importorskip("onnxruntime")
    module, x = net(14)
    path = onnx_file(tmp_path / "net.onnx", module, "B", ("logits", "p"))
    with pytest.raises(SourceError, match="outputs are logits, p; say which"):
        OnnxQuery(path)
    with pytest.raises(SourceError, match="no output 'q'"):
        OnnxQuery(path, output="q")
    a, b = (OnnxQuery(path, output=name)(x.numpy()) for name in ("logits", "p"))
    np.testing.assert_allclose(torch.from_numpy(a).softmax(1), b, rtol=1e-5)
    (tmp_path / "bad.onnx").write_bytes(b"nothing")
    for name in ("bad.onnx", "missing.onnx"):
        with pytest.raises(SourceError, match="cannot load it"):
            OnnxQuery(tmp_path / name)


class Service(BaseHTTPRequestHandler):
    """The module of the server over HTTP; after ``limit`` answers it does what ``then`` says."""

    def do_POST(self):
        server = self.server
        inputs = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["inputs"]
        server.asked += len(inputs)
        trouble = server.then if server.asked > server.limit else None
        if trouble == "hang":
            server.asked -= len(inputs)
            server.release.wait(20)
            return
        if isinstance(trouble, int):
            server.asked -= len(inputs)
            self.send_error(trouble)
            return
        with torch.no_grad():
            outputs = server.module(torch.tensor(inputs, dtype=torch.float64)).softmax(1).tolist()
        body = trouble if isinstance(trouble, bytes) else json.dumps({"outputs": outputs}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format, *args):
        pass


@pytest.fixture
def service():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Service)
    server.module, server.asked, server.limit, server.then = net(15)[0], 0, math.inf, None
    server.release = threading.Event()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.release.set()
    server.shutdown()
    server.server_close()


def address(server):
    return f"http://127.0.0.1:{server.server_port}/predict"


def test_a_service_over_http(service):
    module, x = net(15)
    found = ft.estimate_black_box(HttpQuery(address(service)), x)
    assert found.queries == service.asked
    torch.testing.assert_close(found.lam, truth(module, x), rtol=1e-6, atol=0)


@pytest.mark.parametrize(("then", "message"), [("hang", "no answer within"), (500, "status 500"), (404, "status 404")])
def test_a_service_that_fails_midway_is_taken_up_again(service, tmp_path, then, message):
    _, x = net(15)
    service.limit, service.then = 90, then
    path, query = tmp_path / "answers.npz", HttpQuery(address(service), timeout=0.5)
    with pytest.raises(QueryError, match=f"1 of 3 inputs done.*{message}"):
        ft.estimate_black_box(query, x, checkpoint=path, batch=10)
    service.limit = math.inf
    found = ft.estimate_black_box(query, x, checkpoint=path, batch=10)
    assert found.queries == service.asked


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"<html>", "something else than JSON"),
        (b"[1, 2]", 'expected {"outputs"'),
        (b'{"outputs": []}', 'expected {"outputs"'),
        (b'{"outputs": [[0.5, 0.5], [1]]}', "of one length"),
        (b'{"outputs": [["a", 0.5]]}', "lists of numbers"),
        (b'{"outputs": [[true, false]]}', "lists of numbers"),
        (b'{"outputs": [[NaN, NaN]]}', "shape|NaN"),
        (b'{"outputs": [[1' + b"0" * 400 + b", 1]]}", "too large"),
        (b"[" * 100_000, "something else than JSON"),
    ],
)
def test_answers_of_a_service_are_validated(service, body, message):
    _, x = net(15)
    service.limit, service.then = 0, body
    with pytest.raises(AnswerError, match=message):
        ft.estimate_black_box(HttpQuery(address(service)), x)


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://host/x", "http://", "127.0.0.1:80", "http://host:99999/"])
def test_other_addresses_are_refused(url):
    with pytest.raises(DataError, match="expected an address such as"):
        HttpQuery(url)


def test_nobody_at_the_address():
    with pytest.raises(QueryError, match="cannot be reached"):
        HttpQuery("http://127.0.0.1:9/")(np.zeros((1, 2)))


# ---- the examples -----------------------------------------------------------------------------------------------


def test_the_server_of_the_documentation():
    names = runpy.run_path(str(EXAMPLES / "black_box_server.py"))
    server = names["server"](0)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        x = load_data("digits:test", (1, 8, 8), n=2).inputs.double()
        found = ft.estimate_black_box(HttpQuery(address(server)), x)
        assert held(found, truth(zoo.load("digits_mlp").double(), x)) == 1
        with pytest.raises(QueryError, match="status 400"):
            HttpQuery(address(server))(np.zeros((1, 5)))
        with pytest.raises(QueryError, match="status 404"):
            HttpQuery(address(server) + "s")(np.zeros((1, 5)))
    finally:
        server.shutdown()
        server.server_close()


def test_the_scripts_of_the_documentation(capsys, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    runpy.run_path(str(EXAMPLES / "black_box_sklearn.py"))
    assert capsys.readouterr().out.count("lam = ") == 5
    monkeypatch.chdir(tmp_path)
    module, _ = net(16)
    with mock.patch("sys.argv", ["script", str(onnx_file("net.onnx", module, "B")), "12"]):
        runpy.run_path(str(EXAMPLES / "black_box_onnx.py"))
    assert "lam of 3 inputs from" in capsys.readouterr().out
    assert (tmp_path / "answers.npz").exists()


# ---- the command ------------------------------------------------------------------------------------------------


def run(capsys, *arguments):
    """Run the command line in this process; return its exit status, stdout and stderr."""
    with mock.patch("sys.argv", ["fimtheory", *map(str, arguments)]), pytest.raises(SystemExit) as caught:
        cli.main()
    return caught.value.code, *capsys.readouterr()


def digits_mlp(x):
    """Probabilities of a model of the zoo; named by a test of the command line."""
    with torch.no_grad():
        return zoo.load("digits_mlp").double()(torch.from_numpy(x)).softmax(1).numpy()


def test_the_command_prints_one_json_object(capsys, tmp_path):
    kept = tmp_path / "kept.npz"
    status, out, err = run(
        capsys, "blackbox", f"{__name__}:digits_mlp", "--data", "digits:test", "--n", 3, "--queries", 60,
        "--level", 0.9, "--checkpoint", kept, "--json",
    )  # fmt: skip
    assert status == 0, err
    found = json.loads(out)
    keys = "source data seed lam log10 lower upper level method status queries seconds probes step difference_error"
    assert set(found) == {*keys.split(), "number_format", "quantum", "top_k", "note", "reused", "source_index"}
    assert found["source_index"] == load_data("digits:test", (1, 8, 8), 3, 0).indices.tolist()
    assert (found["reused"], err) == (0, "")
    assert (found["status"], found["method"], found["level"], found["queries"]) == ("confidence", "sketch", 0.9, 180)
    lam = truth(zoo.load("digits_mlp").double(), load_data("digits:test", (1, 8, 8), 3, 0).inputs.double()).tolist()
    assert all(low < value < high for low, value, high in zip(found["lower"], lam, found["upper"], strict=True))
    assert kept.exists()


def interrupted(x):
    """A black box during which the user presses Ctrl-C."""
    if _calls.pop():
        raise KeyboardInterrupt
    return digits_mlp(x)


_calls = []
"""Whether the calls of `interrupted` to come are interrupted, the last one first."""


def test_an_interrupted_command_says_what_is_kept_and_goes_on_from_there(capsys, tmp_path):
    kept = tmp_path / "kept.npz"
    command = ("blackbox", f"{__name__}:interrupted", "--data", "digits:test", "--n", 3, "--queries", 60, "--batch", 9)
    for calls, options, words in (
        ([True, False], (), "no answers are kept: give --checkpoint FILE.npz"),
        ([True], ("--checkpoint", kept), "there was no answer yet"),
        ([True, False, False], ("--checkpoint", kept), f"kept in {kept}, and the same command goes on from there"),
    ):
        _calls[:] = calls
        status, out, err = run(capsys, *command, *options)
        assert (status, out, len(err.splitlines())) == (130, "", 1)
        assert err.startswith("fimtheory: interrupted; ")
        assert words in err
    _calls[:] = [False] * 100
    status, out, err = run(capsys, *command, "--checkpoint", kept)
    answered = len(np.load(kept)["answers"])
    assert (status, answered) == (0, 180)
    assert err == f"fimtheory: 15 of 180 answers were reused from {kept}, the others asked now\n"


def test_sentences_stand_below_the_table_at_full_width(capsys, monkeypatch):
    monkeypatch.setattr(OUT, "width", 200)
    _, out, _ = run(capsys, "blackbox", f"{__name__}:digits_mlp", "--data", "digits:test", "--n", 2, "--queries", 60)
    lines = [line.rstrip() for line in out.splitlines()]
    assert "Data: 2 of digits:test (seed 0)." in lines
    assert any(line.startswith("The level covers") and line.endswith("is estimated and added.") for line in lines)
    assert any("source index" in line for line in lines)


def test_the_command_queries_services_and_onnx_files(capsys, tmp_path, service):
    pytest.importorskip("onnxruntime")
    path = onnx_file(tmp_path / "net.onnx", net(15)[0], "B")
    options = ("--data", "random:4", "--json")
    _, out, _ = run(capsys, "blackbox", address(service), "--input", 12, *options)
    _, other, _ = run(capsys, "blackbox", path, "--logits", *options)
    np.testing.assert_allclose(json.loads(out)["lam"], json.loads(other)["lam"], rtol=0.01)
    status, out, _ = run(capsys, "blackbox", address(service), "--input", 12, "--data", "random:4")
    assert status == 0
    assert "All directions were measured" in " ".join(out.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nothing", "--data", "digits"), "expected http://HOST:PORT/PATH, FILE.onnx or package.module:callable"),
        (("no_such_module:f", "--data", "digits"), "cannot be imported"),
        (("math:pi", "--data", "digits"), "math:pi is a float; expected a callable"),
        (("missing.onnx", "--data", "digits"), "cannot load it"),
        (("http://127.0.0.1:9/", "--data", "digits", "--n", 2), "cannot be reached"),
        (("math:exp", "--data", "random:3"), "give the shape of its inputs, such as --input 3,32,32"),
        (("math:exp", "--data", "digits", "--n", 2), "the black box failed after 0 of"),
        (("math:exp", "--data", "digits", "--n", 2, "--queries", 3), "too few for any statement"),
        (("math:exp", "--data", "digits", "--checkpoint", "x.json"), "ends in .npz"),
        (("math:exp", "--data", "digits", "--model-output", "y"), "only ONNX files have named outputs"),
        (("math:exp",), "Missing option '--data'"),
    ],
)
def test_bad_input_exits_2_with_one_line(capsys, arguments, message):
    status, out, err = run(capsys, "blackbox", *arguments)
    assert (status, out, len(err.splitlines())) == (2, "", 1)
    assert message in err
