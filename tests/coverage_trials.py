"""Coverage over many trials at once: a batch of equal inputs, each with probes of its own, and a binomial test."""

import torch
from scipy.stats import binomtest
from test_estimators import linear, origin, with_spectrum

from fimtheory.fisher import FisherOperator, times_power_of_two

ALARM = 1e-4
"""Probability with which a right method fails a test (seeds are fixed, so it fails always or never)."""


def fisher_by_pairs(jacobian, log_probs):
    """F = sum_{i<j} p_i p_j (J_i - J_j)(J_i - J_j)^T from dense J (K, d): no term cancels, however saturated p is."""
    classes = len(jacobian)
    first, second = torch.triu_indices(classes, classes, 1)
    roots = (0.5 * (log_probs[first] + log_probs[second])).exp()
    rows = roots.unsqueeze(1) * (jacobian[first] - jacobian[second])
    return rows.T @ rows


def saturated(classes, dim):
    """A linear classifier at whose origin the top class has probability 1 - 1e-12."""
    generator = torch.Generator().manual_seed(classes)
    bias = torch.randn(classes, generator=generator, dtype=torch.float64)
    bias[0] = bias[1:].logsumexp(0) + 27.6310211159
    return linear(torch.randn(classes, dim, generator=generator), bias)


def two_classes():
    return linear([[1.0, 2.0, -1.0], [-2.0, 6.0, 0.5]], [0.0, 1.3])


MODULES = {
    "two classes": two_classes(),
    "saturated": saturated(6, 9),
    "rank one": with_spectrum([3.0] + [0.0] * 8, 3),
    "flat": with_spectrum([2.0] * 9, 4),
    "decaying": with_spectrum([1 / i for i in range(1, 13)], 5),
    "two equal, tail": with_spectrum([1.0, 1.0] + [0.1] * 10, 6),
    "fewer inputs than classes": linear(torch.randn(7, 2, generator=torch.Generator().manual_seed(7))),
    "zero": linear(torch.zeros(5, 4), torch.arange(5.0)),
}
"""Linear classifiers, to be taken at the origin; where there are no biases, the probabilities are tied."""


def trials(name, number):
    """Return the operator of ``number`` equal inputs, the true lam and the true trace, both as it scales them."""
    module = MODULES[name]
    F = fisher_by_pairs(module.weight.detach(), module.bias.detach().log_softmax(0))
    operator = FisherOperator(module, origin(module, number))
    lam, trace = torch.linalg.eigvalsh(F)[-1], F.trace()
    lam, trace = (times_power_of_two(truth, -operator.exponent) for truth in (lam, trace))
    return operator, lam, trace


def covers(holds, level, exactly=False):
    """Whether trials that hold are as frequent as ``level`` promises; with ``exactly``, not more frequent either."""
    hits, number = int(holds.sum()), holds.numel()
    return binomtest(hits, number, level, "two-sided" if exactly else "less").pvalue > ALARM


def rank_bound(operator):
    return min(operator.K - 1, operator.x[0].numel())
