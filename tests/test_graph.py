"""Graphs: what is accepted, what is refused and how, substitution of sizes, and fragments."""

from __future__ import annotations

import itertools

import pytest
import sympy
from hypothesis import HealthCheck, given, settings

import fimtheory as ft
from fimtheory import layers
from fimtheory.errors import GraphError, MissingRuleError, RuleError, ShapeError, SymbolicSizeError
from fimtheory.expressions import index_symbol, size_symbol
from fimtheory.graph import MAX_SIZE
from fimtheory.regions import elementary, regions
from fimtheory.strategies import layer_graphs

X = ft.Node("x", layers.Input((4,)))
HEAD = ft.Node("head", layers.Linear(4, 3), ("x",))


def node(name, layer, *inputs, block=""):
    return ft.Node(name, layer, inputs, block)


class Stranger(layers.Layer):
    """A layer that was never declared."""


BAD = {
    "no input": ([node("a", layers.ReLU())], GraphError, "node a: ReLU takes 1 input"),
    "nothing": ([], GraphError, "exactly one Input node, got 0: none"),
    "two inputs": ([X, ft.Node("y", layers.Input((4,))), node("a", layers.Add(), "x", "y")], GraphError, "got 2: x, y"),
    "two outputs": ([X, HEAD, node("b", layers.ReLU(), "x")], GraphError, "nothing reads head, b"),
    "an input with an input": ([X, node("y", layers.Input((4,)), "x")], GraphError, "node y: Input takes 0"),
    "a sum of nothing": ([X, node("a", layers.Add())], GraphError, "node a: Add takes at least 1"),
    "two inputs for one": ([X, node("a", layers.ReLU(), "x", "x")], GraphError, "node a: ReLU takes 1 input"),
    "an unknown source": ([X, node("a", layers.ReLU(), "y")], GraphError, "node a: its input 'y'"),
    "a cycle": (
        [X, node("a", layers.Add(), "x", "b"), node("b", layers.ReLU(), "a"), node("c", layers.ReLU(), "b")],
        GraphError, "cycle.*a -> b|cycle.*b -> a",
    ),
    "a loop": ([X, node("a", layers.Add(), "x", "a"), node("c", layers.ReLU(), "a")], GraphError, "cycle"),
    "a piece apart": (
        [X, node("a", layers.Add(), "b"), node("b", layers.Add(), "a"), node("c", layers.Add(), "x", "a")],
        GraphError, "cycle",
    ),
    "one name twice": ([X, HEAD, node("head", layers.ReLU(), "head")], GraphError, "two nodes are named 'head'"),
    "an unknown layer type": ([X, node("a", Stranger(), "x")], MissingRuleError, "node a: no rule.*Stranger"),
    "no layer": ([X, node("a", "ReLU", "x")], GraphError, "node a: 'ReLU' is not a layer"),
    "a layer's class": ([X, node("a", layers.ReLU, "x")], GraphError, "node a: .* is not a layer"),
    "inputs in a list": ([X, ft.Node("a", layers.ReLU(), ["x"])], GraphError, "node a: inputs are"),
    "inputs in a string": ([X, ft.Node("a", layers.ReLU(), "x")], GraphError, "node a: inputs are 'x'"),
    "a number as input": ([X, ft.Node("a", layers.ReLU(), (0,))], GraphError, "node a: inputs are"),
    "unequal terms": (
        [X, node("a", layers.Linear(4, 2), "x"), node("s", layers.Add(), "x", "a")],
        ShapeError, r"node s \(Add\): cannot add shapes \(4,\) and \(2,\)",
    ),
    "the wrong width": ([X, node("a", layers.Linear(5, 2), "x")], ShapeError, r"node a \(Linear\): .*4 features.*5"),
    "a vector for a convolution": (
        [X, node("a", layers.Conv2d(1, 1, (1, 1)), "x")], ShapeError, r"node a \(Conv2d\): .*shape \(4,\)",
    ),
    "a kernel that does not fit": (
        [ft.Node("x", layers.Input((1, 2, 2))), node("a", layers.Conv2d(1, 1, (3, 3)), "x")],
        ShapeError, r"node a \(Conv2d\): a window of 3 does not fit",
    ),
    "a size of zero": ([ft.Node("x", layers.Input((4, 0)))], ShapeError, "node x"),
    "a negative size": ([ft.Node("x", layers.Input((-4,)))], ShapeError, "node x"),
    "a huge size": ([ft.Node("x", layers.Input((10**30,)))], ShapeError, "node x .*10{30}"),
    "a huge product": (
        [ft.Node("x", layers.Input((2**40, 2**40))), node("a", layers.Flatten(), "x")], ShapeError, "node a",
    ),
    "a fraction": ([ft.Node("x", layers.Input((4.0,)))], ShapeError, "node x"),
    "a truth value": ([ft.Node("x", layers.Input((True,)))], ShapeError, "node x"),
    "a rational": ([ft.Node("x", layers.Input((sympy.Rational(3, 2),)))], ShapeError, "node x"),
    "no width": ([X, node("a", layers.Linear(4, 0), "x")], ShapeError, r"node a \(Linear\): out_features is 0"),
    "an empty shape": ([ft.Node("x", layers.Input(()))], ShapeError, "node x"),
    "a shape in a list": ([ft.Node("x", layers.Input([4]))], ShapeError, "node x"),
    "a huge kernel": (
        [ft.Node("x", layers.Input((1, 8, 8))), node("a", layers.AvgPool2d((10**30, 1), (1, 1)), "x")],
        ShapeError, "node a",
    ),
    "a negative epsilon": ([X, node("a", layers.LayerNorm(4, -1e-5), "x")], ShapeError, "node a .*eps"),
    "an infinite slope": ([X, node("a", layers.LeakyReLU(float("inf")), "x")], ShapeError, "node a .*negative_slope"),
    "no number": ([X, node("a", layers.ELU(float("nan")), "x")], ShapeError, "node a .*alpha"),
    "a temperature of zero": ([X, node("a", layers.Softmax(0.0), "x")], ShapeError, "node a .*temperature"),
    "negative temperature": ([X, node("a", layers.Softmax(-1.0), "x")], ShapeError, "node a .*temperature"),
    "heads that do not divide": (
        [ft.Node("x", layers.Input((3, 4))), node("a", layers.MultiHeadSelfAttention(4, 3), "x")], ShapeError, "node a",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_graphs_are_refused_with_node_and_cause(case):
    nodes, error, message = BAD[case]
    with pytest.raises(error, match=message) as caught:
        ft.LayerGraph(nodes)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, ft.FimTheoryError)


@pytest.mark.parametrize("name", ["", ".", "a.", ".a", "a..b", "a\nb", "a\0b", "x" * 201, 7, None])
def test_bad_names_are_refused(name):
    with pytest.raises(GraphError, match="name"):
        ft.LayerGraph([ft.Node(name, layers.Input((4,)))])


@pytest.mark.parametrize("name", ["a_b", r"\alpha^2 {%#&~$}", "слой.0.вес", "层", "a b", "∘", "-1", "x" * 200])
def test_any_printable_name_is_accepted(name):
    graph = ft.LayerGraph([ft.Node(name, layers.Input((4,))), node("head", layers.Linear(4, 3), name)])
    assert graph.input == name
    ft.check(ft.derive(graph))


def test_disconnected_parts_are_named():
    lonely = ft.Node("lonely", layers.Add(), ("other",)), ft.Node("other", layers.Add(), ("lonely",))
    with pytest.raises(GraphError, match=r"lonely|other"):
        ft.LayerGraph([X, HEAD, *lonely])


@pytest.mark.parametrize(
    ("last", "message"),
    [(layers.Linear(4, 1), "one logit .K = 1."), (layers.Reshape((2, 2)), r"vector of logits, got shape \(2, 2\)")],
)
def test_what_is_no_classifier_is_not_derived(last, message):
    graph = ft.LayerGraph([X, node("last", last, "x")])
    with pytest.raises(GraphError, match=f"node last: .*{message}"):
        ft.derive(graph)


def test_deriving_something_else_is_refused():
    with pytest.raises(GraphError, match="takes a LayerGraph, got str"):
        ft.derive("resnet18")


def test_a_layer_type_is_final_and_plain():
    with pytest.raises(RuleError, match="final"):

        class Louder(layers.ReLU):
            """A ReLU that is not one."""

    with pytest.raises(RuleError, match="must derive from"):

        @ft.layer
        class Mixed(Stranger):
            """Derived from another one."""

    with pytest.raises(RuleError, match="named Linear exists"):

        @ft.layer
        class Linear(layers.Layer):
            """Another one."""


def test_a_layer_without_a_gain_is_named_by_its_node(own_rules):
    @ft.layer
    class Unbounded(layers.Layer):
        """x^2."""

    @ft.rule(Unbounded, quantity=ft.Quantity.SHAPE, reference=ft.Reference("fimtheory"))
    def shape(site):
        return site.inputs[0]

    graph = ft.LayerGraph([X, node("square", Unbounded(), "x"), node("head", layers.Linear(4, 3), "square")])
    with pytest.raises(MissingRuleError, match=r"node square: no rule for the gain.*register one with @ft.rule"):
        ft.derive(graph)


def test_a_layer_of_two_inputs_bounds_its_gain_by_those_of_its_inputs(own_rules):
    @ft.layer
    class Difference(layers.Layer):
        """u - v."""

        arity = 2

    @ft.rule(Difference, quantity=ft.Quantity.SHAPE, reference=ft.Reference("fimtheory"))
    def shape(site):
        return site.inputs[0]

    inner = node("inner", layers.Linear(4, 4), "x")
    minus = node("minus", Difference(), "x", "inner")
    graph = ft.LayerGraph([X, inner, minus, node("head", layers.Linear(4, 3), "minus")])
    with pytest.raises(MissingRuleError, match="node minus: no rule for the gain"):
        ft.derive(graph)

    @ft.rule(Difference, quantity=ft.Quantity.GAIN, reference=ft.Reference("fimtheory"))
    def gain(site):
        return ft.Claim(ft.Relation.LE, sympy.Add(*site.gains), ft.Reference("fimtheory"))

    derivation = ft.derive(graph)
    ft.check(derivation)
    assert derivation.expected_bound is None
    assert derivation.without_variance == ("Difference",)
    inner_norm, diameter = sympy.symbols("a_inner D_W", nonnegative=True)
    assert derivation.bound == diameter**2 * (1 + inner_norm) ** 2 / 4


# ---- order, regions, fragments ----------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(layer_graphs())
def test_order_regions_and_fragments(graph):
    seen = set()
    for name in graph.order:
        assert seen.issuperset(graph.inputs(name))
        seen.add(name)
    shuffled = ft.LayerGraph(reversed(graph.nodes), graph.name)
    assert shuffled.shapes == graph.shapes
    assert set(shuffled.nodes) == set(graph.nodes)
    told = list(elementary(graph))
    assert [m for _, members in told for m in members] == list(graph.order[1:])
    for (_, before), (entry, members) in itertools.pairwise(told):
        assert entry == before[-1]
        assert all(source == entry or source in members for m in members for source in graph.inputs(m))
    for region in regions(graph):
        fragment = graph.fragment(region.entry, region.members)
        assert fragment.shapes[fragment.output] == graph.shapes[region.members[-1]]
        assert [n.layer for n in fragment.nodes[1:]] == [graph.layer(m) for m in region.members]


def test_fragments_of_what_leaks_are_refused():
    graph = ft.LayerGraph(
        [X, node("a", layers.Linear(4, 4), "x"), node("s", layers.Add(), "x", "a"), node("h", layers.Linear(4, 3), "s")]
    )
    with pytest.raises(GraphError, match="node s reads x, which is outside its block"):
        graph.fragment("a", ("s",))
    with pytest.raises(GraphError, match="'y' is not a node"):
        graph.fragment("y", ("s",))


def test_names_inside_a_block_keep_symbols_apart():
    """The measure with suffix v of fc is written like the norm of fc_v, so such names give way."""
    graph = ft.LayerGraph(
        [
            X,
            node("b.fc", layers.Linear(4, 4), "x", block="b"),
            node("b.fc_v", layers.Linear(4, 4), "b.fc", block="b"),
            node("head", layers.Linear(4, 3), "b.fc_v"),
        ]
    )
    derivation = ft.derive(graph)
    ft.check(derivation)
    assert len({str(m.symbol) for m in derivation.measured()}) == len(list(derivation.measured()))


def test_a_block_of_three_residuals_is_checked():
    nodes, here = [X], "x"
    for k in range(3):
        nodes += [
            node(f"b.fc{k}", layers.Linear(4, 4), here, block="b"),
            node(f"b.add{k}", layers.Add(), here, f"b.fc{k}", block="b"),
        ]
        here = f"b.add{k}"
    ft.check(ft.derive(ft.LayerGraph([*nodes, node("head", layers.Linear(4, 3), here)])))


def test_attention_after_a_norm_needs_no_assumption():
    graph = ft.LayerGraph(
        [
            ft.Node("x", layers.Input((3, 4))),
            node("ln", layers.LayerNorm(4), "x"),
            node("mha", layers.MultiHeadSelfAttention(4, 2), "ln"),
            node("flat", layers.Flatten(), "mha"),
            node("head", layers.Linear(12, 3), "flat"),
        ]
    )
    assert not ft.derive(graph).assumptions


# ---- sizes ------------------------------------------------------------------------------------------------------

n, w, i = size_symbol("n"), size_symbol("w"), index_symbol("i")


def repeated(count, width=w, growing=False):
    size = w + 2 * i if growing else width
    body = ft.LayerGraph(
        [
            ft.Node("in", layers.Input((size - 2 if growing else size,))),
            node("fc", layers.Linear(size - 2 if growing else size, size), "in"),
            node("act", layers.ReLU(), "fc"),
        ],
        "body",
    )
    last = w + 2 * count if growing else width
    return ft.LayerGraph(
        [
            ft.Node("x", layers.Input((w if growing else width,))),
            node("blocks", ft.Repeat(body, i, count), "x"),
            node("head", layers.Linear(last, 3), "blocks"),
        ],
        "family",
    )


def test_substitution_writes_blocks_out():
    graph = repeated(n, growing=True).subs({n: 3, w: 4})
    assert graph.is_concrete()
    assert [graph.shapes[f"blocks.{k}.act"] for k in (1, 2, 3)] == [(6,), (8,), (10,)]
    assert graph == repeated(n, growing=True).subs({w: 4}).subs({n: 3})
    assert not repeated(n).is_concrete()
    assert not repeated(2, 4).is_concrete()  # a Repeat is written out first
    assert repeated(2, 4).subs({}).is_concrete()


@pytest.mark.parametrize("count", [0, -1, 10**9])
def test_counts_that_cannot_be_written_out_are_refused(count):
    with pytest.raises((SymbolicSizeError, GraphError), match="blocks"):
        repeated(n, 4).subs({n: count})


def test_symbolic_sizes_stay_symbols():
    graph = repeated(n)
    assert graph.shapes["blocks"] == (w,)
    with pytest.raises(SymbolicSizeError, match="symbolic sizes"):
        ft.evaluate(ft.derive(graph), {})
    with pytest.raises(SymbolicSizeError):
        ft.instantiate(graph)


BAD_REPEATS = {
    "a count that holds the index": (ft.Repeat(repeated(n).layer("blocks").body, i, i), "index"),
    "a number as index": (ft.Repeat(repeated(n).layer("blocks").body, 3, n), "index is 3"),
    "nothing inside": (ft.Repeat(ft.LayerGraph([ft.Node("in", layers.Input((w,)))]), i, n), "holds no layer"),
    "another repeat inside": (ft.Repeat(repeated(n), i, n), "another Repeat|returns"),
    "a block that does not chain": (
        ft.Repeat(ft.LayerGraph([ft.Node("in", layers.Input((w,))), node("f", layers.Linear(w, w + 1), "in")]), i, n),
        "returns",
    ),
    "a block for other inputs": (
        ft.Repeat(ft.LayerGraph([ft.Node("in", layers.Input((w + 1,))), node("f", layers.ReLU(), "in")]), i, n),
        "input has shape",
    ),
}


@pytest.mark.parametrize("case", BAD_REPEATS)
def test_bad_repeats_are_refused(case):
    made, message = BAD_REPEATS[case]
    with pytest.raises(ShapeError, match=f"node r .*({message})"):
        ft.LayerGraph([ft.Node("x", layers.Input((w,))), node("r", made, "x")])


def test_the_largest_size_is_accepted():
    assert ft.LayerGraph([ft.Node("x", layers.Input((MAX_SIZE,)))]).shapes["x"] == (MAX_SIZE,)
    with pytest.raises(ShapeError):
        ft.LayerGraph([ft.Node("x", layers.Input((MAX_SIZE + 1,)))])
