"""Certified suprema of lam over balls around inputs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from fimtheory import norms
from fimtheory.claims import Status
from fimtheory.decimals import significant
from fimtheory.errors import NonFiniteError
from fimtheory.instantiation import GraphModule
from fimtheory.local.affine import AffineMap
from fimtheory.local.balls import Ball
from fimtheory.local.logits import LogitDifferences
from fimtheory.local.models import centres_known, require_model
from fimtheory.local.passes import passes
from fimtheory.local.walk import Pass, Walk, increments, jacobian
from fimtheory.norms import interconnection_multipliers as multipliers
from fimtheory.norms.rounding import UNDERFLOW, UNIT, gamma_n

__all__ = ["LocalBounds", "diameter", "local_bound"]

_UP = 1.0 + 2.0**-18
_FAR = 700.0  # exp of more overflows


@final
@dataclass(frozen=True, slots=True)
class LocalBounds:
    """Upper bounds on the supremum of lam over a ball around each input; one entry per input.

    Attributes
    ----------
    value : Tensor
        ``(B,)`` float64, in the units of the module's input; rounded up.
    by : tuple of str
        What gives each: ``probabilities`` (the distributions that the ball can reach) or ``diameter`` (a quarter of
        the largest squared distance of two rows of the Jacobian), whichever is smaller.
    open : Tensor
        ``(B,)`` int64: number of slopes, and of larger blocks of Jacobians, that the ball leaves open.
    radius, norm
        Of the balls: ``l2`` or ``linf``.
    status : Status
        Certified.
    """

    value: Tensor
    by: tuple[str, ...]
    open: Tensor
    radius: float
    norm: str
    status: Status

    def __len__(self) -> int:
        return len(self.by)

    def __repr__(self) -> str:
        if not self.by:
            return f"<LocalBounds: no inputs ({self.status})>"
        largest = self.value.max().item()
        text = significant(largest, math.log10(largest) if largest > 0 else -math.inf, up=True)
        return f"<LocalBounds: lam <= {text} within {self.radius} ({self.norm}) of {len(self)} inputs ({self.status})>"


def local_bound(
    module: GraphModule, x: Tensor, radius: float, *, norm: str = "l2", progress: bool = False
) -> LocalBounds:
    r"""Return a certified bound on ``sup lam(x + u)`` over ``|u| <= radius``, for each input x.

    Let t be a class, ``v_y`` the differences of the Jacobian's rows J_y and J_t, and ``h_y`` the largest probability
    that y has in the ball.  For every p of the ball and every vector w,

        w^T F w  =  min_c sum_y p_y (J_y w - c)^2  <=  min_c sum_y h_y (J_y w - c)^2
                 =  sum_{y != t} h_y (v_y w)^2 - (sum_{y != t} h_y v_y w)^2 / sum_y h_y.

    Proof: a variance is the least mean square around a number, and p <= h.  With a matrix Y that is at least
    ``J J^T`` everywhere in the ball (`interconnection`) lam is at most the largest eigenvalue of the form on the right
    in Y.  It is also at most a quarter of the largest ``(e_i - e_j)^T Y (e_i - e_j)`` (Popoviciu; theorem T3).

    Values and slopes over the ball are enclosed layer by layer (`walk`); the logits' differences bound the h_y.

    Parameters
    ----------
    module : GraphModule
        From ``ft.instantiate(graph)``, or ``ft.from_torch(...).model()``: affine layers, activations with known
        slopes, max pools of images, sums and concatenations, layer norms, RMS norms and group norms, products and
        attention.
    x : Tensor
        ``(B, *input)``, floating point and finite.
    radius : float
        At least 0, in the units of the input.
    norm : str
        ``l2`` or ``linf``: of the ball.  lam always measures in l2.
    progress : bool
        Show a progress bar on stderr.

    Raises
    ------
    GraphError
        The module is no such model, or its graph does not end in two logits or more.
    MissingRuleError
        A layer has no local form; the message names it.
    DataError, ShapeError, NonFiniteError
        The radius, the norm or the inputs are not as above, or a bound is beyond float64.

    Notes
    -----
    In a large ball the bound that holds everywhere (``ft.evaluate``) may be the smaller one; it is not consulted here.
    The bounds are about the exact function with the stored weights.  torch's elementary functions are trusted to a
    relative error of 2^-36.

    Examples
    --------
    >>> from fimtheory import zoo
    >>> model = zoo.load("digits_mlp")
    >>> bound = local_bound(model, torch.full((1, 1, 8, 8), 0.5), 0.01)
    >>> bound, bool(bound.value < 100)
    (<LocalBounds: lam <= ... within 0.01 (l2) of 1 inputs (certified)>, True)
    """
    Ball(torch.zeros(()), radius, norm)  # refuses what is none, for no inputs as well
    require_model(module, x)
    made = passes(module)
    found = [
        _supremum(module, made, Ball(each.detach().to(device="cpu", dtype=torch.float64), radius, norm))
        for each in track(
            x, description="local bounds", console=Console(stderr=True), transient=True, disable=not progress
        )
    ]
    return LocalBounds(
        torch.tensor([value for value, _, _ in found], dtype=torch.float64),
        tuple(by for _, by, _ in found),
        torch.tensor([count for _, _, count in found], dtype=torch.int64),
        radius,
        norm,
        Status.CERTIFIED,
    )


@torch.no_grad()
def _supremum(module: GraphModule, made: Mapping[str, AffineMap | Pass], ball: Ball) -> tuple[float, str, int]:
    """Bound over one ball, what gives it, and how many slopes are open."""
    first = Walk.at(module.graph, made, ball)
    first.centres = centres_known(module, made, ball.centre)
    logits = increments(first)
    largest = _largest_probabilities(LogitDifferences.over(first, logits).least)
    second = Walk.at(module.graph, made, ball)
    second.centres = first.centres
    rows = jacobian(second, first).rows()
    top = int(logits.centre.argmax())
    differences = torch.eye(len(largest), dtype=torch.float64)
    differences[:, top] -= 1.0
    root = _contraction(largest, top) * largest.sqrt() @ differences  # its square is the form in h
    system = multipliers.for_norm(second.system, rows, root.T)
    candidates = []
    for each in (system, second.system):
        gram = each.gram(rows)
        if gram is not None and bool(torch.isfinite(gram).all()):
            candidates += [
                (_largest(gram, largest, top), "probabilities"),
                (diameter(gram), "diameter"),
            ]
    value, by = min(candidates, default=(math.inf, ""))
    if not math.isfinite(value):
        raise NonFiniteError("a local bound is beyond float64; use a smaller radius")
    return value, by, second.open


def _largest_probabilities(least: Tensor) -> Tensor:
    """h: upper bounds on the probabilities over the ball, ``1 / sum_j exp(least z_j - z_y)``, and at most 1."""
    return (least.clamp(-_FAR, _FAR).exp().sum(1).reciprocal() * (1.0 + 2.0**-36)).clamp_max(1.0)


def _contraction(largest: Tensor, top: int) -> Tensor:
    """R = sqrt(I - b b^T), b the roots of the shares of ``largest``, but 0 for ``top``, whose share is 1 - |b|^2.

    R = I - b b^T / (1 + sqrt(1 - |b|^2)), and nothing cancels.
    """
    b = (largest / largest.sum()).sqrt()
    rest = float(b[top])
    b[top] = 0.0
    return torch.eye(len(b), dtype=torch.float64) - torch.outer(b, b) / (1.0 + rest)


def _largest(gram: Tensor, largest: Tensor, top: int) -> float:
    """Largest eigenvalue of the form in h, rounded up.

    With Delta the differences to row ``top``, W = diag(sqrt h) Delta Y Delta^T diag(sqrt h) and b the roots of
    the shares of h the form is R W R, R = sqrt(I - b b^T).  W errs by at most ``gamma sqrt(h_i h_j) e_ij``
    with e the sizes of the differences; R by less than 2^-40, so that the root of the eigenvalue errs by less than
    2^-40 of the root of W's trace.
    """
    size = gram.diagonal().clamp_min(0.0).sqrt()
    root = largest.sqrt()
    root[top] = 0.0  # as its difference is
    differences = gram - gram[top][None, :] - gram[:, top][:, None] + gram[top, top]
    weighted = root[:, None] * differences * root
    rough = (root[:, None] * root) * (size[:, None] + size[top]) * (size[None, :] + size[top])
    missed = float(torch.linalg.matrix_norm(rough)) * 2.0**-48 + UNDERFLOW
    contraction = _contraction(largest, top)
    product = contraction @ weighted @ contraction
    product = 0.5 * (product + product.T)
    error = gamma_n(4 * len(gram) + 64) * float(
        torch.linalg.matrix_norm(contraction.abs() @ weighted.abs() @ contraction.abs())
    )
    upper = norms.dense(product).upper + (missed + error) * _UP
    trace = float(weighted.diagonal().clamp_min(0.0).sum()) + missed
    return (math.sqrt(upper) + 2.0**-40 * math.sqrt(trace)) ** 2 * (1.0 + 2.0**-40)


def diameter(gram: Tensor) -> float:
    """A quarter of the largest form of a difference of two unit vectors, rounded up."""
    squares = gram.diagonal()
    size = squares[:, None] + squares
    return 0.25 * float((size - gram - gram.T + 8.0 * UNIT * size).max()) * (1.0 + 2.0**-40) + UNDERFLOW
