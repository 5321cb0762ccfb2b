"""A theorem in plain text defines every symbol it uses, and shows no LaTeX."""

import re

import pytest
import sympy

import fimtheory as ft
from fimtheory import families

WORD = re.compile(r"[^\W\d][\w.∘]*(?:\[\w+\])?")
KNOWN = {"Product", "Min", "Max", "sqrt", "exp", "erf", "pi", "lam", "E", "x"}


@pytest.mark.parametrize("name", [*families.SYMBOLIC, "resnet18"])
@pytest.mark.parametrize("token_variance", [None, "1/10"])
def test_every_symbol_of_the_theorem_is_defined(name, token_variance):
    made = (families.SYMBOLIC | families.PRESETS)[name]
    text = str(ft.derive(made.build(), token_variance=token_variance))
    assert "$" not in text
    assert "\\" not in text
    statement, _, notation = text.partition("Notation:")
    theorem = statement.partition("Assumptions")[0].splitlines()
    formulas = [line.split("[expected]")[0].split("[heuristic]")[0] for line in theorem if "=" in line]
    defined = {line.strip().split(": ")[0] for line in notation.splitlines()} | KNOWN
    defined |= {line.split(" = ")[0].removeprefix("with ") for line in theorem if line.startswith("with ")}
    for formula in formulas:
        for word in WORD.findall(formula.removeprefix("with ")):
            assert word in defined | {"l", "i"}, word


def test_a_lemma_names_its_blocks():
    text = str(ft.derive(families.resnet18()))
    assert "Lemma f (layer2.0, layer3.0, layer4.0; i = 1, ..., 3)." in text


def test_eulers_number_is_told_from_the_mean():
    text = str(ft.derive(families.SYMBOLIC["Transformer"].build()))
    assert "2*exp(1)/T" in text
    assert not re.search(r"\bE\b(?! lam|: mean)", text)


def test_sizes_that_are_given_as_symbols_are_named():
    size, least = sympy.Symbol("m", integer=True, positive=True), sympy.Symbol("v", positive=True)
    builder = ft.Builder("own")
    x = builder.add("x", ft.layers.Input((size,)))
    builder.add("head", ft.layers.Linear(size, 3), builder.add("norm", ft.layers.LayerNorm(size), x))
    text = str(ft.derive(builder.graph(), token_variance=least, temperature=sympy.Symbol("tau", positive=True)))
    assert "m: a size of the input, (m,)" in text
    assert "v: the least variance of a token of the theorem" in text
    assert "tau: the temperature of the theorem" in text
