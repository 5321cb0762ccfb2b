"""Closed forms to and from JSON, and everything that is refused."""

from __future__ import annotations

import json
import time

import pytest
import sympy
from closed_forms import closed_forms
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fimtheory.errors import FormatError
from fimtheory.expressions import MAX_DEPTH, from_json, index_symbol, nonnegative, positive, size_symbol, to_json

n, i = size_symbol("n"), index_symbol("i")
QUIET = [HealthCheck.too_slow, HealthCheck.filter_too_much]
EVERY_KIND = (
    nonnegative("a"),
    positive("t"),
    n,
    nonnegative("w", i),
    positive("e", i + 1),
    sympy.Symbol("z", integer=True),
)


@settings(max_examples=300, deadline=None, suppress_health_check=QUIET)
@given(closed_forms(EVERY_KIND))
def test_round_trip(expression):
    text = json.dumps(to_json(expression))
    assert from_json(json.loads(text)) == expression


@pytest.mark.parametrize(
    "expression",
    [
        sympy.Product(nonnegative("a", i) ** 2, (i, 1, n)),
        sympy.Product(nonnegative("a", i), (i, 1, n), (n, 1, 3)),
        sympy.Rational(1, 2) ** 20_000,
        sympy.Rational(-1, 3) ** 4_001,
        sympy.Integer(10) ** 1_500,
        sympy.Integer(-7),
        sympy.ceiling(n / 2) + sympy.floor(3 * n / 4),
        sympy.Tuple(0, sympy.erf(1)),
        sympy.sin(nonnegative("a")) ** 2,
        nonnegative("a" * 900),
        nonnegative(r"\theta_{β}∘ λ"),
    ],
    ids=lambda e: type(e).__name__,
)
def test_round_trip_of_special_forms(expression):
    assert from_json(json.loads(json.dumps(to_json(expression)))) == expression


@pytest.mark.parametrize(
    "expression",
    [
        sympy.Symbol("plain"),
        sympy.Symbol("even", integer=True, positive=True, even=True),
        sympy.Symbol("x", real=True),
        sympy.Float(0.5),
        sympy.Function("f")(n),
        sympy.oo,
        sympy.log(n),
        sympy.I,
    ],
    ids=str,
)
def test_what_closed_forms_do_not_use_is_not_written(expression):
    with pytest.raises(TypeError, match="closed forms"):
        to_json(expression)


HOSTILE = {
    "code": "__import__('os').system('true')",
    "code as a head": ["__import__('os')", 1],
    "code as an argument": ["Add", 1, "__import__('os')"],
    "an attribute as a head": ["__class__", 1],
    "another sympy head": ["Lambda", ["Symbol", "x", "nonnegative"], 1],
    "a float": 0.5,
    "nothing": None,
    "a truth value": True,
    "an object": {"head": "Add"},
    "an empty list": [],
    "a list of lists": [["Add", 1, 2]],
    "a head alone": ["Add"],
    "an unknown constant": ["Constant", "I"],
    "a list as a constant": ["Constant", ["pi"]],
    "an object as a constant": ["Constant", {}],
    "a kind of symbol": ["Symbol", "x", "real"],
    "a list as a kind": ["Symbol", "x", ["nonnegative"]],
    "a nameless symbol": ["Symbol", "", "nonnegative"],
    "a long name": ["Symbol", "x" * 2000, "nonnegative"],
    "a number as a name": ["Symbol", 7, "nonnegative"],
    "a symbol short of a kind": ["Symbol", "x"],
    "division by zero": ["Pow", 0, -1],
    "a rational over zero": ["Rational", "1", "0"],
    "a half rational": ["Rational", "1"],
    "a decimal": ["Rational", "0.5", "2"],
    "an unsigned mess": ["Integer", "--7"],
    "other digits": ["Integer", "٣"],
    "underscores": ["Integer", "1_000"],
    "an endless integer": ["Integer", "9" * 60_000],
    "an imaginary number": ["Pow", -1, ["Rational", "1", "2"]],
    "a tuple in a sum": ["Add", ["Tuple", 1, 2], 3],
    "a tuple as an exponent": ["Pow", 2, ["Tuple", 1, 2]],
    "a power of three": ["Pow", 2, 3, 4],
    "a power tower": ["Pow", 10, ["Pow", 10, 10]],
    "a long power": ["Pow", 10, 10**9],
    "a long rational power": ["Pow", 3, ["Rational", "1000000000001", "2"]],
    "an irrational power": ["Pow", 2, ["Constant", "pi"]],
    "an exponential of two": ["exp", 1, 2],
    "a tower of exponentials": ["exp", ["exp", ["exp", 100]]],
    "a long exponential": ["exp", 10**9],
    "rounding a long number": ["floor", ["exp", 1_000_000]],
    "rounding an irrational sum": ["floor", ["Add", ["Symbol", "n", "positive integer"], ["exp", 1_000_000]]],
    "maximum of complex numbers": ["Max", ["Mul", 2, ["Pow", -1, ["Rational", "1", "2"]]], 1],
    "an index that is none": ["Indexed", "a", "nonnegative", ["Rational", "1", "2"]],
    "a tuple as an index": ["Indexed", "a", "nonnegative", ["Tuple", 1]],
    "a product over a number": ["Product", 1, 2, 1, 3],
    "a product of a tuple": ["Product", ["Tuple", 1], ["Symbol", "i", "positive integer"], 1, 3],
    "a product without end": ["Product", 1, ["Symbol", "i", "positive integer"], 1],
}


@pytest.mark.parametrize("name", HOSTILE)
def test_anything_else_is_refused_at_once(name):
    start = time.perf_counter()
    with pytest.raises(FormatError, match="lemma 3"):
        from_json(HOSTILE[name], where="lemma 3")
    assert time.perf_counter() - start < 2


def test_nesting_is_limited():
    value = 1
    for _ in range(MAX_DEPTH + 1):
        value = ["Add", value, ["Symbol", "a", "nonnegative"]]
    with pytest.raises(FormatError, match="nested"):
        from_json(value)


JUNK = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-5, 5), st.floats(allow_subnormal=False), st.text(max_size=3),
        st.sampled_from(["Add", "Mul", "Pow", "Max", "exp", "floor", "Symbol", "Indexed", "Product", "Integer", "Tuple",
                         "Rational", "Constant", "pi", "nonnegative", "positive integer", "integer", "a", "1", "-2"]),
    ),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=12,
)  # fmt: skip
TERMS = st.recursive(
    st.one_of(
        st.integers(-3, 3),
        st.sampled_from([["Symbol", "a", "nonnegative"], ["Symbol", "i", "positive integer"], ["Constant", "pi"]]),
        st.just(["Rational", "1", "2"]),
    ),
    lambda inner: st.tuples(
        st.sampled_from(
            ["Add", "Mul", "Pow", "Max", "Min", "exp", "erf", "sin", "ceiling", "floor", "Tuple", "Product"]
        ),
        st.lists(inner, min_size=1, max_size=4),
    ).map(lambda pair: [pair[0], *pair[1]]),
    max_leaves=8,
)


@settings(max_examples=500, deadline=None, suppress_health_check=QUIET)
@given(st.one_of(JUNK, TERMS))
def test_junk_is_refused_or_is_an_expression(value):
    try:
        made = from_json(value)
    except FormatError:
        return
    assert isinstance(made, sympy.Expr | sympy.Tuple)
    assert not made.has(sympy.zoo, sympy.nan, sympy.I)
