"""The Gaussian sketch and the source paper's estimators: coverage, dense oracles, scales and refusals."""

import math

import pytest
import torch
from coverage_trials import MODULES, covers, fisher_by_pairs, rank_bound, trials
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import jacobian, log10_lam, single
from test_estimators import linear, origin, with_spectrum
from test_fisher import dense_lam, net

import fimtheory as ft
from fimtheory.claims import Status
from fimtheory.errors import DataError, FimTheoryError
from fimtheory.estimators import estimate, lanczos, sketch
from fimtheory.estimators.paper import paper_rayleigh
from fimtheory.estimators.sketch import (
    column_limits,
    confidence_limits,
    gaussian_columns,
    lower_factor,
    upper_factor,
)
from fimtheory.fisher import FisherOperator
from fimtheory.strategies import layer_graphs, weights_for

SLACK = 1e-12
PAPER = ("paper-power", "paper-rayleigh", "paper-hutchinson")


@pytest.mark.parametrize("probes", [1, 5, 30])
@pytest.mark.parametrize("name", MODULES)
def test_every_interval_of_the_sketch_holds_at_its_level(name, probes):
    operator, lam, _ = trials(name, 2000)
    found = sketch(operator, probes=probes, level=0.8, seed=probes)
    assert (found.status, found.level) == (Status.CONFIDENCE, 0.8)
    assert (found.lower <= lam * (1 + SLACK)).all()  # for certain, not only at the level
    assert (found.lower <= found.value).all()
    assert (found.value <= found.upper).all()
    assert covers(lam <= found.upper * (1 + SLACK), 0.8)


@pytest.mark.parametrize("probes", [2, 24])
@pytest.mark.parametrize("name", MODULES)
def test_limits_from_columns_hold_at_their_level_on_each_side(name, probes):
    operator, lam, _ = trials(name, 2000)
    columns = gaussian_columns(operator, probes, seed=probes + 1)
    value, lower, upper = column_limits(columns, rank_bound(operator), 0.8)
    top = torch.linalg.svdvals(columns)[:, 0].square() / probes
    from_top = confidence_limits(top, probes, rank_bound(operator), 0.8)
    for low, high in ((lower, upper), from_top):
        assert covers(low <= lam * (1 + SLACK), 0.9)
        assert covers(lam <= high * (1 + SLACK), 0.9)
    assert (lower <= value * (1 + SLACK)).all()
    assert (value <= upper * (1 + SLACK)).all()


@pytest.mark.parametrize("probes", [1, 7, 40])
def test_two_classes_and_rank_one_attain_the_chi_square_level(probes):
    operator, lam, _ = trials("two classes", 5000)
    columns = gaussian_columns(operator, probes, seed=0)
    _, lower, upper = column_limits(columns, 1, 0.8)
    assert covers((lower <= lam) & (lam <= upper), 0.8, exactly=True)
    assert covers(lower <= lam, 0.9, exactly=True)
    operator, lam, _ = trials("rank one", 5000)
    top = torch.linalg.svdvals(gaussian_columns(operator, probes, seed=1))[:, 0].square() / probes
    assert covers(lam <= upper_factor(probes, 0.2) * top, 0.8, exactly=True)


def test_flat_spectra_come_near_the_lower_limit_from_the_top_eigenvalue():
    """The worst G of its rank: a factor half as large again would fail."""
    operator, lam, _ = trials("flat", 4000)
    top = torch.linalg.svdvals(gaussian_columns(operator, 30, seed=0))[:, 0].square() / 30
    assert covers(lower_factor(30, 9, 0.05) * top <= lam, 0.95)
    assert not covers(1.5 * lower_factor(30, 9, 0.05) * top <= lam, 0.95)


@given(st.integers(1, 2000), st.integers(2, 2000), st.floats(1e-6, 0.5, exclude_max=True))
def test_the_lower_factor_is_sharper_than_that_of_theory(probes, rank, failure):
    published = (1 + math.sqrt(rank / probes) + math.sqrt(-2 * math.log(failure) / probes)) ** -2
    assert published < lower_factor(probes, rank, failure) < 1
    assert lower_factor(probes, rank, failure) < lower_factor(probes, rank - 1, failure)


def test_a_zero_jacobian_gives_zero_and_an_interval_of_no_width():
    module = linear(torch.zeros(6, 4), torch.arange(6.0))
    result = estimate(module, origin(module, 2), "sketch")
    assert result.value.tolist() == result.lower.tolist() == result.upper.tolist() == [0.0, 0.0]
    assert result.log10_upper.tolist() == [-math.inf, -math.inf]
    assert result.status == Status.CONFIDENCE
    limits = column_limits(torch.zeros(3, 6, 10, dtype=torch.float64), 5, 0.9)
    assert all(limit.tolist() == [0.0] * 3 for limit in limits)


@pytest.mark.parametrize(("spectrum", "least"), [([1.0] * 30, 1.0), ([1.0] + [0.0] * 20, 1.0)])
def test_the_value_is_lam_where_nothing_is_between_flat_and_rank_one(spectrum, least):
    module = with_spectrum(spectrum, 0)
    for probes in (2, 10):
        lam = estimate(module, origin(module, 50), "sketch", probes=probes).lam
        torch.testing.assert_close(lam, torch.full_like(lam, least), rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", ["decaying", "saturated", "fewer inputs than classes", "rank one"])
def test_the_value_from_columns_is_nearly_unbiased_where_the_top_sample_eigenvalue_is_not(name):
    operator, lam, _ = trials(name, 1500)
    columns = gaussian_columns(operator, 40, seed=3)
    value, _, _ = column_limits(columns, rank_bound(operator), 0.95)
    assert abs((value / lam).mean().item() - 1) < 0.03
    top = torch.linalg.svdvals(columns)[:, 0].square() / 40
    if name == "decaying":
        assert (top / lam).mean().item() > 1.04


@pytest.mark.parametrize("seed", range(6))
def test_sketch_and_paper_against_the_dense_oracle(seed):
    module, x, temperature = net(seed)
    truth = dense_lam(module, x, temperature)
    found = estimate(module, x, "sketch", temperature=temperature, level=1 - 1e-9)
    assert (found.lower <= truth * (1 + found.rounding)).all()
    assert (truth <= found.upper).all()
    assert (found.lam >= 0.9 * truth).all()
    for method in PAPER:
        below = estimate(module, x, method, temperature=temperature, probes=None if method == "paper-power" else 20)
        assert (below.status, below.level) == (Status.LOWER, None)
        assert (below.lam <= truth * (1 + below.rounding)).all()
        assert (below.lam > 0).all()
        assert below.upper.isinf().all()
    torch.testing.assert_close(
        estimate(module, x, "paper-power", temperature=temperature).lam, truth, rtol=1e-4, atol=0
    )


def test_the_vector_of_the_sketch_starts_lanczos():
    module, x, _ = net(13)
    operator = FisherOperator(module, x)
    found = sketch(operator, probes=20)
    torch.testing.assert_close(found.vector.norm(dim=1), torch.ones(len(x)).double())
    torch.testing.assert_close(operator.half_product(found.vector)[1].square(), found.value)
    assert (lanczos(operator, start=found.vector).value >= found.value * (1 - SLACK)).all()


STYLES = ("normal", "rank one", "orthogonal", "zero", "ones", "signs", "single", "large", "tiny")


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_drawn_networks(data):
    graph = data.draw(layer_graphs(most=8))
    weights = data.draw(weights_for(graph, STYLES))
    module = ft.instantiate(graph, weights=weights, dtype=torch.float64)
    shape = tuple(int(size) for size in graph.shapes[graph.input])
    x = torch.randn(2, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    try:
        found = estimate(module, x, "sketch", probes=6, level=1 - 1e-9)
        below = [estimate(module, x, "paper-power"), *(estimate(module, x, m, probes=6) for m in PAPER[1:])]
    except FimTheoryError:  # kinks and overflow are refused
        return
    for i in range(2):
        truth = log10_lam(module, x[i])
        assert all(result.log10_value[i] <= up(truth) for result in (found, *below))
        assert found.log10_lower[i] <= up(truth)
        assert truth <= up(found.log10_upper[i].item())


def up(log10):
    """Allow for 1e-6 relative, and for noise 28 decades below the weights where lam cancels to nothing."""
    return max(log10, -24) + 1e-6


@pytest.mark.parametrize("decades", [-150, 150])
@pytest.mark.parametrize("method", ["sketch", *PAPER])
def test_weights_of_any_size_change_log10_only(method, decades):
    weight = torch.randn(5, 7, dtype=torch.float64)
    bias = torch.randn(5, dtype=torch.float64)
    plain, scaled = linear(weight, bias), linear(weight * 10.0**decades, bias)
    one, other = (estimate(module, origin(module, 3), method) for module in (plain, scaled))
    for name in ("log10_value", "log10_lower", "log10_upper"):
        expected = getattr(one, name) + 2 * decades
        torch.testing.assert_close(getattr(other, name), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("gap", [27.6, 800.0, 5000.0])
def test_saturation_to_nothing_keeps_the_interval(gap):
    """1 - p down to 1e-2171: in units of the runner-up the classifier is one of finite logits."""
    weight = torch.randn(4, 6, dtype=torch.float64)
    module = linear(weight, [0.0, gap, -1.0, 0.5])
    found = estimate(module, origin(module, 20), "sketch", level=1 - 1e-9)
    truth = estimate(module, origin(module), "exact").log10_lam
    assert (found.log10_lower <= truth + 1e-10).all()
    assert (found.log10_upper >= truth).all()
    assert (found.log10_upper - found.log10_lower < 0.7).all()


def test_probes_belong_to_inputs_and_seeds_to_results():
    module = with_spectrum([1 / i for i in range(1, 13)], 0)
    for method in ("sketch", "paper-rayleigh", "paper-hutchinson"):
        first, again, other = (estimate(module, origin(module, 6), method, probes=5, seed=s) for s in (1, 1, 2))
        assert torch.equal(first.lam, again.lam)
        assert not torch.equal(first.lam, other.lam)
        assert len(set(first.lam.tolist())) == 6


def test_what_is_counted_and_noted():
    module, x, _ = net(3)
    operator = FisherOperator(module, x)
    before = operator.evaluations
    sketch(operator, probes=3)
    assert operator.evaluations - before == len(x) * (3 + 2 + 1)  # columns, a product with G, a Rayleigh quotient
    found = estimate(module, x, "sketch", probes=3)
    assert (found.note, found.level) == ("", 0.95)
    assert "K - 1 = 4" in estimate(module, x, "sketch", probes=4).note
    before = operator.evaluations
    paper_rayleigh(operator, probes=3)
    assert operator.evaluations - before == len(x) * 3


def test_random_quotients_of_rank_one_are_as_small_as_their_docstring_says():
    """The mean largest of m quotients is about 2 ln(m) / d of lam: no estimate of it."""
    weight = torch.zeros(2, 3072)
    weight[0, 0], weight[1, 0] = 1.0, -1.0
    module = linear(weight)
    operator = FisherOperator(module, origin(module, 20))
    share = paper_rayleigh(operator, probes=100).value * 2.0 ** operator.exponent.double()
    assert 0.001 < share.mean().item() < 2 * 2 * math.log(100) / 3072


def test_paper_power_can_miss_the_top_eigenvector():
    """The top class depends on the second input only, so power iteration never leaves it."""
    module = linear([[0.0, 1.0], [3.0, -1.0], [-3.0, -1.0]], [1.0, 0.0, 0.0])
    truth = dense_lam(module, origin(module))
    assert estimate(module, origin(module), "paper-power").lam.item() < 0.7 * truth.item()


@pytest.mark.parametrize("method", ["sketch", "paper-power"])
def test_float32_agrees_with_float64(method):
    module, x, _ = net(5)
    x = x.float().double()
    for parameter in module.parameters():
        parameter.data = parameter.data.float().double()
    probes = 20 if method == "sketch" else None
    double = estimate(module, x, method, probes=probes)
    single_ = estimate(module.float(), x.float(), method, probes=probes)
    torch.testing.assert_close(single_.lam, double.lam, rtol=1e-3, atol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "sketch", "probes": 0}, "probes is 0: the method 'sketch' needs an integer of at least 1"),
        ({"method": "sketch", "probes": 2.5}, "probes is 2.5"),
        ({"method": "paper-rayleigh", "probes": True}, "probes is True"),
        ({"method": "sketch", "level": 1.0}, "level is 1.0"),
        ({"method": "sketch", "tol": 0.1}, "'sketch' has no tol"),
        ({"method": "lanczos", "probes": 5}, "'lanczos' has no probes"),
        ({"method": "paper-power", "probes": 5}, "'paper-power' has no probes"),
        ({"method": "paper-hutchinson", "level": 0.9}, "'paper-hutchinson' has no level"),
    ],
)
def test_bad_options(options, message):
    module = linear(torch.randn(4, 3))
    with pytest.raises(DataError, match=message):
        estimate(module, origin(module), **options)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: confidence_limits(torch.ones(2), 0, 3, 0.9), "probes is 0"),
        (lambda: confidence_limits(torch.ones(2), 5, 0, 0.9), "rank is 0"),
        (lambda: confidence_limits(torch.ones(2), 5, 3, 0.0), "level is 0.0"),
        (lambda: column_limits(torch.ones(1, 4, 1), 3, 0.9), "at least 2"),
        (
            lambda: sketch(FisherOperator(linear(torch.ones(3, 2)), torch.zeros(1, 2).double()), level=2.0),
            "level is 2.0",
        ),
    ],
)
def test_bad_arguments_of_the_pure_functions(call, message):
    with pytest.raises(DataError, match=message):
        call()


def test_the_pair_oracle_is_the_fisher_information():
    module, x, _ = net(1)
    F = fisher_by_pairs(jacobian(single(module), x[0]), module(x[:1])[0].detach().log_softmax(0))
    assert torch.linalg.eigvalsh(F)[-1].item() == pytest.approx(dense_lam(module, x)[0].item(), rel=1e-10)
