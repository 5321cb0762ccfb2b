"""Certified norm of a zero-padded convolution: its Fourier symbol on a torus or on a coarser grid, or its matrix."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fimtheory.errors import ShapeError
from fimtheory.norms.certified import CertifiedNorm, unscaled, zero_norm
from fimtheory.norms.matrices import StoredNorm, batch_norm_bound
from fimtheory.norms.rounding import up
from fimtheory.norms.scaling import RowScale, exact_float64, scale_rows
from fimtheory.norms.spectrum import SpectralLevel
from fimtheory.norms.stride_one import Geometry, Pair, StrideOne
from fimtheory.norms.symbol import GramSymbol
from fimtheory.norms.toeplitz import toeplitz

__all__ = ["convolution"]

_WORK = 10**11  # multiply-adds spent on one symbol; about 15 s on two cores
_POINTS_PER_DEGREE = (512, 384, 256, 192, 128, 96, 64, 48, 32, 24, 16)
_MATRIX_SIDE = 2048  # operators whose smaller side is at most this are also bounded through their matrix,
_MATRIX_ENTRIES = 2**25  # if that takes at most 256 MiB


def convolution(
    kernel: Tensor,
    input_size: Pair,
    *,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    groups: int = 1,
    row_scale: RowScale | None = None,
) -> CertifiedNorm:
    """Norm of a zero-padded two-dimensional cross-correlation, as in ``torch.nn.functional.conv2d``.

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
        Shape (c_out, c_in / groups, kh, kw), any floating dtype; converted exactly to float64.
    input_size
        Height and width of the image.
    stride, padding, dilation
        Per dimension; padding is by zeros, the same on both sides.
    groups
        Number of groups of channels.
    row_scale
        ``(scale, relative_error)`` as returned by `folded_scale`: a factor for each output channel, such as a batch
        norm that follows.

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
    if kernel.dim() != 4:
        raise ShapeError(f"a kernel has shape (c_out, c_in / groups, kh, kw), got {tuple(kernel.shape)}")
    c_out, c_in, k1, k2 = kernel.shape
    geometry = Geometry((c_out, c_in, k1, k2), input_size, stride, padding, dilation, groups)
    scaled = scale_rows(_live(kernel, geometry).reshape(c_out, -1), row_scale, "the kernel")
    if scaled.values is None:
        return zero_norm()
    values = scaled.values.reshape(c_out, c_in, k1, k2)
    reduced = StrideOne.of(values, geometry)
    windows_overlap = reduced.kernel.shape[3:] != (1, 1)
    bounds = [_symbol_bound(reduced) if windows_overlap else _reshaped_bound(reduced)]
    rows, columns = (c_out // groups) * math.prod(geometry.output_size), c_in * math.prod(input_size)
    small = min(rows, columns) <= _MATRIX_SIDE and groups * rows * columns <= _MATRIX_ENTRIES
    if small and (windows_overlap or padding != (0, 0)):
        matrix = batch_norm_bound(toeplitz(values, geometry))
        bounds.append(StoredNorm(matrix.value, matrix.magnitude, "dense toeplitz"))
    best = min(bounds, key=lambda bound: bound.value)
    return unscaled(scaled.outward(best.value, best.magnitude), scaled.exponent, best.method)


def _live(kernel: Tensor, geometry: Geometry) -> Tensor:
    """Kernel in float64 with zeros in place of the taps that only ever multiply padding."""
    exact = exact_float64(kernel, "the kernel")
    kept = torch.zeros_like(exact)
    for a in geometry.live_taps(0):
        for b in geometry.live_taps(1):
            kept[:, :, a, b] = exact[:, :, a, b]
    return kept


def _reshaped_bound(reduced: StrideOne) -> StoredNorm:
    """Windows share no input: each is an independent copy of the kernel as a matrix."""
    bound = batch_norm_bound(reduced.kernel[..., 0, 0])
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
    name = f"{sides[0]}x{sides[1]}"
    certificate = "" if level.certificate == "cholesky" else f" by {level.certificate}"
    if sides == reduced.torus:
        return StoredNorm(value, symbol.magnitude, f"torus {name}{certificate}")
    return StoredNorm(up(value * factor), symbol.magnitude, f"grid {name} x {factor:.4f}{certificate}")


def _frequencies(reduced: StrideOne, order: int) -> tuple[Pair, float]:
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
    sides = torus
    for points in _POINTS_PER_DEGREE:
        if groups * (sides[0] * sides[1] // 2 + 1) * order * order * (order + 100) <= _WORK:
            break
        sides = min(torus[0], points * (taps[0] - 1) // 2 + 1), min(torus[1], points * (taps[1] - 1) // 2 + 1)
    factor = 1.0
    for side, full, k in zip(sides, torus, taps, strict=True):
        if side < full:
            # pi d / N <= pi/16: the cosine is above 0.98 and its argument and value err by less than 2^-50.
            factor = up(factor * up((1.0 + 2.0**-48) / math.cos(math.pi * (k - 1) / (2 * side))))
    return sides, factor
