"""Radii within which a prediction cannot change, from bounds that hold in balls around the inputs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from fimtheory.claims import Status
from fimtheory.decimals import significant
from fimtheory.errors import NonFiniteError
from fimtheory.instantiation import GraphModule
from fimtheory.local.affine import AffineMap
from fimtheory.local.balls import Ball
from fimtheory.local.logits import LogitDifferences
from fimtheory.local.models import centres_known, require_model
from fimtheory.local.passes import passes
from fimtheory.local.walk import Pass, Walk, increments

__all__ = ["LocalRadii", "local_radius"]

_WALKS = 5  # enclosures for one input; each certifies a radius
_MANY = 1000  # unknown slopes in a ball after which no larger one is tried: time grows like their cube
_CLOSE = 1.02  # a ball is about as large as what it certifies
_FIRST = 0.1  # of the distance to the boundary that the gradients at the input tell; a large ball costs much
_DOWN = 1.0 - 2.0**-40


@final
@dataclass(frozen=True, slots=True)
class LocalRadii:
    """Radii within which a prediction cannot change, one entry per input.

    Attributes
    ----------
    radius : Tensor
        ``(B,)`` float64, in the ``norm`` and the units of the module's input, rounded down: every input nearer than
        this has the same predicted class, with a logit above all others.  0 where two classes share the largest.
    predicted : Tensor
        ``(B,)`` int64: class of the largest logit.
    norm : str
        ``l2`` or ``linf``.
    status : Status
        Certified.
    """

    radius: Tensor
    predicted: Tensor
    norm: str
    status: Status

    def __len__(self) -> int:
        return len(self.radius)

    def __repr__(self) -> str:
        """With the lower median."""
        if len(self) == 0:
            return f"<LocalRadii: no inputs ({self.status})>"
        median = self.radius.quantile(0.5, interpolation="lower").item()
        text = significant(median, math.log10(median) if median > 0 else -math.inf, up=False)
        return f"<LocalRadii: median {text} ({self.status}, {self.norm})>"


def local_radius(module: GraphModule, x: Tensor, *, norm: str = "l2", progress: bool = False) -> LocalRadii:
    r"""Return how far each input may move before the prediction can change, by bounds around the input.

    In a ball of radius R around x the values are enclosed layer by layer (`walk`); that bounds by how much a difference
    ``z_c - z_j`` of the largest logit and another changes.  Two radii follow: R, if no difference can vanish in the
    ball; and with the Gram matrix Y of the increments

        min_j (z_c - z_j) / sqrt((e_c - e_j)^T Y (e_c - e_j)),   at most R,

    as ``|(z_c - z_j)(x + u) - (z_c - z_j)(x)| <= |u| sqrt((e_c - e_j)^T Y (e_c - e_j))`` for every u of the ball (in
    linf with ``|u|_2 <= sqrt(d) |u|_inf``).  Larger balls have larger Y: R is moved to where the two meet, and the
    largest radius that was certified on the way is returned.

    Unlike in `certified_radius`, which has one bound for all inputs, the logits at x are enclosed: rounding in the
    network's forward pass cannot make a radius too large.

    Parameters
    ----------
    module : GraphModule
        From ``ft.instantiate(graph)``, or ``ft.from_torch(...).model()``, of layers that ``local_bound`` passes.
    x : Tensor
        ``(B, *input)``, floating point and finite.
    norm : str
        ``l2`` or ``linf``: of the radii.
    progress : bool
        Show a progress bar on stderr.

    Raises
    ------
    GraphError
        The module is no such model, or its graph does not end in two logits or more.
    MissingRuleError
        A layer has no local form; the message names it.
    DataError, ShapeError, NonFiniteError
        The norm or the inputs are not as above, or a value at an input is beyond float64.

    Examples
    --------
    >>> from fimtheory import zoo
    >>> model = zoo.load("digits_mlp")
    >>> from fimtheory.data import load_data
    >>> digits = load_data("digits:test", (1, 8, 8), n=2, seed=0)
    >>> local_radius(model, digits.inputs)
    <LocalRadii: median 0.4... (certified, l2)>
    """
    Ball(torch.zeros(()), 0.0, norm)  # refuses another norm, for no inputs as well
    require_model(module, x)
    made = passes(module)
    found = [
        _largest(module, made, each.detach().to(device="cpu", dtype=torch.float64), norm)
        for each in track(
            x, description="local radii", console=Console(stderr=True), transient=True, disable=not progress
        )
    ]
    return LocalRadii(
        torch.tensor([radius for radius, _ in found], dtype=torch.float64),
        torch.tensor([top for _, top in found], dtype=torch.int64),
        norm,
        Status.CERTIFIED,
    )


@torch.no_grad()
def _largest(module: GraphModule, made: Mapping[str, AffineMap | Pass], x: Tensor, norm: str) -> tuple[float, int]:
    """Largest radius that a few balls certify, and the class of the largest logit."""
    centres = centres_known(module, made, x)

    def walk(radius: float) -> Walk:
        made_anew = Walk.at(module.graph, made, Ball(x, radius, norm))
        made_anew.centres = centres
        return made_anew

    top, _, reach, _ = _certified(walk(0.0))  # the reach at a point is that of its gradients
    best, tried = 0.0, list[tuple[float, float]]()
    radius = _FIRST * min(reach, float(x.abs().max()) + 1.0)
    for _ in range(_WALKS if radius > 0.0 else 0):
        try:
            _, found, reach, count = _certified(walk(radius))
        except NonFiniteError:  # the ball is far too large
            radius /= 8.0
            continue
        best = max(best, found)
        tried.append((radius, reach))
        following = _next(tried)
        if radius < _CLOSE * reach < _CLOSE**2 * radius or (count > _MANY and following > radius):
            break
        radius = following
    return best, top


def _certified(walk: Walk) -> tuple[int, float, float, int]:
    """Class of the largest logit, radius that a ball certifies, how far its slopes reach, and how many are open."""
    ball = walk.ball
    logits = increments(walk)
    differences = LogitDifferences.over(walk, logits)
    top = int(logits.centre.argmax())
    others = torch.arange(len(logits.centre)) != top
    gaps = (differences.centre - differences.room)[others, top]
    if not bool(gaps.isfinite().all()):
        raise NonFiniteError("the logits at an input are beyond float64; use inputs or weights of a usual size")
    if not bool((gaps > 0).all()):
        return top, 0.0, 0.0, walk.open
    steepest = differences.slope[others, top] * Ball(ball.centre, 1.0, ball.norm).euclidean
    reach = float((gaps / steepest).min()) * _DOWN
    if math.isnan(reach):  # which no comparison below would notice
        raise NonFiniteError(
            "how far the logits move in a ball is beyond float64; use inputs or weights of a usual size"
        )
    stays = bool((differences.least[others, top] > 0).all())
    return top, ball.radius if stays else min(ball.radius, reach), reach, walk.open


def _next(tried: list[tuple[float, float]]) -> float:
    """Radius where a line through the last two balls, in logarithms, has a reach of that radius."""
    radius, reach = tried[-1]
    if not 0.0 < reach < math.inf:
        return radius * (8.0 if reach > 0.0 else 0.125)
    excess = math.log(reach / radius)
    step = 0.5 * excess
    if len(tried) > 1 and 0.0 < tried[-2][1] < math.inf:
        before = tried[-2]
        fall = (math.log(before[1] / before[0]) - excess) / math.log(radius / before[0])
        step = excess / max(fall, 0.5)
    return radius * math.exp(max(-4.0, min(step, 1.5)))
