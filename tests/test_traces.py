"""tr F: Hutchinson, Hutch++, XTrace and the exact sum against dense oracles, their limits against exact laws."""

import math

import numpy as np
import pytest
import torch
from coverage_trials import ALARM, MODULES, covers, fisher_by_pairs, trials
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import jacobian, single
from scipy.stats import binomtest, chi2
from test_estimators import linear, origin, with_spectrum
from test_fisher import Apply, WrongBackward, dense_fisher, net

import fimtheory as ft
from fimtheory.claims import Status
from fimtheory.errors import AdjointTestError, DataError, FimTheoryError
from fimtheory.estimators.hutch_plus_plus import hutch_plus_plus
from fimtheory.estimators.hutchinson import hutchinson, trace_limits
from fimtheory.estimators.probes import class_probe
from fimtheory.estimators.start import orthonormal_to_null
from fimtheory.estimators.traces import exact_trace
from fimtheory.estimators.xtrace import xtrace
from fimtheory.fisher import FisherOperator
from fimtheory.strategies import layer_graphs, weights_for

SLACK = 1e-12
METHODS = ("exact", "hutchinson", "hutch++", "xtrace")


def dense_trace(module, x, temperature=1.0):
    return dense_fisher(module, x, temperature).diagonal(dim1=1, dim2=2).sum(1)


# ---- limits ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("probes", [1, 2, 5, 30])
@pytest.mark.parametrize("level", [0.1, 0.6, 0.95])
def test_no_spectrum_is_worse_than_rank_one(probes, level):
    """Weighted sums of chi-squares of trace one: flat, two unequal parts, decaying and drawn at random."""
    generator = np.random.default_rng(probes)
    low, high = trace_limits(torch.ones((), dtype=torch.float64), probes, level)
    spectra = [np.ones(k) for k in (1, 2, 3, 10, 50)]
    spectra += [np.array([1, b]) for b in (0.01, 0.1, 0.4, 0.8)]
    spectra += [0.5 ** np.arange(8), 1 / np.arange(1, 30), *generator.dirichlet([0.3] * 4, 6)]
    for weights in spectra:
        mean = generator.chisquare(probes, (20_000, len(weights))) @ (weights / weights.sum()) / probes
        for misses in ((low.item() * mean > 1).sum(), (high.item() * mean < 1).sum()):
            assert binomtest(int(misses), 20_000, (1 - level) / 2, "greater").pvalue > ALARM


def test_rank_one_attains_the_limits():
    for probes in (1, 10, 200):
        low, high = (limit.item() for limit in trace_limits(torch.ones(()).double(), probes, 0.95))
        assert chi2.sf(probes / low, probes) == pytest.approx(0.025, rel=1e-9)
        assert chi2.cdf(probes / high, probes) == pytest.approx(0.025, rel=1e-9)


def test_at_a_low_level_the_upper_quantile_is_not_the_worst_case():
    """Ten equal eigenvalues exceed the 0.55 quantile of rank one far more often; m + 2 in its place does not."""
    assert chi2.sf(10 * chi2.ppf(0.55, 1), 10) > 0.6
    assert trace_limits(torch.ones(()).double(), 1, 0.1)[0].item() == pytest.approx(1 / 3)


# ---- coverage -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("probes", [1, 12])
@pytest.mark.parametrize("name", MODULES)
def test_hutchinson_covers_on_each_side_and_is_unbiased(name, probes):
    operator, _, truth = trials(name, 3000)
    found = hutchinson(operator, probes=probes, level=0.8, seed=probes)
    assert (found.status, found.level) == (Status.CONFIDENCE, 0.8)
    rank_one = name in ("two classes", "rank one")
    assert covers(
        found.lower <= truth * (1 + SLACK), 0.9, exactly=rank_one and probes > 1
    )  # at m = 1 the limit is m + 2
    assert covers(truth <= found.upper * (1 + SLACK), 0.9, exactly=rank_one)
    assert unbiased(found, truth)


@pytest.mark.parametrize("probes", [3, 12])
@pytest.mark.parametrize("name", MODULES)
def test_hutch_plus_plus_covers_on_each_side_and_is_unbiased(name, probes):
    operator, _, truth = trials(name, 2000)
    found = hutch_plus_plus(operator, probes=probes, level=0.8, seed=probes)
    assert (found.status, found.level) == (Status.CONFIDENCE, 0.8)
    assert covers(found.lower <= truth * (1 + SLACK), 0.9)
    assert covers(truth <= found.upper * (1 + SLACK), 0.9)
    assert unbiased(found, truth)


@pytest.mark.parametrize("probes", [4, 10, 40])
@pytest.mark.parametrize("name", MODULES)
def test_xtrace_is_nearly_unbiased_and_its_lower_end_mostly_below(name, probes):
    operator, _, truth = trials(name, 2000)
    found = xtrace(operator, probes=probes, seed=probes)
    assert (found.status, found.level) == (Status.HEURISTIC, None)
    assert (found.lower <= found.value).all()
    assert (found.value <= found.upper).all()
    assert (found.lower <= truth * (1 + SLACK)).double().mean() > 0.85
    mean = (found.value / truth.where(truth > 0, 1.0)).mean().item()
    assert 0.98 < mean < 1.1 or name == "zero"
    if probes // 2 >= operator.K - 1:
        torch.testing.assert_close(found.value, truth, rtol=1e-9, atol=0)


def unbiased(found, truth):
    """Whether the mean of value / truth lies within four standard errors of 1."""
    ratio = found.value / truth.where(truth > 0, 1.0)
    return (ratio.mean() - 1.0 * (truth[0] > 0)).abs() <= 4 * ratio.std() / len(ratio) ** 0.5 + 1e-9


# ---- dense oracles --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(12))
def test_every_method_against_the_dense_trace(seed):
    module, x, temperature = net(seed)
    truth = dense_trace(module, x, temperature)
    exact = ft.trace(module, x, "exact", temperature=temperature)
    torch.testing.assert_close(exact.value, truth, rtol=1e-10, atol=0)
    assert (exact.status, exact.quantity) == (Status.EXACT, "trace")
    assert torch.equal(exact.lower, exact.upper)
    with pytest.raises(AttributeError, match="not of lam"):
        exact.lam  # noqa: B018
    torch.testing.assert_close(exact.log10_value, truth.log10(), rtol=0, atol=1e-9)
    for method in ("hutchinson", "hutch++"):
        found = ft.trace(module, x, method, temperature=temperature, probes=20, level=1 - 1e-9)
        assert (found.lower <= truth * (1 + found.rounding)).all()
        assert (truth <= found.upper * (1 + found.rounding)).all()
    # 20 products span all of the class space: nothing is left to chance.
    torch.testing.assert_close(
        ft.trace(module, x, "xtrace", temperature=temperature, probes=20).value, truth, rtol=1e-9, atol=0
    )
    lam = ft.estimate(module, x, "exact", temperature=temperature).lam
    rank = min(module(x).shape[1] - 1, x[0].numel())
    assert (truth / rank <= lam * (1 + SLACK)).all()
    assert (lam <= truth * (1 + SLACK)).all()


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
        found = {m: ft.trace(module, x, m, probes=9, level=1 - 1e-9) for m in ("hutchinson", "hutch++")}
        found |= {"exact": ft.trace(module, x, "exact"), "xtrace": ft.trace(module, x, "xtrace", probes=9)}
    except FimTheoryError:  # kinks and overflow are refused
        return
    for i in range(2):
        log_probs = module(x[i : i + 1])[0].detach().log_softmax(0)
        J = jacobian(single(module), x[i])
        truth = fisher_by_pairs(J, log_probs).trace().item()
        noise = 1e-24 * max(1.0, J.square().sum().item())  # what is left where rows of J differ by rounding
        assert found["exact"].value[i].item() == pytest.approx(truth, rel=1e-7, abs=noise)
        for m in ("hutchinson", "hutch++"):
            assert found[m].lower[i].item() <= truth * (1 + 1e-7) + noise
            assert truth <= found[m].upper[i].item() * (1 + 1e-7) + noise
        assert found["xtrace"].value[i].isfinite()
        assert found["xtrace"].value[i].item() <= 20 * truth + noise


@pytest.mark.parametrize("seed", [4, 5, 11, 17])
@pytest.mark.parametrize("vectors", [2, 3])
def test_xtrace_against_leaving_out_one_vector_at_a_time(seed, vectors):
    module, x, temperature = net(seed)
    operator = FisherOperator(module, x, temperature)
    found = xtrace(operator, probes=2 * vectors, seed=9)
    generator = torch.Generator().manual_seed(9)
    omega = torch.stack(
        [orthonormal_to_null(operator, class_probe(operator, generator)) for _ in range(vectors)], dim=2
    )
    identity = torch.eye(operator.K, dtype=torch.float64)
    G = torch.stack([operator.gram_product(e.expand(len(x), -1)) for e in identity], dim=2)
    for i in range(len(x)):
        estimates = []
        for j in range(vectors):
            others = [k for k in range(vectors) if k != j]
            Q = torch.linalg.qr(G[i] @ omega[i][:, others])[0]
            outside = omega[i][:, j] - Q @ (Q.T @ omega[i][:, j])
            scale = (operator.K - 1 - (vectors - 1)) / outside.dot(outside)
            estimates.append((Q.T @ G[i] @ Q).trace() + scale * outside.dot(G[i] @ outside))
        Q = torch.linalg.qr(G[i] @ omega[i])[0]
        inside = (Q.T @ G[i] @ Q).trace().item()
        mean = np.mean(estimates)
        assert found.value[i].item() == pytest.approx(max(mean, inside), rel=1e-9)
        error = 2 * np.std(estimates, ddof=1) / math.sqrt(vectors)
        assert found.upper[i].item() == pytest.approx(max(mean, inside) + error, rel=1e-9)
        assert found.lower[i].item() == pytest.approx(max(max(mean, inside) - error, inside), rel=1e-9)


# ---- scales, saturation, zero ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("decades", [-150, 150])
@pytest.mark.parametrize("method", METHODS)
def test_weights_of_any_size_change_log10_only(method, decades):
    weight = torch.randn(5, 7, dtype=torch.float64)
    bias = torch.randn(5, dtype=torch.float64)
    plain, scaled = linear(weight, bias), linear(weight * 10.0**decades, bias)
    one, other = (ft.trace(module, origin(module, 3), method) for module in (plain, scaled))
    for name in ("log10_value", "log10_lower", "log10_upper"):
        expected = getattr(one, name) + 2 * decades
        torch.testing.assert_close(getattr(other, name), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("gap", [27.6, 800.0, 5000.0])
def test_saturation_keeps_relative_accuracy(gap):
    """At 1 - p = 1e-2171 the trace is sum_i p_i |w_i - w_t|^2, in units of the runner-up's p."""
    weight = torch.randn(4, 6, dtype=torch.float64)
    bias = torch.tensor([0.0, gap, -1.0, 0.5], dtype=torch.float64)
    module = linear(weight, bias)
    relative = (bias - gap).exp() if gap < 100 else (bias - 0.5).exp()
    squares = (weight - weight[1]).square().sum(1)
    truth = (relative * squares)[[0, 2, 3]].sum().log10() + (0 if gap < 100 else (0.5 - gap) / math.log(10))
    found = {m: ft.trace(module, origin(module), m) for m in METHODS}
    for m in ("exact", "hutch++", "xtrace"):
        assert found[m].log10_value.item() == pytest.approx(truth.item(), abs=1e-10)
    assert found["hutchinson"].log10_lower.item() < truth < found["hutchinson"].log10_upper.item()


@pytest.mark.parametrize("method", METHODS)
def test_a_zero_jacobian_has_trace_zero(method):
    module = linear(torch.zeros(6, 4), torch.arange(6.0))
    found = ft.trace(module, origin(module, 2), method)
    assert found.value.tolist() == found.lower.tolist() == found.upper.tolist() == [0.0, 0.0]
    assert found.log10_value.tolist() == [-math.inf, -math.inf]


def test_exact_trace_of_ties_in_closed_form():
    """p uniform on 5 classes, orthogonal rows of length 3: S_p has the eigenvalue 1/5 four times."""
    module = linear(3 * torch.eye(5, 8))
    assert exact_trace_of(module) == pytest.approx(4 * 9 / 5, rel=1e-14)


def exact_trace_of(module):
    operator = FisherOperator(module, origin(module))
    return (exact_trace(operator).value * 2.0 ** operator.exponent.double()).item()


# ---- accuracy at equal products -------------------------------------------------------------------------------------


def relative_deviation(estimator, spectrum, probes):
    module = with_spectrum(spectrum, 0)
    operator = FisherOperator(module, origin(module, 300))
    found = estimator(operator, probes=probes, seed=1)
    return (found.value * 2.0 ** operator.exponent.double() / sum(spectrum)).std().item()


def test_the_better_method_for_decaying_spectra_is_the_newer_one():
    spectrum = [0.7**i for i in range(60)]
    deviations = [relative_deviation(e, spectrum, 24) for e in (hutchinson, hutch_plus_plus, xtrace)]
    assert deviations[0] > 5 * deviations[1] > 10 * deviations[2]


def test_the_deviation_of_hutchinson_is_its_formula():
    for spectrum in ([1.0] * 40, [0.7**i for i in range(30)], [1.0] + [0.0] * 20):
        G = torch.tensor(spectrum)
        expected = math.sqrt(2 / 10) * (G.norm() / G.sum()).item()
        assert relative_deviation(hutchinson, spectrum, 10) == pytest.approx(expected, rel=0.15)


# ---- options --------------------------------------------------------------------------------------------------------


def test_auto_says_what_it_ran_and_why():
    few, many = linear(torch.randn(10, 5)), linear(torch.randn(400, 5))
    one, other = (ft.trace(module, origin(module)) for module in (few, many))
    assert (one.method, one.status) == ("exact", Status.EXACT)
    assert "K - 1 = 9" in one.note
    assert (other.method, other.status, other.level) == ("hutch++", Status.CONFIDENCE, 0.95)
    assert "K - 1 = 399 products exactly and 133 by Hutch++" in other.note
    assert other.evaluations == 133 + 2
    assert "K - 1 = 9" in ft.trace(few, origin(few), "hutchinson", probes=9).note
    assert ft.trace(few, origin(few), "hutchinson", probes=8).note == ""


def test_probes_belong_to_inputs_and_seeds_to_results():
    module = with_spectrum([1 / i for i in range(1, 13)], 0)
    for method in METHODS[1:]:
        first, again, other = (ft.trace(module, origin(module, 6), method, probes=6, seed=s) for s in (1, 1, 2))
        assert torch.equal(first.value, again.value)
        assert not torch.equal(first.value, other.value)
        assert len(set(first.value.tolist())) == 6


@pytest.mark.parametrize("method", METHODS)
def test_float32_agrees_with_float64(method):
    module, x, _ = net(5)
    x = x.float().double()
    for parameter in module.parameters():
        parameter.data = parameter.data.float().double()
    double = ft.trace(module, x, method)
    single_ = ft.trace(module.float(), x.float(), method)
    torch.testing.assert_close(single_.value, double.value, rtol=1e-4, atol=0)


@pytest.mark.parametrize("method", METHODS)
def test_nothing_is_estimated_from_wrong_derivatives(method):
    with pytest.raises(AdjointTestError):
        ft.trace(Apply(WrongBackward.apply).eval(), torch.randn(3, 6), method)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "magic"}, "method is 'magic': expected one of 'auto', 'exact'"),
        ({"method": "hutchinson", "probes": 0}, "probes is 0: the method 'hutchinson' needs an integer of at least 1"),
        ({"method": "hutch++", "probes": 2}, "at least 3"),
        ({"method": "xtrace", "probes": 3}, "at least 4"),
        ({"method": "hutchinson", "probes": 1.0}, "probes is 1.0"),
        ({"method": "hutchinson", "level": 0.0}, "level is 0.0"),
        ({"method": "hutch++", "level": 1.0}, "level is 1.0"),
        ({"method": "auto", "level": 1.0}, "level is 1.0"),
        ({"method": "auto", "probes": 0}, "probes is 0"),
        ({"method": "xtrace", "level": 0.9}, "'xtrace' has no level"),
        ({"method": "exact", "level": 0.9}, "'exact' has no level"),
        ({"method": "exact", "probes": 9}, "'exact' has no probes"),
    ],
)
def test_bad_options(options, message):
    module = linear(torch.randn(4, 3))
    with pytest.raises(DataError, match=message):
        ft.trace(module, origin(module), **options)
