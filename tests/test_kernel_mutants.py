"""Holes that mutants of the kernels found: what they would accept, which nothing else refuses."""

from dataclasses import replace

import pytest
import sympy
from test_kernel import SERIES, L, build, position_of, refused, with_steps

import fimtheory as ft
from fimtheory import inference, layers

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
