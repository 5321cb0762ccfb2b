"""Certified norms in arithmetic as bad as their proofs allow: a coarser unit roundoff, and every error the wrong way.

The rounding of float64 is far below the margin by which levels are set above estimates, so an error bound that is
forgotten, or too small, does not show.  Here products, norms and factorisations err by all that Higham's model of a
coarser arithmetic permits, always towards a smaller bound, and the norms are told that arithmetic's unit roundoff.
"""

import itertools
import math
import sys
from fractions import Fraction

import pytest
import torch
from flint import arb
from torch.overrides import TorchFunctionMode

from fimtheory import norms
from fimtheory.errors import NonFiniteError
from fimtheory.norms import convolutions, joint, proved, reach, residual, spectrum
from fimtheory.norms.interconnection import Interconnection, Rows
from fimtheory.norms.majorant import Multipliers, majorant
from fimtheory.norms.reach import Reach, largest_difference
from fimtheory.norms.residual import Correlation
from fimtheory.norms.rounding import gamma_n
from fimtheory.norms.scaling import ScaledRows
from fimtheory.norms.slopes import Slopes
from fimtheory.norms.spectrum import SpectralLevel
from fimtheory.norms.stride_one import StrideOne
from fimtheory.norms.symbol import COSINE, GramSymbol
from fimtheory.norms.torus import Torus

COARSE = 2.0**-34
"""Unit roundoff of the worse arithmetic; its errors, for a hundred terms, are less than 2^-20."""


def gamma(n, unit):
    return n * unit / (1 - n * unit)


def powers_of_two(factors):
    """Whether products with them are exact."""
    mantissa = torch.frexp(
        torch.view_as_real(factors.resolve_conj()) if factors.is_complex() else factors
    ).mantissa.abs()
    return bool(((mantissa == 0.5) | (mantissa == 0.0)).all())


class Lowered(TorchFunctionMode):
    """Arithmetic in which products and norms are as small, and factorisations run as far, as the model allows."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if args and isinstance(args[0], torch.Tensor) and args[0].dtype not in (torch.float64, torch.complex128):
            return function(*args, **kwargs)  # integers are exact
        if function in (torch.Tensor.__matmul__, torch.Tensor.matmul, torch.matmul):
            a, b = args
            exact = function(a, b)
            return exact - gamma(a.shape[-1] * (2 if a.is_complex() else 1), COARSE) * (a.abs() @ b.abs())
        if function is torch.addmm:
            added, a, b = args
            exact = function(added, a, b, **kwargs)
            size = added.abs() + abs(kwargs.get("alpha", 1)) * (a.abs() @ b.abs())
            return exact - gamma(a.shape[-1] + 2, COARSE) * size
        if function is torch.linalg.vector_norm:
            exact = function(*args, **kwargs)
            terms = args[0].numel() // max(1, exact.numel())
            first = 1 in (*args[1:], kwargs.get("ord"))
            return exact * (1 - (gamma(terms, COARSE) if first else gamma(terms, COARSE) / 2 + COARSE))
        if function in (torch.Tensor.mul, torch.Tensor.__mul__) and isinstance(args[1], torch.Tensor):
            exact = function(*args, **kwargs)
            return exact if exact.dim() < 2 or any(map(powers_of_two, args)) else exact * (1 - COARSE)
        if function is torch.einsum:
            equation, a, b = args
            terms = float(function(equation, torch.ones_like(a), torch.ones_like(b)).max())
            return function(*args) - gamma(terms, COARSE) * function(equation, a.abs(), b.abs())
        if function is torch.linalg.cholesky_ex:
            return self._factorised(args[0])
        return function(*args, **kwargs)

    def _factorised(self, matrix):
        """The factor of H + k |L| |L|^T, which is what a completed factorisation of H may be."""
        k = gamma(matrix.shape[-1] + 1, COARSE)
        with torch._C.DisableTorchFunction():
            raised = matrix + 2 * k * torch.diag_embed(matrix.diagonal(dim1=-2, dim2=-1).real.clamp_min(0)).to(matrix)
            factor, info = torch.linalg.cholesky_ex(raised)
            size = factor.abs() @ factor.abs().mT
            again, worse = torch.linalg.cholesky_ex(matrix + k * size)
            return (again, worse) if bool((info == 0).all()) else torch.linalg.cholesky_ex(matrix)


@pytest.fixture
def coarse(monkeypatch):
    """The worse arithmetic, of which the norms know, and no margin above estimates."""
    for name, module in list(sys.modules.items()):
        if name.startswith("fimtheory.norms.") and hasattr(module, "UNIT"):
            monkeypatch.setattr(module, "UNIT", COARSE)
    assert gamma_n(1) >= COARSE, "the module's constant has another name"
    monkeypatch.setattr(spectrum, "_MARGIN", 2.0**-50)
    with Lowered():
        yield


@pytest.fixture
def eye():
    return torch.eye(2, dtype=torch.float64)


def ones(*shape):
    return torch.ones(shape, dtype=torch.float64)


def least(matrix):
    """The least eigenvalue of Hermitian matrices, computed as float64 does."""
    with torch._C.DisableTorchFunction():
        return float(torch.linalg.eigvalsh(matrix).min())


# ---- matrices ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rows", "columns"), [(1, 90), (2, 60), (30, 40), (40, 7)])
def test_matrices(coarse, eye, rows, columns):
    assert norms.dense(ones(rows, columns)).upper ** 2 >= rows * columns
    twice = norms.dense(torch.kron(eye, ones(rows, columns)))
    assert twice.upper**2 >= rows * columns
    assert twice.method == "gram-cholesky"


@pytest.mark.parametrize("length", [1, 2, 5, 100])
def test_rows_and_vectors(coarse, length):
    matrix = torch.cat([ones(1, length), -ones(1, length)])
    assert norms.infinity_norm(matrix).upper >= length
    assert norms.two_to_infinity_norm(matrix).upper ** 2 >= length
    assert norms.vector(matrix).upper ** 2 >= 2 * length
    assert norms.row_diameter(torch.cat([0 * matrix, matrix])).upper ** 2 >= 4 * length


@pytest.mark.parametrize("route", ["torus", "grid", "dense"])
def test_convolutions(coarse, monkeypatch, route):
    if route == "dense":
        monkeypatch.setattr(convolutions, "_symbol_bound", lambda _: convolutions.StoredNorm(1e9, 1e9, ""))
    else:
        monkeypatch.setattr(convolutions, "_MATRIX_SIDE", 0)
    if route == "grid":
        monkeypatch.setattr(convolutions, "_WORK", 1)
    kernel, size = ones(3, 4, 2, 3), (12, 12)
    matrix = torch.nn.functional.conv2d(torch.eye(4 * 144).double().reshape(-1, 4, *size), kernel, padding=(0, 1))
    with torch._C.DisableTorchFunction():
        exact = float(torch.linalg.matrix_norm(matrix.flatten(1), 2))
    bound = norms.convolution(kernel, size, padding=(0, 1))
    assert route in bound.method
    assert bound.upper >= (exact if route == "dense" else 6 * 12**0.5 * (1 - 1e-13))


@pytest.mark.parametrize("taps", [2, 3, 7])
def test_the_factor_of_a_grid(monkeypatch, taps):
    monkeypatch.setattr(convolutions, "_WORK", 10**5)
    for size in range(200, 300):
        (side,), factor = convolutions._frequencies(StrideOne(ones(1, 1, 1, taps), (size,)), 1)
        assert side < size
        secant = 1 / (arb.pi() * (taps - 1) / (2 * side)).cos()
        assert arb(factor) >= secant
        assert arb(factor) <= secant * (1 + arb(2) ** -46)


@pytest.mark.parametrize("n", [1, 2, 3, 30, 1000])
def test_the_level_covers_the_error_of_a_factorisation(n):
    """Rump 2006: what a completed factorisation of fl(c I - A) says of A, in fractions."""
    level, unit = SpectralLevel(0.75), Fraction(1, 2**53)
    k = 8 * (n + 1) * unit / (1 - 8 * (n + 1) * unit)
    trace = 2 * n * Fraction(3, 4) * (1 + unit)
    assert Fraction(level.upper(n)) >= Fraction(3, 4) * (1 + 2 * unit) + k / (1 - k) * trace


@pytest.mark.parametrize("n", [0, 1, 2, 3, 1000, 2**20, 2**32])
def test_gamma(n):
    assert Fraction(gamma_n(n)) >= Fraction(n, 2**53) / (1 - Fraction(n, 2**53))


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (1, 2, 3, 3, 3), (2, 3, 2, 5), (1, 1, 8, 2, 2)])
def test_the_error_of_a_symbol(coarse, shape):
    _, n, m, *taps = shape
    n, m = min(n, m), max(n, m)
    unit, lags = Fraction(COARSE), 1 + sum(2 * k - 1 for k in taps) if len(taps) == 1 else None
    count = len([lag for lag in itertools.product(*(range(1 - k, k) for k in taps)) if lag >= (0,) * len(taps)])
    assert lags is None or count <= lags

    def bound(terms):
        return terms * unit / (1 - terms * unit)

    products = bound(m * math.prod(taps) + 1)
    relative = products + (bound(count) + Fraction(COSINE)) * (1 + products)
    symbol = GramSymbol(ones(*shape))
    size = n * m * math.prod(taps) ** 2  # || sum_j |A_j| ||_F^2
    assert Fraction(symbol.magnitude) ** 2 >= size
    assert Fraction(symbol.gram_error) ** 2 >= 2 * (relative * size) ** 2


# ---- reaches ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 60), (5, 60), (60, 5)])
def test_gram_matrices(coarse, rows, columns):
    gram = Reach.whole(columns).through(ScaledRows(0.5 * ones(rows, columns), 0, 0.0, 0.0))
    assert least(gram.matrix - 0.25 * columns) >= 0
    assert least(gram.matrix - 0.25 * columns * ones(rows, rows)) >= -1e-13 * rows * columns


def test_slopes(coarse, eye):
    """(c p + r e)(...)^T with e between -p and p: at the ends, all of them."""
    weight = ScaledRows(torch.kron(eye, 0.5 * ones(2, 30)), 0, 0.0, 0.0)
    gram = Reach.whole(60).through(weight)
    centre, radius = 0.5 * ones(4), torch.tensor([0.5, 0.0, 0.5, 0.25], dtype=torch.float64)
    found = gram.after(Slopes(centre, radius, 0), ones(4) * 2.5)
    assert found is not None
    for signs in itertools.product([-1.0, 1.0], repeat=4):
        change = torch.diag(centre + radius * torch.tensor(signs))
        with torch._C.DisableTorchFunction():
            image = change @ weight.values
            assert least(found.matrix * 2.0**found.exponent - image @ image.T) >= -1e-13


def test_certified_majorants(coarse):
    """(*) for multipliers of which the smallest H leaves Q singular, in float64."""
    gram = 0.5 * ones(6, 6) + 0.5 * torch.eye(6, dtype=torch.float64)
    found = reach._certified(gram, torch.arange(6), 3.5 * ones(6) + 1e-9)
    assert found is not None
    h, k = found
    with torch._C.DisableTorchFunction():
        q = torch.cat([torch.cat([h - gram, -gram], 1), torch.cat([-gram, torch.diag(k) - gram], 1)])
    assert least(q) >= -1e-12


@pytest.mark.parametrize("columns", [1, 60])
def test_differences_of_rows(coarse, columns):
    rows = ScaledRows(torch.cat([0.0 * ones(1, columns), 0.5 * ones(1, columns), -0.5 * ones(1, columns)]), 0, 0.0, 0.0)
    squared, exponent = largest_difference(Reach.whole(columns), rows)
    assert (squared, exponent) >= (columns, 0)


@pytest.mark.parametrize("columns", [1, 4000])
def test_interconnections(coarse, columns):
    """Long rows: their products err by more than the room that the factorisation is given."""
    y = Interconnection.of_inputs(columns).gram(Rows(ones(1, columns), torch.zeros(1, dtype=torch.float64)))
    assert y is not None
    assert y.item() >= columns


# ---- joint programs ---------------------------------------------------------------------------------------------


def require_close(raised, exact):
    """Above the exact matrix in the order of symmetric ones, and by the rounding only."""
    assert least(raised - exact) >= -1e-14 * max(1.0, float(exact.abs().max()))
    assert least(exact - raised) >= -1e-6 * float(exact.abs().max())


@pytest.mark.parametrize("sides", [(1, 1), (4, 2)])
@pytest.mark.parametrize("stride", [(1, 1), (2, 1)])
def test_linear_steps(coarse, sides, stride):
    torus = Torus(sides)
    stride = stride if sides != (1, 1) else (1, 1)
    offsets = torch.tensor([[0, 0], [1, 0], [0, 1]])[: 1 if sides == (1, 1) else 3]
    step = joint.Linear(ones(3, 20, len(offsets)), offsets, torch.arange(20), torch.arange(0), 0.0, stride)
    count = torus.frequencies.shape[1]
    p = torch.eye(20, dtype=torus.dtype).expand(count, -1, -1) * 0.5 + 0.5
    raised, coarser = proved._through(p.contiguous(), torus, step)
    with torch._C.DisableTorchFunction():
        exact = 0.0
        for frequencies, index, mirrored in torus.aliases(stride):
            assert not bool((mirrored & (index < 0)).any())
            symbol = step.symbol(torus, frequencies)
            exact = exact + symbol @ p[index] @ symbol.mH / math.prod(stride)
        exact = exact.real if coarser.is_point else exact
    require_close(raised, exact)


@pytest.mark.parametrize(("side", "times"), [(4, 1), (2, 100)])
def test_readouts(coarse, side, times):
    """Each position is read several times, so that the symbol of the readout has the more terms."""
    torus, positions = Torus((side, 1)), side - 1
    offsets = torch.tensor([[k, 0] for k in range(positions)]).repeat(times, 1)
    step = joint.Readout(ones(2, positions * times) / times, offsets)
    p = ones(side // 2 + 1, 5, 5).to(torch.complex128)
    raised, _ = proved._read(p, torus, step)
    with torch._C.DisableTorchFunction():
        # a map that is the same at every frequency acts at each position
        exact = torch.kron(ones(5, 5), positions * ones(2, 2))
    require_close(raised[0], exact)


def test_roots_are_above():
    p = torch.diag(torch.tensor([k / 7 for k in range(1, 200)], dtype=torch.float64))
    for root, size in zip(proved._roots(p).tolist(), p.diagonal().tolist(), strict=True):
        assert Fraction(size) <= Fraction(root) ** 2 <= Fraction(size) * (1 + Fraction(1, 2**38))


def test_known_factors(coarse, monkeypatch):
    """The roundings of C H C alone: H is taken as it is, without the room that multipliers leave."""
    monkeypatch.setattr(proved, "_majorant", lambda p, step, choice: (p, Multipliers(step.radius, 0.0 * step.radius)))
    p = 0.01 * ones(1, 20, 20)
    for centre in (1 / 3, 0.9, 3.0):
        step = joint.Activation(centre * ones(20), 1e-30 * ones(20))
        raised = proved._after(p, step, (torch.zeros(20, dtype=torch.float64), 0.0))
        assert raised is not None
        require_close(raised[0], centre**2 * p[0])


@pytest.mark.parametrize("kind", ["activation", "maximum"])
def test_unknown_factors(coarse, kind):
    """An activation with slopes in [0, 1] and a maximum, which may keep any entry of a window or none."""
    torus = Torus((1, 1))
    p = (0.5 * ones(4, 4) + 0.5 * torch.eye(4, dtype=torch.float64))[None]
    if kind == "activation":
        step = joint.Activation(0.5 * ones(4), 0.5 * ones(4))
        factors = [torch.diag(torch.tensor(d)).double() for d in itertools.product([0.0, 1.0], repeat=4)]
        shape = torch.zeros(4, dtype=torch.float64)
    else:
        step = joint.Maximum(2, 2)  # entry k of channel j is coordinate 2 k + j
        factors = []
        for first, second in itertools.product([0, 2, None], [1, 3, None]):
            each = torch.zeros(2, 4, dtype=torch.float64)
            for row, taken in ((0, first), (1, second)):
                if taken is not None:
                    each[row, taken] = 1.0
            factors.append(each)
        shape = torch.zeros(4, dtype=torch.float64)
    raised = proved._after(p, step, (shape, 1e-3))
    assert raised is not None
    assert torus.is_point
    with torch._C.DisableTorchFunction():
        for factor in factors:
            assert least(raised[0] - factor @ p[0] @ factor.T) >= -1e-13


def test_majorants(coarse):
    """(*) for the least K that is accepted, in float64, whose own rounding is far smaller."""
    gram = 0.5 * ones(1, 6, 6) + 0.5 * torch.eye(6, dtype=torch.float64)
    found = majorant(gram, Multipliers(3.5 * ones(6) + 1e-9, torch.zeros(6, dtype=torch.float64)))
    assert found is not None
    h, used = found
    with torch._C.DisableTorchFunction():
        q = torch.cat([torch.cat([h - gram, -gram], 2), torch.cat([-gram, torch.diag(used.alpha)[None] - gram], 2)], 1)
    assert least(q) >= -1e-12


# ---- residual blocks --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("finite", [True, False])
def test_residual_blocks(coarse, monkeypatch, finite):
    if not finite:
        monkeypatch.setattr(residual, "_SIDE", 0)
        monkeypatch.setattr(convolutions, "_MATRIX_SIDE", 0)
    first, second = Correlation(ones(6, 5, 1), (1,), (0,)), Correlation(ones(5, 6, 1), (1,), (0,))
    run = residual._Run.of(first, (4,), "", finite=finite)
    exact = 30**0.5 if not finite else 120**0.5
    assert exact <= run.magnitude * 2.0**run.exponent <= 1.001 * exact
    shortcut = Correlation(torch.eye(5, dtype=torch.float64)[:, :, None], (1,), (0,))
    # I + c 6 * (ones 5 x 5) has norm 1 + 30 c, and the norms of the maps multiply to 30
    assert norms.centred_residual([first, second], shortcut, (4,), (0.5, 0.0)).upper >= 16.0
    assert norms.centred_residual([first, second], shortcut, (4,), (0.5, 2.0**-20)).upper >= 16.0 + 30 * 2.0**-20
    assert norms.equilibrated_product([[first], [second]], (4,)).upper >= 30.0
    assert norms.equilibrated_product([[first, second], [first]], (4,)).upper >= 30.0 * 30**0.5


@pytest.mark.parametrize("stride", [1, 2, 3, 4])
def test_a_padding_with_which_every_window_is_an_output(stride):
    """The least that reaches one position beyond, whole strides from the run's own."""
    for taps, own in itertools.product(range(1, 8), range(5)):
        given = Correlation(ones(1, 1, taps), (stride,), (own,))
        (padding,) = residual._everywhere(residual._Run.of(given, (9,), "", finite=False))
        enough = [n for n in range(own, 20) if (n - own) % stride == 0 and n >= taps - 1]
        assert padding == enough[0]


# ---- bounds on bounds -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_rows_of_every_type_have_a_diameter(dtype):
    rows = torch.tensor([[1.0, 0.0], [4.0, 4.0]]).to(dtype)
    assert 5.0 <= norms.row_diameter(rows).upper <= 5.0 * (1 + 1e-12)
    assert norms.row_diameter(rows[:1].expand(3, 2)).upper == 0.0


def test_a_factor_with_an_error_costs_no_more_than_it():
    assert 4.5 <= norms.diagonal(torch.tensor([1.0, -3.0]), 0.5).upper <= 4.5 * (1 + 1e-12)


@pytest.mark.parametrize("factor", [2.0**120, 2.0**-120])
def test_jacobians_too_far_from_one_are_refused(factor, eye):
    """Their squares are beyond 2^200 or below 2^-200."""
    nowhere = torch.zeros(1, 2, dtype=torch.int64)
    step = joint.Linear(factor * eye[:, :, None], nowhere, torch.arange(2), torch.arange(0))
    with pytest.raises(NonFiniteError, match="too far from 1"):
        proved.reach_of(joint.Program(Torus((1, 1)), 2, (step,)), [])
