"""The queries around one input, in a fixed order, and the answers to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor

from fimtheory.blackbox.answers import Answers, understood
from fimtheory.blackbox.differences import LINES, RATIO, SCALES, ladder, steadiest
from fimtheory.blackbox.directions import Directions
from fimtheory.blackbox.embedding import CentredLogits, Embedding, Roots
from fimtheory.blackbox.ledger import Ledger
from fimtheory.blackbox.plan import Plan
from fimtheory.errors import AnswerError

__all__ = ["Sample", "Sampler", "embedding"]

_SAME = 1e-3
"""How far two answers to one input may be apart, as Fisher-Rao distance, and still count as noise."""

_POOL = 64
"""About as many answers at inputs of the run show how outputs are written."""

_LOST = 27
"""Machine epsilons that a computation in floating point is expected to lose."""

_HELD = 2**24
"""Numbers in all displacements that are held at once."""


@final
@dataclass(frozen=True)
class Sample:
    """Answers around one input.

    Attributes
    ----------
    centre : Tensor
        ``(K,)``, at the input.
    near, far : pair of Tensor
        ``(m, K)`` and ``(c, K)``: on both sides along all directions at one step, and along the first few at the other.
    weights : Tensor
        ``(m,)``: how much each direction counts.
    step : float
        l2 distance from the input to each point of ``near``.
    others : Tensor
        Further answers around the input.
    """

    centre: Tensor
    near: tuple[Tensor, Tensor]
    far: tuple[Tensor, Tensor]
    weights: Tensor
    step: float
    others: Tensor

    @property
    def around(self) -> Tensor:
        """All answers, ``(N, K)``."""
        return torch.cat([self.centre.unsqueeze(0), *self.near, *self.far, self.others])


def embedding(centre: Tensor, around: Tensor, known: Answers, outputs: str) -> Embedding:
    """Return how answers around one input become points."""
    return CentredLogits(centre, known) if outputs == "logits" else Roots(centre, around, known)


@final
@dataclass(frozen=True)
class Sampler:
    """Queries a black box around one input of a run after the other.

    Attributes
    ----------
    ledger : Ledger
        Through which all queries go.
    plan : Plan
        What is asked of each input.
    outputs : str
        ``"probabilities"`` or ``"logits"``.
    first : Tensor
        ``(N, K)``: answers at all inputs of the run, in their order, and perhaps others.
    seed : int
        Of the directions.
    step : float or None
        How far to move, or None to find out for each input.
    resolution : float
        Relative precision of the inputs.
    """

    ledger: Ledger
    plan: Plan
    outputs: str
    first: Tensor
    seed: int
    step: float | None
    resolution: float

    def sample(self, x: np.ndarray, index: int, size: float) -> Sample:
        """Return answers around ``x``, input ``index`` of the run, whose l2 size is about ``size``.

        Raises
        ------
        CallError, AnswerError
            See ``Ledger.ask`` and ``understood``; or answers to the same input differ.
        """
        directions = Directions(x.size, self.plan, self.seed, index)
        centre = self.first[index]
        others: list[Tensor] = []
        step = self.step
        if step is None:
            step, answers = self._pilot(x, index, directions, size)
            others.append(answers)
        near: list[Tensor] = []
        far: list[Tensor] = []
        weights: list[np.ndarray] = []
        again = np.zeros((1, x.size))  # the input once more, in other company
        group = max(_HELD // x.size, 1)
        for start in range(0, self.plan.probes, group):
            u, weight = directions.next(min(group, self.plan.probes - start))
            moves, checked = step * u, RATIO * step * u[: max(self.plan.checks - start, 0)]
            answers = self.ledger.ask(_moved(x, np.concatenate([again, moves, -moves, checked, -checked])))
            repeated, pairs, checks = answers.split([len(again), 2 * len(u), 2 * len(checked)])
            others.append(repeated)
            near.append(pairs)
            far.append(checks)
            weights.append(weight)
            again = again[:0]
        weight = torch.from_numpy(np.concatenate(weights))
        sample = Sample(centre, _sides(near), _sides(far), weight, step, torch.cat(others))
        _require_same(self._chart(index, sample.around), centre, sample.others[-1], index)
        return sample

    def _pilot(self, x: np.ndarray, index: int, directions: Directions, size: float) -> tuple[float, Tensor]:
        """Return a step and the answers that led to it."""
        steps = ladder(self._noise(), size)
        u, _ = directions.random(LINES)
        moves = (steps.view(1, -1, 1).numpy() * u[:, None]).reshape(-1, x.size)
        answers = self.ledger.ask(_moved(x, np.concatenate([0 * moves[:1], moves, -moves])))
        chart = self._chart(index, answers)
        _require_same(chart, self.first[index], answers[0], index)
        plus, minus = chart.points(answers[1:]).view(2, LINES, SCALES, -1)
        blur = chart.blur(answers[1:]).view(2, LINES, SCALES, -1).sum(0).norm(dim=2)
        return steadiest(chart.points(self.first[index : index + 1])[0], plus, minus, blur, steps), answers

    def _noise(self) -> float:
        """Relative noise to expect: rounding to a quantum, or what floating-point computations lose."""
        written = understood(self._some_first().numpy(), self.outputs).format
        if written.quantum is None:
            return _LOST * max(written.relative, self.resolution)
        size = max(1.0, self.first.abs().max().item()) if self.outputs == "logits" else 1.0
        return max(written.quantum / (2 * size), _LOST * self.resolution)

    def _some_first(self) -> Tensor:
        return self.first[:: max(1, len(self.first) // _POOL)]

    def _chart(self, index: int, answers: Tensor) -> Embedding:
        known = understood(torch.cat([self._some_first(), answers]).numpy(), self.outputs)
        centre = self.first[index]
        return embedding(centre, torch.cat([centre.unsqueeze(0), answers]), known, self.outputs)


def _require_same(chart: Embedding, first: Tensor, again: Tensor, index: int) -> None:
    """Refuse a black box that answers one input in two ways, unless the difference can pass for noise."""
    pair = torch.stack([first, again])
    points = chart.points(pair)
    unit = 2 ** (chart.exponent / 2)
    apart = unit * (points[0] - points[1]).norm().item()
    if apart > max(_SAME, 2 * unit * chart.blur(pair).norm().item()):
        raise AnswerError(
            f"input {index} was answered in two ways, {apart:.3g} apart (Fisher-Rao distance): the black box is random "
            "or keeps state; switch off dropout, sampling and noise, and let each input be answered on its own"
        )


def _moved(x: np.ndarray, moves: np.ndarray) -> np.ndarray:
    return (x.reshape(1, -1) + moves).reshape(-1, *x.shape)


def _sides(answers: list[Tensor]) -> tuple[Tensor, Tensor]:
    halves = [part.chunk(2) for part in answers if len(part)]
    return torch.cat([plus for plus, _ in halves]), torch.cat([minus for _, minus in halves])
