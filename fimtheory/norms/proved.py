r"""Certified bounds on the Jacobian of a program: P(w) with M M^* <= P for every admissible M, step by step.

Let the map with symbol P bound M M^* before a step; P(w) is the float64 matrix as stored, and P >= M M^* >= 0.

Linear.  M becomes W M, so W P W^* bounds it; a stride takes the mean over aliases (`torus`).  Where one position is
left, M is real, and the real part of P bounds M M^T as well.
Activation.  M becomes D M with |D - C| <= R, and (D M)(D M)^* <= D P D <= C H C + R K R by (*) of `majorant` for
p = C v and e = (D - C) v, because K is diagonal and constant over positions: e^* K e <= v^* R K R v.
Maximum.  M becomes S M, where S^* v has in each window v s, and S P S^* <= T H T^* + rho by (*) for p = T^* v, t v on
all entries of the window, and e = (s - t 1) v, with t and rho of `remainder`.
Readout.  Coordinates (c, o) are B_o on channel c: their entries are the means over w of
B_o(w) P(w) B_o'(w)^*, B_o(w) the symbol of the combination.
The entry is an image among zeros, M M^* <= I.

Rounding.  P >= 0 has |P_kl| <= s_k s_l with s_k = sqrt(P_kk).  With p = B s for the magnitudes B of a symbol W, which
errs by at most eta B, the matrix W P W^* is computed within ((1 + eta)^2 - 1 + 2 sqrt(2) gamma (1 + ...)) p_i p_j,
gamma = gamma_{2n+2} for complex products of n terms: `_GAIN` covers the sum.  A Hermitian matrix E of order m with
|E_ij| <= g p_i p_j satisfies E <= g m diag(p^2).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fimtheory.errors import NonFiniteError
from fimtheory.norms.joint import Activation, Linear, Maximum, Program, Readout, remainder
from fimtheory.norms.lanczos import largest_ritz_value
from fimtheory.norms.majorant import Multipliers, majorant
from fimtheory.norms.reach import Reach
from fimtheory.norms.rounding import UNDERFLOW, UNIT, gamma_n
from fimtheory.norms.symbol import COSINE
from fimtheory.norms.torus import Torus

__all__ = ["Choice", "reach_of", "shaped"]

Choice = tuple[Tensor, float]
"""Logarithms of the shape of the multipliers of a step, and by how much they exceed the least, relative."""

_ENTRIES = 2**21  # of the matrices held at a time beside P
_TRIES = 6  # to raise the multipliers of a step until a factorisation runs to completion
_RANGE = 2.0**200  # a P whose largest diagonal entry is this far from 1 is refused: nothing under- or overflows


def reach_of(program: Program, choices: Sequence[Choice]) -> Reach | None:
    """Bound on M M^T for a program that ends on a point; None if a factorisation fails.

    Raises
    ------
    NonFiniteError
        A bound on the way is beyond 2^200 or below 2^-200.
    """
    torus = program.torus
    count = torus.frequencies.shape[1]
    p = torch.eye(program.channels, dtype=torus.dtype).expand(count, -1, -1).contiguous()
    remaining = list(choices)
    for step in program.steps:
        if isinstance(step, Linear):
            p, torus = _through(p, torus, step)
        elif isinstance(step, Readout):
            p, torus = _read(p, torus, step)
        else:
            after = _after(p, step, remaining.pop(0))
            if after is None:
                return None
            p = after
        largest = float(p.diagonal(dim1=-2, dim2=-1).real.max())
        if not 1.0 / _RANGE < largest < _RANGE:
            raise NonFiniteError(f"a Jacobian has a squared norm of about {largest:.3g}, too far from 1 to be scaled")
    assert torus.is_point, "a program ends on a point"
    shift = math.frexp(float(p[0].diagonal().max()))[1]
    return Reach(p[0] * 2.0**-shift, shift)


def shaped(step: Activation | Maximum, shape: Tensor) -> Multipliers:
    """Multipliers of a shape given by logarithms: alpha, then beta where windows have several entries."""
    if isinstance(step, Activation):
        return Multipliers(shape.exp(), torch.zeros_like(shape))
    alpha, beta = shape.exp().chunk(2)
    return Multipliers(alpha, beta, step.window)


def _roots(p: Tensor) -> Tensor:
    """Return s = sqrt(diag P), rounded up; relative error below 2^-40."""
    return p.diagonal(dim1=-2, dim2=-1).real.sqrt() * (1.0 + 2.0**-40)


def _gain(terms: int, error: float) -> float:
    """Return g for products of ``terms`` terms with a symbol within ``error``, relative to its magnitude."""
    return 3.0 * error + 4.0 * gamma_n(2 * terms + 16)


def _raise(p: Tensor, sizes: Tensor, g: float) -> None:
    """Add g m sizes^2 to the diagonal, rounded up."""
    p.diagonal(dim1=-2, dim2=-1).add_(sizes.square() * (1.01 * p.shape[-1] * g)).mul_(1.0 + 16.0 * UNIT).add_(UNDERFLOW)


def _through(p: Tensor, torus: Torus, step: Linear) -> tuple[Tensor, Torus]:
    """W P W^*, then the mean over aliases: of A terms it errs by gamma_{A+1} sqrt(mean p_i^2) sqrt(mean p_j^2)."""
    coarse = torus.coarser(step.stride)
    aliases = torus.aliases(step.stride)
    count, m = coarse.frequencies.shape[1], step.size
    made = torch.empty((count, m, m), dtype=torus.dtype)
    squares = torch.zeros((count, m), dtype=torch.float64)
    new, magnitude = len(step.taps), step.magnitude
    chunk = max(1, _ENTRIES // (max(m, p.shape[-1]) ** 2))
    for i in range(0, count, chunk):
        part = slice(i, i + chunk)
        total = torch.zeros_like(made[part])
        for frequencies, index, mirrored in aliases:
            before = p[index[part]]
            if bool(mirrored[part].any()):
                before = torch.where(mirrored[part, None, None], before.conj(), before)
            symbol = step.symbol(torus, frequencies[:, part])
            images = symbol @ before[:, step.sources]
            total[:, :new, :new] += images[:, :, step.sources] @ symbol.mH
            total[:, new:, :new] += images[:, :, step.kept].mH
            total[:, new:, new:] += before[:, step.kept][:, :, step.kept]
            s = _roots(before)
            sizes = torch.cat([(s[:, step.sources] @ magnitude.T) * (1.0 + 2.0**-19), s[:, step.kept]], 1)
            squares[part] += sizes.square()
        lower = total.tril()
        made[part] = lower + lower.tril(-1).mH
        diagonal = made[part].diagonal(dim1=-2, dim2=-1)
        if made.is_complex():
            diagonal.imag.zero_()
    share = len(aliases)
    made /= share
    means = (squares / share * (1.0 + 2.0**-19)).sqrt()
    _raise(made, means, _gain(len(step.sources), step.error) + gamma_n(share + 4))
    return made.real.contiguous() if coarse.is_point else made, coarse


def _read(p: Tensor, torus: Torus, step: Readout) -> tuple[Tensor, Torus]:
    """Means over the frequencies of terms of magnitude b_o s_c b_o' s_c', which are at most p p'.

    Here p = b_o sqrt(mean s_c^2), by Cauchy and Schwarz, and b_o is the sum of the magnitudes of the weights.
    """
    n, count = p.shape[-1], len(step.weights)
    phases = torus.phases(torus.frequencies, step.offsets) @ step.weights.T.to(torus.dtype)  # (frequencies, o)
    outer = phases[:, :, None] * phases[:, None, :].conj() * torus.weights[:, None, None]
    left, right = outer.flatten(1), p.flatten(1)
    product = left.real.T @ right.real - left.imag.T @ right.imag if p.is_complex() else left.T @ right
    made = product.reshape(count, count, n, n).permute(2, 0, 3, 1).reshape(n * count, n * count)
    lower = made.tril()
    made = (lower + lower.tril(-1).T)[None]
    mean = (p.diagonal(dim1=-2, dim2=-1).real * torus.weights[:, None]).sum(0).sqrt() * (1.0 + 2.0**-18)
    sizes = mean[:, None] * (step.weights.abs().sum(1) * (1.0 + 2.0**-18))
    terms = step.weights.shape[1]
    error = 1.5 * (gamma_n(terms + 8) + COSINE)
    _raise(made, sizes.reshape(1, -1), 3.0 * error + 4.0 * gamma_n(2 * len(p) + 16))
    return made, Torus((1, 1))


def _after(p: Tensor, step: Activation | Maximum, choice: Choice) -> Tensor | None:
    """P after unknown factors; an entry of C H C is rounded twice, a sum over q^2 entries of windows q^2 times more."""
    found = _majorant(p, step, choice)
    if found is None:
        return None
    h, used = found
    m = step.count
    if isinstance(step, Activation):
        kept, centre = h, step.centre
        added = step.radius * step.radius * used.alpha
    else:
        kept = _summed(h, step)
        centre, added = remainder(step, (used.alpha, used.beta))
    whole = torch.ones(kept.shape[-1], dtype=torch.float64)
    whole[:m] = centre
    sizes = _roots(h) if isinstance(step, Activation) else _window_roots(h, step)
    after = kept * (whole[:, None] * whole)
    _raise(after, sizes * whole.abs(), 4.0 * UNIT + gamma_n(step.window**2 + 4))
    after.diagonal(dim1=-2, dim2=-1)[:, :m].add_(added).mul_(1.0 + 16.0 * UNIT)
    return after


def _summed(h: Tensor, step: Maximum) -> Tensor:
    """Sums over the windows, of rows and columns."""
    q, m = step.window, step.count
    rows = torch.cat([h[:, : q * m].unflatten(1, (q, m)).sum(1), h[:, q * m :]], 1)
    both = torch.cat([rows[:, :, : q * m].unflatten(2, (q, m)).sum(2), rows[:, :, q * m :]], 2)
    return 0.5 * (both + both.mH)


def _window_roots(h: Tensor, step: Maximum) -> Tensor:
    q, m = step.window, step.count
    roots = _roots(h)
    return torch.cat([roots[:, : q * m].unflatten(1, (q, m)).sum(1), roots[:, q * m :]], 1) * (1.0 + 2.0**-30)


def _majorant(p: Tensor, step: Activation | Maximum, choice: Choice) -> tuple[Tensor, Multipliers] | None:
    """Multipliers of the chosen shape, the least of the kind above P times 1 + excess, and H for them."""
    shape, excess = choice
    form = shaped(step, shape)
    least = _least(p, form)
    for _ in range(_TRIES):
        found = majorant(p, form.times(least * (1.0 + excess)))
        if found is not None:
            return found
        least *= 1.0 + max(0.25, excess)
    return None


def _least(p: Tensor, form: Multipliers) -> float:
    """Estimate the largest eigenvalue of K^-1/2 P_JJ K^-1/2 over all frequencies; nothing rests on it."""
    q, m = form.window, len(form.alpha)
    alone, mean = form.alpha.rsqrt(), (form.alpha + q * form.beta).rsqrt()
    best = 0.0
    chunk = max(1, _ENTRIES // (p.shape[-1] ** 2))
    for i in range(0, len(p), chunk):
        inner = p[i : i + chunk, : q * m, : q * m]
        if q == 1:
            inner = mean[:, None] * inner * mean
        else:
            root = Multipliers(alone, (mean - alone) / q, q).matrix(p.dtype)
            inner = root @ inner @ root
        best = max(best, largest_ritz_value(inner))
    return best * (1.0 + 2.0**-20) + UNDERFLOW
