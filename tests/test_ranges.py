"""Certified bounds on values, against what the layers compute at the corners of the box and inside it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from one_layer import graph_of
from oracles import activations

import fimtheory as ft
import fimtheory.forward
from fimtheory import layers
from fimtheory.balls import ball
from fimtheory.claims import Quantity
from fimtheory.errors import AssumptionError, MissingRuleError, NonFiniteError, RuleError
from fimtheory.measures import MeasuredGraph
from fimtheory.ranges import RANGED, Range, Ranges, ranged
from fimtheory.strategies import layer_graphs, product_layers, single_layers, weights_for
from fimtheory.strategies.windows import BATCH_NORMS

ROUNDING = 1 + 1e-9
SIZE = {
    Quantity.ENTRY_BOUND: lambda x: x.abs().max(),
    Quantity.TOKEN_NORM: lambda x: x.norm(dim=-1).max(),
    Quantity.NORM_BOUND: lambda x: x.norm(),
}


def size_of(quantity, x):
    """The number that a range bounds, computed in units in which no square overflows."""
    unit = ball(x.abs().max().item())
    return unit * ball(SIZE[quantity](x / x.abs().max()).item()) if unit > 0 else ball(0)


def ranges_of(graph, weights=None, input_bound=None):
    return Ranges(MeasuredGraph(graph, {} if weights is None else weights), input_bound)


def range_of(layer, shape, tensors=None, input_bound=None):
    graph = graph_of(layer, shape=shape)
    weights = {f"n0.{name}" if name else "n0": tensor for name, tensor in (tensors or {}).items()}
    return ranges_of(graph, weights, input_bound).of("n0")


def inside(shape, bound, generator):
    """Corners of the box, points of its faces and of its inside."""
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    uniform = 2 * torch.rand(shape, generator=generator, dtype=torch.float64) - 1
    sides = [x.sign(), uniform, torch.ones_like(x), -torch.ones_like(x), torch.zeros_like(x), x.clamp(-1, 1)]
    return [bound * side for side in sides]


def assert_contains(found, value, where=""):
    if value.isfinite().all():
        for quantity in SIZE:
            limit = found.bound(quantity) * ball(ROUNDING) + ball(1e-300)
            assert size_of(quantity, value) <= limit, (where, quantity, found)


# ---- every layer ------------------------------------------------------------------------------------------------


def test_every_layer_type_has_a_range():
    named = (getattr(layers, name) for name in layers.__all__)
    kinds = {k for k in named if isinstance(k, type) and issubclass(k, layers.Layer)}
    covered = {types[0] for types in RANGED if len(types) == 1}
    assert kinds - covered == {layers.Layer, layers.Input}


QUIET = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large, HealthCheck.large_base_example]


@settings(max_examples=150, deadline=None, suppress_health_check=QUIET)
@given(st.data())
def test_no_value_leaves_its_range(data):
    graph = data.draw(layer_graphs(products=True))
    weights = data.draw(weights_for(graph))
    bound = data.draw(st.sampled_from([0.0, 1e-3, 1.0, 20.0]))
    found = ranges_of(graph, weights, bound)
    try:
        known = {node: found.of(node) for node in graph.order}
    except NonFiniteError:
        assume(False)
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**20)))
    for x in inside(graph.shapes[graph.input], bound, generator):
        for node, value in activations(graph, weights, x).items():
            assert_contains(known[node], value, (node, graph.layer(node)))


SHAPES = [(4,), (3, 4), (2, 3, 4), (2, 2, 3, 2)]


@pytest.mark.parametrize("shape", SHAPES, ids=len)
@settings(max_examples=150, deadline=None, suppress_health_check=QUIET)
@given(st.data())
def test_no_value_of_a_layer_leaves_its_range(shape, data):
    """One layer on the box, perhaps a batch norm after it, with ordinary weights: where ranges are nearly attained."""
    layer = data.draw(single_layers(shape))
    made = tuple(int(size) for size in ft.Site.of(layer, inputs=(shape,)).output)
    chain = [layer]
    if len(made) in BATCH_NORMS and data.draw(st.booleans()):
        chain.append(BATCH_NORMS[len(made)](made[0]))
    graph = graph_of(*chain, shape=shape)
    weights = data.draw(weights_for(graph, styles=("normal", "rank one", "ones", "signs", "identity")))
    bound = data.draw(st.sampled_from([0.1, 1.0, 20.0]))
    found = ranges_of(graph, weights, bound)
    known = {node: found.of(node) for node in graph.order}
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**20)))
    for x in inside(shape, bound, generator):
        for node, value in activations(graph, weights, x).items():
            assert_contains(known[node], value, (node, graph.layer(node)))


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_no_product_leaves_its_range(data):
    """Each input of the product is the graph's input, times a factor of its own, in another shape."""
    layer, shapes, tensors = data.draw(product_layers())
    size = max(torch.Size(shape).numel() for shape in shapes)
    builder = ft.Builder("product")
    x = builder.add("x", layers.Input((size,)))
    read = []
    for k, shape in enumerate(shapes):
        part = builder.add(f"part{k}", layers.Slice(0, 0, torch.Size(shape).numel()), x)
        part = builder.add(f"scale{k}", layers.Scale(data.draw(st.sampled_from([1.0, -3.0, 0.1]))), part)
        read.append(builder.add(f"shape{k}", layers.Reshape(shape), part))
    builder.add("y", layer, *read)
    graph = builder.graph()
    weights = {"y": tensors[""]} if tensors else {}
    found = ranges_of(graph, weights, 2.0)
    known = {node: found.of(node) for node in graph.order}
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**20)))
    for x in inside((size,), 2.0, generator):
        for node, value in activations(graph, weights, x).items():
            assert_contains(known[node], value, (node, graph.layer(node)))


# ---- where ranges are attained ----------------------------------------------------------------------------------

ATTAINED = [
    (layers.ReLU(), (4,), "entry norm"),
    (layers.Hardtanh(-1.0, 0.5), (4,), "entry norm"),
    (layers.Shift(-2.0), (4,), "entry norm"),
    (layers.Clamp(None, -5.0), (4,), "entry"),
    (layers.Threshold(0.0, 0.0), (4,), "entry norm"),
    (layers.LogSumExp((0,), True), (4,), "entry norm"),
    (layers.Sum((0,)), (3, 4), "entry norm token"),
    (layers.Mean((0, 1)), (3, 4, 2), "entry norm token"),
    (layers.Reshape((6, 2)), (3, 4), "entry norm token"),
    (layers.Permute((1, 0)), (3, 4), "entry norm token"),
    (layers.Tile((2, 3)), (3, 4), "entry norm token"),
    (layers.Expand((5, 4, 3)), (4, 1), "entry norm token"),
    (layers.Select(1, 0), (3, 4), "entry norm token"),
    (layers.IndexSelect(1, (0, 0, 2, 1, 0)), (4, 3), "entry token"),
    (layers.MaxPool2d((2, 2), (2, 2)), (1, 4, 4), "entry norm token"),
    (layers.AvgPool2d((2, 2), (2, 2)), (1, 4, 4), "entry norm token"),
    (layers.AvgPool2d((2, 2), (2, 2), divisor=1), (1, 4, 4), "entry norm token"),
    (layers.LpPool2d(2, (2, 2), (2, 2)), (1, 4, 4), "entry norm token"),
    (layers.AdaptiveAvgPool2d((1, 1)), (3, 4, 4), "entry norm token"),
    (layers.Unfold((2, 3)), (1, 4, 4), "entry norm token"),
    (layers.Fold((3, 3), (2, 2)), (4, 4), "entry"),
    (layers.Fold((4, 4), (2, 2), stride=(2, 2)), (4, 4), "entry norm"),
]


@pytest.mark.parametrize(("layer", "shape", "attained"), ATTAINED, ids=repr)
def test_ranges_are_attained(layer, shape, attained):
    """At a corner where all entries are equal, the listed bounds of the layer are attained."""
    graph = graph_of(layer, shape=shape)
    found = ranges_of(graph, {}, 3.0).of("n0")
    for name in attained.split():
        quantity = {"entry": Quantity.ENTRY_BOUND, "token": Quantity.TOKEN_NORM, "norm": Quantity.NORM_BOUND}[name]
        sizes = [
            SIZE[quantity](activations(graph, {}, side * torch.ones(shape, dtype=torch.float64))["n0"]).item()
            for side in (3.0, -3.0)
        ]
        assert float(found.bound(quantity)) == pytest.approx(max(sizes), rel=1e-6), name


def test_entries_of_a_linear_map_are_attained_at_corners_or_on_the_ball():
    weight = torch.tensor([[1.0, -2.0], [0.5, 0.5]])
    found = range_of(layers.Linear(2, 2), (2,), {"weight": weight, "bias": torch.tensor([0.25, 0.0])}, 1.0)
    assert float(found.entry) == pytest.approx(3.25)
    builder = ft.Builder("normalised")
    x = builder.add("norm", layers.L2Normalize(0), builder.add("x", layers.Input((2,))))
    builder.add("fc", layers.Linear(2, 2, False), x)
    found = ranges_of(builder.graph(), {"fc.weight": weight}).of("fc")
    assert float(found.entry) == pytest.approx(5**0.5)
    assert float(found.norm) == pytest.approx(torch.linalg.matrix_norm(weight, 2).item(), rel=1e-6)


def test_a_convolution_and_its_batch_norm_are_bounded_together():
    """Channels that the batch norm shrinks do not count as if they were not."""
    builder = ft.Builder("folded")
    x = builder.add("conv", layers.Conv2d(1, 2, (1, 1)), builder.add("x", layers.Input((1, 3, 3))))
    builder.add("bn", layers.BatchNorm2d(2, 1e-3), x)
    weights = {
        "conv.weight": torch.tensor([10.0, 1.0]).reshape(2, 1, 1, 1),
        "conv.bias": torch.tensor([3.0, 0.0]),
        "bn.weight": torch.tensor([0.1, 1.0]),
        "bn.bias": torch.tensor([0.0, 0.0]),
        "bn.running_mean": torch.tensor([0.0, 0.0]),
        "bn.running_var": torch.tensor([1.0, 1.0]),
        "bn.num_batches_tracked": torch.tensor(0),
    }
    assert float(ranges_of(builder.graph(), weights, 1.0).of("bn").entry) == pytest.approx(1.3, rel=1e-2)


# ---- what must be known of the input ----------------------------------------------------------------------------


def attention_on(*chain):
    builder = ft.Builder("attention")
    x = builder.add("x", layers.Input((4, 3)))
    for k, layer in enumerate(chain):
        x = builder.add(f"n{k}", layer, x)
    return builder.graph()


NORMALISED = [
    (layers.LayerNorm(3), layers.ReLU(), layers.Linear(3, 5)),
    (layers.Softmax(),),
    (layers.SoftmaxOver(0),),
    (layers.Sigmoid(), layers.Linear(3, 2)),
    (layers.Tanh(), layers.Permute((1, 0))),
    (layers.L2Normalize(1), layers.GELU()),
    (layers.Clamp(-2.0, 1.0), layers.Flatten()),
    (layers.ReLU6(), layers.Dropout()),
]


@pytest.mark.parametrize("chain", NORMALISED, ids=repr)
def test_what_normalises_needs_nothing_of_the_input(chain):
    graph = attention_on(*chain)
    weights = ft.instantiate(graph).state_dict()
    found = ranges_of(graph, weights)
    known = {node: found.of(node) for node in graph.order[1:]}
    assert found.domain == "all inputs"
    for scale in (1e-3, 1.0, 1e6):
        x = scale * torch.randn(4, 3, dtype=torch.float64)
        for node, value in activations(graph, {k: t.double() for k, t in weights.items()}, x).items():
            if node != "x":
                assert_contains(known[node], value, node)


@pytest.mark.parametrize("layer", [layers.ReLU(), layers.Clamp(0.0, None), layers.LogSoftmax(1)], ids=repr)
def test_what_does_not_normalise_needs_an_input_bound(layer):
    graph = attention_on(layer, layers.Scale(2.0))
    with pytest.raises(AssumptionError, match=r"node n1: .*--input-bound B"):
        ranges_of(graph).of("n1")
    found = ranges_of(graph, {}, 2.5)
    found.of("n1")
    assert found.domain == "inputs with entries at most 2.5 in absolute value"


def test_a_type_without_a_range_is_named():
    @ft.layer
    class Doubled(ft.layers.Layer):
        """2 x."""

    try:
        ft.rule(Doubled, quantity=Quantity.SHAPE, reference=ft.Reference("fimtheory"))(lambda site: site.inputs[0])
        ft.rule(Doubled, quantity=Quantity.PARAMETERS, reference=ft.Reference("fimtheory"))(lambda site: ())
        graph = attention_on(Doubled())
        with pytest.raises(MissingRuleError, match=r"node n0: no range of layer type Doubled.*@ft.ranged\(Doubled\)"):
            ranges_of(graph, {}, 1.0).of("n0")

        @ft.ranged(Doubled)
        def doubled(flow, x):
            return Range.of(flow.output, entry=2 * x.entry)

        assert float(ranges_of(graph, {}, 1.0).of("n0").entry) == 2
        with pytest.raises(RuleError, match="a range of Doubled already"):
            ranged(Doubled)(doubled)
    finally:
        RANGED.pop((Doubled,), None)
        del layers.LAYER_TYPES["Doubled"]


def test_ranges_of_deep_graphs_are_found_without_recursion():
    builder = ft.Builder("deep")
    x = builder.add("x", layers.Input((2,)))
    for k in range(3000):
        x = builder.add(f"n{k}", layers.Tanhshrink(), x)
    y = builder.add("fork", layers.Add(), x, x)
    assert float(ranges_of(builder.graph(), {}, 1.0).of(y).entry) == 2


def test_sizes_are_consistent():
    found = Range.of((4, 9), entry=ball(1))
    assert (float(found.token), float(found.norm)) == (3, 6)
    found = Range.of((4, 9), norm=ball(5))
    assert float(found.entry) == float(found.token) == 5
    found = Range.of((4, 9), entry=ball(100), token=ball(2), norm=ball(3))
    assert (float(found.entry), float(found.token), float(found.norm)) == (2, 2, 3)
