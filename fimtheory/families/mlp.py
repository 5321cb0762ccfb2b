"""Multilayer perceptrons."""

from __future__ import annotations

from collections.abc import Sequence

import sympy

from fimtheory import layers
from fimtheory.errors import GraphError
from fimtheory.expressions import size_symbol
from fimtheory.families.blocks import INDEX, BlockWriter, check_count, check_sequence, features, repeat
from fimtheory.graph import Builder, LayerGraph
from fimtheory.layers import Layer, Shape, Size

__all__ = ["mlp"]


def mlp(
    widths: Sequence[Size] | None = None,
    *,
    depth: Size | None = None,
    activation: Layer | None = None,
    classes: Size = 10,
    input_shape: Shape | None = None,
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
    classes
        Number of logits.
    input_shape
        Shape of one input; (3, 32, 32) by default, with ``depth`` (n[0],).
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
    >>> mlp((64, 32), classes=10, input_shape=(1, 8, 8))
    <LayerGraph mlp: 7 nodes, (1, 8, 8) -> (10,)>
    >>> mlp(depth=size_symbol("N"), classes=size_symbol("K"))
    <LayerGraph mlp: 3 nodes, (n[0],) -> (K,)>
    """
    if widths is not None and depth is not None:
        raise GraphError("mlp takes widths or depth, not both: widths has one entry per hidden layer")
    act = layers.ReLU() if activation is None else activation
    n = sympy.IndexedBase(size_symbol("n"))
    if depth is None:
        sizes = check_sequence("widths", (512, 512) if widths is None else widths)
        shape = (3, 32, 32) if input_shape is None else input_shape
    else:
        depth = check_count("depth", depth)
        sizes = tuple(n[k] for k in range(1, depth + 1)) if isinstance(depth, int) else ()
        shape = (n[0],) if input_shape is None else input_shape

    builder = Builder(name)
    x = builder.add("x", layers.Input(shape))
    if isinstance(shape, tuple) and len(shape) > 1:
        x = builder.add("flatten", layers.Flatten(), x)
    taken = features(builder)
    for k, width in enumerate(sizes):
        block = f"layers.{2 * k}"
        x = builder.add(block, layers.Linear(taken, width), x, block=block)
        x = builder.add(f"layers.{2 * k + 1}", act, x, block=block)
        taken = width
    if isinstance(depth, sympy.Expr):

        def write(block: BlockWriter, x: str) -> str:
            return block.add("act", act, block.add("linear", layers.Linear(n[INDEX - 1], n[INDEX]), x))

        x = repeat(builder, "layers", x, shape=(n[INDEX - 1],), count=depth, write=write)
        taken = n[depth]
    builder.add("head", layers.Linear(taken, classes), x)
    return builder.graph()
