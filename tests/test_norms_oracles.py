"""Exact truths for the certified norms, in rational arithmetic and by dense matrices, and tests of these oracles."""

import contextlib
import math

import pytest
import torch
from flint import fmpq
from hypothesis import strategies as st

KINDS = (
    *("normal", "rank one", "orthogonal", "all ones", "one huge entry", "huge"),
    *("tiny", "denormal", "wide range", "integer", "zero"),
)


def denormal(multiple):
    """multiple * 2^-1074 as a float64 tensor, by its bits: a literal would be flushed while this file is compiled."""
    return torch.tensor([multiple]).view(torch.float64)


@contextlib.contextmanager
def flushing(mode):
    """Run with denormals flushed or not, and restore what was set before."""
    before = not (denormal(1) * 1.0).view(torch.int64).any()
    torch.set_flush_denormal(mode)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def rational(tensor):
    """Exact stored values of a tensor, as nested lists of rationals."""

    def convert(value):
        return [convert(v) for v in value] if isinstance(value, list) else fraction(value)

    with flushing(False):
        return convert(tensor.detach().to(torch.float64).tolist())


def fraction(value):
    numerator, denominator = float(value).as_integer_ratio()
    return fmpq(numerator, denominator)


def is_positive_semidefinite(matrix):
    """Exact LDL^T elimination of a symmetric rational matrix."""
    rows = [list(row) for row in matrix]
    while rows:
        pivot, first = rows[0][0], rows[0]
        if pivot < 0 or (pivot == 0 and any(first)):
            return False
        rest = [
            [x - (row[0] * y / pivot if pivot else 0) for x, y in zip(row[1:], first[1:], strict=True)]
            for row in rows[1:]
        ]
        rows = rest
    return True


def bounds_exactly(upper, matrix):
    """Whether upper >= ||matrix||_2, decided in rational arithmetic: upper^2 I - A A^T is positive semidefinite."""
    if len(matrix) > len(matrix[0]):
        matrix = [list(column) for column in zip(*matrix, strict=True)]
    with flushing(False):
        square = fraction(upper) ** 2
    gram = [[sum((x * y for x, y in zip(a, b, strict=True)), fmpq(0)) for b in matrix] for a in matrix]
    return is_positive_semidefinite(
        [[(square if i == j else 0) - entry for j, entry in enumerate(row)] for i, row in enumerate(gram)]
    )


def convolution_matrix(kernel, size, stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1):
    """Dense matrix of a convolution in float64: torch's own convolution applied to every unit image."""
    channels = kernel.shape[1] * groups
    units = torch.eye(channels * math.prod(size), dtype=torch.float64).reshape(-1, channels, *size)
    return (
        torch.nn.functional.conv2d(units, kernel.to(torch.float64), None, stride, padding, dilation, groups)
        .flatten(1)
        .T
    )


def norm_of(matrix):
    return float(torch.linalg.matrix_norm(matrix, 2))


def weights(kind, shape, seed, dtype=torch.float64):
    """Random or adversarial weights; the scale of the extreme kinds fits float64."""
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(shape, dtype=torch.float64, generator=generator)
    flat = base.reshape(shape[0], -1)
    if kind == "rank one":
        base = torch.outer(flat[:, 0], flat[0]).reshape(shape)
    elif kind == "orthogonal":
        q = torch.linalg.qr(flat.T if flat.shape[0] < flat.shape[1] else flat).Q
        base = (q.T if flat.shape[0] < flat.shape[1] else q).reshape(shape)
    elif kind == "all ones":
        base = torch.ones(shape, dtype=torch.float64)
    elif kind == "one huge entry":
        base.view(-1)[int(torch.randint(base.numel(), (), generator=generator))] *= 1e12
    elif kind == "huge":
        base *= 1e150
    elif kind == "tiny":
        base *= 1e-200
    elif kind == "denormal":
        with flushing(False):
            base *= 2.0**-600
            base *= 2.0**-430
    elif kind == "wide range":
        base *= 10.0 ** torch.randint(-150, 150, (shape[0],) + (1,) * (len(shape) - 1), generator=generator).double()
    elif kind == "integer":
        base = base.mul(3).round()
    elif kind == "zero":
        base = torch.zeros(shape, dtype=torch.float64)
    return base.to(dtype)


@st.composite
def geometries(draw, largest_image=9, largest_kernel=5, largest_channels=3):
    """Sizes of a convolution with at least one output, as a kernel shape and keyword arguments."""
    pair = lambda low, high: draw(st.tuples(st.integers(low, high), st.integers(low, high)))  # noqa: E731
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    outputs = groups * draw(st.integers(1, largest_channels))
    kernel, stride, dilation = pair(1, largest_kernel), pair(1, 4), pair(1, 4)
    padding = pair(0, 6)
    smallest = [max(1, d * (k - 1) + 1 - 2 * p) for k, d, p in zip(kernel, dilation, padding, strict=True)]
    size = tuple(draw(st.integers(s, max(s, largest_image))) for s in smallest)
    shape = (outputs, draw(st.integers(1, largest_channels)), *kernel)
    return shape, {"input_size": size, "stride": stride, "padding": padding, "dilation": dilation, "groups": groups}


def test_exact_definiteness_knows_the_boundary():
    assert is_positive_semidefinite([[fmpq(1), fmpq(1)], [fmpq(1), fmpq(1)]])
    assert not is_positive_semidefinite([[fmpq(1), fmpq(1)], [fmpq(1), fmpq(1) - fmpq(1, 10**40)]])
    assert not is_positive_semidefinite([[fmpq(0), fmpq(1)], [fmpq(1), fmpq(5)]])


def test_exact_comparison_sees_the_last_bit():
    matrix = [[fmpq(3), fmpq(4)]]
    assert bounds_exactly(5.0, matrix)
    assert not bounds_exactly(math.nextafter(5.0, 0.0), matrix)


@pytest.mark.parametrize("mode", [True, False])
def test_flushing_restores(mode):
    with flushing(mode):
        with flushing(not mode):
            pass
        assert bool((denormal(1) * 1.0 == 0.0).all()) is mode
        assert bool((denormal(1) * 1.0).view(torch.int64).any()) is not mode


def test_rational_reads_denormals():
    assert rational(denormal(3)) == [fmpq(3, 2**1074)]
    assert rational(torch.tensor([1], dtype=torch.int32).view(torch.float32)) == [fmpq(1, 2**149)]
