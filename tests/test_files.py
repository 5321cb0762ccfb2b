"""Graph and derivation files: round trips, and files that are truncated, hostile or simply wrong."""

from __future__ import annotations

import contextlib
import copy
import json
import time

import pytest
import sympy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fimtheory as ft
from fimtheory import files, layers
from fimtheory.errors import FimTheoryError, FormatError, GraphError, ShapeError
from fimtheory.expressions import index_symbol, size_symbol
from fimtheory.files import graph_from_json, graph_to_json, read_json, write_json
from fimtheory.proof_files import derivation_from_json, derivation_to_json
from fimtheory.strategies import layer_graphs

QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture]
LABELS = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=8).filter(
    lambda text: text.isprintable() and "." not in text
)


def renamed(graph, names, block):
    """The same graph under other node names."""
    new = dict(zip(graph.order, names, strict=True))
    nodes = [ft.Node(new[n.name], n.layer, tuple(new[s] for s in n.inputs), block) for n in graph.nodes]
    return ft.LayerGraph(nodes, block)


@settings(max_examples=60, deadline=None, suppress_health_check=QUIET)
@given(st.data())
def test_graphs_survive_a_file_whatever_they_are_called(tmp_path, data):
    graph = data.draw(layer_graphs(products=True))
    names = data.draw(st.lists(LABELS, min_size=len(graph), max_size=len(graph), unique=True))
    graph = renamed(graph, names, data.draw(LABELS))
    path = tmp_path / "graph.json"
    graph.save(path)
    assert ft.load(path) == graph
    assert ft.load_graph(path).shapes == graph.shapes


@settings(max_examples=25, deadline=None, suppress_health_check=QUIET)
@given(graph=layer_graphs(products=True))
def test_derivations_survive_a_file(tmp_path, graph):
    derivation = ft.derive(graph)
    path = tmp_path / "derivation.json"
    derivation.save(path)
    again = ft.load_derivation(path)
    assert again == derivation
    ft.check(again)


n, i = size_symbol("n"), index_symbol("i")


def symbolic():
    body = ft.LayerGraph(
        [
            ft.Node("in", layers.Input((n + i,))),
            ft.Node("fc", layers.Linear(n + i, n + i + 1), ("in",)),
            ft.Node("act", layers.ReLU(), ("fc",)),
        ],
        "body",
    )
    return ft.LayerGraph(
        [
            ft.Node("x", layers.Input((n + 1,))),
            ft.Node("blocks", ft.Repeat(body, i, n), ("x",)),
            ft.Node("head", layers.Linear(2 * n + 1, 3), ("blocks",)),
        ],
        "symbolic",
    )


def test_symbolic_graphs_survive_a_file(tmp_path):
    graph = symbolic()
    graph.save(tmp_path / "graph.json")
    assert ft.load(tmp_path / "graph.json") == graph
    derivation = ft.derive(graph, temperature=sympy.Symbol("tau", positive=True), token_variance=0.5)
    derivation.save(tmp_path / "derivation.json")
    again = ft.load_derivation(tmp_path / "derivation.json")
    assert again == derivation
    ft.check(again)


# ---- files that are not -----------------------------------------------------------------------------------------


@pytest.fixture
def honest():
    return graph_to_json(
        ft.LayerGraph([ft.Node("x", layers.Input((4,))), ft.Node("fc", layers.Linear(4, 3), ("x",), "block")], "tiny")
    )


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "nonsense", "[" * 5000, '{"a": ' * 5000, '{"format": NaN}', '{"format": -Infinity}', "\x00",
        '{"version": ' + "9" * 5000 + "}",
    ],
    ids=lambda text: text[:12] or "empty",
)  # fmt: skip
def test_what_is_not_json_is_refused(tmp_path, text):
    path = tmp_path / "bad.json"
    path.write_text(text)
    for load in (ft.load, ft.load_derivation):
        with pytest.raises(FormatError, match=r"bad\.json: not a JSON file, or truncated"):
            load(path)


def test_truncation_anywhere_is_refused(tmp_path, honest):
    text = json.dumps(honest)
    path = tmp_path / "cut.json"
    for length in range(0, len(text), 7):
        path.write_text(text[:length])
        with pytest.raises(FormatError, match=r"cut\.json"):
            ft.load(path)


def test_files_that_cannot_be_read_are_named(tmp_path):
    for path in (tmp_path / "absent.json", tmp_path):
        with pytest.raises(FormatError, match="cannot be read"):
            ft.load(path)
    binary = tmp_path / "binary.json"
    binary.write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(FormatError, match="not a JSON file"):
        ft.load(binary)


def test_large_files_are_refused_unread(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MAX_BYTES", 100)
    (tmp_path / "big.json").write_text("[" + "0," * 100 + "0]")
    with pytest.raises(FormatError, match="at most 100 are read"):
        ft.load(tmp_path / "big.json")


def test_a_million_nodes_are_refused_quickly(honest):
    honest["nodes"] = honest["nodes"] * 500_000
    start = time.perf_counter()
    with pytest.raises(FormatError, match="1000000 nodes; at most 200000"):
        graph_from_json(honest)
    assert time.perf_counter() - start < 1


def test_nothing_half_written_is_left(tmp_path):
    with pytest.raises(FormatError, match="cannot be written"):
        write_json({}, tmp_path / "absent" / "graph.json")
    with pytest.raises(ValueError, match="Out of range float"):
        write_json({"a": float("nan")}, tmp_path / "nan.json")
    assert list(tmp_path.iterdir()) == []
    write_json({"a": 1}, tmp_path / "good.json")
    assert read_json(tmp_path / "good.json") == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["good.json"]


@pytest.mark.parametrize("path", ["", ".", "/", "proof", "proof.txt"])
def test_files_that_could_not_be_named_as_a_target_are_not_written(path):
    with pytest.raises(FormatError, match=r"ends in \.json"):
        write_json({}, path)


def linear(**changes):
    return {"type": "Linear", "in_features": 4, "out_features": 3, "bias": True} | changes


def repeat(body, **changes):
    return {
        "type": "Repeat",
        "body": body,
        "index": {"size": ["Symbol", "i", "positive integer"]},
        "count": 3,
    } | changes


LAYERS = {
    "unknown": ({"type": "Conv7d"}, "unknown layer type 'Conv7d'"),
    "the base": ({"type": "Layer"}, "unknown layer type"),
    "a class from elsewhere": ({"type": "__class__"}, "unknown layer type"),
    "nothing": (None, 'an object with a "type"'),
    "a string": ("Linear", 'an object with a "type"'),
    "a list as a type": ({"type": ["Linear"]}, 'an object with a "type"'),
    "a hidden field": (linear(__class__="os.system"), "unknown .'__class__'"),
    "another field": (linear(device="cuda"), "unknown .'device'"),
    "a missing field": ({"type": "Linear", "in_features": 4}, "missing .'out_features'"),
    "code as a size": (linear(out_features="__import__('os').getcwd()"), "is not a int"),
    "code inside a size": (linear(out_features={"size": "__import__('os')"}), "expected an integer or a list"),
    "a float as a size": (linear(out_features=3.0), "is not a int"),
    "a truth value as a size": (linear(out_features=True), "is not a int"),
    "a number as a truth value": (linear(bias=1), "is not a bool"),
    "nothing as a size": (linear(out_features=None), "is not a int"),
    "a list as a size": (linear(out_features=[3]), "is not a int"),
    "a size of zero": (linear(out_features=0), "out_features is 0"),
    "a negative size": (linear(out_features=-3), "out_features is -3"),
    "a huge size": (linear(out_features=10**30), "out_features is 10{30}"),
    "an infinite size": (linear(out_features={"size": ["Pow", 0, -1]}), "not an expression"),
    "half a size": (linear(out_features={"size": ["Rational", "7", "2"]}), "out_features is 7/2"),
    "a tuple as a size": (linear(out_features={"size": ["Tuple", 3]}), "out_features is"),
    "a huge slope": ({"type": "LeakyReLU", "negative_slope": 1e999}, "is not a float"),
    "code as a slope": ({"type": "LeakyReLU", "negative_slope": "1"}, "is not a float"),
    "a pair of three": ({"type": "AdaptiveAvgPool2d", "output": [1, 1, 1]}, "expected a list of 2"),
    "a pair that is none": ({"type": "AdaptiveAvgPool2d", "output": 1}, "expected a list of 2"),
    "a long shape": ({"type": "Reshape", "shape": [1] * 65}, "expected a list of up to 64"),
    "an order of strings": ({"type": "Permute", "dims": ["0"]}, "is not a int"),
    "a body that is none": (repeat({}), "not a layer graph"),
    "a body that is a string": (repeat("body"), "not a layer graph"),
}


@pytest.mark.parametrize("case", LAYERS)
def test_bad_layers_are_refused(honest, case):
    layer, message = LAYERS[case]
    honest["nodes"][1]["layer"] = layer
    with pytest.raises((FormatError, GraphError), match=f"(?s)fc.*{message}"):
        graph_from_json(honest, where="file")


def test_repeats_inside_repeats_are_refused():
    outer = graph_to_json(symbolic())
    body = copy.deepcopy(outer)
    body["nodes"] = body["nodes"][:2]
    for node in outer["nodes"]:
        if node["layer"]["type"] == "Repeat":
            node["layer"]["body"] = body
    with pytest.raises((FormatError, ShapeError), match="another Repeat"):
        graph_from_json(outer)


def test_deeply_nested_bodies_are_refused(honest):
    deep = honest
    for _ in range(300):
        outer = copy.deepcopy(honest)
        outer["nodes"][1]["layer"] = repeat(deep)
        deep = outer
    with pytest.raises(FimTheoryError):
        graph_from_json(deep)


SHELLS = {
    "another format": ({"format": "fimtheory-derivation"}, "not a layer graph"),
    "a later version": ({"version": 2}, "not a layer graph"),
    "no name": ({"name": None}, '"name"'),
    "a long name": ({"name": "x" * 300}, '"name"'),
    "no nodes": ({"nodes": []}, "exactly one Input"),
    "nodes in an object": ({"nodes": {"x": 1}}, '"nodes"'),
    "nodes that are none": ({"nodes": [1, 2]}, "node 0: a node has exactly"),
    "a node with more": ({"nodes": [{"name": "x", "layer": {}, "inputs": [], "block": "", "__init__": 1}]}, "exactly"),
    "a number as a name": ({"nodes": [{"name": 1, "layer": {}, "inputs": [], "block": ""}]}, "strings"),
    "a long block": ({"nodes": [{"name": "x", "layer": {}, "inputs": [], "block": "b" * 300}]}, "at most 200"),
    "inputs as a string": ({"nodes": [{"name": "x", "layer": {}, "inputs": "x", "block": ""}]}, "list of node names"),
    "inputs as numbers": ({"nodes": [{"name": "x", "layer": {}, "inputs": [0], "block": ""}]}, "list of node names"),
}


@pytest.mark.parametrize("case", SHELLS)
def test_bad_graph_values_are_refused(honest, case):
    changes, message = SHELLS[case]
    with pytest.raises((FormatError, GraphError), match=message):
        graph_from_json(honest | changes)


@pytest.mark.parametrize("value", [None, 1, "graph", [], [[]], {}, True])
def test_values_that_are_no_object_are_refused(value):
    with pytest.raises(FormatError, match="not a layer graph"):
        graph_from_json(value)
    with pytest.raises(FormatError, match="not a derivation"):
        derivation_from_json(value)


# ---- any change of a file is either understood or refused -------------------------------------------------------

JUNK = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 10**6), st.just(0.5), st.text(max_size=3), st.just([]), st.just({}),
    st.just("__import__('os')"), st.just(["Symbol", "q", "nonnegative"]), st.just([["a"]]), st.just({"size": 3}),
)  # fmt: skip


def places(value, path=()):
    """Paths to every part of a JSON value."""
    yield path
    if isinstance(value, dict | list):
        parts = value.items() if isinstance(value, dict) else enumerate(value)
        for key, part in parts:
            yield from places(part, (*path, key))


def replaced(value, path, new):
    if not path:
        return new
    made = copy.copy(value)
    made[path[0]] = replaced(value[path[0]], path[1:], new)
    return made


WRITTEN = derivation_to_json(ft.derive(symbolic()))
EVERYWHERE = list(places(WRITTEN))


@settings(max_examples=400, deadline=None, suppress_health_check=QUIET)
@given(st.sampled_from(EVERYWHERE), JUNK)
def test_junk_anywhere_in_a_derivation_is_a_clear_error_or_harmless(path, junk):
    """Reading and checking may raise FimTheoryError and nothing else."""
    with contextlib.suppress(FimTheoryError):
        ft.check(derivation_from_json(replaced(WRITTEN, path, junk)))


@settings(max_examples=300, deadline=None, suppress_health_check=QUIET)
@given(st.sampled_from(list(places(WRITTEN["graph"]))), JUNK)
def test_junk_anywhere_in_a_graph_is_a_clear_error_or_harmless(path, junk):
    with contextlib.suppress(FimTheoryError):
        ft.derive(graph_from_json(replaced(WRITTEN["graph"], path, junk)))
