"""Multilayer perceptrons."""

from __future__ import annotations

from collections.abc import Sequence

import sympy

from fimtheory import layers
from fimtheory.errors import GraphError
from fimtheory.families.blocks import INDEX, BlockWriter, check_count, check_sequence, repeat, shape_after, size_at
from fimtheory.graph import Builder, LayerGraph
from fimtheory.layers import Layer, Shape, Size

__all__ = ["mlp"]


def mlp(
    widths: Sequence[Size] | None = None,
    *,
    depth: Size | None = None,
    activation: Layer | None = None,
    inputs: Size | Shape | None = None,
    classes: Size = 10,
    name: str = "mlp",
) -> LayerGraph:
    """Return a perceptron: flatten, hidden layers of a linear map and an activation, and a linear head.

    Parameters
    ----------
    widths
        Width of each hidden layer; (512, 512) where neither this nor ``depth`` is given.
    depth
        Instead of ``widths``: the number of hidden layers, also a symbol; layer l maps n[l - 1] to n[l] features.
    activation
        After each hidden layer; ReLU by default.
    inputs
        Length of one input, or its shape (it is flattened); (3, 32, 32) by default, with ``depth`` n[0].
    classes
        Number of logits.
    name
        Name of the graph.

    Raises
    ------
    GraphError, ShapeError
        An argument is not as described.

    Notes
    -----
    Tensors are named ``layers.0.weight``, ``layers.2.weight``, ..., ``head.weight``, as in a module whose ``layers``
    is a Sequential of linear layers and activations.  A symbolic depth is one node ``layers``.

    Examples
    --------
    >>> mlp((64, 32), classes=10, inputs=(1, 8, 8))
    <LayerGraph mlp: 7 nodes, (1, 8, 8) -> (10,)>
    >>> from fimtheory.expressions import size_symbol
    >>> mlp(depth=size_symbol("N"), classes=size_symbol("K"))
    <LayerGraph mlp: 3 nodes, (n[0],) -> (K,)>
    """
    if widths is not None and depth is not None:
        raise GraphError("mlp takes widths or depth, not both: widths has one entry per hidden layer")
    act = layers.ReLU() if activation is None else activation
    if depth is None:
        sizes = check_sequence("widths", (512, 512) if widths is None else widths)
        inputs = (3, 32, 32) if inputs is None else inputs
    else:
        depth = check_count("depth", depth)
        sizes = tuple(size_at("n", k) for k in range(1, depth + 1)) if isinstance(depth, int) else ()
        inputs = size_at("n", 0) if inputs is None else inputs

    builder = Builder(name)
    shape = inputs if isinstance(inputs, tuple) else (inputs,)
    x = builder.add("x", layers.Input(shape))
    if len(shape) > 1:
        x = builder.add("flatten", layers.Flatten(), x)
    (taken,) = shape_after(builder)
    for k, width in enumerate(sizes):
        block = f"layers.{2 * k}"
        x = builder.add(block, layers.Linear(taken, width), x, block=block)
        x = builder.add(f"layers.{2 * k + 1}", act, x, block=block)
        taken = width
    if isinstance(depth, sympy.Expr):
        before, after = size_at("n", INDEX - 1), size_at("n", INDEX)

        def write(block: BlockWriter, x: str) -> str:
            return block.add("act", act, block.add("linear", layers.Linear(before, after), x))

        x = repeat(builder, "layers", x, shape=(before,), count=depth, write=write)
        taken = size_at("n", depth)
    builder.add("head", layers.Linear(taken, classes), x)
    return builder.graph()
