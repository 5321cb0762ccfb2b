"""The kernel refuses derivations that were changed in any way that matters."""

import copy
import random

import pytest

import fimtheory as ft
from fimtheory.errors import FimTheoryError
from fimtheory.expressions import from_json
from fimtheory.proof_files import derivation_from_json, derivation_to_json

QUANTITIES = ["gain", "jacobian variance", "token norm", "slopes"]
STATUSES = [status.value for status in ft.Status]
RULES = [rule.name for rule in ft.rules()] + ["series", "sum", "concat", "identity", "orthogonal sum", "dependent sum"]
EXPRESSIONS = {"expression", "bound", "expected", "name", "temperature", "symbol"}
COSMETIC = {"title"}


def graphs():
    yield ft.families.SYMBOLIC["ResNet"].build()
    yield ft.families.SYMBOLIC["DenseNet"].build()
    yield ft.families.SYMBOLIC["Transformer"].build()
    yield ft.families.resnet18(classes=10, input_shape=(3, 32, 32))
    yield ft.families.vgg11_bn(classes=10, input_shape=(3, 32, 32))
    yield ft.families.densenet((2, 2), growth=8, stem="cifar", classes=10)
    yield ft.families.transformer(2, dim=16, heads=2, patch=4, classes=10, input_shape=(1, 8, 8))


def places(value, path=()):
    """Every (path, leaf or list) of a JSON value, except what is only shown and the graph the theorem is about."""
    if isinstance(value, dict):
        for key, part in value.items():
            if key not in COSMETIC and path + (key,) != ("graph",):
                yield from places(part, (*path, key))
    elif isinstance(value, list):
        if value:
            yield path, value
        for k, part in enumerate(value):
            yield from places(part, (*path, k))
    else:
        yield path, value


def changed(value, path, rng):
    """Another value of the same kind, for what stands at ``path``."""
    if isinstance(value, list):
        made = list(value)
        action = rng.choice(["drop", "swap", "repeat"])
        k = rng.randrange(len(made))
        if action == "drop":
            del made[k]
        elif action == "swap":
            j = rng.randrange(len(made))
            made[k], made[j] = made[j], made[k]
        else:
            made.insert(k, copy.deepcopy(made[k]))
        return made
    if isinstance(value, bool) or value is None:
        return ["Rational", "1", "2"]
    if isinstance(value, int):
        return value + rng.choice([-2, -1, 1, 2])
    key = next((p for p in reversed(path) if isinstance(p, str)), "")
    if key == "rule":
        return rng.choice(RULES)
    if key == "relation":
        return "==" if value == "<=" else "<="
    if key == "quantity":
        return rng.choice(QUANTITIES)
    if key in ("status", "expected_status"):
        return rng.choice(STATUSES)
    if value.lstrip("-").isdecimal():
        return str(int(value) + rng.choice([-1, 1, 2]))
    if value in ("Add", "Mul", "Max", "Min"):
        return rng.choice(["Add", "Mul", "Max", "Min"])
    return value + rng.choice(["x", "_", "1"])


def put(value, path, new):
    made = copy.deepcopy(value)
    here = made
    for key in path[:-1]:
        here = here[key]
    here[path[-1]] = new
    return made



@pytest.mark.parametrize("graph", list(graphs()), ids=lambda graph: graph.name)
def test_every_mutation_is_refused(graph):
    rng = random.Random(0)
    honest = derivation_to_json(ft.derive(graph))
    ft.check(derivation_from_json(honest))
    candidates = list(places(honest))
    refused = survivors = 0
    while refused < 90:
        path, value = rng.choice(candidates)
        new = changed(value, path, rng)
        mutant = put(honest, path, new)
        if mutant == honest:
            continue
        try:
            read = derivation_from_json(mutant)
            if read == derivation_from_json(honest):
                continue  # a sum or product written in another order
            ft.check(read)
        except FimTheoryError:
            refused += 1
        else:
            survivors += 1
            pytest.fail(f"accepted a change at {path}: {value!r} -> {new!r}")
    assert survivors == 0


def test_expressions_are_compared_as_mathematics():
    assert from_json(["Add", 1, ["Symbol", "a", "nonnegative"]]) == from_json(
        ["Add", ["Symbol", "a", "nonnegative"], 1]
    )
