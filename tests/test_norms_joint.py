"""Ends of convolutional networks bounded jointly: no choice of slopes and selections exceeds R_W, on any layout."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from joint_oracle import Jacobian

import fimtheory as ft
from fimtheory import joint_stacks, layers, norms
from fimtheory.errors import NonFiniteError
from fimtheory.measures import joint_stacks as compiled
from fimtheory.measures.measured_graph import MeasuredGraph
from fimtheory.norms import joint as joint_module
from fimtheory.norms import proved as proved_module
from fimtheory.norms.torus import Torus
from fimtheory.slopes import slopes_of

ACTIVATIONS = [
    layers.ReLU(), layers.GELU(), layers.LeakyReLU(0.2), layers.LeakyReLU(-0.5), layers.Tanh(), layers.Abs(),
    layers.ELU(1.5), layers.Hardswish(),
]  # fmt: skip
KINDS = ["plain", "strided", "residual", "projected", "dense", "max", "average", "pointwise", "dilated"]


class Drawn:
    """A convolutional classifier in the making."""

    def __init__(self, shape):
        self.nodes = [ft.Node("x", layers.Input(shape))]

    def add(self, layer, *read):
        name = f"n{len(self.nodes)}"
        self.nodes.append(ft.Node(name, layer, read))
        return name

    def shape(self, node):
        return ft.LayerGraph(self.nodes).shapes[node]

    def conv(self, node, inputs, outputs, kernel=3, stride=1, padding=1, **options):
        pair = (kernel, kernel), (stride, stride), (padding, padding)
        return self.add(layers.Conv2d(inputs, outputs, *pair, **options), node)


def grown(net, here, kind, new, act, batch_norm):
    """Add a block of a kind and return its exit."""
    channels = net.shape(here)[0]

    def norm(node, size):
        return net.add(layers.BatchNorm2d(size), node) if batch_norm else node

    if kind == "plain":
        return act(norm(net.conv(here, channels, new), new))
    if kind == "strided":
        return act(norm(net.conv(here, channels, new, stride=2), new))
    if kind == "pointwise":
        return act(net.conv(net.conv(here, channels, new, 1, 1, 0), new, new, 2, 1, 0))
    if kind == "dilated":
        return act(net.conv(here, channels, 2 * channels, 2, 1, 1, dilation=(2, 1), groups=channels))
    if kind == "residual":
        node = act(norm(net.conv(here, channels, new), new))
        return act(net.add(layers.Add(), here, norm(net.conv(node, new, channels), channels)))
    if kind == "projected":
        node = net.conv(act(net.conv(here, channels, new, stride=2)), new, new)
        return act(net.add(layers.Add(), norm(net.conv(here, channels, new, 1, 2, 0), new), node))
    if kind == "dense":
        node = net.conv(act(norm(here, channels)), channels, new)
        joined = net.add(layers.Concat(0), here, node)
        return act(net.add(layers.BatchNorm2d(channels + new), joined))
    if kind == "average":
        return act(net.add(layers.AvgPool2d((2, 2), (2, 2)), here))
    pool = layers.MaxPool2d((2 + batch_norm,) * 2, (2, 2), (1, 1) if new > 2 else (0, 0), ceil_mode=new % 2 == 0)
    return net.add(pool, act(here))


@st.composite
def networks(draw):
    """A network of one to three blocks with its weights."""
    net = Drawn((draw(st.integers(1, 2)), draw(st.integers(3, 6)), draw(st.integers(3, 6))))
    here = "x"
    for _ in range(draw(st.integers(1, 3))):
        size = net.shape(here)[1:] if len(net.nodes) > 1 else net.nodes[0].layer.shape[1:]
        if min(size) < 3:
            break
        activation = draw(st.sampled_from(ACTIVATIONS))
        arguments = draw(st.sampled_from(KINDS)), draw(st.integers(1, 4)), draw(st.booleans())
        kind, new, batch_norm = arguments
        here = grown_first(net, here, kind, new, lambda node, a=activation: net.add(a, node), batch_norm)
    if draw(st.booleans()):
        here = net.add(layers.AdaptiveAvgPool2d((1, 1)), here)
    here = net.add(layers.Flatten(), here)
    width = net.shape(here)[0]
    net.add(layers.Linear(width, draw(st.integers(2, 4))), here)
    graph = ft.LayerGraph(net.nodes)
    return graph, drawn_weights(
        graph, draw(st.integers(0, 2**20)), draw(st.sampled_from(["normal", "rank one", "sparse"]))
    )


def grown_first(net, here, kind, new, act, batch_norm):
    if len(net.nodes) == 1:
        here = act(net.conv(here, net.nodes[0].layer.shape[0], 2))
    return grown(net, here, kind, new, act, batch_norm)


def drawn_weights(graph, seed, kind):
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for name, value in ft.instantiate(graph, seed=0).state_dict().items():
        if not value.is_floating_point():
            made[name] = value
            continue
        fresh = torch.randn(value.shape, generator=generator, dtype=torch.float64)
        if name.endswith("running_var"):
            fresh = fresh.abs() + 0.3
        elif kind == "rank one" and value.dim() > 1:
            fresh = torch.randn(len(value), generator=generator, dtype=torch.float64).reshape(
                -1, *[1] * (value.dim() - 1)
            )
            fresh = fresh.expand(value.shape).clone()
        elif kind == "sparse":
            fresh = fresh * (torch.rand(value.shape, generator=generator) < 0.3)
        made[name] = fresh
    return made


def joint_bound(graph, tensors, steps, limit, entry=None):
    """R_W of the end after ``entry`` by a joint program, and the program; None where the layout is impossible."""
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patched:
        patched.setattr(joint_stacks, "_MOST_ENTRIES", limit)
        nodes = graph.order[1 + graph.order.index(entry or graph.input) :]
        place = MeasuredGraph(graph, tensors).place(nodes)
        program = compiled.program_of(place)
        if program is None:
            return None, None
        try:
            return norms.network_head(program, place.tensors[-1]["weight"], steps=steps), program
        except NonFiniteError:  # a layer of zeros
            return None, program


def largest_found(graph, tensors, tries=2):
    jacobian = Jacobian(graph, tensors)
    return max(jacobian.ascended(seed) for seed in range(tries))


LIMITS = st.sampled_from([1, 10, 40, 1100])


@settings(max_examples=60, deadline=None)
@given(networks(), LIMITS, st.sampled_from([0, 3]))
def test_no_slopes_exceed_the_joint_bound(network, limit, steps):
    graph, tensors = network
    bound, _ = joint_bound(graph, tensors, steps, limit)
    assume(bound is not None)
    assert largest_found(graph, tensors) <= bound.upper * (1 + 1e-12)


def residual(activation=None, stride=1):
    """A stem, a block with a shortcut, and an average: all on a torus, if the limit is low."""
    act = activation or layers.ReLU()
    net = Drawn((1, 4, 4))
    here = net.add(act, net.conv("x", 1, 2))
    here = grown(net, here, "residual" if stride == 1 else "projected", 2, lambda n: net.add(act, n), False)
    here = net.add(layers.Flatten(), net.add(layers.AdaptiveAvgPool2d((1, 1)), here))
    net.add(layers.Linear(2, 2), here)
    return ft.LayerGraph(net.nodes)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("limit", [2, 1100])
def test_layouts_are_those_meant(stride, limit):
    graph = residual(stride=stride)
    _, program = joint_bound(graph, drawn_weights(graph, 0, "normal"), 0, limit)
    assert program.torus.is_point == (limit == 1100)
    assert any(isinstance(step, joint_module.Readout) for step in program.steps) == (limit == 2)


@pytest.mark.parametrize("limit", [2, 1100])
@pytest.mark.parametrize("stride", [1, 2])
def test_descent_lowers_the_bound_of_a_residual_network(limit, stride):
    graph = residual(stride=stride)
    tensors = drawn_weights(graph, 3, "normal")
    plain, _ = joint_bound(graph, tensors, 0, limit)
    better, _ = joint_bound(graph, tensors, 24, limit)
    found = largest_found(graph, tensors)
    assert found <= better.upper < plain.upper
    assert better.upper < 4 * found


def test_a_matrix_is_never_worse_than_a_torus_of_the_same_multipliers():
    graph = residual()
    tensors = drawn_weights(graph, 5, "normal")
    torus, _ = joint_bound(graph, tensors, 24, 2)
    matrix, _ = joint_bound(graph, tensors, 24, 1100)
    assert matrix.upper < torus.upper


@pytest.mark.parametrize("factor", [1e200, 1e-200, 0.0])
def test_weights_far_from_one_have_a_bound(factor):
    graph = residual()
    tensors = {k: v * factor if v.dim() > 1 else v for k, v in drawn_weights(graph, 0, "normal").items()}
    value, method = MeasuredGraph(graph, tensors).value("pairwise recursion", graph.order[1:])
    assert method == ("product of norms" if factor else "zero")
    assert value.is_finite()
    assert (value > 0) == (factor > 0)


def test_the_fallback_is_the_product_of_gains():
    graph = residual(layers.LeakyReLU(-0.5), stride=2)
    tensors = drawn_weights(graph, 1, "normal")
    place = MeasuredGraph(graph, tensors).place(graph.order[1:])
    assert largest_found(graph, tensors) <= float(compiled.gains_one_by_one(place))


# ---- planted faults: each must make some bound too small -----------------------------------------------------------


def violated(graph, seeds, limit=2, kind="normal"):
    """Whether some slopes exceed the bound with weights of some seed."""
    for seed in range(seeds):
        tensors = drawn_weights(graph, seed, kind)
        bound, _ = joint_bound(graph, tensors, 24, limit)
        if bound is not None and largest_found(graph, tensors) > bound.upper:
            return True
    return False


def nearly_linear(stride, layers_count=2):
    """Convolutions whose slopes are nearly known, so that the bound is nearly attained."""
    net, here, channels = Drawn((1, 4, 4)), "x", 1
    for k in range(layers_count):
        node = net.conv(here, channels, 2, 3, stride if k == 0 else 1, 1)
        here, channels = net.add(layers.LeakyReLU(0.99), node), 2
    here = net.add(layers.Flatten(), net.add(layers.AdaptiveAvgPool2d((1, 1)), here))
    net.add(layers.Linear(2, 2), here)
    return ft.LayerGraph(net.nodes)


def unmasked(layer, count):
    one = torch.ones(count, dtype=torch.float64)
    low, high = map(float, slopes_of(layer))
    return joint_module.Activation(0.5 * (low + high) * one, 0.5 * (high - low + 1e-9) * one)


def test_a_forgotten_alias_is_noticed(monkeypatch):
    graph = nearly_linear(2, 1)
    assert not violated(graph, 12)
    right = Torus.aliases
    monkeypatch.setattr(Torus, "aliases", lambda self, stride: right(self, stride)[-1:] * math.prod(stride))
    assert violated(graph, 12)


def test_a_forgotten_mask_is_noticed(monkeypatch):
    graph = nearly_linear(1)
    assert not violated(graph, 12)
    monkeypatch.setattr(compiled, "_activation", unmasked)
    assert violated(graph, 12)


def test_a_torus_without_room_for_the_padding_is_noticed(monkeypatch):
    net = Drawn((1, 4, 4))
    here = net.add(layers.AdaptiveAvgPool2d((1, 1)), net.conv("x", 1, 2))
    net.add(layers.Linear(2, 2), net.add(layers.Flatten(), here))
    graph = ft.LayerGraph(net.nodes)
    assert not violated(graph, 12)
    monkeypatch.setattr(joint_stacks, "_sides", lambda wiring, actions: (4, 4))
    assert violated(graph, 12)


def test_a_forgotten_remainder_of_a_maximum_is_noticed(monkeypatch):
    net = Drawn((1, 4, 4))
    here = net.add(layers.MaxPool2d((2, 2), (2, 2)), net.add(layers.ReLU(), net.conv("x", 1, 2)))
    net.add(layers.Linear(2, 2), net.add(layers.Flatten(), net.add(layers.AdaptiveAvgPool2d((1, 1)), here)))
    graph = ft.LayerGraph(net.nodes)
    assert not violated(graph, 6)
    right = proved_module.remainder
    monkeypatch.setattr(proved_module, "remainder", lambda step, slack: (right(step, slack)[0], 0.0 * slack[0]))
    assert violated(graph, 6)


def linear_conv(inputs, outputs, kernel, stride=1, padding=0):
    return layers.Conv2d(inputs, outputs, (kernel, kernel), (stride, stride), (padding, padding), bias=False)


def test_strided_maps_of_one_node_with_other_strides_are_not_one_step(monkeypatch):
    """Both convolutions read position 8 where the other network's would read 8 and 4: the rows add up there."""
    monkeypatch.setattr(joint_stacks, "_MOST_ENTRIES", 250)
    side = 20
    graph = ft.LayerGraph([
        ft.Node("x", layers.Input((1, side, side))),
        ft.Node("a", linear_conv(1, 1, 1, 2), ("x",)),
        ft.Node("b", linear_conv(1, 1, 1, 3, 4), ("x",)),
        ft.Node("sum", layers.Add(), ("a", "b")),
        ft.Node("relu", layers.ReLU(), ("sum",)),
        ft.Node("flat", layers.Flatten(), ("relu",)),
        ft.Node("head", layers.Linear(100, 2), ("flat",)),
    ])  # fmt: skip
    weights = ft.instantiate(graph, 0).state_dict()
    weights["a.weight"], weights["b.weight"] = torch.ones(1, 1, 1, 1), torch.ones(1, 1, 1, 1)
    weights["head.weight"] = torch.zeros(2, 100)
    weights["head.weight"][0, 44] = 1.0
    found = ft.evaluate(ft.derive(graph), ft.instantiate(graph, weights=weights))
    assert found.value >= Jacobian(graph, weights).ascended(0) ** 2 / 4 == 1.0


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("kernel", [2, 3])
def test_live_images_of_several_sizes_become_one_vector(monkeypatch, kernel, turned):
    monkeypatch.setattr(joint_stacks, "_MOST_ENTRIES", 80)
    branches = [ft.Node("a", linear_conv(2, 1, kernel), ("x",)), ft.Node("b", linear_conv(2, 1, 1), ("x",))]
    graph = ft.LayerGraph([
        ft.Node("x", layers.Input((2, 6, 7))),
        *(reversed(branches) if turned else branches),
        ft.Node("ra", layers.ReLU(), ("a",)),
        ft.Node("rb", layers.ReLU(), ("b",)),
        ft.Node("fa", layers.Flatten(), ("ra",)),
        ft.Node("fb", layers.Flatten(), ("rb",)),
        ft.Node("both", layers.Concat(0), ("fa", "fb")),
        ft.Node("head", layers.Linear((7 - kernel) * (8 - kernel) + 42, 3), ("both",)),
    ])  # fmt: skip
    model = ft.instantiate(graph, 0)
    found = ft.evaluate(ft.derive(graph), model)
    (row,) = (row for row in found.rows if row.rule == "recursion")
    assert "torus" in row.method
    best = max(Jacobian(graph, model.state_dict()).ascended(seed) for seed in range(4)) ** 2 / 4
    assert best <= found.value <= 2.0 * best


def test_a_linear_layer_along_the_columns_of_an_image_is_not_one_of_channels():
    graph = ft.LayerGraph([
        ft.Node("x", layers.Input((3, 5, 5))),
        ft.Node("a", linear_conv(3, 2, 3), ("x",)),
        ft.Node("relu", layers.ReLU(), ("a",)),
        ft.Node("pool", layers.AdaptiveAvgPool2d((1, 1)), ("relu",)),
        ft.Node("columns", layers.Linear(1, 4), ("pool",)),
        ft.Node("flat", layers.Flatten(), ("columns",)),
        ft.Node("head", layers.Linear(8, 3), ("flat",)),
    ])  # fmt: skip
    model = ft.instantiate(graph, 0)
    best = Jacobian(graph, model.state_dict()).ascended(0) ** 2 / 4
    assert ft.evaluate(ft.derive(graph), model).value >= best


@pytest.mark.parametrize("pooled", [False, True])
def test_a_stride_as_long_as_the_image_leaves_one_vector(monkeypatch, pooled):
    monkeypatch.setattr(joint_stacks, "_MOST_ENTRIES", 20)
    after = layers.AvgPool2d((4, 4), (4, 4)) if pooled else linear_conv(2, 3, 4, 4)
    graph = ft.LayerGraph([
        ft.Node("x", layers.Input((3, 4, 4))),
        ft.Node("a", linear_conv(3, 2, 1), ("x",)),
        ft.Node("gelu", layers.GELU(), ("a",)),
        ft.Node("b", after, ("gelu",)),
        ft.Node("relu", layers.ReLU(), ("b",)),
        ft.Node("flat", layers.Flatten(), ("relu",)),
        ft.Node("head", layers.Linear(2 if pooled else 3, 3), ("flat",)),
    ])  # fmt: skip
    model = ft.instantiate(graph, 0)
    found = ft.evaluate(ft.derive(graph), model)
    (row,) = (row for row in found.rows if row.rule == "recursion")
    assert "torus 4x4" in row.method
    best = max(Jacobian(graph, model.state_dict()).ascended(seed) for seed in range(4)) ** 2 / 4
    assert best <= found.value <= 2.0 * best
