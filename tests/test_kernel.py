"""The kernel accepts what the deriver proves and refuses everything made to look like it."""

from __future__ import annotations

import copy
import random
from dataclasses import replace

import pytest
import sympy
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fimtheory as ft
from fimtheory import inference, layers
from fimtheory.blocks import BlockSteps
from fimtheory.claims import Claim, Condition, Measured, Quantity, Reference, Relation, Status
from fimtheory.closed_form import theorem_of
from fimtheory.derivation import INDEX, Derivation, Instance, Lemma
from fimtheory.errors import CheckError, FimTheoryError
from fimtheory.expressions import index_symbol, nonnegative, size_symbol
from fimtheory.proof_files import derivation_from_json, derivation_to_json
from fimtheory.strategies import layer_graphs

QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large]
L = layers.Linear


def build(*nodes, shape=(4,), name="case"):
    """Graph of (name, layer, *inputs); a fourth part "block:" sets the block."""
    made = [ft.Node("x", layers.Input(shape))]
    for node_name, layer, *inputs in nodes:
        made.append(ft.Node(node_name, layer, tuple(inputs), node_name.partition(".")[0] if "." in node_name else ""))
    return ft.LayerGraph(made, name)


def chain(*made, shape=(4,)):
    nodes, here = [], "x"
    for name, layer in made:
        nodes.append((name, layer, here))
        here = name
    return build(*nodes, shape=shape)


def lemma_about(graph, letter, *instances, fold=True):
    """Steps that bound the first instance, claimed of all."""
    made = [Instance(entry, tuple(members)) for entry, members in instances]
    body = graph.fragment(made[0].entry, made[0].members)
    block = BlockSteps(body, letter, INDEX if len(made) > 1 else None, None, fold=fold)
    gain, variance = block.conclude(Quantity.GAIN), block.conclude(Quantity.JACOBIAN_VARIANCE)
    return Lemma(letter, letter, tuple(block.steps), gain, variance, tuple(made))


def claim_theorem(graph, *lemmas, head="head", temperature=1):
    """A derivation whose theorem follows from the lemmas by the closed form, whether they may be composed or not."""
    tau = sympy.sympify(temperature)
    return Derivation(graph, tau, None, lemmas, theorem_of(graph, lemmas, tau, head))


def refused(derivation, message=None):
    with pytest.raises(CheckError, match=message) as caught:
        ft.check(derivation)
    assert "\n" not in str(caught.value)


def with_steps(derivation, change, lemma=0):
    """The derivation with ``change(steps)`` in place of a lemma's steps, and the theorem that would follow."""
    lemmas = list(derivation.lemmas)
    steps = change(list(lemmas[lemma].steps))
    lemmas[lemma] = replace(lemmas[lemma], steps=tuple(steps))
    theorem = theorem_of(derivation.graph, lemmas, derivation.temperature, derivation.theorem.head)
    return replace(derivation, lemmas=tuple(lemmas), theorem=theorem)


def with_claim(derivation, position, lemma=0, **changes):
    """The same with changes to the claim of one step."""

    def change(steps):
        steps[position] = replace(steps[position], claim=replace(steps[position].claim, **changes))
        return steps

    return with_steps(derivation, change, lemma)


# ---- what is proved is accepted ---------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None, suppress_health_check=QUIET)
@given(
    layer_graphs(products=True),
    st.sampled_from([1, sympy.Rational(1, 2), sympy.Symbol("tau", positive=True)]),
    st.booleans(),
)
def test_every_derivation_is_accepted_also_from_a_file(graph, temperature, floor):
    for derivation in (
        ft.derive(graph, temperature=temperature, token_variance="1/10" if floor else None),
        ft.baseline(graph, temperature=temperature),
    ):
        ft.check(derivation)
        again = derivation_from_json(derivation_to_json(derivation))
        assert again == derivation
        ft.check(again)


@pytest.mark.parametrize("name", ["mlp", "resnet20", "vit_tiny"])
def test_presets_are_accepted(name):
    ft.check(ft.derive(ft.families.PRESETS[name].build()))


# ---- blocks that do not make the graph --------------------------------------------------------------------------

ABC = chain(("A", L(4, 4)), ("B", L(4, 4)), ("C", L(4, 4)), ("h", L(4, 3)))


def test_the_honest_lemmas_are_accepted():
    ft.check(claim_theorem(ABC, lemma_about(ABC, "a", ("x", "AB")), lemma_about(ABC, "b", ("B", "C"))))


def test_members_out_of_order_would_count_a_contraction_twice():
    refused(claim_theorem(ABC, lemma_about(ABC, "a", ("x", "BA")), lemma_about(ABC, "b", ("A", "BC"))), "comes after")


def test_a_skipped_block():
    refused(claim_theorem(ABC, lemma_about(ABC, "a", ("x", "A")), lemma_about(ABC, "b", ("B", "C"))), "do not lead")
    refused(claim_theorem(ABC, lemma_about(ABC, "a", ("x", "AB"))), "do not lead")
    refused(claim_theorem(ABC), "do not lead")


def test_overlapping_blocks():
    refused(claim_theorem(ABC, lemma_about(ABC, "a", ("x", "AB")), lemma_about(ABC, "b", ("A", "BC"))), "do not lead")
    both = lemma_about(ABC, "a", ("x", "ABC")), lemma_about(ABC, "b", ("x", "A"))
    refused(claim_theorem(ABC, *both), "two blocks start at x")
    refused(claim_theorem(ABC, lemma_about(ABC, "a", ("x", "ABC"), ("x", "ABC"))), "two blocks start at x")


def test_the_head_counted_as_a_block():
    refused(claim_theorem(ABC, lemma_about(ABC, "a", ("x", "ABCh"))), "do not lead")
    ft.check(claim_theorem(ABC, lemma_about(ABC, "a", ("x", "ABCh")), head="softmax"))


def test_a_head_that_is_none():
    graph = chain(("A", L(4, 3)), ("r", layers.ReLU()))
    honest = claim_theorem(graph, lemma_about(graph, "a", ("x", "Ar")), head="softmax")
    ft.check(honest)
    for head in ("head", "none", ""):
        refused(replace(honest, theorem=replace(honest.theorem, head=head)), "does not apply")
    alone = ft.derive(ft.LayerGraph([ft.Node("x", layers.Input((3,)))]))
    refused(replace(alone, theorem=replace(alone.theorem, head="head")), "does not apply to Input")


@pytest.mark.parametrize(
    "instance",
    [
        ("x", ()),
        ("x", ("Z",)),
        ("Z", ("A",)),
        ("x", ("A", "A")),
        ("x", ("x", "A")),
        ("x", ("B",)),
        ("A", ("A",)),
        ("x", ("A", "C")),
    ],
)
def test_instances_that_are_no_blocks(instance):
    honest = ft.derive(ABC)
    (lemma, *rest) = honest.lemmas
    refused(replace(honest, lemmas=(replace(lemma, instances=(Instance(*instance),)), *rest)))


def residual_block(k, here, layer, shortcut_first=True):
    terms = (here, f"b{k}.f") if shortcut_first else (f"b{k}.f", here)
    return [(f"b{k}.f", layer, here), (f"b{k}.s", layers.Add(), *terms)]


def test_an_instance_with_another_layer_or_another_wiring():
    equal = build(*residual_block(1, "x", L(4, 4)), *residual_block(2, "b1.s", L(4, 4)), ("h", L(4, 3), "b2.s"))
    derivation = ft.derive(equal)
    assert len(derivation.lemmas[0].instances) == 2
    for other in (
        [*residual_block(2, "b1.s", layers.LeakyReLU(7.0))],
        [*residual_block(2, "b1.s", L(4, 4), shortcut_first=False)],
        [("b2.f", L(4, 4), "b1.s"), ("b2.s", layers.Add(), "b2.f", "b2.f")],
        [("b2.f", L(4, 4), "b1.s"), ("b2.s", layers.Add(), "b1.s", "b2.f", "b2.f")],
        [("b2.f", L(4, 4), "b1.s"), ("b2.s", layers.Tanh(), "b2.f")],
        [("b2.f", L(4, 4), "b1.s"), ("b2.s", layers.Add(), "x", "b2.f")],
    ):
        graph = build(*residual_block(1, "x", L(4, 4)), *other, ("h", L(4, 3), "b2.s"))
        refused(replace(derivation, graph=graph))


def test_conclusions_about_something_else():
    derivation = ft.derive(chain(("q.a", L(4, 4)), ("q.r", layers.ReLU()), ("q.b", L(4, 4)), ("h", L(4, 3))))
    (lemma,) = derivation.lemmas
    for position in range(len(lemma.steps)):
        if position != lemma.gain:
            wrong = replace(lemma, gain=position)
            theorem = theorem_of(derivation.graph, [wrong], derivation.temperature, "head")
            refused(replace(derivation, lemmas=(wrong,), theorem=theorem), "conclusion")
    refused(replace(derivation, lemmas=(replace(lemma, gain=99),)), "does not exist")


# ---- steps that do not follow -----------------------------------------------------------------------------------

SERIES = chain(  # the flattening changes nothing, but keeps the two linear layers from being bounded together
    ("q.a", L(4, 4)), ("q.r", layers.LeakyReLU(3.0)), ("q.f", layers.Flatten()), ("q.b", L(4, 4)), ("h", L(4, 3)),
)  # fmt: skip


def position_of(derivation, rule, quantity=Quantity.GAIN, lemma=0):
    return next(k for k, s in enumerate(derivation.lemmas[lemma].steps) if s.rule == rule and s.quantity is quantity)


def test_a_series_that_jumps():
    """From a straight to b, without the activation of gain 3 between them."""
    derivation = ft.derive(SERIES)

    def jump(steps):
        last = derivation.lemmas[0].gain
        a, b = (next(k for k, s in enumerate(steps) if (s.target, s.rule) == (t, "gain[Linear]")) for t in "ab")
        claim = inference.composed(Quantity.GAIN, inference.series([steps[a].name, steps[b].name]))
        steps[last] = replace(steps[last], premises=(a, b), claim=claim)
        return steps

    refused(with_steps(derivation, jump), "premises do not lead")


def test_premises_from_the_future():
    derivation = ft.derive(SERIES)
    last = derivation.lemmas[0].gain

    def loop(steps):
        steps[last] = replace(steps[last], premises=(last, last))
        return steps

    refused(with_steps(derivation, loop), "not all earlier steps")


def test_another_rule_another_constant_another_status():
    derivation = ft.derive(SERIES)
    leaky = position_of(derivation, "gain[LeakyReLU]")
    claim = derivation.lemmas[0].steps[leaky].claim
    refused(with_claim(derivation, leaky, expression=sympy.Integer(1)), "expression")
    refused(with_claim(derivation, leaky, relation=Relation.LE), "relation")
    refused(with_claim(derivation, leaky, status=Status.CERTIFIED), "status")
    refused(with_claim(derivation, leaky, conditions=(Condition("if it rains"),)), "conditions")
    refused(with_claim(derivation, leaky, reference=Reference("gouk2021")), "reference")
    refused(
        with_claim(derivation, leaky, measured=(Measured(nonnegative("a_r"), "operator norm", ("r",)),)), "measured"
    )
    assert claim.expression == 3
    for rule in (
        "gain[ReLU]",
        "slopes[LeakyReLU]",
        "jacobian variance[LeakyReLU]",
        "shape[LeakyReLU]",
        "identity",
        "nothing",
    ):

        def rename(steps, rule=rule):
            steps[leaky] = replace(steps[leaky], rule=rule)
            return steps

        refused(with_steps(derivation, rename))


@pytest.mark.parametrize("quantity", [q for q in Quantity if q is not Quantity.GAIN])
def test_steps_about_quantities_that_are_no_bounds(quantity):
    derivation = ft.derive(SERIES)
    leaky = position_of(derivation, "gain[LeakyReLU]")

    def change(steps):
        steps[leaky] = replace(steps[leaky], quantity=quantity, rule=f"{quantity}[LeakyReLU]")
        return steps

    refused(with_steps(derivation, change))


def test_a_dependent_sum_called_orthogonal():
    graph = build(
        ("q.f", L(4, 4), "x"), ("q.r", layers.ReLU(), "q.f"), ("q.s", layers.Add(), "x", "q.r"), ("h", L(4, 3), "q.s")
    )
    derivation = ft.derive(graph)
    at = position_of(derivation, "dependent sum", Quantity.JACOBIAN_VARIANCE)

    def pretend(steps):
        names = [steps[p].name for p in steps[at].premises]
        claim = inference.composed(Quantity.JACOBIAN_VARIANCE, inference.orthogonal_sum(names))
        steps[at] = replace(steps[at], rule="orthogonal sum", claim=claim)
        return steps

    refused(with_steps(derivation, pretend), "dependent sum applies there")


def test_a_concatenation_called_a_sum_and_a_sum_short_of_a_term():
    graph = build(("q.f", L(4, 4), "x"), ("q.s", layers.Add(), "x", "q.f"), ("h", L(4, 3), "q.s"))
    derivation = ft.derive(graph)
    at = position_of(derivation, "sum")

    def rename(steps):
        claim = inference.composed(Quantity.GAIN, inference.concat([steps[p].name for p in steps[at].premises]))
        steps[at] = replace(steps[at], rule="concat", claim=claim)
        return steps

    def shorten(steps):
        kept = steps[at].premises[:1]
        claim = inference.composed(Quantity.GAIN, inference.total([steps[p].name for p in kept]))
        steps[at] = replace(steps[at], premises=kept, claim=claim)
        return steps

    refused(with_steps(derivation, rename), "sum applies there")
    refused(with_steps(derivation, shorten), "premises do not bound")


def test_steps_left_out_or_told_twice():
    derivation = ft.derive(SERIES)
    for k in range(len(derivation.lemmas[0].steps) - 1):

        def drop(steps, k=k):
            return steps[:k] + steps[k + 1 :]

        def double(steps, k=k):
            return [*steps[: k + 1], *steps[k:]]

        for change in (drop, double):
            with pytest.raises((FimTheoryError, IndexError, KeyError)):
                ft.check(with_steps(derivation, change))


# ---- symbols ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("letter", "node"), [("D", "W"), ("v", "W")])
def test_a_block_cannot_borrow_the_symbols_of_the_head(letter, node):
    """D_W would be the norm of a node W and the row diameter of the head at once."""
    graph = chain((node, L(4, 4)), ("h", L(4, 3)))
    refused(claim_theorem(graph, lemma_about(graph, letter, ("x", (node,)))), "stands for two things")


def test_a_block_cannot_borrow_the_name_of_a_step():
    """The norm of node a_A in a lemma l is written like the step about node A in lemma a."""
    graph = chain(("A", L(4, 4)), ("a_A", L(4, 4)), ("h", L(4, 3)))
    lemmas = lemma_about(graph, "a", ("x", ("A",))), lemma_about(graph, "l", ("A", ("a_A",)))
    refused(claim_theorem(graph, *lemmas), "stands for two things")


def test_measures_of_two_nodes_with_one_symbol():
    graph = chain(("q.fc", L(4, 4)), ("q.other", L(4, 4)), ("h", L(4, 3)))
    derivation = ft.derive(graph)
    fc, other = (position_of(with_steps(derivation, lambda s: s), "gain[Linear]"), 1)
    assert derivation.lemmas[0].steps[other].target == "other"
    one = derivation.lemmas[0].steps[fc].claim.measured[0]
    two = derivation.lemmas[0].steps[other].claim.measured[0]
    refused(with_claim(derivation, other, measured=(replace(two, symbol=one.symbol),), expression=one.symbol))
    refused(with_claim(derivation, other, measured=(replace(two, nodes=("fc",)),)), "measured")
    refused(with_claim(derivation, other, measured=(replace(two, kind="row diameter"),)), "measured")


def test_letters_must_differ():
    lemmas = lemma_about(ABC, "a", ("x", "AB")), lemma_about(ABC, "a", ("B", "C"))
    refused(claim_theorem(ABC, *lemmas), "different letters")
    odd = replace(lemma_about(ABC, "a", ("x", "AB")), letter="a_")
    refused(claim_theorem(ABC, odd, lemma_about(ABC, "b", ("B", "C"))), "letters")


# ---- domain -----------------------------------------------------------------------------------------------------

TOKENS = build(
    ("q.ln", layers.LayerNorm(4), "x"), ("q.mha", layers.MultiHeadSelfAttention(4, 2), "q.ln"),
    ("q.s", layers.Add(), "x", "q.mha"), ("f", layers.Flatten(), "q.s"), ("h", L(12, 3), "f"), shape=(3, 4),
)  # fmt: skip


@pytest.mark.parametrize("temperature", [-1, 0, sympy.Symbol("t"), nonnegative("t"), sympy.I, sympy.zoo, sympy.nan])
def test_temperatures_must_be_positive(temperature):
    derivation = ft.derive(ABC)
    theorem = theorem_of(ABC, derivation.lemmas, sympy.sympify(temperature), "head")
    refused(
        replace(derivation, temperature=sympy.sympify(temperature), theorem=theorem), "temperature must be positive"
    )


def test_assumptions_cannot_be_dropped_or_weakened():
    derivation = ft.derive(TOKENS, token_variance=0.5)
    theorem = derivation.theorem
    assert theorem.assumptions
    refused(replace(derivation, theorem=replace(theorem, assumptions=())), "assumptions")
    refused(replace(derivation, theorem=replace(theorem, expected_assumptions=())), "expected assumptions")
    refused(replace(derivation, theorem=replace(theorem, expected_status=Status.EXPECTED)), "expected status")
    refused(replace(derivation, token_variance=sympy.Rational(1, 3)))
    refused(replace(derivation, token_variance=None))
    refused(replace(derivation, token_variance=sympy.Integer(-1)), "token variance must be positive")
    at = position_of(derivation, "gain[LayerNorm, MultiHeadSelfAttention]")
    refused(with_claim(derivation, at, conditions=()), "conditions")


SHARED = build(  # what attention reads is read once more, so that it and the norm are no run
    ("q.ln", layers.LayerNorm(4), "x"), ("q.mha", layers.MultiHeadSelfAttention(4, 2), "q.ln"),
    ("q.s", layers.Add(), "q.ln", "q.mha"), ("f", layers.Flatten(), "q.s"), ("h", L(12, 3), "f"), shape=(3, 4),
)  # fmt: skip


def test_bounded_tokens_are_proved_or_assumed_but_not_taken_from_elsewhere():
    derivation = ft.derive(SHARED)
    attention = position_of(derivation, "gain[MultiHeadSelfAttention]")
    (norm,) = derivation.lemmas[0].steps[attention].premises
    assert derivation.lemmas[0].steps[norm].rule == "token norm[LayerNorm]"

    def elsewhere(steps):
        claim = inference.assumed(Quantity.TOKEN_NORM, derivation.lemmas[0].letter, None, "x")
        steps[norm] = replace(
            steps[norm], source="x", target="x", rule="assumption", premises=(), claim=claim,
            name=inference.step_name(Quantity.TOKEN_NORM, "layer", derivation.lemmas[0].letter, "x", None),
        )  # fmt: skip
        old, new = nonnegative("R_a_ln"), steps[norm].name
        claim = steps[attention].claim
        steps[attention] = replace(
            steps[attention], claim=replace(claim, expression=claim.expression.xreplace({old: new}))
        )
        return steps

    def nothing(steps):
        steps[attention] = replace(steps[attention], premises=())
        return steps

    def assumed(steps):  # allowed, and then listed
        claim = inference.assumed(Quantity.TOKEN_NORM, derivation.lemmas[0].letter, None, "ln")
        steps[norm] = replace(steps[norm], source="ln", rule="assumption", premises=(), claim=claim)
        return steps

    refused(with_steps(derivation, elsewhere), "needs the token norm of ln")
    refused(with_steps(derivation, nothing), "needs the token norm of ln")
    weaker = with_steps(derivation, assumed)
    ft.check(weaker)
    assert [c.statement for c in weaker.assumptions] == ["Every token at ln (lemma a) has norm at most $a_{ln R}$."]
    found = ft.evaluate(weaker, ft.instantiate(SHARED, 0))  # what is assumed is what the layer norm provides
    assert found.log10 == pytest.approx(ft.evaluate(derivation, ft.instantiate(SHARED, 0)).log10, abs=1e-6)
    assert found.domain == "all inputs"


def test_a_gain_may_not_be_assumed():
    derivation = ft.derive(SERIES)

    def change(steps):
        claim = inference.assumed(Quantity.TOKEN_NORM, "a", None, "r")
        steps[1] = replace(steps[1], source="r", target="r", rule="assumption", premises=(), claim=claim)
        return steps

    refused(with_steps(derivation, change), "only a bound on the values")


# ---- repeated blocks --------------------------------------------------------------------------------------------

N, W, i = size_symbol("N"), size_symbol("w"), index_symbol("i")


def family(count=N, slope=3.0):
    body = ft.LayerGraph(
        [
            ft.Node("in", layers.Input((W,))),
            ft.Node("fc", L(W, W), ("in",)),
            ft.Node("act", layers.LeakyReLU(slope), ("fc",)),
        ],
        "body",
    )
    return ft.LayerGraph(
        [
            ft.Node("x", layers.Input((W,))),
            ft.Node("r", ft.Repeat(body, i, count), ("x",)),
            ft.Node("h", L(W, 3), ("r",)),
        ],
        "family",
    )


def test_a_repeated_block_has_its_own_count_and_body():
    derivation = ft.derive(family())
    ft.check(derivation)
    for other in (family(N + 1), family(2 * N), family(5), family(slope=4.0)):
        refused(replace(derivation, graph=other))
    shorter = derivation.bound.replace(
        lambda e: isinstance(e, sympy.Product), lambda e: sympy.Product(e.function, (i, 2, N))
    )
    assert shorter != derivation.bound
    refused(replace(derivation, theorem=replace(derivation.theorem, bound=shorter)), "bound")


def test_a_repeated_block_is_one_instance():
    derivation = ft.derive(family())
    (lemma,) = derivation.lemmas
    twice = replace(lemma, instances=lemma.instances * 2)
    refused(replace(derivation, lemmas=(twice,)), "lemma of its own")
    refused(replace(derivation, lemmas=(replace(lemma, instances=(Instance("h", ("r",)),)),)))


def test_a_repeated_block_cannot_hide_among_others():
    graph = ft.LayerGraph(
        [*family().nodes[:2], ft.Node("a", layers.ReLU(), ("r",)), ft.Node("h", L(W, 3), ("a",))], "g"
    )
    derivation = ft.derive(graph)
    ft.check(derivation)
    lemma = replace(derivation.lemmas[-1], instances=(Instance("x", ("r", "a")),))
    refused(replace(derivation, lemmas=(lemma,)))


# ---- graphs edited afterwards -----------------------------------------------------------------------------------

IMAGE = build(
    ("q.c", layers.Conv2d(2, 4, (3, 3), padding=(1, 1)), "x"), ("q.b", layers.BatchNorm2d(4), "q.c"),
    ("q.r", layers.LeakyReLU(0.1), "q.b"), ("q.m", layers.MaxPool2d((2, 2), (2, 2)), "q.r"),
    ("g", layers.AdaptiveAvgPool2d((1, 1)), "q.m"), ("f", layers.Flatten(), "g"), ("h", L(4, 3), "f"), shape=(2, 8, 8),
)  # fmt: skip


def edited(graph, name, layer):
    return ft.LayerGraph([replace(n, layer=layer) if n.name == name else n for n in graph.nodes], graph.name)


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("q.r", layers.LeakyReLU(3.0)),
        ("q.r", layers.ELU(2.0)),
        ("q.r", layers.Identity()),
        ("q.m", layers.MaxPool2d((3, 3), (2, 2), (1, 1))),
        ("q.m", layers.MaxPool2d((2, 2), (1, 1))),
        ("q.m", layers.AvgPool2d((2, 2), (2, 2))),
        ("q.c", layers.Conv2d(2, 4, (3, 3), (2, 2), (1, 1))),  # another size at the global pool
        ("x", layers.Input((2, 6, 6))),
        ("h", L(4, 5)),  # the expected bound depends on the number of classes
    ],
    ids=repr,
)
def test_a_proof_about_another_graph_is_refused(name, layer):
    refused(replace(ft.derive(IMAGE), graph=edited(IMAGE, name, layer)))


def test_edits_that_the_theorem_does_not_see_are_harmless():
    graph = edited(IMAGE, "q.c", layers.Conv2d(2, 4, (3, 3), padding=(1, 1), bias=False))
    moved = replace(ft.derive(IMAGE), graph=graph)
    ft.check(moved)
    module = ft.instantiate(graph, 0)
    assert ft.evaluate(moved, module).log10 == ft.evaluate(ft.derive(graph), module).log10


# ---- rules of users ---------------------------------------------------------------------------------------------


def declare(expression):
    """A user's layer whose gain rule claims ``expression(norm)``."""

    @ft.layer
    class Mine(layers.Layer):
        """Twice the input."""

    reference = Reference("fimtheory")

    @ft.rule(Mine, quantity=Quantity.SHAPE, reference=reference)
    def shape(site):
        return site.inputs[0]

    @ft.rule(Mine, quantity=Quantity.GAIN, reference=reference)
    def gain(site):
        norm = site.measured("operator norm")
        return Claim(Relation.LE, expression(norm.symbol), reference, measured=(norm,))

    @ft.rule(Mine, quantity=Quantity.JACOBIAN_VARIANCE, reference=reference)
    def variance(site):
        return Claim(Relation.LE, sympy.Integer(4), reference, status=Status.EXPECTED)

    return chain(("A", L(4, 4)), ("mine", Mine()), ("h", L(4, 3)))


def test_a_rule_that_grows_is_accepted(own_rules):
    ft.check(ft.derive(declare(lambda norm: 1 + norm)))


@pytest.mark.parametrize(
    "expression",
    [
        lambda n: 1 / (1 + n),
        lambda n: 2 - n,
        lambda n: n * (3 - n),
        lambda n: n ** sympy.Symbol("k"),
        lambda n: sympy.sin(n),
    ],
)
def test_a_rule_that_may_decrease_is_refused(own_rules, expression):
    refused(ft.derive(declare(expression)), "may decrease")


# ---- random changes ---------------------------------------------------------------------------------------------

RULES = [rule.name for rule in ft.rules()] + [name for _, name in inference.COMPOSITIONS] + ["identity", "assumption"]
CHOICES = {
    "rule": RULES,
    "relation": ["<=", "=="],
    "quantity": [q.value for q in Quantity],
    "status": [s.value for s in Status],
    "expected_status": [s.value for s in Status],
    "head": ["head", "softmax"],
    "kind": ["operator norm", "row diameter", "mean square gain", "epsilon", "shift norm"],
}


def places(value, path=()):
    """Every leaf and list of a JSON value, except titles, which are only shown, and the graph."""
    if isinstance(value, dict):
        for key, part in value.items():
            if key != "title" and (*path, key) != ("graph",):
                yield from places(part, (*path, key))
    elif isinstance(value, list):
        yield path
        for k, part in enumerate(value):
            yield from places(part, (*path, k))
    else:
        yield path


def at(value, path):
    for key in path:
        value = value[key]
    return value


def mutated(value, path, rng):
    made = copy.deepcopy(value)
    owner, old = at(made, path[:-1]), at(made, path)
    key = next((p for p in reversed(path) if isinstance(p, str)), "")
    if isinstance(old, list):
        new = list(old)
        if new and rng.random() < 0.4:
            del new[rng.randrange(len(new))]
        elif new and rng.random() < 0.5:
            new.insert(rng.randrange(len(new)), copy.deepcopy(rng.choice(new)))
        else:
            rng.shuffle(new)
    elif key in CHOICES:
        new = rng.choice(CHOICES[key])
    elif isinstance(old, int):
        new = old + rng.choice([-2, -1, 1, 3])
    elif old is None:
        new = ["Rational", "1", "4"]
    else:
        leaves = [p for p in places(value) if isinstance(at(value, p), str)]
        new = at(value, rng.choice(leaves)) if rng.random() < 0.7 else old + rng.choice(["_", "1"])
    owner[path[-1]] = new
    return made


def equivalent(value, other):
    """Whether two derivations differ in nothing but the order of a lemma's instances, or in an unused assumption."""
    value, other = copy.deepcopy(value), copy.deepcopy(other)
    for derivation in (value, other):
        if not any("layer norm has variance" in str(s["conditions"]) for m in derivation["lemmas"] for s in m["steps"]):
            derivation["token_variance"] = None
        for lemma in derivation["lemmas"]:
            lemma["instances"].sort(key=lambda instance: instance["entry"])
    return derivation_from_json(value) == derivation_from_json(other)


RESIDUALS = build(*residual_block(1, "x", L(4, 4)), *residual_block(2, "b1.s", L(4, 4)), ("h", L(4, 3), "b2.s"))
MUTATED = [SERIES, TOKENS, SHARED, IMAGE, family(), RESIDUALS]


@pytest.mark.parametrize("number", range(len(MUTATED)))
def test_random_changes_are_refused(number):
    honest = derivation_to_json(ft.derive(MUTATED[number], token_variance="1/2" if number == 1 else None))
    candidates, rng, counted = list(places(honest)), random.Random(number), 0
    while counted < 120:
        mutant = mutated(honest, rng.choice([p for p in candidates if p]), rng)
        if mutant == honest:
            continue
        try:
            ft.check(derivation_from_json(mutant))
        except FimTheoryError:
            counted += 1
        else:
            assert equivalent(mutant, honest), "accepted what does not follow"


FIELDS = {
    layers.LeakyReLU: lambda rng: layers.LeakyReLU(rng.choice([0.1, 3.0, -2.0])),
    layers.ELU: lambda rng: layers.ELU(rng.choice([0.5, 2.0])),
    layers.ReLU: lambda rng: rng.choice(
        [layers.Tanh(), layers.Hardswish(), layers.LeakyReLU(5.0), layers.Softmax(0.1)]
    ),
    layers.Tanh: lambda rng: rng.choice([layers.ReLU(), layers.SiLU()]),
    layers.LayerNorm: lambda rng: rng.choice([layers.Identity(), layers.ELU(4.0)]),
    layers.MaxPool2d: lambda rng: layers.Identity(),
    layers.Add: lambda rng: layers.Concat(0),
    layers.Concat: lambda rng: layers.Add(),
    layers.Dropout: lambda rng: rng.choice([layers.Dropout(0.9), layers.Hardswish()]),
}


@settings(max_examples=60, deadline=None, suppress_health_check=QUIET)
@given(layer_graphs(), st.integers(0, 2**16))
def test_what_is_accepted_of_an_edited_graph_is_its_own_bound(graph, seed):
    rng = random.Random(seed)
    derivation = ft.derive(graph)
    for node in graph.nodes:
        if type(node.layer) not in FIELDS:
            continue
        try:
            other = edited(graph, node.name, FIELDS[type(node.layer)](rng))
            moved = replace(derivation, graph=other)
            ft.check(moved)
        except FimTheoryError:
            continue
        weights = ft.instantiate(other, seed, dtype=torch.float64)
        mine, right = ft.evaluate(moved, weights), ft.evaluate(ft.derive(other), weights)
        assert mine.log10 == pytest.approx(right.log10, abs=1e-9)
        assert mine.expected_log10 == pytest.approx(right.expected_log10, abs=1e-9)
