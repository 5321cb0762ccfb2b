"""Maps of several numbers to several others of which a matrix is known, up to a bound on the rest.

A layer's Jacobian, or the matrix of its secants from the centre, is J + R over the ball, with J known and
``||R_b|| <= rho_b`` for the blocks of R.  Each block becomes one of an `Interconnection`: rho_b times an unknown
contraction.  The rho_b follow from how far the layer's inputs move, of which `distances` are bounds.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fimtheory import norms
from fimtheory.errors import NonFiniteError
from fimtheory.local.affine import LOST
from fimtheory.local.walk import FAR, VISIBLE, Form, Walk
from fimtheory.norms import interconnection_multipliers as multipliers
from fimtheory.norms.interconnection import Rows, euclidean
from fimtheory.norms.rounding import UNIT, gamma_n
from fimtheory.norms.scaling import power_of_two

__all__ = ["centred", "distances", "opened", "require_finite", "spectral", "times", "totals"]

_UP = 1.0 + 2.0**-18


def totals(sizes: Tensor, groups: Tensor, count: int) -> Tensor:
    """Upper bounds on the Euclidean norms of ``count`` groups of nonnegative numbers.

    >>> sizes = torch.tensor([3e-200, 4e-200, 1.0], dtype=torch.float64)
    >>> [f"{total:.3g}" for total in totals(sizes, torch.tensor([0, 0, 1]), 2).tolist()]
    ['5e-200', '1']
    """
    largest = sizes.new_zeros(count).scatter_reduce(0, groups, sizes, "amax")
    shares = sizes / torch.where(largest > 0, largest, 1.0)[groups]
    return largest * sizes.new_zeros(count).index_add(0, groups, shares.square()).sqrt() * _UP


def spectral(matrices: Tensor) -> Tensor:
    """Upper bounds on the spectral norms of matrices (b, rows, columns)."""
    return torch.tensor([norms.dense(matrix).upper for matrix in matrices], dtype=torch.float64)


def distances(walk: Walk, node: str, rows: Rows, groups: Tensor, count: int) -> Tensor:
    """Bounds on how far, in the Euclidean norm, groups of entries move over the ball; ``rows`` are their increments.

    The better of two: the largest eigenvalue of the block of a Gram matrix, and the sum of squares of bounds term by
    term.

    Raises
    ------
    NonFiniteError
        A bound is beyond float64.
    """
    found = totals(walk.extent(rows), groups, count)
    system = multipliers.for_rows(walk.system, rows)
    gram = system.gram(rows)
    if gram is not None and bool(torch.isfinite(gram).all()):
        walk.system = system
        largest = gram.diagonal().clamp_min(0.0)
        if len(groups) > count:
            members = [(groups == group).nonzero().flatten() for group in range(count)]
            largest = torch.cat([spectral(gram[which][:, which][None]) for which in members])
        found = torch.minimum(found, largest.sqrt() * (walk.ball.euclidean * _UP))
    require_finite(node, found)
    return found


def require_finite(node: str, values: Tensor) -> None:
    """Refuse bounds that are infinite, or no numbers.

    Raises
    ------
    NonFiniteError
        The message names the node.
    """
    if not bool(torch.isfinite(values).all()):
        raise NonFiniteError(f"node {node}: its values in the ball are beyond float64; use a smaller radius")


def opened(
    walk: Walk, received: Rows, takes: Tensor, gives: Tensor, rho: Tensor, known: Tensor, moved: Tensor
) -> Tensor:
    """Add unknown blocks to a walk; return the columns (unknown numbers, entries) that they add to a form.

    Parameters
    ----------
    walk, received, takes
        Block ``takes[k]`` receives row k.
    gives
        The block that hands on a number to each entry.
    rho, known
        Of each block: bounds on the norm of what is unknown, and (no bound, only to choose a multiplier by) of what
        is known.
    moved
        Of each block, a bound on the norm of what it receives over the ball, if the rows are increments.
    """
    rho, count = rho.clamp_min(LOST), len(rho)
    lengths = euclidean(received.values, 1)
    size, missed = totals(lengths, takes, count), totals(received.error, takes, count)
    # In units of about what it receives, an unknown number and its multiplier are of the size of one.
    unit = torch.frexp(torch.maximum(size, missed * VISIBLE) * rho).exponent.long().clamp(-FAR, FAR)
    factor = rho * power_of_two(-unit)
    each = factor[takes]
    scaled = Rows(received.values * each[:, None], (received.error * each + 2.0 * UNIT * lengths * each + LOST) * _UP)
    reach = totals(walk.extent(scaled), takes, count)
    if walk.secant:
        reach = torch.minimum(reach, (moved * factor + LOST) * _UP)
    walk.reach = torch.cat([walk.reach, reach])
    walk.system = walk.system.extended(scaled, known / rho, takes=takes, gives=gives)
    return torch.diag(power_of_two(unit)[gives])


def times(form: Form, factor: float) -> Form:
    """The form times a number that is known to a relative error of 2^-52."""
    size = abs(factor) * _UP
    columns = form.columns * factor
    return Form(
        form.centre * factor,
        (form.spread + 4.0 * UNIT * form.centre.abs()) * size + LOST,
        columns,
        form.error * size + 4.0 * UNIT * euclidean(columns, 0) * _UP + LOST,
    )


def centred(form: Form, weights: Tensor) -> Form:
    """Entries minus a mean over the last dimension; weights of 0 leave entries out of the mean, and out of the result.

    The other weights are the same number but for its rounding: the mean is the plain one.
    """
    inside = (weights > 0).to(torch.float64)

    def spread_out(sizes: Tensor) -> Tensor:
        return (sizes + (sizes * weights).sum(-1, keepdim=True)) * inside

    rounding = gamma_n(weights.shape[-1] + 16)
    mean, means = ((part * weights).sum(-1, keepdim=True) for part in (form.centre, form.columns))
    sizes = euclidean(form.columns, 0)
    return Form(
        (form.centre - mean) * inside,
        (spread_out(form.spread) + rounding * spread_out(form.centre.abs())) * _UP + LOST,
        (form.columns - means) * inside,
        (spread_out(form.error) + rounding * spread_out(sizes)) * _UP + LOST,
    )
