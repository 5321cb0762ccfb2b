"""Closed forms in which a symbol would stand for two things are refused, by the deriver and by the kernel."""

import json

import pytest
import sympy

import fimtheory as ft
from fimtheory import layers
from fimtheory.errors import AssumptionError, CheckError, GraphError, ShapeError
from fimtheory.expressions import nonnegative, positive, size_symbol
from fimtheory.proof_files import derivation_from_json, derivation_to_json

n, N = size_symbol("n"), size_symbol("N")
v = positive("v")


def twins(size):
    """Two equal blocks whose bounds depend on the size of their image."""
    builder = ft.Builder("twins")
    here = builder.add("x", layers.Input((1, size, size)))
    for block in ("b1", "b2"):
        made = (
            ("norm", layers.LayerNorm(size)),
            ("pool", layers.AdaptiveAvgPool2d((1, 1))),
            ("flat", layers.Flatten()),
            ("fc", layers.Linear(1, size**2)),
            ("back", layers.Reshape((1, size, size))),
        )
        for name, layer in made:
            here = builder.add(f"{block}.{name}", layer, here, block=block)
    here = builder.add("flat", layers.Flatten(), here)
    builder.add("head", layers.Linear(size**2, 3), here)
    return builder.graph()


def once(size):
    """A pool that no other block repeats."""
    builder = ft.Builder("once")
    here = builder.add("x", layers.Input((1, size, size)))
    for name, layer in (("pool", layers.AdaptiveAvgPool2d((1, 1))), ("flat", layers.Flatten())):
        here = builder.add(name, layer, here)
    here = builder.add("fc", layers.Linear(1, 4), here)
    builder.add("head", layers.Linear(4, 3), here)
    return builder.graph()


def repeated(index, count):
    """A block of layers of norm and weight, repeated."""
    body = ft.Builder("body")
    here = body.add("y", layers.Input((4,)))
    here = body.add("norm", layers.LayerNorm(4), here)
    body.add("fc", layers.Linear(4, 4), here)
    builder = ft.Builder("repeated")
    here = builder.add("x", layers.Input((4,)))
    here = builder.add("blocks", ft.graph.Repeat(body.graph(), index, count), here)
    builder.add("head", layers.Linear(4, 3), here)
    return builder.graph()


def renamed(derivation, old, new):
    """The derivation that a file with another name for a symbol holds."""
    text = json.dumps(derivation_to_json(derivation))
    printed = json.dumps(sympy.latex(sympy.Symbol(new))).strip('"')
    changed = text.replace(f'["Symbol", "{old}"', f'["Symbol", "{new}"').replace(f"${old}$", f"${printed}$")
    assert changed != text
    return derivation_from_json(json.loads(changed))


SIZES = [
    (twins, "i", "the index of equal blocks"),
    (twins, "D_W", "the row diameter of head"),
    (twins, "a_fc", "the operator norm of fc"),
    (twins, "l_a_pool", "the gain bounded in a step of lemma a"),
    (twins, "L_a_back", "the gain bounded in a step of lemma a"),
    (once, "D_W", "the row diameter of head"),
    (once, "v_W", "the mean square gain of head"),
    (once, "b_fc", "the operator norm of fc"),
    (once, "l_a_pool", "the gain bounded in a step of lemma a"),
]


@pytest.mark.parametrize(("graph", "name", "meaning"), SIZES)
def test_a_size_with_a_name_that_is_taken(graph, name, meaning):
    message = f"the symbol {name} of a size has the name of {meaning}; rename it"
    with pytest.raises(GraphError, match=message):
        ft.derive(graph(size_symbol(name)))
    honest = ft.derive(graph(n))
    ft.check(honest)
    with pytest.raises(CheckError, match=message):
        ft.check(renamed(honest, "n", name))


@pytest.mark.parametrize("name", ["i", "D_W", "a_fc", "a_norm_g", "a_norm_eps", "l_a_pool"])
@pytest.mark.parametrize("what", ["temperature", "token_variance"])
def test_an_assumption_with_a_name_that_is_taken(name, what):
    message = f"the symbol {name} of a {what.replace('_', ' ')} has the name of "
    with pytest.raises(AssumptionError, match=message):
        ft.derive(twins(4), **{what: positive(name)})
    honest = ft.derive(twins(4), **{what: v})
    ft.check(honest)
    with pytest.raises(CheckError, match=message):
        ft.check(renamed(honest, "v", name))


def test_the_index_of_a_repeated_block():
    index, doubled = size_symbol("l"), sympy.Symbol("l", integer=True, positive=True, even=True)
    ft.check(ft.derive(repeated(index, N), token_variance=v))
    with pytest.raises(AssumptionError, match="the symbol l of a token variance has the name of the index"):
        ft.derive(repeated(index, N), token_variance=positive("l"))
    with pytest.raises(GraphError, match="the symbol l of a size has the name of the index"):
        ft.derive(repeated(index, doubled))
    with pytest.raises(CheckError, match="the symbol l of a token variance has the name of the index"):
        ft.check(renamed(ft.derive(repeated(index, N), token_variance=v), "v", "l"))
    for name in ("D_W", "a_norm_eps", "l_a_fc"):
        with pytest.raises(GraphError, match=f"the index {name} of a repeated block has the name of "):
            ft.derive(repeated(size_symbol(name), N))


def test_two_symbols_of_one_name():
    with pytest.raises(AssumptionError, match="the symbol n of a temperature has the name of another symbol"):
        ft.derive(twins(n), temperature=positive("n"))
    with pytest.raises(AssumptionError, match="the symbol v of a token variance has the name of another symbol"):
        ft.derive(twins(4), temperature=v, token_variance=size_symbol("v"))
    ft.check(ft.derive(twins(n), temperature=n, token_variance=v))


def test_names_that_nothing_takes():
    for name in ("i", "l", "a", "x", "v_X"):
        ft.check(ft.derive(once(size_symbol(name)), temperature=positive("tau")))
    with pytest.raises(GraphError, match="the symbol i of a size"):
        ft.derive(twins(size_symbol("i")))


def test_the_closed_form_of_equal_blocks_agrees_with_that_of_numbers():
    symbolic = ft.derive(twins(n))
    for size in (2, 3, 5):
        assert symbolic.bound.subs(n, size).doit() == ft.derive(twins(size)).bound.doit()


@pytest.mark.parametrize(
    "size", [nonnegative("D_W"), nonnegative("n"), positive("n"), sympy.Symbol("n"), sympy.Symbol("n", integer=True)]
)
def test_symbols_of_sizes_stand_for_positive_integers(size):
    for made in (size, 2 * size, size + 1):
        with pytest.raises(ShapeError, match=r"expected (symbols for positive integers|a whole number)"):
            once(made)


def test_sizes_hold_no_index():
    i = size_symbol("i")
    for size in (sympy.Product(i, (i, 1, N)), sympy.Sum(i, (i, 1, N)) + 1):
        with pytest.raises(ShapeError, match="without a product or a sum over an index"):
            once(size)


def test_symbols_of_a_graph():
    assert twins(n).symbols == {n}
    assert repeated(size_symbol("l"), 2 * N).symbols == {N}
    assert twins(3).symbols == set()
