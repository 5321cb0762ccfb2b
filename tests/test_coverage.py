"""Intervals of Lanczos and of the truncation over 2,000 trials: two classes, ties, saturation, J = 0, low rank."""

import pytest
from coverage_trials import MODULES, covers, trials

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
