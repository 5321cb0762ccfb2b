"""Top eigenpairs against the dense matrix F in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_estimators import linear, origin, with_spectrum
from test_fisher import dense_fisher, net

from fimtheory.claims import Status
from fimtheory.errors import DataError
from fimtheory.estimators.spectra import spectrum


@pytest.mark.parametrize("seed", range(12))
def test_values_and_vectors_are_those_of_the_dense_matrix(seed):
    module, x, temperature = net(seed)
    rank = min(module(x[:1]).shape[1] - 1, 3)
    found = spectrum(module, x, rank, temperature=temperature)
    F = dense_fisher(module, x, temperature)
    truth = torch.linalg.eigvalsh(F).flip(1)[:, :rank]
    top = truth[:, :1]
    torch.testing.assert_close(found.values / top, truth / top, rtol=0, atol=3e-6)
    v = found.vectors.flatten(2)
    torch.testing.assert_close(
        (F @ v.mT).mT / top[:, :, None], truth[:, :, None] * v / top[:, :, None], rtol=0, atol=3e-3
    )
    torch.testing.assert_close(v @ v.mT, torch.eye(rank).double().expand(len(x), -1, -1), rtol=0, atol=1e-3)


@settings(max_examples=30, deadline=None)
@given(st.integers(4, 40), st.integers(1, 6), st.floats(0.0, 3.0, allow_subnormal=False), st.integers(0, 10**6))
def test_values_stay_below_and_residuals_enclose(size, rank, decay, seed):
    """Interlacing, and the theorem that an eigenvalue lies within the residual, on known spectra with repetitions."""
    eigenvalues = torch.tensor([(1 + i // 2) ** -decay for i in range(size)]).double()
    module = with_spectrum(eigenvalues.tolist(), seed)
    rank = min(rank, size)
    found = spectrum(module, origin(module, 3), rank, seed=seed, tol=1e-4)
    truth = eigenvalues[:rank]
    assert (found.values <= truth * (1 + 1e-12)).all()
    assert (found.values >= truth - 1e-2).all()
    nearest = (found.values.unsqueeze(2) - eigenvalues).abs().amin(2)
    assert (nearest <= found.residuals + 1e-12).all()


def test_an_eigenvalue_of_multiplicity_three_is_found_three_times():
    module = with_spectrum([2.0, 2.0, 2.0, *[1 / (2 + i) for i in range(60)]], 3)
    found = spectrum(module, origin(module, 2), 4)
    torch.testing.assert_close(
        found.values, torch.tensor([2.0, 2.0, 2.0, 0.5]).double().expand(2, -1), rtol=1e-5, atol=0
    )
    assert found.status == Status.LOWER
    assert found.evaluations < 2 * 2 * 50


@pytest.mark.parametrize("exponent", [-200, 150])
def test_ends_of_float64(exponent):
    weight = torch.randn(5, 8, generator=torch.Generator().manual_seed(0)).double()
    small, large = linear(weight), linear(weight * 10.0**exponent)
    one, other = spectrum(small, origin(small), 3), spectrum(large, origin(large), 3)
    torch.testing.assert_close(other.log10_values, one.log10_values + 2 * exponent, rtol=1e-12, atol=0)


def test_zero_jacobian():
    module = linear(torch.zeros(4, 5))
    found = spectrum(module, origin(module, 2), 3)
    assert found.values.tolist() == [[0.0] * 3] * 2
    assert not found.vectors.any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"rank": 0},
            r"rank is 0: expected the number of eigenvalues to find, from 1 to min\(K - 1, d\) = 3",
        ),
        ({"rank": 4}, "rank is 4: expected"),
        ({"rank": 1.5}, "rank is 1.5: expected"),
        ({"tol": 2.0}, "tol"),
    ],
)
def test_bad_options(options, message):
    module = linear(torch.randn(4, 5))
    with pytest.raises(DataError, match=message):
        spectrum(module, origin(module), **{"rank": 1, **options})
