"""Shape rules against torch, on bad layers, and with symbols."""

import hypothesis.strategies as st
import pytest
import sympy
import torch
from hypothesis import assume, example, given
from test_norms_oracles import flushing
from torch import nn

from fimtheory import layers
from fimtheory.claims import Quantity
from fimtheory.errors import GraphError, ShapeError
from fimtheory.expressions import index_symbol, size_symbol
from fimtheory.graph import Builder, LayerGraph, Node, Repeat
from fimtheory.registry import find_rule

H, W, N, T = (size_symbol(name) for name in "HWNT")
i = index_symbol("i")


def shape_of(layer, *inputs):
    """Shape of ``layer`` on inputs that all have the first shape."""
    nodes = [Node("x", layers.Input(inputs[0]))]
    return LayerGraph([*nodes, Node("y", layer, ("x",) * len(inputs))]).shapes["y"]


def test_every_layer_type_has_a_shape_rule():
    kinds = [getattr(layers, name) for name in layers.__all__]
    kinds = [k for k in kinds if isinstance(k, type) and issubclass(k, layers.Layer) and k is not layers.Layer]
    assert len(kinds) > 40
    assert [k for k in [*kinds, Repeat] if find_rule((k,), Quantity.SHAPE) is None] == []


pairs = st.tuples(st.integers(1, 4), st.integers(1, 4))
paddings = st.tuples(st.integers(0, 3), st.integers(0, 3))
images = st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 9))


def torch_shape(module, shape):
    """Output shape of a torch module, or None where torch refuses the input or makes infinite numbers of zeros."""
    try:
        made = module(torch.zeros(1, *shape))
    except (RuntimeError, ValueError):
        return None
    return tuple(made.shape[1:]) if made.isfinite().all() else None


def assert_same_shape(layer, shape, expected):
    if expected is None or 0 in expected:
        with pytest.raises(ShapeError):
            shape_of(layer, shape)
    else:
        assert shape_of(layer, shape) == expected


@given(images, pairs, pairs, paddings, pairs, st.integers(1, 3), st.integers(1, 3))
def test_convolution_against_torch(shape, kernel, stride, padding, dilation, groups, per_group):
    assume(shape[0] % groups == 0)
    out = groups * per_group
    layer = layers.Conv2d(shape[0], out, kernel, stride, padding, dilation, groups)
    module = nn.Conv2d(shape[0], out, kernel, stride, padding, dilation, groups)
    assert_same_shape(layer, shape, torch_shape(module, shape))


@given(images, pairs, pairs, paddings, pairs)
@example((1, 2, 2), (2, 2), (1, 1), (1, 1), (3, 3))  # a window that sees nothing but padding
def test_max_pool_against_torch(shape, kernel, stride, padding, dilation):
    module = nn.MaxPool2d(kernel, stride, padding, dilation)
    expected = torch_shape(module, shape)
    # windows that step over all entries are refused, see test_rules_pooling
    assume(expected is None or not module(torch.zeros(1, *shape)).isinf().any())
    assert_same_shape(layers.MaxPool2d(kernel, stride, padding, dilation), shape, expected)


@given(images, pairs, pairs, paddings)
def test_average_pool_against_torch(shape, kernel, stride, padding):
    assert_same_shape(
        layers.AvgPool2d(kernel, stride, padding), shape, torch_shape(nn.AvgPool2d(kernel, stride, padding), shape)
    )


@given(st.integers(1, 9), st.integers(1, 4), st.integers(1, 4), st.integers(0, 3), st.integers(1, 3))
def test_symbolic_sizes_agree_with_numbers(height, kernel, stride, padding, dilation):
    layer = layers.Conv2d(1, 1, (kernel, 1), (stride, 1), (padding, 0), (dilation, 1))
    symbolic = shape_of(layer, (1, H, W))
    assume(height + 2 * padding > dilation * (kernel - 1))
    assert symbolic[1].subs(H, height) == shape_of(layer, (1, height, 5))[1]


def test_same_convolution_returns_the_symbols_themselves():
    assert shape_of(layers.Conv2d(3, 8, (3, 3), padding=(1, 1)), (3, H, W)) == (8, H, W)
    assert shape_of(layers.Conv2d(3, 8, (3, 3), (2, 2), (1, 1)), (3, 2 * H, 4 * W)) == (8, H, 2 * W)
    assert shape_of(layers.PatchEmbedding(3, 8, 4), (3, 4 * H, 4 * W)) == (H * W, 8)
    assert shape_of(layers.Flatten(), (3, H, W)) == (3 * H * W,)


SHAPES = [
    (layers.Linear(4, 2), [(4,)], (2,)),
    (layers.Linear(4, 2), [(7, 4)], (7, 2)),
    (layers.Linear(4, 2), [(3, 7, 4)], (3, 7, 2)),
    (layers.AdaptiveAvgPool2d((7, 7)), [(3, 1, 1)], (3, 7, 7)),
    (layers.Add(), [(3, 2)] * 3, (3, 2)),
    (layers.Concat(1), [(3, 2, 5)] * 3, (3, 6, 5)),
    (layers.Reshape((2, 3)), [(6,)], (2, 3)),
    (layers.Permute((2, 0, 1)), [(4, 5, 6)], (6, 4, 5)),
    (layers.ClassToken(4), [(7, 4)], (8, 4)),
    (layers.PositionEmbedding(7, 4), [(7, 4)], (7, 4)),
    (layers.SelectToken(6), [(7, 4)], (4,)),
    (layers.MultiHeadSelfAttention(4, 2), [(7, 4)], (7, 4)),
    (layers.LayerNorm(4), [(7, 4)], (7, 4)),
    (layers.PReLU(3), [(3, 2, 2)], (3, 2, 2)),
]


@pytest.mark.parametrize(("layer", "inputs", "expected"), SHAPES, ids=lambda v: type(v).__name__)
def test_shapes(layer, inputs, expected):
    assert shape_of(layer, *inputs) == expected


REFUSED = [
    (layers.Clamp(), (4,), "at least one number"),
    (layers.Clamp(1.0, 1.0), (4,), "maximum is 1.0; expected a number above 1.0"),
    (layers.Clamp(None, float("inf")), (4,), "maximum is inf; expected a finite number"),
    (layers.Threshold(0.0, -1.0), (4,), "jumps at its threshold"),
    (layers.SoftmaxOver(1), (4,), "dim is 1; expected 0 to 0"),
    (layers.LogSoftmax(-1), (4,), "dim is -1"),
    (layers.Linear(4, 2), (5,), "5 features, but the layer is for 4"),
    (layers.Linear(4, 0), (4,), "out_features is 0"),
    (layers.Linear(4, 2.0), (4,), "out_features is 2.0"),
    (layers.Linear(4, True), (4,), "out_features is True"),
    (layers.Conv2d(3, 8, (3, 3)), (4, 9, 9), "4 channels, but the layer is for 3"),
    (layers.Conv2d(3, 8, (3, 3)), (3, 9), r"expected \(channels, height, width\)"),
    (layers.Conv2d(3, 8, (3, 3)), (3, 2, 9), "window of 3 does not fit into 2 entries"),
    (layers.Conv2d(3, 8, 3), (3, 9, 9), "kernel is 3; expected a pair"),
    (layers.Conv2d(4, 8, (3, 3), groups=3), (4, 9, 9), "3 does not divide the in_channels 4"),
    (layers.Conv2d(4, 6, (3, 3), groups=4), (4, 9, 9), "4 does not divide the out_channels 6"),
    (layers.Conv2d(4, 6, (3, 3), (0, 1)), (4, 9, 9), "stride is 0"),
    (layers.Conv2d(4, 6, (3, 3), padding=(0, -1)), (4, 9, 9), "padding is -1"),
    (layers.PatchEmbedding(3, 8, 4), (3, 8, 6), "4 does not divide the width 6"),
    (layers.MultiHeadSelfAttention(6, 4), (7, 6), "4 does not divide the dim 6"),
    (layers.MultiHeadSelfAttention(6, N), (7, 6), "heads cannot be a symbol"),
    (layers.MultiHeadSelfAttention(6, 2), (6,), r"expected \(tokens, dim\)"),
    (layers.BatchNorm2d(3, 0.0), (3, 2, 2), "eps is 0.0; expected a number above 0.0"),
    (layers.BatchNorm2d(3, float("nan")), (3, 2, 2), "eps is nan; expected a finite number"),
    (layers.BatchNorm2d(3), (4, 2, 2), "4 channels"),
    (layers.LayerNorm(3, float("inf")), (3,), "expected a finite number"),
    (layers.LayerNorm(3), (3, 4), "4 features in its last dimension"),
    (layers.PReLU(2), (3,), "3 channels in its first dimension"),
    (layers.CELU(0.0), (3,), "alpha is 0.0"),
    (layers.ELU(float("nan")), (3,), "alpha is nan"),
    (layers.LeakyReLU(float("inf")), (3,), "negative_slope is inf"),
    (layers.Softplus(-1.0), (3,), "beta is -1.0"),
    (layers.Hardtanh(1.0, 1.0), (3,), "maximum is 1.0; expected a number above 1.0"),
    (layers.Softshrink(-0.5), (3,), "threshold is -0.5"),
    (layers.Softmax(0.0), (3,), "temperature is 0.0"),
    (layers.Dropout(1.5), (3,), "p is 1.5"),
    (layers.MaxPool2d((2, 2), (2, 2), (2, 2)), (3, 8, 8), "more than half of the kernel"),
    (layers.MaxPool2d((2, 2), (1, 1), (1, 1), (3, 3)), (1, 2, 2), "steps over all 2 entries"),
    (layers.AvgPool2d((9, 9), (1, 1)), (3, 8, 8), "does not fit"),
    (layers.AdaptiveAvgPool2d((0, 1)), (3, 8, 8), "output is 0"),
    (layers.Concat(3), (3, 8, 8), "dim is 3; expected 0 to 2"),
    (layers.Reshape((4, 4)), (3, 5), "15 numbers to 16"),
    (layers.Permute((0, 0, 1)), (3, 5, 5), "expected the numbers 0 to 2"),
    (layers.ClassToken(5), (7, 4), "4 features per token"),
    (layers.PositionEmbedding(8, 4), (7, 4), "7 tokens, but the layer is for 8"),
    (layers.SelectToken(7), (7, 4), "index is 7"),
    (layers.SelectToken(-1), (7, 4), "index is -1"),
]


@pytest.mark.parametrize(("layer", "shape", "message"), REFUSED)
def test_refused_layers(layer, shape, message):
    with pytest.raises(ShapeError, match=rf"node y \({type(layer).__name__}\): .*{message}"):
        shape_of(layer, shape)


NUMBERS = [
    layers.LeakyReLU, layers.ELU, layers.CELU, layers.Softplus, layers.Hardtanh, layers.Clamp, layers.Softshrink,
    layers.Softmax, layers.Scale, layers.Shift, layers.Dropout, lambda v: layers.Threshold(v, v),
    lambda v: layers.BatchNorm2d(2, v), lambda v: layers.LayerNorm(3, v), lambda v: layers.L2Normalize(0, v),
]  # fmt: skip


@pytest.mark.parametrize("layer", NUMBERS)
@pytest.mark.parametrize("flush", [True, False])
@pytest.mark.parametrize("sign", [1, -(2**63) + 1])
def test_numbers_that_may_be_read_as_zero_are_refused(layer, flush, sign):
    value = torch.tensor([sign]).view(torch.float64).item()
    with flushing(flush), pytest.raises(ShapeError, match=r"not zero but below 2\^-1022"):
        shape_of(layer(value), (2, 3, 3))


@pytest.mark.parametrize("shape", [(), (0, 3), (-1,), (2.5,), 3, (sympy.Symbol("h", negative=True),)])
def test_refused_inputs(shape):
    with pytest.raises(ShapeError, match="node x"):
        LayerGraph([Node("x", layers.Input(shape)), Node("y", layers.Identity(), ("x",))])


def test_windows_of_any_size_are_checked_at_once():
    padding = 2**40
    assert shape_of(layers.MaxPool1d((2 * padding,), (1,), (padding,)), (1, 4)) == (1, 5)


def joined(layer, first, second):
    """``layer`` on two inputs of different widths."""
    builder = Builder("two")
    x = builder.add("x", layers.Input((4,)))
    inputs = builder.add("a", layers.Linear(4, first), x), builder.add("b", layers.Linear(4, second), x)
    builder.add("y", layer, *inputs)
    return builder.graph()


def test_joining_different_shapes():
    assert joined(layers.Concat(), 2, N).shapes["y"] == (N + 2,)
    assert joined(layers.Add(), N + N, 2 * N).shapes["y"] == (2 * N,)
    with pytest.raises(ShapeError, match=r"cannot add shapes \(2,\) and \(3,\)"):
        joined(layers.Add(), 2, 3)
    with pytest.raises(ShapeError, match="cannot add"):
        joined(layers.Add(), N, T)


def test_equal_sizes_in_another_form():
    assert joined(layers.Add(), N * (N + 1), N**2 + N).shapes["y"] == (N**2 + N,)
    assert shape_of(layers.Linear(N * (N + 1), 2), (N**2 + N,)) == (2,)


def test_concatenating_along_one_dimension_needs_the_others_equal():
    builder = Builder("two")
    x = builder.add("x", layers.Input((4, 4)))
    tokens = builder.add("tokens", layers.ClassToken(4), x)
    builder.add("y", layers.Concat(1), x, tokens)
    with pytest.raises(ShapeError, match="cannot concatenate"):
        builder.graph()


def repeated(taken, produced, count, given_shape):
    body = Builder("body")
    body.add("fc", layers.Linear(taken, produced), body.add("x", layers.Input((taken,))))
    whole = Builder("whole")
    whole.add("blocks", Repeat(body.graph(), i, count), whole.add("x", layers.Input((given_shape,))))
    return whole.graph()


def test_repeat_chains_the_sizes_of_its_body():
    graph = repeated(2 * i, 2 * i + 2, N, 2)
    assert graph.shapes["blocks"] == (2 * N + 2,)
    assert graph.subs({N: 3}).shapes["blocks.3.fc"] == (8,)
    assert repeated(2 * i, 2 * i + 2, 3, 2).shapes["blocks"] == (8,)


def test_repeat_refuses_bodies_that_do_not_chain():
    with pytest.raises(ShapeError, match=r"takes \(2,\) at i = 1"):
        repeated(2 * i, 2 * i + 2, N, 3)
    with pytest.raises(ShapeError, match=r"returns \(2\*i \+ 1,\) at i, but takes \(2\*i \+ 2,\) at i \+ 1"):
        repeated(2 * i, 2 * i + 1, N, 2)
    with pytest.raises(ShapeError, match="holds the block's own index"):
        repeated(4, 4, i + 1, 4)
    with pytest.raises(ShapeError, match="count is 0"):
        repeated(4, 4, 0, 4)


def test_repeat_refuses_nesting_and_empty_bodies():
    inner = repeated(4, 4, N, 4)
    with pytest.raises(ShapeError, match="holds another Repeat"):
        LayerGraph([Node("x", layers.Input((4,))), Node("y", Repeat(inner, i, T), ("x",))])
    empty = LayerGraph([Node("x", layers.Input((4,)))])
    with pytest.raises(ShapeError, match="holds no layer"):
        LayerGraph([Node("x", layers.Input((4,))), Node("y", Repeat(empty, i, T), ("x",))])
    body = LayerGraph([Node("x", layers.Input((4,))), Node("y", layers.ReLU(), ("x",))])
    with pytest.raises(ShapeError, match="expected a symbol for a positive integer"):
        LayerGraph([Node("x", layers.Input((4,))), Node("y", Repeat(body, sympy.Symbol("t"), T), ("x",))])


def test_shape_errors_are_graph_errors():
    with pytest.raises(GraphError):
        shape_of(layers.Linear(4, 2), (5,))
