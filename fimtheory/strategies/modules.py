"""Random classifiers as torch modules, and inputs for them."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import Tensor

from fimtheory.graph import LayerGraph
from fimtheory.instantiation import GraphModule, instantiate
from fimtheory.strategies.graphs import layer_graphs
from fimtheory.strategies.tensors import STYLES, weights_for

__all__ = ["INPUT_STYLES", "input_in_style", "inputs_for", "modules"]

INPUT_STYLES = ("normal", "large", "small", "zero", "constant", "signs", "peak", "tied")


@st.composite
def inputs_for(draw: st.DrawFn, graph: LayerGraph, styles: tuple[str, ...] = INPUT_STYLES, batch: int = 1) -> Tensor:
    """A batch of inputs of ``graph`` in float64, each in a style of its own."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    shape = tuple(int(size) for size in graph.shapes[graph.input])
    return torch.stack([input_in_style(shape, draw(st.sampled_from(styles)), generator) for _ in range(batch)])


def input_in_style(shape: tuple[int, ...], style: str, generator: torch.Generator) -> Tensor:
    """Return one input: where it is random, and where bounds are attained."""
    normal = torch.randn(shape, generator=generator, dtype=torch.float64)
    match style:
        case "normal":
            return normal
        case "large":
            return 30 * normal
        case "small":
            return 0.01 * normal
        case "zero":
            return torch.zeros_like(normal)
        case "constant":
            return torch.full_like(normal, 0.7)
        case "signs":
            return normal.sign()
    flat = torch.full((normal.numel(),), -1.0 if style == "peak" else -300.0, dtype=torch.float64)
    middle = normal.numel() // 2
    if style == "peak":  # one entry wins every window that it lies in
        flat[middle] = 1.0
    else:  # two entries share all of a softmax
        flat[middle] = flat[middle - 1] = 0.0
    return flat.reshape(shape)


@st.composite
def modules(
    draw: st.DrawFn,
    graphs: st.SearchStrategy[LayerGraph] | None = None,
    styles: tuple[str, ...] = STYLES,
    dtype: torch.dtype = torch.float64,
) -> GraphModule:
    """A random classifier with random or adversarial weights; its graph is ``.graph``."""
    graph = draw(layer_graphs() if graphs is None else graphs)
    return instantiate(graph, weights=draw(weights_for(graph, styles, dtype)), dtype=dtype)
