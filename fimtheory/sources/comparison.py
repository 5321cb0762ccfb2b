"""Round trip: an imported graph beside its source, node by node and in the logits."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, fx

from fimtheory.errors import SourceError
from fimtheory.sources.builder import Origin
from fimtheory.sources.imported import Difference, ImportedGraph
from fimtheory.sources.program import Program

__all__ = ["compare_logits", "compare_nodes"]

NODE_TOLERANCE = 1e-9
"""Largest difference of a node's value from the program's, relative to the value's scale; both in float64."""
TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-5}
"""Largest difference of the logits from the module's, relative to their scale."""


def compare_nodes(graph: ImportedGraph, program: Program, start: fx.Node, origins: Mapping[str, Origin]) -> None:
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
    for name, value in graph.model(torch.float64).values(given):
        origin = origins.get(name)
        if origin is None or last[origin.operation] != name:
            continue
        result = expected[origin.operation]
        if isinstance(result, list):  # parts of one value, which was compared before it was divided
            continue
        whole = result[0] if isinstance(result, tuple) else result
        difference = _difference(value, origin.layout.by_input(whole))
        if not difference <= NODE_TOLERANCE:
            raise SourceError(
                f"node {name} ({origin.operation.target}): its values differ from the model's by {difference:.1e} of "
                "their scale; please report this model"
            )


def compare_logits(graph: ImportedGraph, example: Tensor, expected: Mapping[torch.dtype, Tensor]) -> Difference:
    """Compare the graph's logits on the example with the source's own, in float64 and in float32.

    Raises
    ------
    SourceError
        They differ by more than rounding.
    """
    found = {}
    for dtype, logits in expected.items():
        with torch.no_grad():
            made = graph.model(dtype)(example.to(dtype))
        found[dtype] = _difference(made.double(), logits.double())
        if not found[dtype] <= TOLERANCES[dtype]:
            raise SourceError(
                f"{graph.name}: the imported graph's logits differ from the model's by {found[dtype]:.1e} of their "
                f"scale in {dtype}; expected at most {TOLERANCES[dtype]:.0e}; please report this model"
            )
    return Difference(found[torch.float64], found[torch.float32])


def _difference(found: Tensor, expected: Tensor) -> float:
    scale = expected.detach().abs().max().item()
    worst = (found - expected).detach().abs().max().item()
    return worst / scale if scale > 0 else worst
