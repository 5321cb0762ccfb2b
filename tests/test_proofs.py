"""The kernel of proofs: what it accepts is true in numbers, and what does not follow it refuses."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import proof_mutations
import pytest
import sympy

from fimtheory import layers
from fimtheory.claims import Reference
from fimtheory.errors import CheckError, FormatError
from fimtheory.latex.labels import label_key
from fimtheory.proofs import (
    Expect,
    Form,
    Hypothesis,
    Norm,
    Proof,
    Stack,
    Step,
    Top,
    Trace,
    equal,
    least,
    load_theorem,
    operator,
    proof_to_text,
    replay,
    theorem_files,
    try_in_numbers,
)  # fmt: skip
from fimtheory.proofs.arithmetic import require_consequence
from fimtheory.proofs.inference import RULES
from fimtheory.proofs.proof import Relates, Statement
from fimtheory.reporting import report, theorems_tex, typeset
from fimtheory.rules.activations import ACTIVATIONS

DERIVATIONS = Path(__file__).parents[1] / "derivations"
PROOFS = [proof for path in theorem_files(DERIVATIONS) if isinstance(proof := load_theorem(path), Proof)]

x, y = sympy.symbols("x y", real=True)
a, b = sympy.symbols("a b", nonnegative=True)
z = sympy.Symbol("z", nonnegative=True)
m, n = sympy.symbols("m n", positive=True)
f, df, g = (sympy.Function(name, real=True) for name in ("f", "f'", "g"))
X, X_copy = sympy.symbols("X X'", real=True)
A, B, C, Q, R, u, v = (operator(name) for name in "ABCQRuv")
T = sympy.transpose


@pytest.mark.parametrize("proof", PROOFS, ids=lambda proof: proof.name)
def test_shipped_theorems(proof):
    replay(proof)
    try_in_numbers(proof, 50)
    text = proof_to_text(proof)
    assert all(f"[{each.name}]" in text for each in (*proof.hypotheses, *proof.steps))


def test_every_rule_is_used_by_a_shipped_proof():
    used = {step.rule for proof in PROOFS for step in proof.steps}
    assert used == set(RULES)


def test_arithmetic_that_fails_names_values_of_its_terms():
    with pytest.raises(CheckError, match=r"they could be .*\d\?") as refused:  # the root of 2 does not end
        require_consequence(least(y, x), [equal(y**2, x**2 * 2), least(1, y)])
    told = {name: float(value) for name, value in re.findall(r"(\w) = (-?\d+(?:\.\d+)?)", str(refused.value))}
    assert abs(told["y"] ** 2 - 2 * told["x"] ** 2) < 0.01
    assert told["y"] > told["x"]


@pytest.mark.parametrize(
    ("layer", "name"),
    [(layers.GELU(), "GELU"), (layers.GELUTanh(), "GELU by tanh"), (layers.SiLU(), "SiLU"), (layers.Mish(), "Mish")],
)
def test_rules_claim_the_slopes_that_are_proved(layer, name):
    (proof,) = (each for each in PROOFS if each.name == name)
    sides = {side for claim in proof_mutations.conclusions(proof) for side in (claim.left, claim.right)}
    slopes = ACTIVATIONS[type(layer)][0](layer)
    assert slopes.high in sides
    assert slopes.low in {*sides, 1 - slopes.high}


# ---- one step at a time -----------------------------------------------------------------------------------------


def follows(claim, rule, *premises):
    """Replay one step from premises that are assumed; X and its copy are random, u and v unit vectors of R^n."""
    hypotheses = tuple(Hypothesis(f"h{k}", each, "") for k, each in enumerate(premises))
    step = Step("s", claim, rule, tuple(each.name for each in hypotheses))
    proof = Proof(
        "P", "", "", Reference("fimtheory"), hypotheses, (step,), ("s",), lambda seed: [],
        spaces={**dict.fromkeys((A, B, C), ("n", "n")), **dict.fromkeys((u, v), ("1", "n"))},
        labels={X: ("y", X), X_copy: ("y'", X)}, unit=(u, v), dimensions={"n": n}, derivatives={f: df},
    )  # fmt: skip
    RULES[rule](claim, list(premises), proof)


RIGHT = [
    (least(2 * x * y, x**2 + y**2), "arithmetic"),
    (least(sympy.sqrt(a * b), (a + b) / 2), "arithmetic"),
    (least(a, sympy.sqrt(a**2 + b)), "arithmetic"),
    (least(Norm(A) - 1, Norm(A)), "arithmetic"),
    (least(x, sympy.Max(x, y)), "arithmetic"),
    (least(x, 1 / y), "arithmetic", least(x * y, 1), least(sympy.Rational(1, 9), y)),
    (equal(Norm(-2 * A), 2 * Norm(A)), "scaling"),
    (equal(Norm(x * A), sympy.Abs(x) * Norm(A)), "scaling"),
    (equal(Norm(x * A), x * Norm(A)), "scaling", least(0, x)),
    (equal(Norm(T(A) * A), Norm(A) ** 2), "gram"),
    (equal(Top(T(A) * A), Norm(A) ** 2), "gram"),
    (equal(Norm(T(A)), Norm(A)), "transposition"),
    (least(Norm(A * B), Norm(A) * Norm(B)), "submultiplicative"),
    (least(Norm(A * A), Norm(A) ** 2), "submultiplicative"),
    (least(Norm(A + B - C), Norm(A + B) + Norm(-C)), "triangle"),
    (least(Form(T(u) * A * v), Norm(u) * Norm(A * v)), "cauchy schwarz"),
    (least(Form(T(u) * A * v), Norm(u) * Norm(A) * Norm(v)), "cauchy schwarz"),
    (equal(Form(T(A * u) * A * u), Norm(A * u) ** 2), "expansion"),
    (equal(Form(T(u) * A * v), Form(T(v) * T(A) * u)), "expansion"),
    (equal(Expect((X - X_copy) ** 2), 2 * Expect(X**2) * Expect(1) - 2 * Expect(X) ** 2), "expansion"),
    (equal(A * B, B * A), "expansion", equal(A * B, B * A)),
    (least(Form(T(u) * A * u), Top(A) * Norm(u) ** 2), "rayleigh"),
    (least(Top(T(A) * A), Trace(T(A) * A)), "trace of semidefinite"),
    (least(Norm(1), 1), "unit identity"),
    (equal(Form(T(u) * A * v * T(v) * u), Form(T(u) * A * v) * Form(T(v) * u)), "expansion"),
    (least(sympy.exp(-(z**2)), sympy.exp(-(a**2))), "peak", least(0, -(a - z) * 2 * z * sympy.exp(-(z**2)))),
    (least(sympy.exp(1), sympy.Rational(2719, 1000)), "numbers"),
    (least(0, (x - y) * (sympy.exp(x) - sympy.exp(y))), "exponential"),
    (least(0, x * (sympy.exp(x) - 1)), "exponential"),
    (least(sympy.exp(x), sympy.exp(2 * y)), "exponential", least(x, 2 * y)),
    (least(Trace(A), n * Top(A)), "trace and dimension"),
    (equal(Trace(A * B * C), Trace(C * A * B)), "cyclic trace"),
    (least(0, sympy.exp(z) - 1), "growth", least(0, sympy.exp(z)), least(0, 0)),
    (least(0, f(z) - f(0) + x), "growth", least(0, df(z)), least(0, x)),
    (least(sympy.exp(x), 3), "enclosure", least(0, x), least(x, 1)),
    (least(sympy.exp(x), 1 + x + x**2), "enclosure", least(sympy.Rational(1, 9), x), least(x, 1)),
    (equal(Norm(Stack(A, B) * u) ** 2, Norm(A * u) ** 2 + Norm(B * u) ** 2), "stacking"),
]
WRONG = [
    (least(2 * x * y, x**2 + y**2 - 1), "arithmetic"),
    (least(x**2, x), "arithmetic"),
    (least(sympy.sqrt(x), sympy.sqrt(x) + 1), "arithmetic"),  # x may be negative
    (equal(sympy.sqrt(x) ** 2 + y, y + sympy.sqrt(x**2)), "arithmetic"),
    (equal(x / (y + 1) * (y + 1) - x + 1 / y, 1 / y), "arithmetic"),  # y may be 0
    (least(x, 1 / y), "arithmetic", least(x * y, 1)),
    (least(0, x), "arithmetic", least(0, x * y)),
    (least(Norm(A), Norm(A) - 1), "arithmetic"),
    (least(Norm(A), Norm(B)), "arithmetic"),
    (least(Form(T(u) * A * u), Norm(A)), "arithmetic"),
    (least(0, Form(T(u) * A * u)), "arithmetic"),
    (equal(Norm(-2 * A), -2 * Norm(A)), "scaling"),
    (equal(Norm(x * A), x * Norm(A)), "scaling"),
    (equal(Norm(2 * A), 3 * Norm(A)), "scaling"),
    (equal(Norm(x * A + y * A), (sympy.Abs(x) + sympy.Abs(y)) * Norm(A)), "scaling"),
    (equal(Norm(A * A), Norm(A) ** 2), "gram"),
    (equal(Top(A * T(A)), Norm(B) ** 2), "gram"),
    (equal(Norm(A), Norm(B)), "transposition"),
    (least(Norm(A * B), Norm(A)), "submultiplicative"),
    (least(Norm(A + B), Norm(A) * Norm(B)), "submultiplicative"),
    (least(Norm(A * B * A), Norm(A) * Norm(B)), "submultiplicative"),
    (equal(Norm(A * B), Norm(A) * Norm(B)), "submultiplicative"),
    (least(Norm(A + B), Norm(A) + Norm(C)), "triangle"),
    (least(Norm(A + B), Norm(A)), "triangle"),
    (least(Form(T(u) * A * v), Norm(A) * Norm(v)), "cauchy schwarz"),
    (least(Form(T(u) * A * v), Norm(A) * Norm(u) * Norm(u)), "cauchy schwarz"),
    (equal(Form(T(A * u) * A * u), Norm(A) ** 2), "expansion"),
    (equal(Form(T(u) * A * B * v), Form(T(u) * B * A * v)), "expansion"),
    (equal(Form(T(u) * A * v), Form(T(u) * T(A) * v)), "expansion"),
    (equal(Norm(A) ** 2, Form(T(A) * A)), "expansion"),
    (equal(Expect(X**2), Expect(X) ** 2), "expansion"),
    (equal(Expect(X * X_copy), Expect(X**2)), "expansion"),
    (equal(Expect(1 / X), 1 / Expect(X)), "expansion"),
    (least(0, Expect(X)), "mean of nonnegative", least(0, X**2)),
    (least(0, Expect(X) + 1), "mean of nonnegative", least(0, X + 1)),
    (equal(Expect(2), 1), "mean of constant"),
    (least(Form(T(u) * A * u), Top(A)), "rayleigh"),
    (least(Form(T(u) * A * v), Top(A) * Norm(u) ** 2), "rayleigh"),
    (least(Top(A), Norm(B)), "supremum", least(Form(T(u) * A * v), Norm(B))),
    (least(Top(A), 1), "supremum", least(Form(T(u) * A * u), 2)),
    (least(Norm(A), 1), "supremum", least(Form(T(u) * A * u), 1)),
    (least(Top(A), Trace(A)), "trace of semidefinite"),
    (least(Trace(T(A) * A), Top(T(A) * A)), "trace of semidefinite"),
    (least(Norm(1), 2), "unit identity"),
    (equal(Form(T(u) * A * v * T(v) * u), Form(T(u) * A * u) * Form(T(v) * v)), "expansion"),
    (least(sympy.exp(z), sympy.exp(a)), "peak", least(0, (a - z) * z)),
    (least(z**2, y**2), "peak", least(0, (y - z) * 2 * z)),  # y may be negative, z is not
    (least(sympy.Abs(x - 1), sympy.Abs(a - 1)), "peak", least(0, (a - x) * sympy.diff(sympy.Abs(x - 1), x))),
    (least(1 / x, 1 / a), "peak", least(0, -(a - x) / x**2)),
    (least(sympy.exp(1), sympy.Rational(2718, 1000)), "numbers"),
    (least(0, (y - x) * (sympy.exp(x) - sympy.exp(y))), "exponential"),
    (least(0, x * (sympy.exp(x) - 2)), "exponential"),
    (least(sympy.exp(y), sympy.exp(x)), "exponential", least(x, y)),
    (least(sympy.exp(2 * x), sympy.exp(y)), "exponential", least(x, y)),
    (least(sympy.exp(x), sympy.exp(y)), "exponential", equal(x, y)),
    (least(sympy.exp(-x), sympy.exp(-y)), "exponential", least(x, y)),
    (least(x, sympy.exp(y)), "exponential", least(x, y)),
    (least(0, x * (1 - sympy.exp(x))), "exponential"),
    (least(Trace(A), Top(A)), "trace and dimension"),
    (least(Trace(A), n * Top(B)), "trace and dimension"),
    (least(n * Top(A), Trace(A)), "trace and dimension"),
    (least(Trace(u * T(u)), Top(u * T(u))), "trace and dimension"),
    (equal(Trace(A * B * C), Trace(B * A * C)), "cyclic trace"),
    (equal(Trace(A + B), Trace(B)), "cyclic trace"),
    (equal(Trace(2 * A), Trace(A)), "cyclic trace"),
    (least(0, sympy.exp(z) - 2), "growth", least(0, sympy.exp(z)), least(0, 0)),
    (least(0, sympy.exp(-z) - 1), "growth", least(0, sympy.exp(-z)), least(0, 0)),  # another derivative
    (least(0, sympy.exp(x) - 1), "growth", least(0, sympy.exp(x)), least(0, 0)),  # x may be negative
    (
        least(0, sympy.Abs(z - 1) - 1 + z),
        "growth",
        least(0, sympy.diff(sympy.Abs(z - 1) + z, z)),
        least(0, 0),
    ),  # not differentiable
    (least(0, f(z) - f(0)), "growth", least(0, f(z)), least(0, 0)),
    (least(0, df(z) - df(0)), "growth", least(0, sympy.diff(df(z), z)), least(0, 0)),  # which need not exist
    (least(0, f(2 * z) - f(0)), "growth", least(0, df(2 * z)), least(0, 0)),
    (least(0, g(z) - g(0)), "growth", least(0, df(z)), least(0, 0)),
    (least(0, X * z), "growth", least(0, X), least(0, 0)),  # X may depend on z
    (least(0, z * Norm(A)), "growth", least(0, Norm(A)), least(0, 0)),
    (least(f(z), 1), "growth", least(0, df(z)), least(0, 0)),
    (least(sympy.exp(x), sympy.Rational(27, 10)), "enclosure", least(0, x), least(x, 1)),
    (least(sympy.exp(x), 3), "enclosure", least(0, x), least(x, 2)),
    (least(sympy.exp(x), 3), "enclosure", least(0, x), least(y, 1)),
    (least(sympy.exp(x), 3), "enclosure", least(x, 0), least(1, x)),
    (least(sympy.exp(x), 3), "enclosure", least(0, x), least(x, sympy.pi / 4)),
    (least(0, sympy.sqrt(x) + 1 - sympy.sqrt(x)), "enclosure", least(-1, x), least(x, 1)),
    (least(sympy.sqrt(x - 1), sympy.sqrt(x - 1) + 1), "enclosure", least(0, x), least(x, 2)),
    (least(1 / x, 1 / x + 1), "enclosure", least(-1, x), least(x, 1)),
    (least(x * y, 1), "enclosure", least(0, x), least(x, 1)),
    (least(0, (x - y) * (sympy.exp(2 * x) - sympy.exp(y))), "exponential"),
    (least(sympy.sqrt(2) ** 2, x), "numbers"),
    (equal(Norm(Stack(A, B) * u) ** 2, Norm(A * u) ** 2), "stacking"),
    (equal(Norm(Stack(A, B) * u), Norm(A * u) + Norm(B * u)), "stacking"),
    (equal(Norm(Stack(A, B) * C) ** 2, Norm(A * C) ** 2 + Norm(B * C) ** 2), "stacking"),
    (equal(Trace(A), Trace(B)), "expansion", equal(A, 1), equal(B, 1)),
    (equal(Trace(A), Trace(B)), "replacement", equal(Trace(B), Trace(B)), equal(A, 1)),
    (equal(Expect(sympy.Max(0, X * Expect(X))), sympy.Max(0, X * Expect(X))), "expansion"),
    (least(Norm(A), 1), "replacement", least(Norm(B), 1), equal(A, C)),
    (least(Norm(A - B), 1), "instance", least(Norm(A - C), 1)),
]


@pytest.mark.parametrize("case", RIGHT, ids=lambda case: f"{case[1]}: {case[0]}")
def test_what_follows(case):
    follows(*case)


@pytest.mark.parametrize("case", WRONG, ids=lambda case: f"{case[1]}: {case[0]}")
def test_what_does_not_follow(case):
    with pytest.raises(CheckError):
        follows(*case)


def test_roots_and_quotients_must_exist_before_they_are_used():
    with pytest.raises(CheckError, match="0 <= x"):
        require_consequence(least(0, x), [least(0, sympy.sqrt(x))])
    with pytest.raises(CheckError, match="by which is divided"):
        require_consequence(equal(y / y, y / y + 0 * x + 1 / x - 1 / x + sympy.Pow(x - y, -1)), [])


# ---- whole proofs -----------------------------------------------------------------------------------------------


def proof_of(*steps, hypotheses=(), conclusions=("end",), **fields):
    spaces = {**dict.fromkeys((A, B, C), ("n", "n")), **dict.fromkeys((u, v), ("1", "n"))}
    return Proof(
        "P", "", "", Reference("fimtheory"), hypotheses, steps, conclusions, lambda seed: [(0.0, 0.0)],
        **{"spaces": spaces, "unit": (u,), **fields},
    )  # fmt: skip


UNIT = Hypothesis("unit", equal(Norm(u), 1), "", definition=True)


@pytest.mark.parametrize(
    ("message", "proof"),
    [
        ("assumes something of an arbitrary", proof_of(
            Step("end", least(Norm(A), 1), "supremum", ("small",)),
            hypotheses=(UNIT, Hypothesis("small", least(Norm(A * u), 1), "")))),
        ("still speaks of u", proof_of(
            Step("end", least(Norm(A), Norm(B * u)), "supremum", ("small",)),
            hypotheses=(Hypothesis("small", least(Norm(A * u), Norm(B * u)), "", definition=True),))),
        ("still speaks of X", proof_of(
            Step("end", least(0, X**2), "arithmetic"), labels={X: ("y", X)})),
        ("need not be a real number", proof_of(Step("end", least(0, Expect(sympy.sqrt(x)) ** 2), "arithmetic"))),
        ("need not be a real number", proof_of(Step("end", equal(x * Expect(1 / x), 1), "expansion"))),
        ("need not be a real number", proof_of(Step("end", equal(Form(sympy.I) ** 2, -1), "expansion"))),
        ("need not be a real number", proof_of(
            Step("end", least(Norm(A), Norm(x) * Norm(A / x)), "submultiplicative"))),
        ("rounded number", proof_of(Step("end", equal(sympy.Float(1) / 3, sympy.Rational(1, 3)), "expansion"))),
        ("one named space", proof_of(Step("end", equal(Trace(1), Trace(1)), "expansion"))),
        ("nonnegative or positive", proof_of(
            Step("end", least(sympy.Symbol("n", negative=True), 0), "arithmetic"))),
        ("are called x", proof_of(
            Step("end", least(x, x), "arithmetic"),
            Step("more", least(0, sympy.Symbol("x", positive=True)), "arithmetic"))),
        ("not an independent copy", proof_of(
            Step("end", least(0, 1), "arithmetic"), labels={X: ("y", X), X_copy: ("y", X)})),
        ("still speaks of X", proof_of(
            Step("end", least(0, X**2 * Expect(X) ** 2), "arithmetic"), labels={X: ("y", X)})),
        ("still speaks of x", proof_of(
            Step("end", equal(Expect(x * X), x * Expect(X)), "expansion"), labels={X: ("y", X)}, dependent=(x,))),
        ("assumes something of an arbitrary", proof_of(
            Step("small", least(Form(T(u) * A * u), 0), "arithmetic", ("A", "sign")),
            Step("end", least(Top(A), 0), "supremum", ("small",)),
            labels={X: ("y", X)},
            hypotheses=(Hypothesis("A", equal(Form(T(u) * A * u), X), "", definition=True),
                        Hypothesis("sign", least(X, 0), "")))),
        ("not in `dependent`", proof_of(
            Step("small", least(Norm(A * u), a), "arithmetic", ("length",)),
            Step("end", least(Norm(A), a), "supremum", ("small",)),
            hypotheses=(Hypothesis("length", equal(a, Norm(A * u)), "", definition=True),))),
        ("assumes something of z", proof_of(
            Step("sign", least(0, (a - z) * 2 * z), "arithmetic", ("near",)),
            Step("end", least(z**2, a**2), "peak", ("sign",)),
            hypotheses=(Hypothesis("near", least(z, a), ""),))),
        ("assumes something of z", proof_of(
            Step("start", least(0, 0), "arithmetic"),
            Step("end", least(0, f(z) - f(0)), "growth", ("slope", "start")),
            hypotheses=(Hypothesis("slope", least(0, df(z)), ""),), derivatives={f: df})),
        ("may depend on", proof_of(
            Step("start", least(0, 0), "arithmetic"),
            Step("slope", least(0, a), "arithmetic"),
            Step("end", least(0, a * z), "growth", ("slope", "start")),
            Step("length", least(0, a * z), "arithmetic"), dependent=(a,))),
        ("are called f", proof_of(
            Step("end", least(f(x), f(x)), "arithmetic"),
            Step("more", least(sympy.Function("f", positive=True)(x) ** 2, f(x) ** 2), "arithmetic"))),
        ("a function with real values", proof_of(
            Step("end", least(sympy.Function("h")(x), sympy.Function("h")(x)), "arithmetic"))),
        ("must be a positive symbol", proof_of(Step("end", least(0, 1), "arithmetic"), dimensions={"n": z})),
        ("sign assumes something of z", proof_of(  # it holds for some z only, as x depends on z
            Step("slope", least(0, df(z)), "arithmetic", ("x", "sign")),
            Step("start", least(0, 0), "arithmetic"),
            Step("end", least(0, f(z) - f(0)), "growth", ("slope", "start")),
            hypotheses=(Hypothesis("x", equal(x, df(z)), "", definition=True, for_all=(z,)),
                        Hypothesis("sign", least(0, x), "")), dependent=(x,), derivatives={f: df})),
        ("may depend on", proof_of(
            Step("sign", least(0, (y - x) * -2 * x), "arithmetic", ("y",)),
            Step("peak", least(-(x**2), -(y**2)), "peak", ("sign",)),
            Step("end", least(-(x**2), -4 * x**2), "arithmetic", ("peak", "y")),
            hypotheses=(Hypothesis("y", equal(y, -2 * x), "", definition=True, for_all=(x,)),), dependent=(y,))),
        ("a defines something by z", proof_of(
            Step("slope", least(0, 2 * z - 2 * a), "arithmetic", ("a",)),
            Step("start", least(0, 0), "arithmetic"),
            Step("grows", least(0, z**2 - 2 * a * z), "growth", ("slope", "start")),
            Step("end", least(z**2, 0), "arithmetic", ("grows", "a")),
            hypotheses=(Hypothesis("a", equal(a, z), "", definition=True, for_all=(z,)),))),
        ("z is of a range", proof_of(
            Step("slope", least(0, df(z)), "instance", ("rises",)),
            Step("start", least(0, 0), "arithmetic"),
            Step("end", least(0, f(z) - f(0)), "growth", ("slope", "start")),
            hypotheses=(Hypothesis("rises", least(0, df(a)), "", for_all=(a,)),),
            ranges={a: "late times", z: "late times"}, derivatives={f: df})),
        ("u is any unit vector", proof_of(
            Step("along", least(Norm(A * u), 0), "instance", ("kernel",)),
            Step("end", least(Norm(A), 0), "supremum", ("along",)),
            hypotheses=(Hypothesis("kernel", least(Norm(A * v), 0), "", for_all=(v,)),),
            ranges={u: "kernel of A", v: "kernel of A"})),
        ("is no instance", proof_of(
            Step("end", least(0, x), "instance", ("sign",)),
            hypotheses=(Hypothesis("sign", least(0, z), "", for_all=(z,)),), ranges={x: "numbers", z: "numbers"})),
        ("n is of a range or a dimension", proof_of(  # the trace is 5 times the supremum, so n is not any number
            Step("trace", least(Trace(A), n * Top(A)), "trace and dimension"),
            Step("sign", least(0, (m - n) * (10 - 2 * n)), "arithmetic", ("trace", "five", "one", "m")),
            Step("peak", least(10 * n - n**2, 10 * m - m**2), "peak", ("sign",)),
            Step("end", least(10 * n - n**2, 9), "arithmetic", ("peak", "m")),
            hypotheses=(Hypothesis("one", equal(Top(A), 1), ""), Hypothesis("five", equal(Trace(A), 5), ""),
                        Hypothesis("m", equal(m, 1), "", definition=True)), dimensions={"n": n})),
        ("and nothing more", proof_of(Step("end", least(0, sympy.Function("h", positive=True)(x)), "arithmetic"))),
        ("made of an operator", proof_of(Step("end", equal(Norm(A), Norm(Expect(A))), "expansion"))),
        ("not all copied", proof_of(  # X' and Y depend on one label
            Step("end", equal(Expect(X_copy * y), Expect(X) * Expect(y)), "expansion"),
            labels={X: ("y", X), X_copy: ("y'", X), y: ("y'", y)})),
        ("independent labels", proof_of(
            Step("same square", equal(Expect(X**2), Expect(X**2)), "expansion"),
            Step("square", equal(Expect(X * y), Expect(X**2)), "replacement", ("same square", "same")),
            Step("product", equal(Expect(X * y), Expect(X) * Expect(y)), "expansion"),
            Step("end", equal(Expect(X**2), Expect(X) * Expect(y)), "arithmetic", ("square", "product")),
            labels={X: ("y", X), y: ("z", y)},
            hypotheses=(Hypothesis("same", equal(y, X), "", definition=True),))),
        ("made of symbols", proof_of(
            Step("end", equal(Trace(1 + A - B), Trace(1 + Q - R)), "expansion", ("A", "Q")),
            hypotheses=(Hypothesis("A", equal(A, B), "", definition=True),
                        Hypothesis("Q", equal(Q, R), "", definition=True)),
            spaces={**dict.fromkeys((A, B), ("n", "n")), **dict.fromkeys((Q, R), ("m", "m"))})),
        ("made of symbols", proof_of(
            Step("end", equal(Trace(A * (B + 1) - A * B - A + 1), 0), "expansion"))),
        ("may not be used in a trace", proof_of(
            Step("end", equal(Trace(A - B), 0), "expansion", ("A",)),
            hypotheses=(Hypothesis("A", equal(A, 1 + B), "", definition=True),))),
        ("need not be a real number", proof_of(  # at x = -1 it is -2 sin 1
            Step("end", least(0, sympy.sqrt(x) * (sympy.exp(sympy.sqrt(x)) - sympy.exp(-sympy.sqrt(x)))),
                 "exponential"))),
        ("need not be a real number", proof_of(Step("end", equal(x * (1 / x + 1), 1 + x), "expansion"))),
        ("need not be a real number", proof_of(Step("end", least(0, f(1 / x) ** 2), "arithmetic"))),
        ("not of the language", proof_of(
            Step("end", least(sympy.Product(2, (x, 1, 2), (y, 1, 3)), 5), "numbers"))),
        ("not of the language", proof_of(
            Step("end", equal(sympy.Pow(n, 0, evaluate=False), 1 / n), "arithmetic"))),
        ("the relation must be", proof_of(
            Step("end", equal(x, y), "arithmetic", ("h",)), hypotheses=(Hypothesis("h", Statement(x, "<=", y), ""),))),
        ("x - 1 is no name", proof_of(
            Step("end", least(0, sympy.Symbol("x - 1", nonnegative=True)), "arithmetic"))),
        ("pi is no name", proof_of(Step("end", least(0, sympy.Symbol("pi", positive=True)), "arithmetic"))),
        ("not used", proof_of(
            Step("end", least(Norm(1), 1), "unit identity"), hypotheses=(Hypothesis("more", least(x, 1), ""),))),
        ("no hypothesis and no earlier step", proof_of(
            Step("end", least(0, 1), "arithmetic", ("later",)), Step("later", least(0, 1), "arithmetic"))),
        ("no hypothesis and no earlier step", proof_of(Step("end", least(1, 0), "arithmetic", ("end",)))),
        ("the name of two things", proof_of(
            Step("end", least(0, 1), "arithmetic"), Step("end", least(0, 2), "arithmetic"))),
        ("there is no rule", proof_of(Step("end", least(1, 0), "magic"))),
        ("nothing is concluded", proof_of(Step("end", least(0, 1), "arithmetic"), conclusions=())),
        ("is not a step", proof_of(Step("end", least(0, 1), "arithmetic"), conclusions=("unit",), hypotheses=(UNIT,))),
        ("is not a number", proof_of(Step("end", equal(Form(A * u), Form(A * u)), "expansion"))),
        ("has none", proof_of(Step("end", least(0, Top(u)), "arithmetic"))),
        ("starts from", proof_of(Step("end", least(Norm(u * A), Norm(u) * Norm(A)), "submultiplicative"))),
        ("between the same spaces", proof_of(Step("end", least(Norm(A + u), Norm(A) + Norm(u)), "triangle"))),
        ("not an operator of this proof", proof_of(Step("end", least(Norm(operator("Q")), 1), "arithmetic"))),
        ("I is not of the language", proof_of(
            Step("end", equal(sympy.I, sympy.I), "expansion"))),
        ("not an equation of operators", proof_of(
            Step("end", Statement(A, Relates.LE, A), "expansion"))),
        ("not the symbol of an operator", proof_of(Step("end", least(0, 1), "arithmetic"), spaces={x: ("n", "n")})),
    ],
)  # fmt: skip
def test_proofs_that_do_not_hold(message, proof):
    with pytest.raises(CheckError, match=message):
        replay(proof)


@pytest.fixture(scope="module")
def appendix():
    return theorems_tex(PROOFS)


def test_an_appendix_holds_every_theorem_and_step(appendix, tmp_path):

    for proof in PROOFS:
        page = appendix.split(rf"\label{{theorem:{label_key(proof.name)}}}")[1].split(r"\subsection")[0]
        assert page.count(r"\item[(") == len(proof.steps) + len(proof.hypotheses)
        assert page.count(r"\begin{dmath*}") == len(proof.steps) + len(proof.hypotheses) + len(proof.conclusions)
    assert "`" not in appendix
    assert [path.name for path in report(PROOFS[:2], tmp_path, compile=False)] == ["theorems.tex"]


@pytest.mark.skipif(shutil.which("latexmk") is None, reason="needs latexmk (CI installs it)")
def test_the_appendix_of_theorems_makes_a_clean_pdf(appendix, tmp_path):
    typeset(appendix, tmp_path)
    log = (tmp_path / "report.log").read_text(encoding="utf-8", errors="replace")
    assert not re.findall(r"^(?:Overfull|LaTeX Warning|Package .* Warning).*", log, flags=re.MULTILINE)


def test_an_appendix_of_what_does_not_follow_is_refused(tmp_path):
    with pytest.raises(CheckError):
        report([replace(PROOFS[0], steps=PROOFS[0].steps[1:])], tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_false_theorem_is_found_in_numbers():
    proof = replace(PROOFS[0], trial=lambda seed: [(2.0, 1.0)])
    with pytest.raises(CheckError, match="case 0"):
        try_in_numbers(proof)
    with pytest.raises(CheckError, match="pairs"):
        try_in_numbers(replace(proof, trial=lambda seed: []))
    for trial in (lambda seed: [0.0], lambda seed: None, lambda seed: 1 / seed):
        with pytest.raises(CheckError, match=r"trial\(0\) failed with"):
            try_in_numbers(replace(proof, trial=trial))


@pytest.mark.parametrize(
    ("message", "make"),
    [
        ("step end: expected a statement", lambda: Step("end", Norm(A) == Norm(B), "arithmetic")),
        ("hypothesis h: expected a statement", lambda: Hypothesis("h", Norm(A), "")),
        ("premises must be a tuple", lambda: Step("end", least(0, 1), "arithmetic", "one")),
        ("conclusions must be a tuple", lambda: proof_of(conclusions="end")),
        ("trial must be a function", lambda: replace(PROOFS[0], trial=None)),
    ],
)
def test_malformed_proofs_are_refused_where_they_are_written(message, make):
    with pytest.raises(FormatError, match=message):
        make()


def test_the_error_of_a_file_names_its_line(tmp_path):
    (tmp_path / "bad.py").write_text("x = 1\nx = y\n")
    with pytest.raises(FormatError, match="in line 2: NameError"):
        load_theorem(tmp_path / "bad.py")


@pytest.mark.parametrize("text", ["1 / 0", "PROOF = 3", "import nowhere"])
def test_files_that_hold_no_theorem(text, tmp_path):
    (tmp_path / "bad.py").write_text(text)
    with pytest.raises(FormatError, match=r"bad\.py"):
        load_theorem(tmp_path / "bad.py")
    with pytest.raises(FormatError, match="no such file"):
        load_theorem(tmp_path / "none.py")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FormatError, match="no theorem"):
        theorem_files(tmp_path / "empty")


# ---- mutations --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("proof", PROOFS, ids=lambda proof: proof.name)
def test_what_mutants_of_the_steps_conclude_follows(proof):
    for mutant in proof_mutations.accepted(proof, 6, 0, proof_mutations.STEP_KINDS):
        assert proof_mutations.follows(mutant, proof), proof_mutations.conclusions(mutant)


@pytest.mark.parametrize("proof", PROOFS, ids=lambda proof: proof.name)
def test_no_hypothesis_that_is_named_can_be_left_out(proof):
    for hypothesis in proof.hypotheses:
        rest = tuple(each for each in proof.hypotheses if each != hypothesis)
        with pytest.raises(CheckError, match="no hypothesis and no earlier step"):
            replay(replace(proof, hypotheses=rest))


def test_the_program_of_the_documentation():
    text = (DERIVATIONS.parent / "docs" / "proofs.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    exec(program, {})
    assert all(f"`{path.stem}`" in text for path in theorem_files(DERIVATIONS))
    rules = "\n".join(line for line in text.splitlines() if line.startswith("|"))
    assert all(name in rules for name in RULES)
