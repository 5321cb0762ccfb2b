"""Where no factorisation runs to completion there is no bound, and what is cut into parts is not changed by it."""

import pytest
import torch

from fimtheory import norms
from fimtheory.norms import joint, majorant, proved
from fimtheory.norms.interconnection import Interconnection, Rows
from fimtheory.norms.majorant import Multipliers
from fimtheory.norms.torus import Torus


def ones(*shape):
    return torch.ones(shape, dtype=torch.float64)


GRAM = 0.5 * ones(3, 4, 4) + 0.5 * torch.eye(4, dtype=torch.float64)  # its largest eigenvalue is 2.5


@pytest.mark.parametrize("alpha", [1e-3, 2.0, 2.49, 2.0**401, torch.inf])
def test_multipliers_below_the_matrix_or_beyond_float64(alpha):
    assert majorant.majorant(GRAM, Multipliers(alpha * ones(4), 0.0 * ones(4))) is None


def test_a_multiplier_is_refused_if_one_matrix_of_the_batch_exceeds_it(monkeypatch):
    multipliers = Multipliers(3.0 * ones(4), 0.0 * ones(4))
    batch = torch.cat([GRAM, 2.0 * GRAM[:1]])
    for entries in (1, 2**21):
        monkeypatch.setattr(majorant, "_ENTRIES", entries)
        assert majorant.majorant(batch, multipliers) is None
        found = majorant.majorant(batch[:3], multipliers)
        assert found is not None
        for k in range(3):
            h, used = majorant.majorant(batch[k : k + 1], multipliers)
            assert torch.allclose(h, found[0][k : k + 1], rtol=1e-12)
            assert torch.allclose(used.alpha, found[1].alpha, rtol=1e-12)


def test_a_diagonal_that_is_not_positive_is_refused(monkeypatch):
    """A completed factorisation with a pivot of zero proves nothing."""

    def without_pivots(matrix):
        factor, info = original(matrix)
        return torch.zeros_like(factor) if matrix.shape[-1] == 8 else factor, torch.zeros_like(info)

    original = torch.linalg.cholesky_ex
    monkeypatch.setattr(torch.linalg, "cholesky_ex", without_pivots)
    assert majorant.majorant(GRAM, Multipliers(3.0 * ones(4), 0.0 * ones(4))) is None


NOWHERE = torch.zeros(1, 2, dtype=torch.int64)
PROGRAM = joint.Program(
    Torus((1, 1)), 2,
    (
        joint.Linear(ones(4, 2, 1), NOWHERE, torch.arange(2), torch.arange(0)),
        joint.Activation(0.5 * ones(4), 0.5 * ones(4)),
    ),
)  # fmt: skip


def test_a_program_without_a_certificate_has_no_bound(monkeypatch):
    weight = torch.tensor([[1.0, 0.0, 0.0, 0.0], [-1.0, 0.0, 0.0, 0.0]])
    bound = norms.network_head(PROGRAM, weight, steps=0)
    assert bound is not None
    assert bound.upper >= 8**0.5  # (1, 1) at the first neuron: twice the root of 2
    monkeypatch.setattr(proved, "majorant", lambda p, multipliers: None)
    assert proved.reach_of(PROGRAM, [(torch.zeros(4, dtype=torch.float64), 0.1)]) is None
    assert norms.network_head(PROGRAM, weight, steps=0) is None


def test_multipliers_are_raised_until_one_is_certified(monkeypatch):
    tried = []

    def late(p, multipliers):
        tried.append(float(multipliers.alpha.max()))
        return majorant.majorant(p, multipliers) if len(tried) > 2 else None

    monkeypatch.setattr(proved, "majorant", late)
    assert proved.reach_of(PROGRAM, [(torch.zeros(4, dtype=torch.float64), 0.1)]) is not None
    assert len(tried) == 3
    assert tried == sorted(tried)


def test_a_factorisation_of_the_whole_that_fails_gives_no_gram_matrix(monkeypatch):
    none = torch.zeros(1, dtype=torch.float64)
    system = Interconnection.of_inputs(1).extended(Rows(ones(1, 1), none))
    rows = Rows(ones(1, 2), none)
    assert system.gram(rows) is not None
    original = torch.linalg.cholesky_ex

    def incomplete(matrix):
        factor, info = original(matrix)
        return factor, info + (matrix.shape[-1] == 2)

    monkeypatch.setattr(torch.linalg, "cholesky_ex", incomplete)
    assert system.gram(rows) is None
