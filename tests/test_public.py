"""What a user meets at the prompt: the names of the package, short representations and errors that say what to give."""

import traceback

import numpy as np
import pytest
import sympy
import torch

import fimtheory as ft
from fimtheory.errors import CheckError, DataError, FimTheoryError, GraphError, RuleError


@pytest.fixture(scope="module")
def graph():
    return ft.families.mlp((6,), inputs=(4,), classes=3)


@pytest.fixture(scope="module")
def verdict(graph):
    return ft.verify(graph, torch.randn(5, 4), starts=3, steps=2)


def test_dir_lists_functions_that_are_not_loaded_yet_and_nothing_else():
    assert [name for name in dir(ft) if not name.startswith("__")] == sorted(ft.__all__)
    assert all(hasattr(ft, name) for name in dir(ft))
    assert {"estimate", "evaluate", "instantiate", "report", "verify", "worst_case"} <= set(dir(ft))


def test_results_are_shown_in_one_line(graph, verdict):
    model = ft.instantiate(graph)
    for result in (verdict.derivation, verdict.bound, verdict.estimates, verdict.worst, verdict, graph,
                   ft.estimate(model, torch.randn(2, 4))):  # fmt: skip
        assert len(repr(result).splitlines()) == 1
        assert len(repr(result)) < 200
    large = ft.derive(ft.families.PRESETS["vit_b_16"].build())
    assert len(repr(large)) < 200
    assert "vit_b_16" in repr(large)


def test_a_printed_verdict_tells_the_bound_rounded_up_what_was_found_rounded_down_and_the_outcome(verdict):
    text = str(verdict)
    assert "the bound holds" in text
    for value, up in ((verdict.bound.value, True), (verdict.worst.value, False)):
        step = 10.0 ** (np.floor(np.log10(value)) - 2)
        outward = (np.ceil if up else np.floor)(value / step) * step
        assert f"{outward:.{max(0, round(-np.log10(step)))}f}" in text
    assert "certified" in text
    assert "lower" in text


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda graph, model: ft.check(graph), CheckError, "ft.derive"),
        (lambda graph, model: ft.evaluate(graph, model), GraphError, "ft.derive"),
        (lambda graph, model: ft.estimate(model, np.zeros((2, 4))), DataError, "torch.from_numpy"),
        (lambda graph, model: ft.worst_case(model, np.zeros((2, 4))), DataError, "torch.from_numpy"),
        (lambda graph, model: ft.verify(model, np.zeros((2, 4))), DataError, "torch.from_numpy"),
        (lambda graph, model: ft.LayerGraph(graph.nodes, "n" * 201), GraphError, "200"),
        (lambda graph, model: ft.LayerGraph(graph.nodes, 3), GraphError, "a string"),
        (lambda graph, model: ft.Node("x", ft.layers.Input((3,)), (), "b" * 201) and ft.LayerGraph(
            [ft.Node("x", ft.layers.Input((3,)), (), "b" * 201)]), GraphError, "200"),
    ],
)  # fmt: skip
def test_arguments_of_the_wrong_kind_are_refused_by_what_was_expected(graph, call, error, words):
    with pytest.raises(error, match=words):
        call(graph, ft.instantiate(graph))


def test_the_longest_name_survives_a_file(graph, tmp_path):
    long = ft.LayerGraph(graph.nodes, "n" * 200)
    long.save(tmp_path / "long.json")
    assert ft.load(tmp_path / "long.json") == long


def halved(**variance):
    """A network with a layer of one's own, and what its rule claims for the growth of the Jacobian."""
    reference = ft.Reference("fimtheory")

    @ft.layer
    class Halved(ft.layers.Layer):
        """x / 2."""

    ft.rule(Halved, quantity=ft.Quantity.SHAPE, reference=reference)(lambda site: site.inputs[0])
    if variance:
        half = sympy.Rational(1, 2)
        ft.rule(Halved, quantity=ft.Quantity.GAIN, reference=reference)(
            lambda site: ft.Claim(ft.Relation.EQ, half, reference)
        )
        ft.rule(Halved, quantity=ft.Quantity.JACOBIAN_VARIANCE, reference=reference)(lambda site: variance["claim"])
    builder = ft.Builder("own")
    x = builder.add("x", ft.layers.Input((4,)))
    x = builder.add("first", ft.layers.Linear(4, 4), x)
    x = builder.add("half", Halved(), x)
    builder.add("head", ft.layers.Linear(4, 2), x)
    return builder.graph()


@pytest.mark.usefixtures("own_rules")
def test_a_claim_of_another_status_than_its_rule_is_refused_when_it_is_derived():
    quarter = ft.Claim(ft.Relation.LE, sympy.Rational(1, 4), ft.Reference("fimtheory"))
    graph = halved(claim=quarter)
    with pytest.raises(RuleError, match=r"claims exact; give its claim status=ft\.Status\.EXPECTED"):
        ft.derive(graph)


@pytest.mark.usefixtures("own_rules")
def test_a_rule_that_returns_no_claim_is_refused():
    graph = halved(claim=sympy.Rational(1, 4))
    with pytest.raises(RuleError, match=r"expected an ft\.Claim"):
        ft.derive(graph)


@pytest.mark.usefixtures("own_rules")
def test_an_error_of_a_rule_is_told_once():
    graph = halved()
    with pytest.raises(FimTheoryError, match="node half: no rule for the gain") as caught:
        ft.derive(graph)
    assert "During handling" not in "".join(traceback.format_exception(caught.value))
