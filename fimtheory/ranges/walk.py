"""Ranges of the nodes of a graph, each computed when it is asked for, from those of the nodes that it reads."""

from __future__ import annotations

from typing import final

from fimtheory.balls import ball
from fimtheory.errors import AssumptionError, MissingRuleError
from fimtheory.measures import MeasuredGraph
from fimtheory.ranges.base import RANGED, Flow, Range, Ranged

__all__ = ["Ranges"]


@final
class Ranges:
    """Ranges of the nodes of a graph with weights, for every input with entries of at most ``input_bound``.

    ``input_bound`` is None where nothing is known of the input.
    """

    def __init__(self, measures: MeasuredGraph, input_bound: float | None) -> None:
        self._measures = measures
        self._graph = measures.graph
        self._input_bound = input_bound
        self._found: dict[str, Range] = {}

    @property
    def bound_used(self) -> float | None:
        """The input bound, or None where no range that was asked for depends on it."""
        return self._input_bound if self._graph.input in self._found else None

    @property
    def domain(self) -> str:
        """For which inputs the ranges that were asked for hold, in words."""
        bound = self.bound_used
        return "all inputs" if bound is None else f"inputs with entries at most {bound} in absolute value"

    def of(self, node: str) -> Range:
        """Return the range of a node.

        Raises
        ------
        AssumptionError
            It depends on how large the input is, which is not known.
        MissingRuleError
            A layer type on the way to the input has no range.
        """
        pending = [node]
        while pending:
            here = pending[-1]
            if here in self._found:
                pending.pop()
            elif here == self._graph.input:
                self._found[here] = self._of_input(node)
            else:
                run, found = self._run_ending_at(here)
                sources = self._graph.inputs(run[0])
                layers = tuple(self._graph.layer(n) for n in run)
                read = tuple(sources[slot] for slot in found.slots(layers, len(sources)))
                unknown = [source for source in read if source not in self._found]
                if unknown:
                    pending += unknown
                else:
                    self._found[here] = found.function(self._flow(run), *(self._found[source] for source in read))
        return self._found[node]

    def _of_input(self, wanted: str) -> Range:
        if self._input_bound is None:
            raise AssumptionError(
                f"node {wanted}: the theorem assumes a bound on the values there, which depends on how large inputs "
                "are; give the largest absolute value of an input entry (input_bound=B, or --input-bound B), or put a "
                "layer norm before the node"
            )
        return Range.of(self._graph.shapes[self._graph.input], entry=ball(self._input_bound))

    def _run_ending_at(self, node: str) -> tuple[tuple[str, ...], Ranged]:
        """Return the node, with the one before it where the two have a range of their own, and how it is computed."""
        graph, sources = self._graph, self._graph.inputs(node)
        if len(sources) == 1:
            pair = RANGED.get((type(graph.layer(sources[0])), type(graph.layer(node))))
            if pair is not None:
                return (sources[0], node), pair
        kind = type(graph.layer(node))
        if (kind,) not in RANGED:
            raise MissingRuleError(
                f"node {node}: no range of layer type {kind.__name__}, so that nothing bounds its values; register "
                f"one with @ft.ranged({kind.__name__})"
            )
        return (node,), RANGED[kind,]

    def _flow(self, run: tuple[str, ...]) -> Flow:
        graph = self._graph
        return Flow(
            run,
            tuple(graph.layer(n) for n in run),
            tuple(self._measures.tensors(n) for n in run),
            graph.input_shapes(run[0]),
            graph.shapes[run[-1]],
            lambda kind: self._measures.value(kind, run)[0],
        )
