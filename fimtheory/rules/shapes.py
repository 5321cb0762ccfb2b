"""Output shapes: one rule per layer type, which also checks the layer's own numbers.

A shape rule takes a site and returns the output shape of one input (no batch dimension).  It raises ``ShapeError``
with what was given and what was expected; the graph adds the node's name and the layer type.  Sizes may be sympy
expressions: two are equal when their difference expands to zero, and a size about which nothing is known passes.
"""

from __future__ import annotations

import math
from typing import Any

import sympy

from fimtheory import layers
from fimtheory.claims import Quantity, Reference
from fimtheory.errors import ShapeError
from fimtheory.graph import MAX_SIZE, Repeat
from fimtheory.layers import Pair, Shape, Size
from fimtheory.registry import Site, rule

__all__: list[str] = []


def _torch(where: str) -> Reference:
    return Reference("torch", where)


# ---- checks -----------------------------------------------------------------------------------------------------


def _size(what: str, value: Any, least: int = 1) -> Size:
    """Return a size of at least ``least``, as an int where it is a number."""
    if isinstance(value, sympy.Expr):
        if value.is_Integer:
            value = int(value)
        elif value.is_number or value.is_integer is False or (value - least).is_negative:
            raise ShapeError(f"{what} is {value}; expected a whole number of at least {least}")
        else:
            return value
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= MAX_SIZE:
        raise ShapeError(f"{what} is {value!r}; expected a whole number of at least {least} and at most 2^48")
    return value


def _pair(what: str, value: Any, least: int = 1) -> Pair:
    if not isinstance(value, tuple) or len(value) != 2:
        raise ShapeError(f"{what} is {value!r}; expected a pair (height, width)")
    return _size(what, value[0], least), _size(what, value[1], least)


def _number(what: str, value: Any, *, above: float = -math.inf, least: float = -math.inf) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ShapeError(f"{what} is {value!r}; expected a finite number")
    if not value > above:
        raise ShapeError(f"{what} is {value}; expected a number above {above}")
    if not value >= least:
        raise ShapeError(f"{what} is {value}; expected a number of at least {least}")


def _equal(a: Size, b: Size) -> bool:
    return sympy.expand(a - b) == 0


def _same(a: Shape, b: Shape) -> bool:
    return len(a) == len(b) and all(_equal(p, q) for p, q in zip(a, b, strict=True))


def _expect(what: str, given: Size, expected: Size) -> None:
    if not _equal(given, expected):
        raise ShapeError(f"the input has {given} {what}, but the layer is for {expected}")


def _input(site: Site, form: str, dimensions: int) -> Shape:
    (shape,) = site.inputs
    if len(shape) != dimensions:
        raise ShapeError(f"the input has shape {shape}; expected {form}")
    return shape


def _divides(divisor: Size, what: str, value: Size) -> Size:
    """Return ``value / divisor``; a quotient that may or may not be whole passes."""
    quotient = sympy.expand(sympy.sympify(value) / divisor)
    if quotient.is_integer is False:
        raise ShapeError(f"{divisor} does not divide the {what} {value}")
    return int(quotient) if quotient.is_Integer else quotient


def _windows(size: Size, kernel: Size, stride: Size, padding: Size, dilation: Size) -> Size:
    """Return how many windows fit: floor((size + 2 padding - dilation (kernel - 1) - 1) / stride) + 1."""
    room = sympy.expand(size + 2 * padding - dilation * (kernel - 1) - 1)
    if room.is_negative:
        raise ShapeError(
            f"a window of {sympy.expand(dilation * (kernel - 1) + 1)} does not fit into {size} entries with padding "
            f"{padding}; use a larger input"
        )
    return sympy.floor(room / stride) + 1


def _windows2d(shape: Shape, layer: Any, dilation: Pair) -> tuple[Size, Size]:
    kernel, stride = _pair("kernel", layer.kernel), _pair("stride", layer.stride)
    padding = _pair("padding", layer.padding, least=0)
    height, width = (
        _windows(n, k, s, p, d) for n, k, s, p, d in zip(shape[1:], kernel, stride, padding, dilation, strict=True)
    )
    return height, width


# ---- weights ----------------------------------------------------------------------------------------------------


@rule(layers.Input, quantity=Quantity.SHAPE, reference=_torch("Tensor.shape"))
def _graph_input(site: Site) -> Shape:
    shape = site.layer.shape
    if not isinstance(shape, tuple) or not shape:
        raise ShapeError(f"the input shape is {shape!r}; expected a tuple of at least one size, without the batch")
    return tuple(_size("a dimension of the input", size) for size in shape)


@rule(layers.Linear, quantity=Quantity.SHAPE, reference=_torch("nn.Linear"))
def _linear(site: Site) -> Shape:
    (shape,) = site.inputs
    if len(shape) not in (1, 2):
        raise ShapeError(f"the input has shape {shape}; expected (features,) or (tokens, features); flatten it first")
    _expect("features", shape[-1], _size("in_features", site.layer.in_features))
    return (*shape[:-1], _size("out_features", site.layer.out_features))


@rule(layers.Conv2d, quantity=Quantity.SHAPE, reference=_torch("nn.Conv2d"))
def _conv2d(site: Site) -> Shape:
    shape, layer = _input(site, "(channels, height, width)", 3), site.layer
    groups = _size("groups", layer.groups)
    _expect("channels", shape[0], _size("in_channels", layer.in_channels))
    channels = _size("out_channels", layer.out_channels)
    _divides(groups, "in_channels", layer.in_channels)
    _divides(groups, "out_channels", channels)
    return (channels, *_windows2d(shape, layer, _pair("dilation", layer.dilation)))


@rule(layers.PatchEmbedding, quantity=Quantity.SHAPE, reference=_torch("torchvision.models.VisionTransformer"))
def _patch_embedding(site: Site) -> Shape:
    shape, layer = _input(site, "(channels, height, width)", 3), site.layer
    _expect("channels", shape[0], _size("in_channels", layer.in_channels))
    patch = _size("patch", layer.patch)
    rows, columns = _divides(patch, "height", shape[1]), _divides(patch, "width", shape[2])
    return (rows * columns, _size("dim", layer.dim))


@rule(layers.MultiHeadSelfAttention, quantity=Quantity.SHAPE, reference=_torch("nn.MultiheadAttention"))
def _attention(site: Site) -> Shape:
    shape, layer = _input(site, "(tokens, dim)", 2), site.layer
    _expect("features per token", shape[1], _size("dim", layer.dim))
    if not isinstance(layer.heads, int):
        raise ShapeError(f"heads is {layer.heads!r}; expected a whole number (heads cannot be a symbol)")
    _divides(_size("heads", layer.heads), "dim", layer.dim)
    return shape


# ---- normalisation ----------------------------------------------------------------------------------------------


@rule(layers.BatchNorm2d, quantity=Quantity.SHAPE, reference=_torch("nn.BatchNorm2d"))
def _batch_norm(site: Site) -> Shape:
    shape = _input(site, "(channels, height, width)", 3)
    _number("eps", site.layer.eps, above=0.0)
    _expect("channels", shape[0], _size("channels", site.layer.channels))
    return shape


@rule(layers.LayerNorm, quantity=Quantity.SHAPE, reference=_torch("nn.LayerNorm"))
def _layer_norm(site: Site) -> Shape:
    (shape,) = site.inputs
    _number("eps", site.layer.eps, above=0.0)
    _expect("features in its last dimension", shape[-1], _size("features", site.layer.features))
    return shape


# ---- elementwise ------------------------------------------------------------------------------------------------


def _unchanged(site: Site) -> Shape:
    (shape,) = site.inputs
    return shape


for _kind in (
    layers.ReLU, layers.ReLU6, layers.SELU, layers.GELU, layers.GELUTanh, layers.SiLU, layers.Mish, layers.Tanh,
    layers.Sigmoid, layers.Hardsigmoid, layers.Hardswish, layers.Softsign, layers.Tanhshrink, layers.Identity,
):  # fmt: skip
    rule(_kind, quantity=Quantity.SHAPE, reference=_torch(f"nn.{_kind.__name__}"))(_unchanged)


@rule(layers.PReLU, quantity=Quantity.SHAPE, reference=_torch("nn.PReLU"))
def _prelu(site: Site) -> Shape:
    channels = _size("channels", site.layer.channels)
    if channels != 1:
        _expect("channels in its first dimension", site.inputs[0][0], channels)
    return site.inputs[0]


@rule(layers.LeakyReLU, quantity=Quantity.SHAPE, reference=_torch("nn.LeakyReLU"))
def _leaky_relu(site: Site) -> Shape:
    _number("negative_slope", site.layer.negative_slope)
    return site.inputs[0]


@rule(layers.ELU, quantity=Quantity.SHAPE, reference=_torch("nn.ELU"))
def _elu(site: Site) -> Shape:
    _number("alpha", site.layer.alpha)
    return site.inputs[0]


@rule(layers.CELU, quantity=Quantity.SHAPE, reference=_torch("nn.CELU"))
def _celu(site: Site) -> Shape:
    _number("alpha", site.layer.alpha, above=0.0)
    return site.inputs[0]


@rule(layers.Softplus, quantity=Quantity.SHAPE, reference=_torch("nn.Softplus"))
def _softplus(site: Site) -> Shape:
    _number("beta", site.layer.beta, above=0.0)
    return site.inputs[0]


@rule(layers.Hardtanh, quantity=Quantity.SHAPE, reference=_torch("nn.Hardtanh"))
def _hardtanh(site: Site) -> Shape:
    _number("minimum", site.layer.minimum)
    _number("maximum", site.layer.maximum, above=site.layer.minimum)
    return site.inputs[0]


@rule(layers.Softshrink, quantity=Quantity.SHAPE, reference=_torch("nn.Softshrink"))
def _softshrink(site: Site) -> Shape:
    _number("threshold", site.layer.threshold, least=0.0)
    return site.inputs[0]


@rule(layers.Softmax, quantity=Quantity.SHAPE, reference=_torch("nn.Softmax"))
def _softmax(site: Site) -> Shape:
    _number("temperature", site.layer.temperature, above=0.0)
    return site.inputs[0]


@rule(layers.Dropout, quantity=Quantity.SHAPE, reference=_torch("nn.Dropout"))
def _dropout(site: Site) -> Shape:
    _number("p", site.layer.p, least=0.0)
    if site.layer.p > 1:
        raise ShapeError(f"p is {site.layer.p}; expected a probability")
    return site.inputs[0]


# ---- pooling ----------------------------------------------------------------------------------------------------


def _pooled(site: Site, dilation: Pair) -> Shape:
    shape, layer = _input(site, "(channels, height, width)", 3), site.layer
    sizes = _windows2d(shape, layer, dilation)
    for kernel, padding in zip(layer.kernel, layer.padding, strict=True):
        if sympy.sympify(kernel - 2 * padding).is_negative:
            raise ShapeError(f"padding {layer.padding} is more than half of the kernel {layer.kernel}")
    return (shape[0], *sizes)


@rule(layers.MaxPool2d, quantity=Quantity.SHAPE, reference=_torch("nn.MaxPool2d"))
def _max_pool(site: Site) -> Shape:
    return _pooled(site, _pair("dilation", site.layer.dilation))


@rule(layers.AvgPool2d, quantity=Quantity.SHAPE, reference=_torch("nn.AvgPool2d"))
def _avg_pool(site: Site) -> Shape:
    return _pooled(site, (1, 1))


@rule(layers.AdaptiveAvgPool2d, quantity=Quantity.SHAPE, reference=_torch("nn.AdaptiveAvgPool2d"))
def _adaptive_avg_pool(site: Site) -> Shape:
    shape = _input(site, "(channels, height, width)", 3)
    return (shape[0], *_pair("output", site.layer.output))


# ---- structure --------------------------------------------------------------------------------------------------


@rule(layers.Add, quantity=Quantity.SHAPE, reference=_torch("torch.add"))
def _add(site: Site) -> Shape:
    first = site.inputs[0]
    for other in site.inputs[1:]:
        if not _same(first, other):
            raise ShapeError(f"cannot add shapes {first} and {other}; expected equal ones")
    return first


@rule(layers.Concat, quantity=Quantity.SHAPE, reference=_torch("torch.cat"))
def _concat(site: Site) -> Shape:
    first, dim = site.inputs[0], site.layer.dim
    if not isinstance(dim, int) or not 0 <= dim < len(first):
        raise ShapeError(f"dim is {dim!r}; expected 0 to {len(first) - 1} for inputs of shape {first}")
    for other in site.inputs[1:]:
        if not _same(first[:dim] + first[dim + 1 :], other[:dim] + other[dim + 1 :]) or len(other) != len(first):
            raise ShapeError(f"cannot concatenate shapes {first} and {other} along dimension {dim}")
    total = sympy.expand(sum(shape[dim] for shape in site.inputs))
    return (*first[:dim], total, *first[dim + 1 :])


@rule(layers.Flatten, quantity=Quantity.SHAPE, reference=_torch("nn.Flatten"))
def _flatten(site: Site) -> Shape:
    return (sympy.expand(sympy.prod(site.inputs[0])),)


@rule(layers.Reshape, quantity=Quantity.SHAPE, reference=_torch("torch.reshape"))
def _reshape(site: Site) -> Shape:
    (shape,), target = site.inputs, site.layer.shape
    if not isinstance(target, tuple) or not target:
        raise ShapeError(f"shape is {target!r}; expected a tuple of at least one size, without the batch")
    result = tuple(_size("a dimension of shape", size) for size in target)
    if not _equal(sympy.prod(shape), sympy.prod(result)):
        raise ShapeError(f"cannot reshape {shape} to {result}: {sympy.prod(shape)} numbers to {sympy.prod(result)}")
    return result


@rule(layers.Permute, quantity=Quantity.SHAPE, reference=_torch("torch.permute"))
def _permute(site: Site) -> Shape:
    (shape,), dims = site.inputs, site.layer.dims
    if not isinstance(dims, tuple) or any(type(d) is not int for d in dims) or sorted(dims) != list(range(len(shape))):
        raise ShapeError(f"dims is {dims!r}; expected the numbers 0 to {len(shape) - 1} in some order")
    return tuple(shape[d] for d in dims)


@rule(layers.ClassToken, quantity=Quantity.SHAPE, reference=_torch("torchvision.models.VisionTransformer"))
def _class_token(site: Site) -> Shape:
    tokens, dim = _input(site, "(tokens, dim)", 2)
    _expect("features per token", dim, _size("dim", site.layer.dim))
    return (tokens + 1, dim)


@rule(layers.PositionEmbedding, quantity=Quantity.SHAPE, reference=_torch("torchvision.models.VisionTransformer"))
def _position_embedding(site: Site) -> Shape:
    tokens, dim = _input(site, "(tokens, dim)", 2)
    _expect("tokens", tokens, _size("tokens", site.layer.tokens))
    _expect("features per token", dim, _size("dim", site.layer.dim))
    return (tokens, dim)


@rule(layers.SelectToken, quantity=Quantity.SHAPE, reference=_torch("torch.select"))
def _select_token(site: Site) -> Shape:
    (tokens, dim), index = _input(site, "(tokens, dim)", 2), site.layer.index
    if type(index) is not int or index < 0 or sympy.sympify(tokens - index - 1).is_negative:
        raise ShapeError(f"index is {index!r}; expected 0 to {tokens - 1} for {tokens} tokens")
    return (dim,)


@rule(Repeat, quantity=Quantity.SHAPE, reference=_torch("nn.Sequential"))
def _repeat(site: Site) -> Shape:
    (shape,), layer = site.inputs, site.layer
    body, index, count = layer.body, layer.index, _size("count", layer.count)
    if not isinstance(index, sympy.Symbol) or not (index.is_integer and index.is_positive):
        raise ShapeError(f"index is {index!r}; expected a symbol for a positive integer")
    if isinstance(count, sympy.Expr) and count.has(index):
        raise ShapeError(f"count is {count}, which holds the block's own index {index}")
    if len(body) < 2:
        raise ShapeError("the repeated block holds no layer; expected at least one beside its Input")
    if any(isinstance(node.layer, Repeat) for node in body.nodes):
        raise ShapeError("the repeated block holds another Repeat; write one of the two out")

    def at(sizes: Shape, value: Size) -> Shape:
        return tuple(sympy.sympify(size).subs(index, value) for size in sizes)

    first = body.subs({index: 1})
    if not _same(first.shapes[first.input], shape):
        raise ShapeError(f"the input has shape {shape}, but the block takes {first.shapes[first.input]} at {index} = 1")
    produced, taken = body.shapes[body.output], at(body.shapes[body.input], index + 1)
    if not _same(produced, taken):
        raise ShapeError(f"the block returns {produced} at {index}, but takes {taken} at {index} + 1")
    return at(produced, count)
