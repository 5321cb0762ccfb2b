"""The kit over all shipped rules, and rules that are deliberately wrong, each of which the kit must catch."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest
import sympy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fimtheory as ft
from fimtheory import inference, layers, measures, properties, registry, strategies
from fimtheory.balls import ball
from fimtheory.claims import Quantity, Relation
from fimtheory.errors import FimTheoryError, PropertyError, RuleError, StrategyError
from fimtheory.properties import Case, Outcome, check_property, check_rule, claiming_rules

EXAMPLES = 5
"""Of the run over all shipped rules: most of its time is theirs."""
BUDGET = 30
"""Examples in which a wrong rule must be caught."""


@pytest.mark.parametrize("rule", claiming_rules(), ids=lambda rule: rule.name)
def test_every_shipped_rule_has_every_property(rule):
    report = check_rule(rule, examples=EXAMPLES)
    told = {result.prop: result for result in report.results}
    assert set(told) == {*properties.PROPERTIES, "tight_somewhere"}
    assert all(result.reasons for result in report.results if result.outcome is Outcome.NOT_APPLICABLE)
    tested = "expected_matches_sampling" if rule.quantity is Quantity.JACOBIAN_VARIANCE else "sound"
    heuristic = rule.status is ft.Status.HEURISTIC
    assert heuristic or told[tested].outcome is Outcome.PASSED


# ---- wrong rules ------------------------------------------------------------------------------------------------

GAIN, GROWTH, SLOPES = Quantity.GAIN, Quantity.JACOBIAN_VARIANCE, Quantity.SLOPES
ROOT = sympy.sqrt


def times(factor):
    """A claim with another factor."""
    return lambda claim, site: dataclasses.replace(claim, expression=claim.expression * factor)


def instead(expression):
    """Another expression, a function of the site."""
    return lambda claim, site: dataclasses.replace(claim, expression=sympy.sympify(expression(site)))


def put(old, new):
    """The claim with a symbol of one suffix replaced by a function of the site."""

    def change(claim, site):
        (symbol,) = (m.symbol for m in claim.measured if m.symbol.name.endswith(old))
        return dataclasses.replace(claim, expression=claim.expression.subs(symbol, new(symbol)))

    return change


def equality(claim, site):
    return dataclasses.replace(claim, expression=3 * claim.expression, relation=Relation.EQ)


WRONG = {
    "GELU has gain 1": (layers.GELU, GAIN, instead(lambda site: 1)),
    "SiLU has gain 1": (layers.SiLU, GAIN, instead(lambda site: 1)),
    "ELU ignores alpha": (layers.ELU, GAIN, instead(lambda site: 1)),
    "leaky ReLU takes the slope itself, not its magnitude": (
        layers.LeakyReLU, GAIN, instead(lambda site: sympy.Max(1, sympy.Rational(site.layer.negative_slope)))),
    "max pool has gain 1 with overlap": (layers.MaxPool2d, GAIN, instead(lambda site: 1)),
    "average pool has gain 1 / k": (
        layers.AvgPool2d, GAIN, instead(lambda site: sympy.Rational(1, sympy.prod(site.layer.kernel)))),
    "adaptive average pool ignores overlap": (
        layers.AdaptiveAvgPool2d, GAIN,
        instead(lambda site: ROOT(sympy.Rational(sympy.prod(site.output), sympy.prod(site.inputs[0]))))),
    "mean has gain 1 / n": (layers.Mean, GAIN, lambda claim, site: times(claim.expression)(claim, site)),
    "sum has gain 1": (layers.Sum, GAIN, instead(lambda site: 1)),
    "nearest upsampling has gain 1": (layers.Upsample, GAIN, instead(lambda site: 1)),
    "a tile has gain 1": (layers.Tile, GAIN, instead(lambda site: 1)),
    "layer norm adds eps to the deviation": (layers.LayerNorm, GAIN, put("eps", lambda eps: (1 + ROOT(eps)) ** 2)),
    "RMS norm has no scale": (layers.RMSNorm, GAIN, put("_s", lambda s: 1)),
    "layer norm's tokens lack the root of their length": (
        layers.LayerNorm, Quantity.TOKEN_NORM, lambda claim, site: times(1 / ROOT(site.layer.features))(claim, site)),
    "softmax has gain 1/4": (layers.Softmax, GAIN, times(sympy.Rational(1, 2))),
    "softmax multiplies by the temperature": (
        layers.Softmax, GAIN, instead(lambda site: sympy.Rational(site.layer.temperature) / 2)),
    "log-softmax has gain 1": (layers.LogSoftmax, GAIN, instead(lambda site: 1)),
    "sigmoid's interval of slopes is too small": (
        layers.Sigmoid, SLOPES, instead(lambda site: sympy.Tuple(0, sympy.Rational(1, 5)))),
    "GELU never falls": (layers.GELU, SLOPES, instead(lambda site: sympy.Tuple(0, sympy.Rational(113, 100)))),
    "the gain of a linear layer decreases in its norm": (
        layers.Linear, GAIN, lambda claim, site: instead(lambda _: 1 / (1 + claim.expression))(claim, site)),
    "the gain of a linear layer is the square of its norm": (
        layers.Linear, GAIN, lambda claim, site: instead(lambda _: claim.expression**2)(claim, site)),
    "the gain of a linear layer is half its norm": (layers.Linear, GAIN, times(sympy.Rational(1, 2))),
    "an equality that is none": (layers.Tanh, GAIN, equality),
    "a product forgets one of its terms": (
        layers.Multiply, GAIN, instead(lambda site: site.premises[1] * site.gains[0])),
    "a matrix product takes the larger term": (
        layers.MatMul, GAIN, lambda claim, site: instead(lambda _: sympy.Max(*claim.expression.args))(claim, site)),
    "attention forgets queries and keys": (
        layers.ScaledDotProductAttention, GAIN, instead(lambda site: site.gains[2])),
    "self-attention has the gain of its values alone": (
        layers.MultiHeadSelfAttention, GAIN,
        lambda claim, site: instead(lambda _: claim.expression.subs(site.premises[0], 0) / 2)(claim, site)),
    "tanh's values are at most 1/2": (layers.Tanh, Quantity.ENTRY_BOUND, times(sympy.Rational(1, 2))),
    "sigmoid's norm forgets how many entries there are": (layers.Sigmoid, Quantity.NORM_BOUND, instead(lambda site: 1)),
    "ReLU always halves the mean square": (layers.ReLU, GROWTH, instead(lambda site: sympy.Rational(1, 4))),
    "a linear layer's growth lacks the 2 of its variance": (layers.Linear, GROWTH, times(sympy.Rational(1, 2))),
    "the growth through layer norm is its gain, not the square": (
        layers.LayerNorm, GROWTH, lambda claim, site: instead(lambda _: ROOT(claim.expression))(claim, site)),
    "tokens across distributions are shorter for symbolic sizes": (
        layers.SoftmaxOver, Quantity.TOKEN_NORM, instead(lambda site: 1 if any(
            isinstance(n, sympy.Expr) for n in site.inputs[0]) else ROOT(site.inputs[0][-1]))),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_rule_is_caught(name):
    kind, quantity, change = WRONG[name]
    right = registry.find_rule((kind,), quantity)
    with (
        registry.replaced(right, lambda site: change(right.function(site), site)) as wrong,
        pytest.raises(PropertyError),
    ):
        check_rule(wrong, examples=BUDGET)


def without_stride(place, scale):
    layer = dataclasses.replace(place.layers[0], stride=(3,) * len(place.layers[0].stride))
    return measures.operators._convolution(dataclasses.replace(place, layers=(layer,)), scale)


def wrong_fan_in(place):
    value, method = measures.weights.mean_square_gain(place)
    layer = place.layers[0]
    return value * int(layer.in_channels) / int(layer.in_channels * layer.out_channels), method


WRONG_PARTS = {
    "a convolution's norm ignores its stride": (
        measures.operators._LINEAR_PARTS, layers.Conv2d, without_stride, (layers.Conv2d, GAIN)),
    "a convolution's growth has another fan-in": (
        measures.EVALUATIONS, "mean square gain", wrong_fan_in, (layers.Conv2d, GROWTH)),
    "batch norm divides by the variance": (
        measures.operators._OUTPUT_SCALES, layers.BatchNorm2d,
        lambda layer, tensors: (tensors["weight"] / (tensors["running_var"] + layer.eps), 0.0),
        (layers.BatchNorm2d, GAIN)),
    "the largest scale is the mean": (
        measures.EVALUATIONS, "largest scale", lambda place: (ball(place.tensors[0]["weight"].abs().mean().item()), ""),
        (layers.RMSNorm, GAIN)),
    "a residual sum takes the larger gain": (
        inference.COMPOSITIONS, (GAIN, "sum"), lambda parts: sympy.Max(*parts), (layers.LeakyReLU, GAIN)),
    "a concatenation takes the larger gain": (
        inference.COMPOSITIONS, (GAIN, "concat"), lambda parts: sympy.Max(*parts), (layers.LeakyReLU, GAIN)),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG_PARTS)
def test_a_wrong_measure_or_composition_is_caught(name, monkeypatch):
    table, key, wrong, (kind, quantity) = WRONG_PARTS[name]
    monkeypatch.setitem(table, key, wrong)
    with pytest.raises(PropertyError):
        check_rule(registry.find_rule((kind,), quantity), examples=BUDGET)


# ---- errors and reports -----------------------------------------------------------------------------------------


@pytest.fixture
def half_gelu():
    """GELU with a gain of one half."""
    right = registry.find_rule((layers.GELU,), GAIN)
    claim = ft.Claim(Relation.LE, sympy.Rational(1, 2), right.reference)
    with registry.replaced(right, lambda site: claim) as wrong:
        yield wrong


def test_a_failure_has_the_numbers_and_a_program_that_fails_in_the_same_way(half_gelu):
    with pytest.raises(PropertyError) as caught:
        check_rule(half_gelu, examples=BUDGET)
    error = caught.value
    assert isinstance(error, AssertionError)
    assert isinstance(error, FimTheoryError)
    assert error.ratio == pytest.approx(error.estimate / error.bound)
    assert error.bound == 0.5
    assert error.seed == 0, "shrunk"
    with pytest.raises(PropertyError) as again:
        exec(error.snippet, {})
    assert str(again.value) == str(error)


def test_two_runs_draw_the_same_cases_and_a_seed_others():
    rule = registry.find_rule((layers.SiLU,), GAIN)
    first, second = (check_property(rule, "sound", examples=4)[0] for _ in range(2))
    assert first == second
    assert check_property(rule, "sound", examples=4, seed=1)[0].examples == 4


def test_a_report_says_what_came_of_every_property():
    report = check_rule(layers.Dropout, examples=2)
    lines = str(report).splitlines()
    assert len(lines) == len(report.results)
    assert any("not applicable" in line and "the layer has no weights" in line for line in lines)
    assert any("passed" in line and "closest ratio 1.0000" in line for line in lines)


def test_a_layer_type_without_claims_is_refused():
    with pytest.raises(RuleError, match="no rule of layer type Input claims a bound"):
        check_rule(layers.Input)


@pytest.mark.usefixtures("own_rules")
def test_a_type_without_a_strategy_is_named_with_what_to_do():
    @ft.layer
    class Named(layers.Layer):
        name: str

    with pytest.raises(StrategyError, match=r"Named: its field name is a str; register one with fimtheory\.strategies"):
        strategies.draws_of(Named, (3,))
    strategies.register(Named, lambda shape: st.builds(Named, st.just("a")))
    with pytest.raises(RuleError, match="already"):
        strategies.register(Named, lambda shape: None)
    with pytest.raises(RuleError, match="a layer type"):
        strategies.register(int, lambda shape: None)


def test_without_hypothesis_the_extra_is_named():
    code = (
        "import sys; sys.modules['hypothesis'] = None\n"
        "import fimtheory as ft\n"
        "try: ft.check_rule\n"
        "except ft.errors.StrategyError as error: print(error)\n"
    )
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'fimtheory[properties]'" in made.stdout


def test_importing_fimtheory_needs_neither_hypothesis_nor_torch():
    code = "import sys, fimtheory; print({'hypothesis', 'torch'} & set(sys.modules))"
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert made.stdout.strip() == "set()"


@settings(max_examples=10, deadline=None)
@given(strategies.modules(), st.data())
def test_modules_take_the_inputs_that_are_drawn_for_them(module, data):
    x = data.draw(strategies.inputs_for(module.graph, batch=3))
    assert module(x).shape == (3, *module.graph.shapes[module.graph.output])


def test_a_case_says_all_that_its_tensors_come_from():
    case = Case("gain[Linear]", (layers.Linear(3, 2),), ((3,),), ("rank one",), 7)
    again = eval(case.program(), {"properties": properties, "layers": layers})
    assert again == case
    assert torch.equal(again.tensors[0]["weight"], case.tensors[0]["weight"])
    assert torch.linalg.matrix_rank(case.tensors[0]["weight"]) == 1


# ---- the pytest plugin ------------------------------------------------------------------------------------------

USERS_TEST = """
import sympy
import fimtheory as ft

OWN = ft.Reference("fimtheory")

@ft.layer
class Third(ft.layers.Layer):
    pass

for quantity, function in (
    (ft.Quantity.SHAPE, lambda site: site.inputs[0]),
    (ft.Quantity.PARAMETERS, lambda site: ()),
    (ft.Quantity.FORWARD, lambda site: lambda tensors, x: x / 3),
    (ft.Quantity.GAIN, lambda site: ft.Claim(ft.Relation.EQ, sympy.Rational(1, GAIN), OWN)),
):
    ft.rule(Third, quantity=quantity, reference=OWN)(function)

def test_rules(fimtheory_property):
    fimtheory_property()
"""


@pytest.mark.parametrize(("gain", "passed", "failed"), [(3, 4, 0), (4, 2, 2)])
def test_the_plugin_tests_rules_of_ones_own(tmp_path, gain, passed, failed):
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["fimtheory.pytest_plugin"]\n')
    (tmp_path / "test_own.py").write_text(USERS_TEST.replace("GAIN)", f"{gain})"))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    command += ["--fimtheory-rules", "Third", "--fimtheory-examples", "6", str(tmp_path)]
    made = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    told = made.stdout.splitlines()[-1]
    assert f"{passed} passed" in told, made.stdout
    assert (f"{failed} failed" in told) is bool(failed)
    assert "2 skipped" in told


@pytest.mark.usefixtures("own_rules")
def test_the_programs_of_the_tutorial(tmp_path, monkeypatch, capsys):
    text = (Path(__file__).parents[1] / "docs" / "properties.md").read_text(encoding="utf-8")
    names: dict = {}
    monkeypatch.chdir(tmp_path)
    for program in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL):
        exec(compile(program, "tutorial", "exec", dont_inherit=True), names)  # annotations are no strings there
    printed = capsys.readouterr().out
    assert re.search(r"sound +passed .*closest ratio 1\.0000", printed)
    assert "D_W**2*Product(9*a_fc0[i]**2/4, (i, 1, 2))/4" in printed
    assert (tmp_path / "build" / "sorting.tex").is_file()


def test_a_claim_that_is_no_number_bounds_nothing(monkeypatch):
    right = registry.find_rule((layers.Linear,), GAIN)

    def undefined(site):
        claim = right.function(site)
        return dataclasses.replace(claim, expression=1 / claim.expression)  # of a norm of zero

    wrong = dataclasses.replace(right, function=undefined)
    monkeypatch.setitem(registry._RULES, (right.types, GAIN), wrong)
    monkeypatch.setitem(registry._BY_NAME, right.name, wrong)
    with pytest.raises(PropertyError):
        properties.sound(Case(right.name, (layers.Linear(2, 3),), ((2,),), ("zero",)))
