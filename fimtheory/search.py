"""Search for the input with the largest lam(x): the honest test of a bound that claims to hold for all x.

Data points alone sit far below the supremum.  Here log lam(x) is ascended from data points, from points between and
around them and from far outside, in one batch; whatever comes out is a lower bound on ``sup_x lam(x)``.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from fimtheory.claims import Status
from fimtheory.decimals import significant
from fimtheory.domains import Box, Domain, Inside, column, norms
from fimtheory.errors import DataError, MissingRuleError
from fimtheory.estimators import TopEigenpair, cheapest, exact, lanczos
from fimtheory.fisher import (
    FisherOperator,
    SoftmaxFactor,
    derivative_kernels,
    double,
    normalised,
    require_tensor,
    times_power_of_two,
)

__all__ = ["WorstCase", "log_lam_gradient", "worst_case"]

_MEMORY = 5
"""Steps from which the curvature of log lam is modelled."""

_PATIENCE = 3
"""Failures in a row after which a start drops its model and follows the gradient again."""


@dataclass(frozen=True)
class WorstCase:
    """The largest lam found.

    Attributes
    ----------
    value, log10_value : float
        lam at ``x``, computed by a float64 copy of the module; a lower bound on the supremum over the domain.
    x : Tensor
        The input, shape ``(*input)``, in the dtype of the data.
    values, log10_values : Tensor
        ``(starts,)`` float64: lam where each start ended, by the float64 copy; data points come first.
    inputs : Tensor
        ``(starts, *input)``: where each start ended.
    status : Status
        ``LOWER``.
    method : str
        The estimator behind ``values``.
    starts, steps : int
        Starts, and ascent steps taken from each.
    seconds : float
        Wall time.
    """

    value: float
    log10_value: float
    x: Tensor
    values: Tensor
    log10_values: Tensor
    inputs: Tensor
    status: Status
    method: str
    starts: int
    steps: int
    seconds: float

    def __repr__(self) -> str:
        value = significant(self.value, self.log10_value, up=False)
        return f"<WorstCase: lam >= {value} ({self.status}), from {self.starts} starts of {self.steps} steps>"


def log_lam_gradient(operator: FisherOperator, u: Tensor) -> Tensor:
    r"""Gradient of ``log lam(x)`` for each input, ``(B, *input)`` in the dtype of ``x``.

    With the top eigenvector u of G held fixed, ``lam = |J^T R^T u|^2 / tau^2``, and its derivative through J and p is
    that of lam, where lam is simple (envelope theorem).  Reverse mode over reverse mode.  Zero where lam is.

    Parameters
    ----------
    operator : FisherOperator
        The operator of a batch.
    u : Tensor
        ``(B, K)`` float64, top eigenvectors of G.

    Raises
    ------
    MissingRuleError
        If an operator of the module has no second derivative.
    """
    weights = {name: weight.detach() for name, weight in operator.module.named_parameters()}
    x = operator.x.clone().requires_grad_()
    try:
        with torch.enable_grad(), derivative_kernels():
            logits = torch.func.functional_call(operator.module, weights, (x,))
            factor = SoftmaxFactor((logits.double() / operator.temperature).log_softmax(1), operator.temperature)
            cotangent = factor.apply_transposed(u).to(logits.dtype)
            (g,) = torch.autograd.grad(logits, x, cotangent, create_graph=True, materialize_grads=True)
            scaled = times_power_of_two(g.double().flatten(1), -operator.jacobian_exponent.unsqueeze(1))
            # backward(), not grad(): the latter skips nodes that refuse a second derivative, and would call it zero.
            scaled.square().sum(1).log().sum().backward()
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise MissingRuleError(
            f"the search needs second derivatives: {str(error).splitlines()[0]} "
            "Replace the operator that torch names, or use fimtheory.estimate on data instead."
        ) from error
    return torch.zeros_like(x) if x.grad is None else x.grad.nan_to_num(0.0, 0.0, 0.0)


def worst_case(
    module: nn.Module,
    x0: Tensor,
    *,
    starts: int = 32,
    steps: int = 100,
    seed: int = 0,
    box: Box | None = None,
    ball: float | None = None,
    inside: Inside | None = None,
    temperature: float = 1.0,
    progress: bool = False,
) -> WorstCase:
    """Ascend log lam(x) from many starts and return the largest lam found, a lower bound on the supremum.

    Half of the starts are the data points with the largest lam (all of them, if they are fewer); the others are random:
    around data points at several scales, between them, and far outside.  Directions are quasi-Newton; each start has a
    largest step length of its own, which doubles after a success and halves after a failure, and a failure is undone.

    Parameters
    ----------
    module : nn.Module
        Classifier in eval mode, ``(B, *input)`` to logits ``(B, K)``.
    x0 : Tensor
        ``(N, *input)``, data points: where to start, and the scale of the inputs.
    starts, steps : int
        Number of starts, and of steps from each.
    seed : int
        Of the random starts; equal seeds give equal results on one machine.
    box : (lo, hi), optional
        Stay in ``lo <= x <= hi``; numbers, or tensors that broadcast to ``(*input)``.  Must contain ``x0``.
    ball : float, optional
        Stay within this l2 distance of the data point at which a start belongs.
    inside : function, optional
        Of the module and a batch: which inputs may be visited, ``(B,)`` bool.  Must hold of ``x0``; asked again of a
        float64 copy of the module at the end, and what it then refuses is not counted.
    temperature : float
        tau of the softmax.
    progress : bool
        Show a progress bar on stderr.

    Raises
    ------
    MissingRuleError
        If the module has an operator without second derivatives.
    DataError
        If ``x0`` lies outside the box, a number makes no sense, or the module cannot be copied to float64.
    AdjointTestError, GraphError, ShapeError, NonFiniteError
        As for ``fimtheory.estimate``.
    """
    began = time.perf_counter()
    if starts < 1 or steps < 0 or (ball is not None and not 0 < ball < math.inf):
        raise DataError(f"starts = {starts}, steps = {steps}, ball = {ball}: expected at least 1, at least 0, above 0")
    require_tensor(x0)
    generator = torch.Generator().manual_seed(seed)
    data = _by_lam(module, x0.detach(), starts, temperature)
    _require_inside(module, data, Domain(data, box, None, inside))
    reference = double(module)
    with torch.no_grad():
        dtype = reference(data[:1].double()).dtype
    if dtype != torch.float64:
        raise DataError(f"the module returns {dtype} for float64 inputs: remove the casts from its forward")
    x, centres = _starting_points(data, starts, generator)
    x, taken = _ascend(module, x, Domain(centres, box, ball, inside), steps, temperature, generator, progress)
    operator = FisherOperator(reference, x.double(), temperature)
    operator.adjoint_test()
    pair = exact(operator) if cheapest(operator) == "exact" else lanczos(operator, seed=seed)
    values, log10_values = times_power_of_two(pair.value, operator.exponent), _log_lam(operator, pair) / math.log(10)
    if inside is not None:
        outside = ~inside(reference, x.double())
        values, log10_values = values.masked_fill(outside, 0.0), log10_values.masked_fill(outside, -math.inf)
    best = int(log10_values.argmax())
    return WorstCase(
        value=values[best].item(),
        log10_value=log10_values[best].item(),
        x=x[best],
        values=values,
        log10_values=log10_values,
        inputs=x,
        status=Status.LOWER,
        method=pair.method,
        starts=starts,
        steps=taken,
        seconds=time.perf_counter() - began,
    )


def _log_lam(operator: FisherOperator, pair: TopEigenpair) -> Tensor:
    return pair.value.log() + math.log(2) * operator.exponent.double()


def _top_pair(operator: FisherOperator, start: Tensor | None = None) -> TopEigenpair:
    """Return top eigenpairs good enough to climb: a Ritz value is still a lower bound."""
    return exact(operator) if cheapest(operator) == "exact" else lanczos(operator, tol=0.01, start=start)


def _by_lam(module: nn.Module, x0: Tensor, batch: int, temperature: float) -> Tensor:
    """Return the data points, largest lam first; refuses a module whose derivatives disagree."""
    scores = []
    for part in x0.tensor_split(max(1, math.ceil(len(x0) / batch))):
        operator = FisherOperator(module, part, temperature)
        operator.adjoint_test()
        scores.append(_log_lam(operator, _top_pair(operator)))
    return x0[torch.cat(scores).argsort(descending=True, stable=True)]


def _require_inside(module: nn.Module, x0: Tensor, domain: Domain) -> None:
    if not torch.equal(domain.project(x0), x0):
        raise DataError("some data points lie outside the box: clip them first, or widen the box")
    if domain.inside is not None and not domain.inside(module, x0).all():
        raise DataError("some data points are not inside the domain of the search: leave them out")


def _starting_points(data: Tensor, starts: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return starts ``(S, *input)`` and the data point at which each belongs.

    Random starts take turns: Gaussian around a data point (a tenth of the data's root mean square, or all of it),
    between two data points (or a lone one and zero), and Gaussian at 10 and 100 times the data's root mean square.
    """
    kept = data[: (starts + 1) // 2]
    centres = data[torch.arange(starts - len(kept)) % len(kept)]
    others = data[torch.randint(len(data), (len(centres),), generator=generator)] if len(data) > 1 else 0 * centres
    noise = torch.randn(centres.shape, generator=generator, dtype=torch.float64).to(centres)
    fraction = column(torch.rand(len(centres), generator=generator, dtype=torch.float64).to(centres), centres)
    noise = noise * (_scale(data) or 1.0)
    kinds = (
        centres + 0.1 * noise,
        centres + fraction * (others - centres),
        10 * noise,
        centres + noise,
        centres + fraction * (others - centres),
        100 * noise,
    )
    turn = torch.arange(len(centres), device=data.device) % len(kinds)
    random = torch.stack([kinds[k][i] for i, k in enumerate(turn.tolist())]) if len(centres) else centres
    return torch.cat([kept, random]), torch.cat([kept, centres])


def _scale(data: Tensor) -> float:
    return data.double().square().mean().sqrt().item()


class _Curvature:
    """Limited-memory BFGS model of ``-log lam`` for each start (two-loop recursion, Nocedal 1980).

    Worst inputs lie on ridges where two classes tie, steep across and nearly flat along: the gradient alone zigzags.
    """

    def __init__(self) -> None:
        self._pairs: list[tuple[Tensor, Tensor, Tensor]] = []

    def direction(self, gradient: Tensor) -> Tensor:
        """Return an ascent direction ``(S, d)`` with its natural length; a start without pairs keeps its gradient."""
        q, coefficients, scale = gradient, [], torch.ones_like(gradient[:, :1])
        for step, change, weight in reversed(self._pairs):
            coefficients.append(weight * (step * q).sum(1, keepdim=True))
            q = q - coefficients[-1] * change
        for _, change, weight in self._pairs:
            usable = weight > 0
            scale = torch.where(usable, 1 / (weight * change.square().sum(1, keepdim=True)).where(usable, 1.0), scale)
        q = scale * q
        for (step, change, weight), coefficient in zip(self._pairs, reversed(coefficients), strict=True):
            q = q + step * (coefficient - weight * (change * q).sum(1, keepdim=True))
        return torch.where((q * gradient).sum(1, keepdim=True) > 0, q, gradient)

    def learn(self, step: Tensor, change: Tensor) -> None:
        """Take in a step and the change of the gradient of ``-log lam`` along it, ``(S, d)``; zero rows add nothing."""
        product = (step * change).sum(1, keepdim=True)
        usable = product > 1e-12 * step.norm(dim=1, keepdim=True) * change.norm(dim=1, keepdim=True)
        weight = torch.where(usable, 1 / product.where(usable, 1.0), 0.0)
        self._pairs = [*self._pairs[1 - _MEMORY :], (step, change, weight)]

    def forget(self, starts: Tensor) -> None:
        """Return the marked starts, ``(S,)`` bool, to the plain gradient."""
        for _, _, weight in self._pairs:
            weight[starts] = 0


def _admitted(module: nn.Module, x: Tensor, fallback: Tensor, domain: Domain) -> Tensor:
    """Return the inputs of ``x`` that the domain admits, and those of ``fallback`` elsewhere."""
    return torch.where(column(domain.admits(module, x), x), x, fallback)


def _ascend(
    module: nn.Module,
    x: Tensor,
    domain: Domain,
    steps: int,
    temperature: float,
    generator: torch.Generator,
    progress: bool,
) -> tuple[Tensor, int]:
    """Return where the starts end, and the steps taken: fewer than asked once every step length is negligible."""
    x = _admitted(module, domain.project(x), domain.centres, domain)
    operator = FisherOperator(module, x, temperature)
    pair = _top_pair(operator)
    log_lam, u = _log_lam(operator, pair), pair.vector
    gradient = log_lam_gradient(operator, u).double().flatten(1)
    size = norms(x).clamp(min=(_scale(domain.centres) or 1.0) * x[0].numel() ** 0.5)
    length = 0.1 * size if domain.ball is None else (0.1 * size).clamp(max=domain.ball / 2)
    curvature, taken = _Curvature(), 0
    failures, modelled = torch.zeros_like(length), torch.zeros_like(length, dtype=torch.bool)
    for _ in track(range(steps), "worst case", console=Console(stderr=True), disable=not progress):
        taken += 1
        random = torch.randn(gradient.shape, generator=generator, dtype=torch.float64).to(x.device)
        flat = gradient.norm(dim=1) == 0  # no slope here: look around, further each time
        direction = torch.where(flat.unsqueeze(1), random, curvature.direction(gradient))
        unit, natural = normalised(direction)
        reach = torch.where(modelled & ~flat, torch.minimum(natural, length), length)
        trial = domain.project((x.double() + (reach.unsqueeze(1) * unit).view_as(x)).to(x.dtype))
        trial = _admitted(module, trial, x, domain)
        operator = FisherOperator(module, trial, temperature)
        jitter = 0.1 * torch.randn(u.shape, generator=generator, dtype=torch.float64).to(u.device) / u.shape[1] ** 0.5
        pair = _top_pair(operator, u + jitter)  # the jitter lets another eigenvector take over
        trial_log_lam = _log_lam(operator, pair)
        better = trial_log_lam > log_lam
        moved = better.unsqueeze(1)
        trial_gradient = log_lam_gradient(operator, pair.vector).double().flatten(1)
        step = (trial.double() - x.double()).flatten(1)
        curvature.learn(torch.where(moved, step, 0.0), torch.where(moved, gradient - trial_gradient, 0.0))
        failures = torch.where(better, 0, failures + 1)
        curvature.forget(failures >= _PATIENCE)
        modelled = (modelled | better) & (failures < _PATIENCE)
        log_lam = torch.where(better, trial_log_lam, log_lam)
        x = torch.where(column(better, x), trial, x)
        u, gradient = torch.where(moved, pair.vector, u), torch.where(moved, trial_gradient, gradient)
        length = torch.where(better | flat, torch.maximum(2 * reach, length), 0.5 * reach)
        length = torch.minimum(length, norms(x).clamp(min=size))
        if (length <= torch.finfo(x.dtype).eps * size).all():
            break
    return x, taken
