"""Layer descriptions, one file per family: parameters and sizes, no mathematics.

What a layer does, and what is known about it, are rules registered for its exact type (see ``fimtheory.registry``), so
a subclass with another forward can never inherit a bound.  Shapes are those of one input, without the batch dimension;
sizes are ints or sympy expressions of sizes.
"""

from __future__ import annotations

from fimtheory.layers.activations import (
    CELU,
    ELU,
    GELU,
    SELU,
    GELUTanh,
    Hardsigmoid,
    Hardswish,
    Hardtanh,
    LeakyReLU,
    Mish,
    PReLU,
    ReLU,
    ReLU6,
    Sigmoid,
    SiLU,
    Softmax,
    Softplus,
    Softshrink,
    Softsign,
    Tanh,
    Tanhshrink,
)
from fimtheory.layers.base import LAYER_TYPES, Input, Layer, Pair, Shape, Size, layer
from fimtheory.layers.normalisation import BatchNorm2d, LayerNorm
from fimtheory.layers.pooling import AdaptiveAvgPool2d, AvgPool2d, MaxPool2d
from fimtheory.layers.structure import (
    Add,
    ClassToken,
    Concat,
    Dropout,
    Flatten,
    Identity,
    Permute,
    PositionEmbedding,
    Reshape,
    SelectToken,
)
from fimtheory.layers.weights import Conv2d, Linear, MultiHeadSelfAttention, PatchEmbedding

__all__ = [
    "CELU",
    "ELU",
    "GELU",
    "LAYER_TYPES",
    "SELU",
    "AdaptiveAvgPool2d",
    "Add",
    "AvgPool2d",
    "BatchNorm2d",
    "ClassToken",
    "Concat",
    "Conv2d",
    "Dropout",
    "Flatten",
    "GELUTanh",
    "Hardsigmoid",
    "Hardswish",
    "Hardtanh",
    "Identity",
    "Input",
    "Layer",
    "LayerNorm",
    "LeakyReLU",
    "Linear",
    "MaxPool2d",
    "Mish",
    "MultiHeadSelfAttention",
    "PReLU",
    "Pair",
    "PatchEmbedding",
    "Permute",
    "PositionEmbedding",
    "ReLU",
    "ReLU6",
    "Reshape",
    "SelectToken",
    "Shape",
    "SiLU",
    "Sigmoid",
    "Size",
    "Softmax",
    "Softplus",
    "Softshrink",
    "Softsign",
    "Tanh",
    "Tanhshrink",
    "layer",
]
