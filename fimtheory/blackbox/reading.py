"""From answers around inputs to estimates with limits; pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from fimtheory.blackbox.answers import Answers, understood
from fimtheory.blackbox.bias import least_biased
from fimtheory.blackbox.differences import RATIO, central, error
from fimtheory.blackbox.plan import Plan
from fimtheory.blackbox.result import BlackBoxEstimate
from fimtheory.blackbox.sampling import Sample, embedding
from fimtheory.claims import Status
from fimtheory.estimators.result import Estimate, Finding
from fimtheory.estimators.sketch import confidence_limits

__all__ = ["read"]


@final
@dataclass(frozen=True)
class _Interval:
    """Value and limits of one input in units of ``2**exponent``; ``error`` is relative to the root of the value."""

    value: Tensor
    lower: Tensor
    upper: Tensor
    exponent: int
    error: Tensor
    sampling_dominates: bool


def read(
    samples: list[Sample], outputs: str, plan: Plan, *, level: float, queries: int, reused: int, seconds: float
) -> BlackBoxEstimate:
    """Return the estimates of the inputs sampled; what the answers have in common is read off all of them.

    Raises
    ------
    AnswerError
        See ``understood``.
    """
    known = understood(torch.cat([sample.around for sample in samples]).numpy(), outputs)
    found = [_interval(sample, known, outputs, plan, level) for sample in samples]
    doubtful = sum(not interval.sampling_dominates for interval in found)
    upper = torch.stack([interval.upper for interval in found])
    finding = Finding(
        value=torch.stack([interval.value for interval in found]),
        lower=torch.stack([interval.lower for interval in found]),
        upper=upper if known.top_k is None else torch.full_like(upper, torch.inf),
        status=Status.HEURISTIC if doubtful else Status.CONFIDENCE,
        level=level,
        method=plan.method,
    )
    exponent = torch.tensor([interval.exponent for interval in found])
    note = _note(known, plan, doubtful, len(samples))
    return BlackBoxEstimate(
        Estimate.from_finding(finding, exponent, torch.float64, queries, seconds, note=note),
        step=torch.tensor([sample.step for sample in samples], dtype=torch.float64),
        difference_error=torch.stack([interval.error for interval in found]),
        probes=plan.probes,
        number_format=known.format.name,
        quantum=known.format.quantum,
        top_k=known.top_k,
        reused=reused,
    )


def _interval(sample: Sample, known: Answers, outputs: str, plan: Plan, level: float) -> _Interval:
    r"""Limits of one input: ``sqrt`` of the sketch's eigenvalue, moved by the error of the differences, then squared.

    With Y the exact sketch, E the errors and m columns, ``| |Y + E| - |Y| | <= |E| <= |E|_F``, and ``|E|_F^2 / m`` is
    the mean square of the columns' errors.  Rows of Y in which nothing was seen (classes rounded to zero throughout)
    only add: ``|Y|^2`` is between that of the other rows and that plus the square of what rounding can hide.
    """
    chart = embedding(sample.centre, sample.around, known, outputs)
    plus, minus = (chart.points(side) for side in sample.near)
    step = torch.full_like(sample.weights, sample.step)
    columns = sample.weights.unsqueeze(1) * central(plus, minus, step)
    largest = columns.abs().max()
    unit = largest if largest > 0 else torch.ones_like(largest)
    eigenvalues = (torch.linalg.svdvals(columns / unit) * unit).square() / plan.probes
    checks = len(sample.far[0])
    checked, weights = (plus[:checks], minus[:checks]), sample.weights[:checks]
    far = tuple(chart.points(side) for side in sample.far)
    centre = chart.points(sample.centre.unsqueeze(0))
    measured = weights * error(centre, checked, (far[0], far[1]), step[:checks], RATIO)
    blurred = sample.weights.unsqueeze(1) * sum(chart.blur(side) for side in sample.near) / (2 * sample.step)
    blurred = blurred.square().mean(0)
    seen = (columns != 0).any(0)
    squares = measured.square()
    mean = squares.mean()
    if checks < plan.probes:  # two standard errors for the directions that were not checked
        mean += 2 * squares.std() / math.sqrt(checks)
    off = mean.sqrt() + blurred[seen].sum().sqrt()
    root = eigenvalues[0].sqrt()
    low = ((root - off).clamp(min=0) / chart.distortion).square()
    high = ((root + off).square() + blurred[~seen].sum()) * chart.distortion**2
    if plan.method == "basis":
        value, lower, upper, sampling_dominates = eigenvalues[0], low, high, False
    else:
        value = least_biased(eigenvalues, plan.probes)
        lower, _ = confidence_limits(low, plan.probes, chart.rank, level)
        _, upper = confidence_limits(high, plan.probes, chart.rank, level)
        narrow = confidence_limits(eigenvalues[0], plan.probes, chart.rank, level)
        sampling_dominates = _log_width(lower, upper) <= 2 * _log_width(*narrow)
    relative = (high.sqrt() - root) / root if root > 0 else torch.full_like(off, torch.inf)
    return _Interval(value, lower, upper, chart.exponent, relative, sampling_dominates)


def _log_width(lower: Tensor, upper: Tensor) -> float:
    return math.log(upper.item() / lower.item()) if lower > 0 else math.inf


def _note(known: Answers, plan: Plan, doubtful: int, inputs: int) -> str:
    """Return what to know before using the numbers."""
    parts = []
    if plan.method == "sketch":
        parts.append(
            f"The level covers {plan.probes} random directions; the error of finite differences is estimated and added."
        )
        if doubtful:
            parts.append(f"At {doubtful} of {inputs} inputs it is more than half of the interval.")
    else:
        parts.append("All directions were measured; the intervals are the estimated error of finite differences alone.")
    if known.format.quantum is not None:
        parts.append(f"Outputs are rounded ({known.format.name}), and intervals are wider for it.")
    if known.top_k is not None:
        parts.append(
            f"Answers name at most {known.top_k} classes: the estimate is of these and 'other', which is at most lam, "
            "so there is no upper limit."
        )
    return " ".join(parts)
