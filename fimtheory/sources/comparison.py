"""Round trip: an imported graph beside its source, node by node and in the logits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, fx

from fimtheory.errors import SourceError
from fimtheory.sources.builder import Origin
from fimtheory.sources.imported import Difference, ImportedGraph
from fimtheory.sources.program import Program

__all__ = [
    "SINGLE_TOLERANCE", "WIDE_TOLERANCE", "Trial", "compare_batch", "compare_logits", "compare_nodes", "trial_of",
]  # fmt: skip

NODE_TOLERANCE = 1e-9
"""Largest difference of a node's value from the program's, relative to the value's scale; both in float64."""
WIDE_TOLERANCE, SINGLE_TOLERANCE = 1e-12, 1e-5
"""Largest difference of the logits from the source's in float64 and in float32, relative to their scale."""


@final
@dataclass(frozen=True, eq=False)
class Trial:
    """An input that graph and program were run on in float64, and the graph's logits there."""

    input: Tensor
    logits: Tensor


def trial_of(graph: ImportedGraph, given: Tensor) -> Trial:
    """Run a graph on an input in float64."""
    with torch.no_grad():
        return Trial(given, graph.model(torch.float64)(given))


def compare_nodes(graph: ImportedGraph, program: Program, start: fx.Node, origins: Mapping[str, Origin]) -> Trial:
    """Compare every node's value with the program's in float64, on an input near the example.

    A model whose last layer is zero has constant logits, which prove nothing; every node's value does.

    Raises
    ------
    SourceError
        One differs; the message names it.
    """
    example = program.run({}, {start})[start]
    noise = torch.randn(example.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    given = example + 0.1 * noise * max(1.0, float(example.abs().max()))
    last = {origin.operation: name for name, origin in origins.items()}
    expected = program.run({start: given}, set(last))
    logits = given
    for name, value in graph.model(torch.float64).values(given):
        logits = value
        origin = origins.get(name)
        if origin is None or last[origin.operation] != name:
            continue
        result = expected.pop(origin.operation)
        if isinstance(result, list):  # parts of one value, which was compared before it was divided
            continue
        whole = result[0] if isinstance(result, tuple) else result
        difference = _difference(value, origin.layout.by_input(whole))
        if not difference <= NODE_TOLERANCE:
            raise SourceError(
                f"node {name} ({origin.operation.target}): its values differ from the model's by {difference:.1e} of "
                "their scale; please report this model"
            )
    return Trial(given, logits.detach())


def compare_logits(graph: ImportedGraph, trial: Trial, wide: Tensor, single: Tensor) -> Difference:
    """Compare the graph's logits with the source's own on the same input, in float64 and in float32.

    Raises
    ------
    SourceError
        They differ by more than rounding.
    """
    with torch.no_grad():
        own = graph.model(torch.float32)(trial.input.float())
    found = Difference(_difference(trial.logits, wide), _difference(own.double(), single.double()))
    for difference, most, where in (
        (found.float64, WIDE_TOLERANCE, "float64"),
        (found.float32, SINGLE_TOLERANCE, "float32"),
    ):
        if not difference <= most:
            raise SourceError(
                f"{graph.name}: the imported graph's logits differ from the model's by {difference:.1e} of their "
                f"scale in {where}; expected at most {most:.0e}; please report this model"
            )
    return found


def compare_batch(graph: ImportedGraph, trial: Trial, logits: Tensor, count: int, most: float) -> None:
    """Compare the source's logits for a batch of another size with those of the trial, row by row.

    Raises
    ------
    SourceError
        The source computes another function of each input there.
    """
    expected = trial.logits[torch.arange(count) % len(trial.logits)]
    difference = _difference(logits, expected) if logits.shape == expected.shape else math.inf
    if not difference <= most:
        raise SourceError(
            f"{graph.name}: for a batch of {count} the model's logits differ by {difference:.1e} of their scale from "
            f"those for a batch of {len(trial.logits)}; what it computes for one input may not depend on that size"
        )


def _difference(found: Tensor, expected: Tensor) -> float:
    scale = expected.detach().abs().max().item()
    worst = (found - expected).detach().abs().max().item()
    return worst / scale if scale > 0 else worst
