"""Hypothesis strategies for random classifiers: chains, residual and dense regions, attention and products."""

from __future__ import annotations

import math
from collections.abc import Sequence

from hypothesis import strategies as st

from fimtheory import layers
from fimtheory.claims import Quantity
from fimtheory.graph import LayerGraph, Node
from fimtheory.layers import Layer
from fimtheory.registry import Site, require_rule
from fimtheory.strategies.drawing import Sizes
from fimtheory.strategies.products import product_of_branches
from fimtheory.strategies.singles import elementwise, single_layers
from fimtheory.strategies.windows import convolution

__all__ = ["MOST_ENTRIES", "Growing", "layer_graphs"]

MOST_ENTRIES = 96
"""Most numbers that flow along an edge of a random graph: dense Jacobians stay small."""


class Growing:
    """A graph under construction: adds layers whose output is small enough, under fresh names."""

    def __init__(self, draw: st.DrawFn, most: int) -> None:
        self.draw = draw
        self.left = most
        self.nodes: list[Node] = []
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.block = ""

    def add(self, layer: Layer, *inputs: str) -> str:
        """Add a node that reads ``inputs``; return its name."""
        name = f"{self.block}.n{len(self.nodes)}" if self.block else f"n{len(self.nodes)}"
        self.nodes.append(Node(name, layer, inputs, self.block))
        self.left -= 1
        self.shapes[name] = self._shape(layer, inputs)
        return name

    def _shape(self, layer: Layer, inputs: Sequence[str]) -> tuple[int, ...]:
        shapes = tuple(self.shapes[i] for i in inputs)
        site = Site((layer,), ("new",), shapes, ())
        rule = require_rule(layer, Quantity.SHAPE, "new")
        return tuple(int(size) for size in rule.function(site))

    def try_add(self, layer: Layer, source: str) -> str:
        """Add the layer unless its output would be too large; return the node to go on from."""
        if math.prod(self._shape(layer, (source,))) > MOST_ENTRIES:
            return source
        return self.add(layer, source)

    def attention(self, source: str, residual: bool) -> str:
        """Layer norm, attention (a multiple of the heads wide), and perhaps a shortcut around both."""
        dim = self.shapes[source][1]
        heads = self.draw(st.sampled_from([h for h in (1, 2, 3) if dim % h == 0]))
        inner = self.add(layers.LayerNorm(dim, self.draw(st.sampled_from([1e-5, 1e-1]))), source)
        if self.draw(st.booleans()):
            inner = self.add(layers.Dropout(0.1), inner)
        inner = self.add(layers.MultiHeadSelfAttention(dim, heads, self.draw(st.booleans())), inner)
        return self.add(layers.Add(), *self.draw(st.permutations([source, inner]))) if residual else inner

    def shortcut(self, source: str) -> tuple[str, list[str]]:
        """A residual or dense region: one or two branches from ``source``, joined with it or with one another."""
        branches = [self.branch(source) for _ in range(self.draw(st.integers(1, 2)))]
        if self.draw(st.booleans()):
            branches.append(source)
        shape = self.shapes[branches[0]]
        joined = [b for b in branches if self.shapes[b] == shape]
        if self.draw(st.booleans()):
            name = self.add(layers.Add(), *joined)
        else:
            most = max(1, MOST_ENTRIES // math.prod(shape))
            name = self.add(layers.Concat(self.draw(st.integers(0, len(shape) - 1))), *joined[:most])
        read = {source for node in self.nodes for source in node.inputs}
        return name, [b for b in dict.fromkeys(branches) if b not in read]

    def branch(self, source: str) -> str:
        """One to three layers, mostly of unchanged shape."""
        here = source
        for _ in range(self.draw(st.integers(1, 3))):
            shape: Sizes = self.shapes[here]
            if len(shape) == 3 and self.draw(st.booleans()):
                here = self.add(self.draw(convolution(shape, same=True)), here)
            elif len(shape) <= 2 and self.draw(st.booleans()):
                here = self.add(
                    layers.Linear(self.shapes[here][-1], self.shapes[here][-1], self.draw(st.booleans())), here
                )
            else:
                here = self.add(self.draw(elementwise(shape)), here)
        return here


@st.composite
def layer_graphs(
    draw: st.DrawFn,
    most: int = 12,
    image: bool | None = None,
    blocks: bool | None = None,
    products: bool = False,
) -> LayerGraph:
    """Random classifiers of up to about ``most`` layers; dense Jacobians of them are small.

    ``image`` fixes whether inputs are images, ``blocks`` whether nodes carry block names; ``products`` says whether to
    draw layers whose gain rests on bounds on values.
    """
    g = Growing(draw, most)
    image = draw(st.booleans()) if image is None else image
    named = draw(st.booleans()) if blocks is None else blocks
    if image:
        volume = draw(st.integers(0, 4)) == 0
        channels = draw(st.integers(1, 3))
        sides = draw(st.tuples(*[st.integers(2, 4 if volume else 5)] * 2))
        shape: Sizes = (channels, 2, *sides) if volume else (channels, *sides)
    else:
        shape = draw(st.sampled_from([(3,), (6,), (12,), (2, 4), (3, 6), (4, 3)]))
    here = g.add(layers.Input(shape))
    for number in range(draw(st.integers(0, most - 2))):
        if g.left <= 3:
            break
        if named and draw(st.booleans()):
            g.block = draw(st.sampled_from(["", "stem", f"block{number}", "block.0"]))
        choice = draw(st.integers(0, 9))
        if choice <= 2:
            here, loose = g.shortcut(here)
            if loose:  # of another shape: bring every branch to vectors and concatenate
                flat = [g.add(layers.Flatten(), b) for b in [here, *loose]]
                here = g.add(layers.Concat(0), *flat)
        elif products and choice == 9:
            here = product_of_branches(g, here)
        elif choice == 3 and len(g.shapes[here]) == 2 and g.shapes[here][1] > 1:
            here = g.attention(here, draw(st.booleans()))
        else:
            here = g.try_add(draw(single_layers(g.shapes[here])), here)
    g.block = ""
    return _classifier(draw, g, here)


def _classifier(draw: st.DrawFn, g: Growing, here: str) -> LayerGraph:
    """End in a vector of at least two logits, mostly through a linear head."""
    if len(g.shapes[here]) == 3 and draw(st.booleans()):
        here = g.add(layers.AdaptiveAvgPool2d((1, 1)), here)
    if len(g.shapes[here]) == 2 and draw(st.booleans()):
        here = g.add(layers.SelectToken(0), here)
    if len(g.shapes[here]) > 1:
        here = g.add(layers.Flatten(), here)
    width = g.shapes[here][0]
    if width == 1 or width > 8 or draw(st.integers(0, 4)) > 0:
        g.add(layers.Linear(width, draw(st.integers(2, 6)), draw(st.booleans())), here)
    return LayerGraph(g.nodes, "random")
