"""The split of F by the most probable classes: against dense matrices, and coverage of the upper limit."""

import math

import pytest
import torch
from scipy.stats import binomtest
from test_estimators import linear, origin
from test_fisher import dense_lam, net

from fimtheory.claims import Status
from fimtheory.errors import DataError
from fimtheory.estimators import estimate


def peaked(seed, classes=30, spread=2.0):
    """A linear classifier with random rows and probabilities that fall off, and 40 equal inputs."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(classes, 12, generator=generator).double()
    return linear(weight, spread * torch.randn(classes, generator=generator).double())


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("classes", [1, 2, 3])
def test_interval_encloses_the_dense_value(seed, classes):
    module, x, temperature = net(seed)
    classes = min(classes, 2 + seed % 7)
    found = estimate(module, x, "truncated", classes=classes, level=0.999, temperature=temperature)
    truth = dense_lam(module, x, temperature)
    assert (found.lower <= truth * (1 + 1e-9)).all()
    assert (found.upper >= truth * (1 - 1e-9)).all()


@pytest.mark.parametrize("classes", [1, 4, 12])
def test_lower_limit_is_lam_of_the_merged_output(classes):
    """The same classifier with the improbable classes summed into one, differentiated by itself."""
    module = peaked(1)
    found = estimate(module, origin(module), "truncated", classes=classes)
    order = module.bias.argsort(descending=True)

    class Merged(torch.nn.Module):
        def forward(self, x):
            log_probs = module(x).log_softmax(1)[:, order]
            return torch.cat([log_probs[:, :classes], log_probs[:, classes:].logsumexp(1, keepdim=True)], 1)

    truth = dense_lam(Merged(), origin(module))
    torch.testing.assert_close(found.lower, truth, rtol=1e-9, atol=0)
    assert (found.value == found.lower).all()


@pytest.mark.parametrize(("rows", "level"), [(1, 0.9), (12, 0.9), (1, 0.5)])
def test_upper_limit_covers_at_its_level(rows, level):
    """2,000 inputs with probes of their own; with one informative direction the chi-square limit is exact."""
    generator = torch.Generator().manual_seed(rows)
    weight = torch.zeros(30, 12).double()
    weight[2:, :rows] = torch.randn(28, rows, generator=generator).double()
    bias = torch.cat([torch.tensor([9.0, 9.0]), torch.zeros(28)]).double()
    module = linear(weight, bias)  # the two top classes have the same row: all of F is what is left out
    trials = 2000
    found = estimate(module, origin(module, trials), "truncated", classes=2, level=level)
    p = module.bias.softmax(0)[2:]
    mean = (p / p.sum()) @ weight[2:]
    left_out = torch.einsum("k,kd,ke->de", p, weight[2:] - mean, weight[2:] - mean)
    added = found.upper - found.lower
    covered = int((added >= torch.linalg.eigvalsh(left_out)[-1]).sum())
    assert binomtest(covered, trials, level, alternative="less").pvalue > 1e-4
    if rows == 1:
        assert binomtest(covered, trials, level).pvalue > 1e-4


def test_by_default_little_is_left_out():
    module = peaked(2, classes=200, spread=3.0)
    found = estimate(module, origin(module, 4), "truncated")
    assert found.status == Status.CONFIDENCE
    assert found.level == 0.95
    assert (found.upper / found.lower).max() < 1.1
    assert found.evaluations < 4 * 120
    truth = dense_lam(module, origin(module, 4))
    assert ((found.lower <= truth * (1 + 1e-12)) & (truth <= found.upper)).all()


def test_with_all_classes_it_is_exact():
    module = peaked(3)
    found = estimate(module, origin(module), "truncated", classes=29)
    assert (found.status, found.method) == (Status.EXACT, "exact")


@pytest.mark.parametrize("gap", [30.0, 800.0])
def test_saturated_softmax(gap):
    """p = (1 - 2e, e, e, tiny, ...): lam is e times a matrix known in closed form, far below what float64 holds."""
    weight = torch.randn(6, 5, generator=torch.Generator().manual_seed(4)).double()
    module = linear(weight, torch.tensor([gap, 0.0, 0.0, -40.0, -40.0, -40.0]).double())
    found = estimate(module, origin(module), "truncated", classes=3)
    exact = estimate(module, origin(module), "exact")
    assert found.log10_lower.item() == pytest.approx(exact.log10_lam.item(), abs=1e-12)
    assert found.log10_upper.item() == pytest.approx(exact.log10_lam.item(), abs=1e-12)
    assert exact.log10_lam.item() == pytest.approx(-gap / math.log(10) + 1, abs=1.5)


def test_zero_jacobian():
    module = linear(torch.zeros(8, 3))
    found = estimate(module, origin(module), "truncated", classes=2)
    assert (found.lower.item(), found.upper.item()) == (0.0, 0.0)


@pytest.mark.parametrize("classes", [0, 31])
def test_bad_number_of_classes(classes):
    module = peaked(5)
    with pytest.raises(DataError, match="expected a number from 1 to K = 30"):
        estimate(module, origin(module), "truncated", classes=classes)
