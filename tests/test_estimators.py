"""Estimators against the dense oracle of test_fisher, closed forms and the statistics of their own claims."""

import math
from unittest import mock

import mpmath
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_fisher import Apply, NoForwardMode, TransposedNorm, WrongBackward, dense_lam, jacobian, net
from torch import nn

from fimtheory import zoo
from fimtheory.claims import Status
from fimtheory.data import load_data
from fimtheory.errors import AdjointTestError, DataError, MissingRuleError
from fimtheory.estimators import cheapest, error_bound, estimate, exact, lanczos, planned_steps, power, trace
from fimtheory.fisher import FisherOperator, double


def linear(weight, bias=None):
    """The classifier x -> W x + b in float64."""
    weight = torch.as_tensor(weight, dtype=torch.float64)
    module = nn.Linear(weight.shape[1], weight.shape[0]).double().eval()
    module.weight.data.copy_(weight)
    module.bias.data.copy_(torch.zeros(len(weight)) if bias is None else torch.as_tensor(bias))
    return module


def origin(module, batch=1):
    return torch.zeros(batch, module.in_features, dtype=torch.float64)


@pytest.mark.parametrize("seed", range(50))
def test_every_method_against_the_dense_oracle(seed):
    module, x, temperature = net(seed)
    truth = dense_lam(module, x, temperature)
    assert (truth > 0).all()
    dense = estimate(module, x, "exact", temperature=temperature)
    ritz = estimate(module, x, "lanczos", temperature=temperature)
    torch.testing.assert_close(dense.lam, truth, rtol=1e-9, atol=0)
    torch.testing.assert_close(ritz.lam, truth, rtol=1e-6, atol=0)
    for below in (ritz, estimate(module, x, "power", temperature=temperature)):
        assert (below.lower <= truth * (1 + below.rounding)).all()
        assert below.upper.isinf().all()
        assert below.status == Status.LOWER
    assert dense.status == Status.EXACT
    assert torch.equal(dense.lower, dense.upper)
    torch.testing.assert_close(dense.log10_lam, truth.log10(), rtol=0, atol=1e-9)


def test_ritz_vectors_are_eigenvectors():
    module, x, temperature = net(13)
    operator = FisherOperator(module, x, temperature)
    for pair in (exact(operator), lanczos(operator, tol=1e-12)):
        image = operator.gram_product(pair.vector)
        torch.testing.assert_close(image, pair.value.unsqueeze(1) * pair.vector, rtol=1e-5, atol=1e-9)
        torch.testing.assert_close(operator.half_product(pair.vector)[1].square(), pair.value, rtol=1e-9, atol=0)


def test_power_needs_many_products_where_lanczos_does_not():
    module, x, _ = net(10)
    operator = FisherOperator(module, x)
    truth = exact(operator).value
    errors = [(1 - power(operator, products=k).value / truth).max().item() for k in (2, 20, 200)]
    assert errors[0] > errors[1] > errors[2] > -1e-12
    assert errors[2] < 1e-8


def test_two_classes_in_closed_form():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(5, 9), nn.Tanh(), nn.Linear(9, 2)).double().eval()
    x = torch.randn(6, 5, dtype=torch.float64)
    z = x.clone().requires_grad_()
    margin = module(z).diff(dim=1)
    (gradient,) = torch.autograd.grad(margin.sum(), z)
    p = margin.detach().sigmoid().squeeze(1)
    expected = p * (1 - p) * gradient.square().sum(1)
    for method in ("exact", "lanczos", "power"):
        torch.testing.assert_close(estimate(module, x, method).lam, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("method", ["exact", "lanczos"])
def test_linear_models_in_closed_form(method):
    # Orthogonal rows of length 3, p uniform on 5 classes: S_p has the eigenvalue 1/5 four times, lam = 9/5.
    tied = linear(3 * torch.eye(5, 8))
    assert estimate(tied, origin(tied), method).lam.item() == pytest.approx(9 / 5, rel=1e-14)
    # Two classes share the mass equally and the third has none: lam = |w_1 - w_2|^2 / 4.
    pair = linear([[1.0, 2.0], [-2.0, 6.0], [50.0, 50.0]], [0.0, 0.0, -2000.0])
    assert estimate(pair, origin(pair), method).lam.item() == pytest.approx(25 / 4, rel=1e-12)


@pytest.mark.parametrize("method", ["exact", "lanczos", "power"])
def test_zero_jacobian_gives_zero(method):
    module = linear(torch.zeros(6, 4), torch.arange(6.0))
    result = estimate(module, origin(module, 2), method)
    assert result.lam.tolist() == [0.0, 0.0]
    assert result.log10_lam.tolist() == [-math.inf, -math.inf]


@pytest.mark.parametrize("method", ["exact", "lanczos", "power"])
def test_rows_that_differ_by_constants_give_zero_up_to_rounding(method):
    """Equal rows: every logit moves alike, so p does not move at all, although J is large."""
    module = linear(torch.ones(6, 1) @ torch.randn(1, 4), torch.arange(6.0))
    assert estimate(module, origin(module), method).lam.item() < 1e-28


@pytest.mark.parametrize("method", ["exact", "lanczos"])
@pytest.mark.parametrize("gap", [27.6310211159, 800.0, 5000.0])  # 1 - p is 1e-12, 1e-347, 1e-2171
def test_saturated_softmax_keeps_relative_accuracy(method, gap):
    W = torch.randn(4, 6, dtype=torch.float64)
    bias = torch.tensor([0.0, gap, -1.0, 0.5], dtype=torch.float64)
    module = linear(W, bias)
    result = estimate(module, origin(module), method)
    with mpmath.workdps(60):
        weights = [mpmath.exp(mpmath.mpf(b)) for b in bias.tolist()]
        p = [w / sum(weights) for w in weights]
        rows = mpmath.matrix(W.tolist())
        mean = [sum(p[i] * rows[i, j] for i in range(4)) for j in range(6)]
        factor = mpmath.matrix(4, 6)
        for i in range(4):
            for j in range(6):
                factor[i, j] = mpmath.sqrt(p[i] / p[0]) * (rows[i, j] - mean[j])  # in units of p_1
        truth = mpmath.log10(max(mpmath.eigsy(factor * factor.T, eigvals_only=True)) * p[0])
    assert result.log10_lam.item() == pytest.approx(float(truth), rel=1e-13, abs=1e-13)
    assert result.lam.item() == pytest.approx(10 ** float(truth), rel=1e-11)
    assert result.upper.item() >= result.lam.item()


def test_log10_where_lam_overflows():
    module = linear([[1e200, 0.0], [-1e200, 0.0]])
    result = estimate(module, origin(module))
    assert result.lam.item() == math.inf
    assert result.log10_lam.item() == pytest.approx(400, abs=1e-10)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 6), st.integers(1, 6), st.floats(0.1, 30), st.integers(0, 10**6))
def test_trace_and_diameter_theorems(classes, dim, size, seed):
    """T2, T3 and T4 of theory.md, and invariance under a shift of all logits, for random linear models."""
    generator = torch.Generator().manual_seed(seed)
    W = size * torch.randn(classes, dim, dtype=torch.float64, generator=generator)
    bias = torch.randn(classes, dtype=torch.float64, generator=generator)
    module = linear(W, bias)
    lam = estimate(module, origin(module), "lanczos").lam.item()
    p = bias.softmax(0)
    gaps = torch.cdist(W, W).square()
    trace = (p * (W - p @ W).square().sum(1)).sum().item()
    slack = 1 + 1e-5
    assert (p.outer(p) * gaps).max().item() <= lam * slack
    assert lam <= gaps.max().item() / 4 * slack
    assert trace / min(classes - 1, dim) <= lam * slack
    assert lam <= trace * slack
    first, second = p.topk(2).values
    centred = torch.linalg.matrix_norm(W - W.mean(0), 2).item()
    assert lam <= (first * (1 - first + second)).item() * centred**2 * slack
    shifted = linear(W + torch.randn(dim, generator=generator).double(), bias + 3)
    assert estimate(shifted, origin(shifted), "exact").lam.item() == pytest.approx(lam, rel=1e-5)


def with_spectrum(eigenvalues, seed):
    """A linear classifier with uniform p whose G has these eigenvalues in a random basis."""
    n = len(eigenvalues)
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.cat([torch.ones(n + 1, 1), torch.randn(n + 1, n, generator=generator)], 1).double())[
        0
    ]
    rows = basis[:, 1:] * (torch.tensor(eigenvalues).double() * (n + 1)).sqrt()
    return linear(rows)


@pytest.mark.parametrize("decay", [0.0, 0.5, 2.0])
def test_confidence_bound_covers_at_its_level(decay):
    """100 inputs with starts of their own; the theorem promises 80 % and is known to be conservative."""
    module = with_spectrum([(1 + i) ** -decay for i in range(60)], 0)
    result = estimate(module, origin(module, 100), "lanczos", level=0.8, tol=0.2)
    assert result.status == Status.CONFIDENCE
    assert result.level == 0.8
    assert (result.lower <= 1 + 1e-12).all()
    assert (result.upper >= 1).double().mean() >= 0.8
    assert (1 - result.lower / result.upper).max() <= 0.2
    steps = planned_steps(60, 0.8, 0.2)
    assert steps < 20
    assert error_bound(steps, 60, 0.8) <= 0.2 < error_bound(steps - 1, 60, 0.8)


def test_confidence_bound_at_full_dimension_is_tight():
    module, x, _ = net(6)
    result = estimate(module, x, "lanczos", level=0.99)
    truth = dense_lam(module, x)
    assert result.status == Status.CONFIDENCE
    assert (truth <= result.upper).all()
    assert (result.upper >= result.lower * (1 + result.rounding)).all()
    torch.testing.assert_close(result.upper, result.lower, rtol=1e-12, atol=0)
    assert torch.equal(result.log10_lower, result.log10_lam)
    torch.testing.assert_close(result.log10_upper, truth.log10(), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "eigenvalues",
    [
        [1.0] * 12,
        [1.0, 1.0, 1.0, 0.5, 0.5] + [0.0] * 20,
        [1.0] + [0.0] * 30,
        [1.0, 1 - 1e-9] + [0.3] * 10,
        [2.0**-i for i in range(30)],
        [1 - i / 200 for i in range(60)],
    ],
)
def test_lanczos_on_hard_spectra(eigenvalues):
    module = with_spectrum(eigenvalues, 1)
    operator = FisherOperator(module, origin(module, 8))
    before = operator.evaluations
    pair = lanczos(operator)
    lam = pair.value * 2.0 ** operator.exponent.double()
    torch.testing.assert_close(lam, torch.ones_like(lam), rtol=1e-5, atol=0)
    assert (lam <= 1 + 1e-12).all()
    assert operator.evaluations - before <= 2 * 8 * len(eigenvalues) + 8 * 6
    if len(set(eigenvalues)) <= 3:  # the Krylov space is exhausted early
        assert operator.evaluations - before <= 2 * 8 * 4


def test_lanczos_rarely_settles_on_the_second_eigenvalue():
    """Where a start has a part of 0.01 along the top eigenvector, a loose residual would accept the second."""
    module = with_spectrum([1.0, 0.99] + [0.5 - i / 120 for i in range(60)], 2)
    operator = FisherOperator(module, origin(module, 500))
    lam = lanczos(operator).value * 2.0 ** operator.exponent.double()
    assert (lam < 1 - 1e-5).sum() <= 1
    with mock.patch("fimtheory.estimators.lanczos._RESOLUTION", 1.0):
        loose = lanczos(operator).value * 2.0 ** operator.exponent.double()
    assert (loose < 1 - 1e-5).sum() > 5


def test_inputs_stop_on_their_own():
    """Twenty inputs on a dead piece of a ReLU net stop after one step; the other four go on without them."""
    module = nn.Sequential(nn.Linear(10, 64), nn.ReLU(), nn.Linear(64, 60)).double().eval()
    module[0].bias.data.fill_(-0.5)
    x = torch.cat([torch.zeros(20, 10), 3 * torch.randn(4, 10)]).double()
    operator, few = FisherOperator(module, x), FisherOperator(module, x[20:])
    together, alone = lanczos(operator, tol=1e-9), lanczos(few, tol=1e-9)
    assert together.value[:20].tolist() == [0.0] * 20
    lam, expected = (
        (pair.value * 2.0 ** exponent.double())
        for pair, exponent in ((together, operator.exponent), (alone, few.exponent))
    )
    torch.testing.assert_close(lam[20:], expected, rtol=1e-8, atol=0)
    torch.testing.assert_close(lam, dense_lam(module, x), rtol=1e-8, atol=0)
    # Of each: the pullback that sets the scale and one step; then the adjoint test of the smaller batch.
    assert operator.evaluations <= 24 * 3 + 4 * 2 + few.evaluations + 4 * 2 * 3


@pytest.mark.parametrize("method", ["lanczos", "power"])
def test_equal_seeds_give_equal_results(method):
    module, x, _ = net(12)
    first, again, other = (estimate(module, x, method, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(first.lam, again.lam)
    assert not torch.equal(first.lam, other.lam)
    torch.manual_seed(99)
    assert torch.equal(first.lam, estimate(module, x, method, seed=3).lam)


def test_exact_by_columns_agrees():
    module, x, temperature = net(4)
    operator = FisherOperator(module, x, temperature)
    by_rows = exact(operator)
    with mock.patch("fimtheory.estimators.exact.ROW_BUDGET", 0):
        torch.testing.assert_close(exact(operator).value, by_rows.value, rtol=1e-10, atol=0)
        assert cheapest(operator) == "lanczos" or operator.K <= 17


@pytest.mark.parametrize("seed", [3, 5])
def test_margin_gradients_are_rows_of_the_jacobian(seed):
    module, x, _ = net(seed)
    operator = FisherOperator(module, x)
    J = jacobian(module, x)
    top = J[torch.arange(len(x)), operator.factor.top.squeeze(1)]
    expected = torch.stack([J[i, others] - top[i] for i, others in enumerate(operator.other_classes())])
    for chunk in (1, 2, 50):
        torch.testing.assert_close(
            operator.margin_gradients(operator.other_classes(), chunk), expected, rtol=1e-10, atol=1e-13
        )
    few = operator.other_classes()[:, 1:]
    torch.testing.assert_close(operator.margin_gradients(few, 2), expected[:, 1:], rtol=1e-10, atol=1e-13)


def test_exact_without_batching_rules():
    """A function that torch.func.vmap cannot batch is pulled back one class at a time."""
    module, x = Apply(WithoutVmap.apply, classes=5).double().eval(), torch.randn(2, 6).double()
    plain = Apply(torch.square, classes=5).double().eval()
    plain.load_state_dict(module.state_dict())
    torch.testing.assert_close(estimate(module, x, "exact").lam, dense_lam(plain, x), rtol=1e-9, atol=0)


class WithoutVmap(torch.autograd.Function):
    """The square, with a jvp and without a batching rule."""

    forward, setup_context, jvp = WrongBackward.forward, WrongBackward.setup_context, WrongBackward.jvp
    backward = NoForwardMode.backward


def test_wrong_batching_is_seen_and_not_used():
    module, x, temperature = net(3)
    original, chunks = FisherOperator.margin_gradients, []

    def wrong(self, classes, chunk):
        rows = original(self, classes, chunk)
        chunks.append(chunk)
        if chunk > 1:
            rows[1, 0] *= 1.01
        return rows

    with mock.patch.object(FisherOperator, "margin_gradients", wrong):
        found = estimate(module, x, "exact", temperature=temperature)
    assert chunks[0] > 1
    assert chunks[1:] == [1]
    torch.testing.assert_close(found.lam, dense_lam(module, x, temperature), rtol=1e-9, atol=0)


@pytest.mark.parametrize("method", ["exact", "lanczos", "power", "auto"])
def test_nothing_is_estimated_from_wrong_derivatives(method):
    with pytest.raises(AdjointTestError):
        estimate(Apply(WrongBackward.apply).eval(), torch.randn(3, 6), method)
    with pytest.raises(MissingRuleError):
        estimate(Apply(NoForwardMode.apply).eval(), torch.randn(3, 6), method)


def test_batch_norm_at_batch_size_one_is_right_or_refused():
    module = TransposedNorm()
    module(torch.randn(9, 3, 4, 4))
    module, x = module.double().eval(), torch.randn(3, 3, 4, 4).double()
    truth = dense_lam(module, torch.cat([x, x]))[:3]
    torch.testing.assert_close(estimate(module, x, "lanczos").lam, truth, rtol=1e-6, atol=0)
    try:
        alone = estimate(module, x[:1]).lam
    except AdjointTestError:
        return
    torch.testing.assert_close(alone, truth[:1], rtol=1e-6, atol=0)


def test_float32_agrees_with_float64():
    module, x, _ = net(5)
    module = module.float()
    for method in ("exact", "lanczos"):
        single = estimate(module, x.float(), method)
        truth = dense_lam(double(module), x.float().double())
        torch.testing.assert_close(single.lam, truth, rtol=1e-4, atol=0)
        assert single.lam.dtype == torch.float64
        assert single.rounding == pytest.approx(1.526e-5, rel=1e-3)


def test_temperature_divides():
    module, x, _ = net(1)
    scaled = double(module)
    for p in (scaled[4].weight, scaled[4].bias):
        p.data /= 0.7
    torch.testing.assert_close(estimate(module, x, temperature=0.7).lam, estimate(scaled, x).lam, rtol=1e-12, atol=0)


def test_auto_says_what_it_ran():
    few, many = linear(torch.randn(10, 5)), linear(torch.randn(300, 5))
    assert estimate(few, origin(few)).method == "exact"
    assert estimate(many, origin(many)).method == "lanczos"
    assert cheapest(FisherOperator(many, origin(many)), level=0.95) == "lanczos"
    result = estimate(many, origin(many), level=0.95)
    assert (result.method, result.status, result.level) == ("lanczos", Status.CONFIDENCE, 0.95)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("classes", [2, 1000])
def test_outputs_that_are_probabilities_are_noted_and_others_are_not(classes, dtype):
    head = nn.Linear(7, classes).to(dtype).eval()
    x = torch.randn(5, 7, generator=torch.Generator().manual_seed(0)).to(dtype)
    for found in (estimate(nn.Sequential(head, nn.Softmax(1)).eval(), x, "power"), trace_of(head, x, nn.Softmax(1))):
        assert "are probabilities" in found.note
        assert "returns logits" in found.note
    for last in (nn.Identity(), nn.LogSoftmax(1), nn.Sigmoid()):
        assert estimate(nn.Sequential(head, last).eval(), x, "power").note == ""


def trace_of(head, x, last):
    return trace(nn.Sequential(head, last).eval(), x, "hutchinson", probes=3)


def test_evaluations_are_counted():
    module, x, _ = net(3)
    K = 2 + 3
    # The adjoint test takes a pullback of each input and one in forward mode; exact adds K - 1 pullbacks and a check,
    # power 20 products and a pullback.
    assert estimate(module, x, "exact").evaluations == len(x) * (1 + K) + 1
    assert estimate(module, x, "power").evaluations == len(x) * (1 + 2 * 20 + 1) + 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "magic"}, "expected one of 'auto', 'exact'"),
        ({"tol": 0.0}, "tol is 0.0"),
        ({"level": 1.0}, "level is 1.0"),
        ({"method": "exact", "tol": 1e-3}, "has no tol"),
        ({"method": "power", "level": 0.9}, "has no level"),
    ],
)
def test_bad_options(options, message):
    module = linear(torch.randn(4, 3))
    with pytest.raises(DataError, match=message):
        estimate(module, origin(module), **options)


@pytest.mark.slow
@pytest.mark.parametrize("classes", [10, 200])
def test_resnet18(classes):
    models = pytest.importorskip("torchvision.models")
    module = models.resnet18(num_classes=classes).eval()
    module(torch.randn(4, 3, 32, 32))
    x = torch.randn(3, 3, 32, 32)
    ritz, reference = estimate(module, x, "lanczos"), estimate(double(module), x.double(), "exact")
    torch.testing.assert_close(ritz.lam, reference.lam, rtol=1e-3, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 1e-3)])
@pytest.mark.parametrize("method", ["exact", "lanczos"])
def test_two_hundred_networks(method, dtype, tolerance):
    """Status of the float32 oracle: dense float64 derivatives of the same float32 weights and inputs."""
    worst = 0.0
    for seed in range(200):
        module, x, temperature = net(seed)
        module, x = module.to(dtype), x.to(dtype)
        truth = dense_lam(double(module), x.double(), temperature)
        found = estimate(module, x, method, temperature=temperature).lam
        worst = max(worst, ((found - truth).abs() / truth).max().item())
    print(f"{method} in {dtype}: largest relative error {worst:.2e}")
    assert worst <= tolerance


@pytest.mark.slow
@pytest.mark.parametrize("method", ["exact", "lanczos"])
@pytest.mark.parametrize("name", zoo.names())
def test_the_zoo(name, method):
    model, x = zoo.load(name), load_data("digits:test", (1, 8, 8), n=50).inputs
    truth = dense_lam(double(model), x.double())
    single, exactly = estimate(model, x, method).lam, estimate(double(model), x.double(), method).lam
    errors = [((found - truth).abs() / truth).max().item() for found in (single, exactly)]
    print(f"{name} by {method}: float32 {errors[0]:.2e}, float64 {errors[1]:.2e}")
    assert errors[0] <= 1e-3
    assert errors[1] <= 1e-6
