"""The numeric check of a theorem: both sides in random cases, computed in another way than the proof's."""

from __future__ import annotations

import math

from fimtheory.errors import CheckError
from fimtheory.proofs.proof import Proof, Relates

__all__ = ["try_in_numbers"]

_ROUNDING = 1e-9
"""Relative rounding of the float64 sides."""


def try_in_numbers(proof: Proof, trials: int = 20) -> None:
    """Evaluate the conclusions in cases 0, 1, ..., trials - 1.

    Raises
    ------
    CheckError
        One does not hold; the message has the case and both sides.
    """
    claims = {step.name: step.claim for step in proof.steps}
    for seed in range(trials):
        for name, (left, right) in zip(proof.conclusions, _sides(proof, seed), strict=True):
            relation = claims[name].relation
            slack = _ROUNDING * max(abs(left), abs(right), 1e-3)
            holds = left <= right + slack if relation is Relates.LE else abs(left - right) <= slack
            if not (holds and math.isfinite(left) and math.isfinite(right)):
                raise CheckError(f"{proof.name}: case {seed} has {left} {relation} {right} for {name}")


def _sides(proof: Proof, seed: int) -> list[tuple[float, float]]:
    """Both sides of each conclusion in one case; what goes wrong in a trial is a fault of the proof's author."""
    try:
        sides = [(float(left), float(right)) for left, right in proof.trial(seed)]
    except Exception as error:
        raise CheckError(
            f"{proof.name}: trial({seed}) failed with {type(error).__name__}: {error}; "
            "expected a pair of numbers, left and right side, for each conclusion"
        ) from error
    if len(sides) != len(proof.conclusions):
        raise CheckError(f"{proof.name}: trial returns {len(sides)} pairs for {len(proof.conclusions)} conclusions")
    return sides
