"""Verify a theorem on a model: certified bound against estimates on data and the worst input found."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from fimtheory.data import Data
from fimtheory.decimals import finite_or_none, fixed, significant
from fimtheory.derivation import Derivation
from fimtheory.derive import baseline, derive
from fimtheory.errors import DataError, GraphError
from fimtheory.evaluation import Evaluation, evaluate
from fimtheory.fisher import double, require_tensor
from fimtheory.graph import LayerGraph
from fimtheory.instantiation import GraphModule, instantiate
from fimtheory.kernel import check
from fimtheory.search import WorstCase, worst_case
from fimtheory.surveys import Survey, placed, survey
from fimtheory.token_variance import admits_variance, require_variance

__all__ = ["Verdict", "verify"]


@final
@dataclass(frozen=True, slots=True)
class Verdict:
    """What was proved about a model, what was found, and whether they agree.

    ``violations`` counts inputs whose lam, computed in float64, exceeds the certified bound; it must be 0.
    ``looseness_log10`` is the bound minus the largest value found, in decades.
    """

    target: str
    data: str
    seed: int
    derivation: Derivation
    bound: Evaluation
    baseline: Evaluation
    estimates: Survey
    worst: WorstCase
    violations: int
    looseness_log10: float
    seconds: Mapping[str, float]

    def __repr__(self) -> str:
        outcome = "the bound holds" if self.holds else f"VIOLATED at {self.violations} inputs"
        bound = significant(self.bound.value, self.bound.log10, up=True)
        return f"<Verdict on {self.target}: lam <= {bound} ({self.bound.status}); {outcome}>"

    def __str__(self) -> str:
        outcome = "the bound holds" if self.holds else f"the bound is VIOLATED at {self.violations} inputs"
        lines = (f"{self.target}, {self.data}: {outcome}", *map(repr, (self.bound, self.estimates, self.worst)))
        return "\n    ".join((*lines, f"{fixed(self.looseness_log10, up=True)} decades from the largest lam found"))

    @property
    def holds(self) -> bool:
        """Whether nothing found exceeds the bound."""
        return self.violations == 0

    def to_json(self) -> dict[str, Any]:
        """Return the verdict as a JSON value (see ``fimtheory verify --json``)."""
        graph = self.derivation.graph
        _, classes = graph.require_classifier()
        found = self.estimates
        return {
            "target": self.target,
            "data": self.data,
            "input_shape": list(graph.shapes[graph.input]),
            "classes": classes,
            "seed": self.seed,
            "bound": {
                "log10": finite_or_none(self.bound.log10),
                "value": self.bound.value,
                "status": self.bound.status.value,
                "domain": self.bound.domain,
                "rules": dict(self.bound.rules),
            },
            "baseline": {"log10": finite_or_none(self.baseline.log10), "status": self.baseline.status.value},
            "expected": self.bound.expected_json(),
            "estimates": {
                "n": len(found.lam),
                "max": found.lam.max().item(),
                "mean": found.lam.mean().item(),
                "method": found.method,
                "status": found.status.value,
            },
            "worst_case": {
                "value": self.worst.value,
                "log10": finite_or_none(self.worst.log10_value),
                "starts": self.worst.starts,
                "steps": self.worst.steps,
                "status": self.worst.status.value,
            },
            "looseness_log10": finite_or_none(self.looseness_log10),
            "violations": self.violations,
            "assumptions": [condition.statement for condition in self.derivation.assumptions],
            "derivation": {
                "steps": len(self.derivation.steps),
                "lemmas": len(self.derivation.lemmas),
                "checked": True,
            },
            "seconds": dict(self.seconds),
        }


def verify(
    model: GraphModule | LayerGraph,
    data: Tensor | Data,
    *,
    target: str | None = None,
    seed: int = 0,
    starts: int = 32,
    steps: int = 100,
    token_variance: float | str | None = None,
    input_bound: float | None = None,
    progress: bool = False,
) -> Verdict:
    """Derive and replay the bound of a model's graph, evaluate it on the weights and try to exceed it.

    Parameters
    ----------
    model : GraphModule or LayerGraph
        A graph gets random weights from ``seed``.
    data : Tensor or Data
        ``(N, *input)``: where lam is estimated, and where half of the searches start.  What ``load_data`` returns is
        brought to the model's type and device.
    target : str, optional
        What to call the model; by default the graph's name.
    seed, starts, steps
        Of the search for the worst input, which is free to leave the data's range.
    token_variance : number, optional
        Least variance of a token that enters a norm layer, as for ``derive``; data and search stay within it.
    input_bound : float, optional
        Largest absolute value of an entry of an input, as for ``evaluate``; data and search stay within it.
    progress : bool
        Show progress bars on stderr.

    Raises
    ------
    GraphError, MissingRuleError, WeightsError, NonFiniteError, DataError, AdjointTestError
        See ``derive``, ``evaluate``, ``estimate`` and ``worst_case``.
    AssumptionError
        The theorem assumes bounded values, which depend on the input, and no input bound is given.
    """
    seconds: dict[str, float] = {}
    if isinstance(model, LayerGraph):
        with _timed(seconds, "instantiate"):
            model = instantiate(model, seed)
    if not isinstance(model, GraphModule):
        raise GraphError(f"verify takes a LayerGraph or a model made by ft.instantiate, got {type(model).__name__}")
    graph = model.graph
    inputs = placed(data.inputs, model) if isinstance(data, Data) else data
    _check_data(inputs, graph, input_bound)
    described = data.description if isinstance(data, Data) else f"{len(data)} inputs given as a tensor"
    with _timed(seconds, "derive"):
        derivation = derive(graph, token_variance=token_variance)
    require_variance(derivation, model, inputs)
    with _timed(seconds, "check"):
        check(derivation)
    with _timed(seconds, "bound"):
        bound = evaluate(derivation, model, input_bound=input_bound, progress=progress)
    with _timed(seconds, "baseline"):
        usual = evaluate(baseline(graph), model, input_bound=input_bound, progress=progress)
    with _timed(seconds, "estimate"):
        found = survey(model, inputs, seed=seed, progress=progress)
    with _timed(seconds, "search"):
        inside = admits_variance(derivation)
        box = None if input_bound is None else _box(input_bound, inputs.dtype)
        worst = worst_case(
            model, inputs, starts=starts, steps=steps, seed=seed, box=box, inside=inside, progress=progress
        )
    suspects = inputs[found.log10_lam > bound.log10 - 0.01]
    confirmed = survey(double(model), suspects.double(), seed=seed).log10_lam if len(suspects) else torch.empty(0)
    slack = math.log10(1 + 1e-9)  # rounding of lam in float64
    violations = int((confirmed > bound.log10 + slack).sum() + (worst.log10_values > bound.log10 + slack).sum())
    largest = max(found.log10_lam.max().item(), worst.log10_value)
    return Verdict(
        target or graph.name,
        described,
        seed,
        derivation,
        bound,
        usual,
        found,
        worst,
        violations,
        bound.log10 - largest,
        seconds,
    )


def _check_data(data: Tensor, graph: LayerGraph, input_bound: float | None) -> None:
    require_tensor(data)
    expected = tuple(graph.shapes[graph.input])
    if tuple(data.shape[1:]) != expected or len(data) == 0:
        raise DataError(f"data has shape {tuple(data.shape)}; {graph.name} takes a batch of at least 1 of {expected}")
    if input_bound is not None:
        largest = data.abs().max().item()
        if not largest <= input_bound:
            raise DataError(
                f"an entry of the data is {largest} in absolute value, outside of the domain of entries at most "
                f"{input_bound}; give a larger input bound, or other data"
            )


def _box(input_bound: float, dtype: torch.dtype) -> tuple[float, float]:
    """Return the ends of the domain as numbers of ``dtype``, rounded inwards."""
    side = torch.tensor(input_bound, dtype=dtype)
    if side.item() > input_bound:
        side = torch.nextafter(side, torch.zeros_like(side))
    return -side.item(), side.item()


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[stage] = time.perf_counter() - start
