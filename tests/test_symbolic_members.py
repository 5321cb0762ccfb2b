"""The theorem of a symbolic family, with a member's sizes and norms in it, gives that member's bound."""

from __future__ import annotations

import pytest
import sympy
import torch

import fimtheory as ft
from fimtheory.balls import evaluated, log10_upper
from fimtheory.derivation import body_of, local_nodes
from fimtheory.expressions import size_symbol
from fimtheory.graph import Repeat
from fimtheory.measures import MeasuredGraph

N, K, H, W, T, n, s, c = (size_symbol(name) for name in ("N", "K", "H", "W", "T", "n", "s", "c"))
MEMBERS = {
    "Mixer": {N: 3, K: 4, T: 5, n: 6, s: 7},
    "ConvNeXt": {N: 3, K: 4, c: 5, H: 6, W: 8},
}


def numbers(theorem, member, weights):
    """The numbers of a member for the symbols of its family's theorem, read off its nodes by name."""
    measures, values = MeasuredGraph(member, weights), {}
    for lemma in theorem.lemmas:
        ((entry, *_),) = [instance.members for instance in lemma.instances]
        layer = theorem.graph.layer(entry)
        body, index, _ = body_of(theorem.graph, lemma)
        for k in range(1, MEMBERS[theorem.graph.name][N] + 1 if isinstance(layer, Repeat) else 2):
            names = {node: f"{entry}.{k}.{node}" for node in body.order}
            if not isinstance(layer, Repeat):
                names = local_nodes(body, lemma.instances[0])
            for each in (each for step in lemma.steps for each in step.claim.measured):
                value, _ = measures.value(each.kind, tuple(names[node] for node in each.nodes))
                values[each.symbol.xreplace({} if index is None else {index: sympy.Integer(k)})] = value
    for each in theorem.theorem.symbols:
        values[each.symbol], _ = measures.value(each.kind, each.nodes)
    return values


@pytest.mark.parametrize("name", MEMBERS)
def test_the_closed_form_at_a_member_is_its_bound(name):
    sizes = MEMBERS[name]
    family = ft.families.SYMBOLIC[name].build()
    theorem, member = ft.derive(family), family.subs(sizes)
    ft.check(theorem)
    weights = ft.instantiate(member, 1, dtype=torch.float64)
    with torch.no_grad():  # norms that are the identity, and random weights all alike, would hide mistakes
        for tensor in weights.parameters():
            tensor += 0.2 * torch.rand_like(tensor)
    found, values = ft.evaluate(ft.derive(member), weights), numbers(theorem, member, weights.state_dict())
    assert log10_upper(evaluated(theorem.bound.subs(sizes), values)) == pytest.approx(found.log10, abs=1e-9)
    expected = log10_upper(evaluated(theorem.expected_bound.subs(sizes), values))
    assert expected == pytest.approx(found.expected_log10, abs=1e-9)
