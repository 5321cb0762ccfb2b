"""Output shapes: one rule per layer type, which also checks the layer's own numbers.

A shape rule takes a site and returns the output shape of one input (no batch dimension).  It raises ``ShapeError``
with what was given and what was expected (see ``fimtheory.sizes``).
"""

from __future__ import annotations

import sympy

from fimtheory import layers
from fimtheory.claims import Quantity, Reference
from fimtheory.errors import ShapeError
from fimtheory.graph import Repeat
from fimtheory.layers import Shape, Size
from fimtheory.registry import Site, rule
from fimtheory.sizes import (
    checked_number,
    checked_size,
    equal,
    expect,
    input_shape,
    quotient,
    same_shape,
)

__all__: list[str] = []


def _torch(where: str) -> Reference:
    return Reference("torch", where)


def _image(site: Site) -> Shape:
    return input_shape(site, "(channels, height, width)", 3)


# ---- weights ----------------------------------------------------------------------------------------------------


@rule(layers.Input, quantity=Quantity.SHAPE, reference=_torch("Tensor.shape"))
def _graph_input(site: Site) -> Shape:
    shape = site.layer.shape
    if not isinstance(shape, tuple) or not shape:
        raise ShapeError(f"the input shape is {shape!r}; expected a tuple of at least one size, without the batch")
    return tuple(checked_size("a dimension of the input", size) for size in shape)


@rule(layers.Linear, quantity=Quantity.SHAPE, reference=_torch("nn.Linear"))
def _linear(site: Site) -> Shape:
    (shape,) = site.inputs
    expect("features", shape[-1], checked_size("in_features", site.layer.in_features))
    return (*shape[:-1], checked_size("out_features", site.layer.out_features))


@rule(layers.PatchEmbedding, quantity=Quantity.SHAPE, reference=_torch("torchvision.models.VisionTransformer"))
def _patch_embedding(site: Site) -> Shape:
    shape, layer = _image(site), site.layer
    expect("channels", shape[0], checked_size("in_channels", layer.in_channels))
    patch = checked_size("patch", layer.patch)
    rows, columns = quotient(patch, "height", shape[1]), quotient(patch, "width", shape[2])
    return (rows * columns, checked_size("dim", layer.dim))


@rule(layers.MultiHeadSelfAttention, quantity=Quantity.SHAPE, reference=_torch("nn.MultiheadAttention"))
def _attention(site: Site) -> Shape:
    shape, layer = input_shape(site, "(tokens, dim)", 2), site.layer
    expect("features per token", shape[1], checked_size("dim", layer.dim))
    if not isinstance(layer.heads, int):
        raise ShapeError(f"heads is {layer.heads!r}; expected a whole number (heads cannot be a symbol)")
    quotient(checked_size("heads", layer.heads), "dim", layer.dim)
    return shape


# ---- elementwise ------------------------------------------------------------------------------------------------


def _unchanged(site: Site) -> Shape:
    (shape,) = site.inputs
    return shape


for _kind in (
    layers.ReLU, layers.ReLU6, layers.SELU, layers.GELU, layers.GELUTanh, layers.SiLU, layers.Mish, layers.Tanh,
    layers.Sigmoid, layers.Hardsigmoid, layers.Hardswish, layers.Softsign, layers.Tanhshrink, layers.Identity,
    layers.LogSigmoid, layers.Abs, layers.Sin, layers.Cos, layers.Erf, layers.Atan, layers.QuickGELU,
):  # fmt: skip
    rule(_kind, quantity=Quantity.SHAPE, reference=_torch(f"nn.{_kind.__name__}"))(_unchanged)


@rule(layers.PReLU, quantity=Quantity.SHAPE, reference=_torch("nn.PReLU"))
def _prelu(site: Site) -> Shape:
    channels = checked_size("channels", site.layer.channels)
    if channels != 1:
        expect("channels in its first dimension", site.inputs[0][0], channels)
    return site.inputs[0]


@rule(layers.LeakyReLU, quantity=Quantity.SHAPE, reference=_torch("nn.LeakyReLU"))
def _leaky_relu(site: Site) -> Shape:
    checked_number("negative_slope", site.layer.negative_slope)
    return site.inputs[0]


@rule(layers.ELU, quantity=Quantity.SHAPE, reference=_torch("nn.ELU"))
def _elu(site: Site) -> Shape:
    checked_number("alpha", site.layer.alpha)
    return site.inputs[0]


@rule(layers.CELU, quantity=Quantity.SHAPE, reference=_torch("nn.CELU"))
def _celu(site: Site) -> Shape:
    checked_number("alpha", site.layer.alpha, above=0.0)
    return site.inputs[0]


@rule(layers.Softplus, quantity=Quantity.SHAPE, reference=_torch("nn.Softplus"))
def _softplus(site: Site) -> Shape:
    checked_number("beta", site.layer.beta, above=0.0)
    return site.inputs[0]


@rule(layers.Hardtanh, quantity=Quantity.SHAPE, reference=_torch("nn.Hardtanh"))
def _hardtanh(site: Site) -> Shape:
    checked_number("minimum", site.layer.minimum)
    checked_number("maximum", site.layer.maximum, above=site.layer.minimum)
    return site.inputs[0]


@rule(layers.Clamp, quantity=Quantity.SHAPE, reference=_torch("aten.clamp"))
def _clamp(site: Site) -> Shape:
    low, high = site.layer.minimum, site.layer.maximum
    if low is None and high is None:
        raise ShapeError("minimum and maximum are both None; expected at least one number, or take an Identity")
    for what, end in (("minimum", low), ("maximum", high)):
        if end is not None:
            checked_number(what, end)
    if low is not None and high is not None and not low < high:
        raise ShapeError(f"maximum is {high}; expected a number above {low}")
    return site.inputs[0]


@rule(layers.Threshold, quantity=Quantity.SHAPE, reference=_torch("nn.Threshold"))
def _threshold(site: Site) -> Shape:
    checked_number("threshold", site.layer.threshold)
    checked_number("value", site.layer.value)
    if site.layer.value != site.layer.threshold:
        raise ShapeError(
            f"value is {site.layer.value}; expected {site.layer.threshold}, as the function jumps at its threshold "
            "otherwise and no gain is finite"
        )
    return site.inputs[0]


@rule(layers.Softshrink, quantity=Quantity.SHAPE, reference=_torch("nn.Softshrink"))
def _softshrink(site: Site) -> Shape:
    checked_number("threshold", site.layer.threshold, least=0.0)
    return site.inputs[0]


@rule(layers.Softmax, quantity=Quantity.SHAPE, reference=_torch("nn.Softmax"))
def _softmax(site: Site) -> Shape:
    checked_number("temperature", site.layer.temperature, above=0.0)
    return site.inputs[0]


@rule(layers.Dropout, quantity=Quantity.SHAPE, reference=_torch("nn.Dropout"))
def _dropout(site: Site) -> Shape:
    checked_number("p", site.layer.p, least=0.0)
    if site.layer.p > 1:
        raise ShapeError(f"p is {site.layer.p}; expected a probability")
    return site.inputs[0]


# ---- structure --------------------------------------------------------------------------------------------------


@rule(layers.Add, quantity=Quantity.SHAPE, reference=_torch("torch.add"))
def _add(site: Site) -> Shape:
    first = site.inputs[0]
    for other in site.inputs[1:]:
        if not same_shape(first, other):
            raise ShapeError(f"cannot add shapes {first} and {other}; expected equal ones")
    return first


@rule(layers.Concat, quantity=Quantity.SHAPE, reference=_torch("torch.cat"))
def _concat(site: Site) -> Shape:
    first, dim = site.inputs[0], site.layer.dim
    if not isinstance(dim, int) or not 0 <= dim < len(first):
        raise ShapeError(f"dim is {dim!r}; expected 0 to {len(first) - 1} for inputs of shape {first}")
    for other in site.inputs[1:]:
        if not same_shape(first[:dim] + first[dim + 1 :], other[:dim] + other[dim + 1 :]) or len(other) != len(first):
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
    result = tuple(checked_size("a dimension of shape", size) for size in target)
    if not equal(sympy.prod(shape), sympy.prod(result)):
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
    tokens, dim = input_shape(site, "(tokens, dim)", 2)
    expect("features per token", dim, checked_size("dim", site.layer.dim))
    return (tokens + 1, dim)


@rule(layers.PositionEmbedding, quantity=Quantity.SHAPE, reference=_torch("torchvision.models.VisionTransformer"))
def _position_embedding(site: Site) -> Shape:
    tokens, dim = input_shape(site, "(tokens, dim)", 2)
    expect("tokens", tokens, checked_size("tokens", site.layer.tokens))
    expect("features per token", dim, checked_size("dim", site.layer.dim))
    return (tokens, dim)


@rule(layers.SelectToken, quantity=Quantity.SHAPE, reference=_torch("torch.select"))
def _select_token(site: Site) -> Shape:
    (tokens, dim), index = input_shape(site, "(tokens, dim)", 2), site.layer.index
    if type(index) is not int or index < 0 or sympy.sympify(tokens - index - 1).is_negative:
        raise ShapeError(f"index is {index!r}; expected 0 to {tokens - 1} for {tokens} tokens")
    return (dim,)


@rule(Repeat, quantity=Quantity.SHAPE, reference=_torch("nn.Sequential"))
def _repeat(site: Site) -> Shape:
    (shape,), layer = site.inputs, site.layer
    body, index, count = layer.body, layer.index, checked_size("count", layer.count)
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
    if not same_shape(first.shapes[first.input], shape):
        raise ShapeError(f"the input has shape {shape}, but the block takes {first.shapes[first.input]} at {index} = 1")
    produced, taken = body.shapes[body.output], at(body.shapes[body.input], index + 1)
    if not same_shape(produced, taken):
        raise ShapeError(f"the block returns {produced} at {index}, but takes {taken} at {index} + 1")
    return at(produced, count)
