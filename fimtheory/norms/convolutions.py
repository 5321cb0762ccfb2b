"""Certified norm of a zero-padded convolution: its Fourier symbol on a torus or on a coarser grid, or its matrix."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from fimtheory.errors import ShapeError
from fimtheory.norms.certified import CertifiedNorm, unscaled, zero_norm
from fimtheory.norms.matrices import StoredNorm, batch_norm_bound
from fimtheory.norms.rounding import up
from fimtheory.norms.scaling import RowScale, exact_float64, scale_rows
from fimtheory.norms.spectrum import SpectralLevel
from fimtheory.norms.stride_one import Geometry, Sizes, StrideOne
from fimtheory.norms.symbol import GramSymbol
from fimtheory.norms.toeplitz import toeplitz

__all__ = ["convolution", "transposed_convolution"]

_WORK = 10**11  # multiply-adds spent on one symbol; about 15 s on two cores
_LAG = 1000  # multiply-adds that take as long as the cosine and the sine of one lag at one frequency
_POINTS_PER_DEGREE = (512, 384, 256, 192, 128, 96, 64, 48, 32, 24, 16)
_MATRIX_SIDE = 2048  # operators whose smaller side is at most this are also bounded through their matrix,
_MATRIX_ENTRIES = 2**25  # if that takes at most 256 MiB


def convolution(
    kernel: Tensor,
    input_size: Sizes,
    *,
    stride: Sizes | None = None,
    padding: Sizes | None = None,
    dilation: Sizes | None = None,
    groups: int = 1,
    row_scale: RowScale | None = None,
    column_scale: RowScale | None = None,
) -> CertifiedNorm:
    """Norm of a zero-padded cross-correlation in any number of dimensions, as in ``torch.nn.functional.conv2d``.

    Status: certified.  The operator is first reduced to stride-one convolutions (`stride_one`); these are submatrices
    of circular convolutions on a torus, whose norm is the largest norm of the symbol over the torus frequencies.  The
    smallest of the following is returned.

    - ``"reshaped kernel"``: no two windows overlap, so the norm is that of the kernel as a matrix (exact for 1x1 and
      patch embeddings).
    - ``"torus N1xN2"``: the maximum over the frequencies of the torus.
    - ``"grid N1xN2 x f"``: for large images, a coarser grid in some dimension, times f = prod sec(pi d / N) over those
      dimensions with d = (k - 1)/2; it bounds every image size.
    - ``"dense toeplitz"``: for small images, the operator as a matrix.

    Parameters
    ----------
    kernel
        Shape (c_out, c_in / groups, *taps), any floating dtype; converted exactly to float64.
    input_size
        Size of the image in each dimension.
    stride, padding, dilation
        Per dimension, by default 1, 0 and 1; padding is by zeros, the same on both sides.
    groups
        Number of groups of channels.
    row_scale
        ``(scale, relative_error)`` as returned by `folded_scale`: a factor for each output channel, such as a batch
        norm that follows.
    column_scale
        The same for each input channel, in place of a row scale.

    Raises
    ------
    ShapeError
        The sizes do not fit together, or a dimension is empty.
    NonFiniteError
        A weight is NaN or infinite, or the norm is beyond float64.

    Notes
    -----
    Sedghi, Gupta and Long, The singular values of convolutional layers, ICLR 2019, for the circular case.  A circular
    convolution of the same size as the image does not bound the zero-padded one: the torus must hold the padding.

    >>> import torch
    >>> norm = convolution(torch.ones(1, 1, 3, 3), (12, 12), padding=(1, 1))
    >>> 8.65 < norm.upper < 9.0, norm.method
    (True, 'dense toeplitz')
    """
    count = kernel.dim() - 2
    if count < 1:
        raise ShapeError(f"a kernel has shape (c_out, c_in / groups, *taps), got {tuple(kernel.shape)}")
    if row_scale is not None and column_scale is not None:
        raise ShapeError("a convolution takes a row scale or a column scale, not both")
    one, none = (1,) * count, (0,) * count
    geometry = Geometry(tuple(kernel.shape), input_size, stride or one, padding or none, dilation or one, groups)
    live = _live(kernel, geometry)
    rows = live if column_scale is None else _by_inputs(live, groups)
    scaled = scale_rows(rows.flatten(1), row_scale or column_scale, "the kernel")
    if scaled.values is None:
        return zero_norm()
    values = scaled.values.reshape(rows.shape)
    values = values if column_scale is None else _by_inputs(values, groups)
    reduced = StrideOne.of(values, geometry)
    windows_overlap = max(reduced.kernel.shape[3:]) > 1
    bounds = [_symbol_bound(reduced) if windows_overlap else _reshaped_bound(reduced)]
    outputs, inputs = (
        (kernel.shape[0] // groups) * math.prod(geometry.output_size),
        kernel.shape[1] * math.prod(input_size),
    )
    small = min(outputs, inputs) <= _MATRIX_SIDE and groups * outputs * inputs <= _MATRIX_ENTRIES
    if small and (windows_overlap or any(geometry.padding)):
        matrix = batch_norm_bound(toeplitz(values, geometry))
        bounds.append(StoredNorm(matrix.value, matrix.magnitude, "dense toeplitz"))
    best = min(bounds, key=lambda bound: bound.value)
    return unscaled(scaled.outward(best.value, best.magnitude), scaled.exponent, best.method)


def transposed_convolution(
    kernel: Tensor,
    input_size: Sizes,
    *,
    stride: Sizes,
    padding: Sizes,
    output_padding: Sizes,
    dilation: Sizes,
    groups: int = 1,
    row_scale: RowScale | None = None,
) -> CertifiedNorm:
    """Norm of a transposed convolution, as in ``torch.nn.functional.conv_transpose2d``.

    Status: certified.  It is the adjoint of the convolution with the same kernel (c_in, c_out / groups, *taps) on its
    own output, or of some rows of it where the output padding holds another window; factors of its outputs are factors
    of that convolution's inputs.

    Raises
    ------
    ShapeError, NonFiniteError
        See ``convolution``.

    >>> norm = transposed_convolution(
    ...     torch.ones(1, 1, 2), (5,), stride=(2,), padding=(0,), output_padding=(0,), dilation=(1,)
    ... )
    >>> 2**0.5 <= norm.upper < 2**0.5 * (1 + 1e-7)
    True
    """
    each = zip(input_size, kernel.shape[2:], stride, padding, output_padding, dilation, strict=True)
    size = tuple((n - 1) * s - 2 * p + d * (k - 1) + o + 1 for n, k, s, p, o, d in each)
    return convolution(
        kernel, size, stride=stride, padding=padding, dilation=dilation, groups=groups, column_scale=row_scale
    )


def _by_inputs(kernel: Tensor, groups: int) -> Tensor:
    """Exchange outputs and inputs of the kernels of all groups.

    >>> _by_inputs(torch.arange(8.0).reshape(4, 2, 1), 2).flatten(1).tolist()
    [[0.0, 2.0], [1.0, 3.0], [4.0, 6.0], [5.0, 7.0]]
    """
    outputs, inputs, *taps = kernel.shape
    return (
        kernel.reshape(groups, outputs // groups, inputs, *taps)
        .transpose(1, 2)
        .reshape(groups * inputs, outputs // groups, *taps)
    )


def _live(kernel: Tensor, geometry: Geometry) -> Tensor:
    """Kernel in float64 with zeros in place of the taps that only ever multiply padding."""
    exact = exact_float64(kernel, "the kernel")
    kept = torch.zeros_like(exact)
    for tap in itertools.product(*(geometry.live_taps(i) for i in range(kernel.dim() - 2))):
        kept[:, :, *tap] = exact[:, :, *tap]
    return kept


def _reshaped_bound(reduced: StrideOne) -> StoredNorm:
    """Windows share no input: each is an independent copy of the kernel as a matrix."""
    bound = batch_norm_bound(reduced.kernel.flatten(3)[..., 0])
    return StoredNorm(bound.value, bound.magnitude, "reshaped kernel")


def _symbol_bound(reduced: StrideOne) -> StoredNorm:
    """Largest norm of the symbol over the frequencies that bound the zero-padded operator."""
    symbol = GramSymbol(reduced.kernel)
    sides, factor = _frequencies(reduced, symbol.order)
    # Some |entry| of the kernel is at least 1/4, so by Parseval the largest squared norm over any grid of at least as
    # many points per dimension as taps is at least 1/16.
    level = SpectralLevel(2.0**-5)
    for grams in symbol.chunks(sides):
        level.cover(grams)
    value = up(math.sqrt(up(level.upper(symbol.order) + symbol.gram_error)))
    name = "x".join(str(side) for side in sides)
    certificate = "" if level.certificate == "cholesky" else f" by {level.certificate}"
    if sides == reduced.torus:
        return StoredNorm(value, symbol.magnitude, f"torus {name}{certificate}")
    return StoredNorm(up(value * factor), symbol.magnitude, f"grid {name} x {factor:.4f}{certificate}")


def _frequencies(reduced: StrideOne, order: int) -> tuple[Sizes, float]:
    """Grid sides that bound the operator within the work limit, and the factor by which to multiply its maximum.

    The torus where it is affordable.  Otherwise N points per dimension with the factor sec(pi d / N), d = (k - 1)/2.
    Proof: for fixed unit vectors u, v and one dimension, f(w) = exp(i d w) u^* K(w) v is a bounded function of
    exponential type d.  At a maximum w0 of |f|, rotate f so that f(w0) = M > 0; the real part g has type d and
    |g| <= M, so by the Duffin-Schaeffer inequality g'^2 + d^2 g^2 <= d^2 M^2 it satisfies g(w0 + t) >= M cos(d t) for
    |t| <= pi / d, and some grid point has |t| <= pi / N.  Dimension by dimension the factors multiply, and a dimension
    may stay on its torus.
    """
    groups, _, _, *taps = reduced.kernel.shape
    torus = reduced.torus
    sides, lags = torus, math.prod(2 * k - 1 for k in taps)
    for points in _POINTS_PER_DEGREE:
        if (math.prod(sides) // 2 + 1) * (groups * order * order * (order + 100) + _LAG * lags) <= _WORK:
            break
        sides = tuple(min(side, points * (k - 1) // 2 + 1) for side, k in zip(torus, taps, strict=True))
    factor = 1.0
    for side, full, k in zip(sides, torus, taps, strict=True):
        if side < full:
            # pi d / N <= pi/16: the cosine is above 0.98 and its argument and value err by less than 2^-50.
            factor = up(factor * up((1.0 + 2.0**-48) / math.cos(math.pi * (k - 1) / (2 * side))))
    return sides, factor
