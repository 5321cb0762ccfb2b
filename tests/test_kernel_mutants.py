"""Holes that mutants of the kernels found: what they would accept, which nothing else refuses."""

from dataclasses import replace

import pytest
import sympy
from test_kernel import SERIES, L, build, position_of, refused, with_steps
from test_kernel import family as repeated
from test_proofs import RIGHT, A, B, T, follows, proof_of, u, x, y

import fimtheory as ft
from fimtheory import inference, kernel, layers, proofs
from fimtheory.claims import Claim, Quantity, Reference, Relation, Status
from fimtheory.closed_form import theorem_of
from fimtheory.derivation import INDEX, Instance
from fimtheory.errors import CheckError, DataError
from fimtheory.proof_files import derivation_from_json, derivation_to_json
from fimtheory.proofs.arithmetic import require_consequence
from fimtheory.proofs.proof import Hypothesis, Step, equal, least
from fimtheory.proofs.replay import replay
from fimtheory.proofs.terms import Stack, space_of

# ---- derivations ------------------------------------------------------------------------------------------------


def with_premises(derivation, at, premises, combined):
    """The derivation with other premises of one step, and the claim that they would give."""

    def change(steps):
        expression = combined([steps[p].name for p in premises])
        claim = replace(steps[at].claim, expression=expression)
        steps[at] = replace(steps[at], premises=premises, claim=claim)
        return steps

    return with_steps(derivation, change)


def test_a_minimum_of_bounds_on_another_map():
    """The bound on the first of two layers, called one of several bounds on both."""
    derivation = ft.derive(SERIES)
    at, first = derivation.lemmas[0].gain, position_of(derivation, "gain[Linear]")
    for premises in ((first,), (first, first), ()):

        def change(steps, premises=premises):
            names = [steps[p].name for p in premises] or [sympy.Integer(0)]
            claim = replace(steps[at].claim, expression=sympy.Min(*names))
            steps[at] = replace(steps[at], rule="minimum", premises=premises, claim=claim)
            return steps

        refused(with_steps(derivation, change), "do not all bound")


@pytest.mark.parametrize("order", [(0, 0), (1, 1), (1, 0), (0, 1, 1)])
def test_a_sum_of_other_terms_than_its_own(order):
    """The identity twice would bound x + W x by 2."""
    graph = build(("q.f", L(4, 4), "x"), ("q.s", layers.Add(), "x", "q.f"), ("h", L(4, 3), "q.s"))
    derivation = ft.derive(graph)
    at = position_of(derivation, "sum")
    own = derivation.lemmas[0].steps[at].premises
    premises = tuple(own[k] for k in order)
    refused(with_premises(derivation, at, premises, inference.total), "premises do not bound")


PRODUCT = build(
    ("q.n", layers.LayerNorm(4), "x"), ("q.a", L(4, 4), "q.n"), ("q.p", layers.Multiply(), "q.a", "q.n"),
    ("q.f", layers.Flatten(), "q.p"), ("h", L(12, 3), "q.f"), shape=(3, 4),
)  # fmt: skip


def with_step(derivation, at, **changes):
    def change(steps):
        steps[at] = replace(steps[at], **changes)
        return steps

    return with_steps(derivation, change)


def test_a_product_bounded_by_another_rule_or_by_other_gains():
    derivation = ft.derive(PRODUCT)
    ft.check(derivation)
    at = position_of(derivation, "gain[Multiply]")
    premises = derivation.lemmas[0].steps[at].premises
    refused(with_step(derivation, at, rule="gain[Gate]"), "does not bound the gain of Multiply")
    refused(with_step(derivation, at, premises=(premises[1], premises[0], *premises[2:])), "do not lead from")
    refused(with_step(derivation, at, premises=(*premises[:2], *premises[:1:-1])), "needs the")


def test_no_step_about_a_part_of_the_block_is_its_conclusion():
    """Nor is one that starts further in: the layers left out would cost nothing."""
    derivation = ft.derive(SERIES)
    (lemma,) = derivation.lemmas
    gains = [k for k, step in enumerate(lemma.steps) if step.quantity is Quantity.GAIN and k != lemma.gain]
    assert len(gains) > 3
    for k in gains:
        wrong = replace(lemma, gain=k)
        theorem = theorem_of(derivation.graph, [wrong], derivation.temperature, "head")
        refused(replace(derivation, lemmas=(wrong,), theorem=theorem), "conclusion about the gain")


def test_a_series_of_nothing():
    derivation = ft.derive(SERIES)
    for count in (0, 1, 3):
        premises = (0, 1, 2)[:count]
        refused(with_premises(derivation, derivation.lemmas[0].gain, premises, sympy.Mul.fromiter), "do not lead")


def test_an_assumption_is_about_one_node():
    graph = build(("q.a", L(4, 4), "x"), ("q.p", layers.Multiply(), "q.a", "x"), ("h", L(4, 3), "q.p"))
    derivation = ft.derive(graph)
    steps = derivation.lemmas[0].steps
    assumed = [k for k, step in enumerate(steps) if step.rule == "assumption"]
    assert assumed
    for k in assumed:
        for node in {step.target for step in steps} - {steps[k].target}:
            refused(with_step(derivation, k, source=node), "only a bound on the values")


def test_what_is_no_derivation_or_has_nothing_in_it():
    for thing in (None, "derivation", ft.derive(SERIES).graph):
        refused(thing, "takes a Derivation")
    derivation = ft.derive(SERIES)
    (lemma,) = derivation.lemmas
    refused(replace(derivation, lemmas=(replace(lemma, steps=()),)), "no instance or no step")
    refused(replace(derivation, lemmas=(replace(lemma, instances=()),)), "no instance or no step")


def test_a_temperature_with_the_name_of_something_else():
    """Named like the distance between rows of the head, it would cancel it in print."""
    derivation = ft.derive(SERIES)
    (lemma,) = derivation.lemmas
    taken = {str(each.symbol) for each in derivation.theorem.symbols} | {str(lemma.steps[0].name)}
    assert len(taken) > 1
    for name in taken:
        tau = sympy.Symbol(name, positive=True)
        theorem = theorem_of(derivation.graph, [lemma], tau, "head")
        refused(replace(derivation, temperature=tau, theorem=theorem), f"theorem: .*{name}")


def test_a_repeated_block_from_a_file_is_accepted():
    ft.check(derivation_from_json(derivation_to_json(ft.derive(repeated()))))


def test_a_repeated_block_after_other_members():
    body = ft.LayerGraph([ft.Node("in", layers.Input((4,))), ft.Node("fc", L(4, 4), ("in",))], "body")
    graph = build(("a", layers.ReLU(), "x"), ("r", ft.Repeat(body, INDEX, 5), "a"), ("h", L(4, 3), "r"))
    derivation = ft.derive(graph)
    ft.check(derivation)
    lemma = replace(derivation.lemmas[-1], instances=(Instance("x", ("a", "r")),))
    refused(replace(derivation, lemmas=(lemma,)), "lemma of its own")


def test_a_rule_that_does_not_keep_its_word(own_rules):
    """A claim of another status than the rule is registered with."""

    @ft.layer
    class Odd(layers.Layer):
        """Anything."""

    @ft.rule(Odd, quantity=Quantity.SHAPE, reference=Reference("fimtheory"))
    def _shape(site):
        return site.inputs[0]

    @ft.rule(Odd, quantity=Quantity.JACOBIAN_VARIANCE, reference=Reference("fimtheory"))
    def _variance(site):
        return Claim(Relation.LE, sympy.Integer(1), Reference("fimtheory"), status=Status.EXPECTED)

    status = [Status.EXACT]

    @ft.rule(Odd, quantity=Quantity.GAIN, reference=Reference("fimtheory"))
    def _gain(site):
        return Claim(Relation.LE, sympy.Integer(1), Reference("fimtheory"), status=status[0])

    derivation = ft.derive(build(("q.a", L(4, 4), "x"), ("q.o", Odd(), "q.a"), ("h", L(4, 3), "q.o")))
    ft.check(derivation)
    status[0] = Status.CERTIFIED
    kernel._claimed.cache_clear()
    refused(derivation, "claims certified")


def test_gains_are_composed_exactly_and_variances_in_the_mean():
    assert inference.composed(Quantity.GAIN, sympy.Integer(1)).status is Status.EXACT
    assert inference.composed(Quantity.JACOBIAN_VARIANCE, sympy.Integer(1)).status is Status.EXPECTED


# ---- proofs -----------------------------------------------------------------------------------------------------


COUNTED = [case for case in RIGHT if case[1] not in ("arithmetic", "expansion", "scaling", "exponential")]
"""Cases of rules that take so many premises and no other number."""


@pytest.mark.parametrize("case", COUNTED, ids=lambda case: f"{case[1]}: {case[0]}")
def test_rules_count_their_premises(case):
    claim, rule, *premises = case
    with pytest.raises(CheckError, match=rf"takes {len(premises)} premises, got {len(premises) + 1}"):
        follows(claim, rule, *premises, least(0, x))
    if premises:
        with pytest.raises(CheckError, match=f"takes {len(premises)} premises, got {len(premises) - 1}"):
            follows(claim, rule, *premises[1:])


def test_what_arithmetic_says_nothing_of():
    with pytest.raises(CheckError, match="not a real number"):
        require_consequence(equal(A, A), [])
    require_consequence(least(sympy.log(sympy.Rational(1, 2)), 0), [])  # a negative number that is no fraction
    with pytest.raises(CheckError, match="does not follow"):
        require_consequence(least(sympy.log(2), 0), [])


def test_arithmetic_needs_z3(monkeypatch):
    monkeypatch.setattr(proofs.arithmetic, "z3", None)
    with pytest.raises(DataError, match=r"pip install 'fimtheory\[proofs\]'"):
        require_consequence(least(0, 0), [])


def test_arithmetic_that_z3_cannot_decide(monkeypatch):
    monkeypatch.setattr(proofs.arithmetic, "_EFFORT", 1)
    with pytest.raises(CheckError, match="make the step smaller"):
        require_consequence(least(2 * x * y, x**2 + y**2), [])


def test_an_equation_of_operators_between_different_spaces():
    for wrong in (equal(A, u), equal(T(u), u), equal(A * u, T(u))):
        proof = proof_of(Step("end", wrong, "expansion", ("h",)), hypotheses=(Hypothesis("h", wrong, ""),))
        with pytest.raises(CheckError, match="between the same spaces"):
            replay(proof)


def test_spaces_of_stacks_and_powers():
    spaces = {A: ("n", "m"), B: ("n", "n"), u: ("1", "n")}
    assert space_of(B**3, spaces) == ("n", "n")
    assert space_of(Stack(A, B), spaces) == ("n", "m + n")
    with pytest.raises(CheckError, match="positive integer powers"):
        space_of(B ** sympy.Rational(1, 2), spaces)
    with pytest.raises(CheckError, match="does not start from one space"):
        space_of(Stack(A, u), spaces)
    with pytest.raises(CheckError, match="between the same spaces"):
        space_of(A + B, spaces)
    with pytest.raises(CheckError, match="a factor starts from m"):
        space_of(B * A, spaces | {B: ("m", "n"), A: ("n", "n")})
