"""The kernel refuses random changes to the derivations of real architectures, not only of small ones."""

import random

import pytest
from test_kernel import equivalent, mutated, places

import fimtheory as ft
from fimtheory.errors import FimTheoryError
from fimtheory.proof_files import derivation_from_json, derivation_to_json

SHIPPED = [
    *(family.build() for family in ft.families.SYMBOLIC.values()),
    ft.families.vgg16(),
    ft.families.resnet18(),
    ft.families.densenet121(),
    ft.families.vit_b_16(),
    ft.families.mixer_b_16(),
    ft.families.convnext_tiny(),
]
MUTATIONS = 60  # each, 780 in all


@pytest.mark.slow
@pytest.mark.parametrize("graph", SHIPPED, ids=lambda graph: graph.name)
def test_random_changes_to_shipped_derivations_are_refused(graph):
    honest = derivation_to_json(ft.derive(graph))
    candidates, rng, refused = [p for p in places(honest) if p], random.Random(graph.name), 0
    while refused < MUTATIONS:
        mutant = mutated(honest, rng.choice(candidates), rng)
        if mutant == honest:
            continue
        try:
            ft.check(derivation_from_json(mutant))
        except FimTheoryError:
            refused += 1
        else:
            assert equivalent(mutant, honest), "accepted what does not follow"
