"""Intervals of Lanczos and of the truncation over 2,000 trials: two classes, ties, saturation, J = 0, low rank."""

import pytest
import torch
from coverage_trials import MODULES, covers, trials
from test_estimators import with_spectrum

from fimtheory.estimators import estimate
from fimtheory.estimators.lanczos import lanczos
from fimtheory.estimators.truncated import truncated


@pytest.mark.parametrize("level", [0.6, 0.95])
@pytest.mark.parametrize("name", MODULES)
def test_the_limit_of_lanczos_holds_at_its_level(name, level):
    operator, lam, _ = trials(name, 2000)
    found = lanczos(operator, level=level, tol=0.5)
    assert (found.lower <= lam * (1 + 1e-12)).all()
    assert covers(found.upper >= lam * (1 - 1e-12), level)


@pytest.mark.parametrize("level", [0.6, 0.95])
@pytest.mark.parametrize("name", MODULES)
def test_the_limits_of_the_truncation_hold_at_their_level(name, level):
    operator, lam, _ = trials(name, 2000)
    found = truncated(operator, classes=min(2, operator.K), level=level)
    assert (found.lower <= lam * (1 + 1e-12)).all()
    assert covers(found.upper >= lam * (1 - 1e-12), level)


@pytest.mark.parametrize(("dtype", "second"), [(torch.bfloat16, 0.3), (torch.float16, 0.8), (torch.float32, 1 - 1e-4)])
def test_the_limit_of_lanczos_holds_where_rounding_could_end_a_run_early(dtype, second):
    """Three classes and two eigenvalues: a start near the second one looks exhausted at the resolution of the dtype."""
    module = with_spectrum([1.0, second], 1).to(dtype)
    weight = module.weight.detach().double()
    centred = weight - weight.mean(0)
    lam = torch.linalg.matrix_norm(centred, 2).square() / 3
    found = estimate(module, torch.zeros(4000, weight.shape[1], dtype=dtype), "lanczos", level=0.999)
    assert (found.upper >= lam * (1 - found.rounding)).double().mean() >= 0.999
