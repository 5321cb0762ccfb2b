"""Hypothesis strategies for layers, graphs, weights, inputs and modules.

Layers of one's own are drawn like built-in ones: from their fields, or by ``register``.

>>> from fimtheory import layers, strategies
>>> strategies.draws_of(layers.Conv2d, (8,)) is None  # a vector is no image
True
"""

from __future__ import annotations

try:
    import hypothesis as _hypothesis  # noqa: F401
except ModuleNotFoundError as missing:
    from fimtheory.errors import StrategyError

    raise StrategyError(
        "fimtheory.strategies needs hypothesis, which is not installed; pip install 'fimtheory[properties]'"
    ) from missing

from fimtheory.strategies.drawing import SHAPES, draws_of, placed, register, runs
from fimtheory.strategies.entries import constant, movement, reduction
from fimtheory.strategies.graphs import layer_graphs
from fimtheory.strategies.modules import INPUT_STYLES, input_in_style, inputs_for, modules
from fimtheory.strategies.products import product_layers
from fimtheory.strategies.singles import ELEMENTWISE, elementwise, single_layers
from fimtheory.strategies.tensors import STYLES, parameters_of, styled, tensor_in_style, weights_for
from fimtheory.strategies.windows import convolution, folding, normalisation, pooling, resampling, unfolding

__all__ = [
    "ELEMENTWISE", "INPUT_STYLES", "SHAPES", "STYLES", "constant", "convolution", "draws_of", "elementwise", "folding",
    "input_in_style", "inputs_for", "layer_graphs", "modules", "movement", "normalisation", "parameters_of", "placed",
    "pooling", "product_layers", "reduction", "register", "resampling", "runs", "single_layers", "styled",
    "tensor_in_style", "unfolding", "weights_for",
]  # fmt: skip
