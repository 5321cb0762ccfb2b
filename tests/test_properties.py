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
from wrong_rules import WRONG, WRONG_FACTS, WRONG_PARTS, planted

import fimtheory as ft
from fimtheory import layers, properties, registry, strategies
from fimtheory.claims import Quantity, Relation
from fimtheory.errors import FimTheoryError, PropertyError, RuleError, StrategyError
from fimtheory.properties import Case, Outcome, check_property, check_rule, claiming_rules

EXAMPLES = 6
"""For each property: as many in which every wrong rule is caught as shipped rules are tested on."""


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

GAIN = Quantity.GAIN


@pytest.mark.parametrize("name", [*WRONG, *WRONG_PARTS, *WRONG_FACTS])
def test_a_wrong_rule_is_caught(name):
    with planted(name) as rule, pytest.raises(PropertyError):
        check_rule(rule, examples=EXAMPLES)


def test_there_are_forty_wrong_rules():
    assert len(WRONG) + len(WRONG_PARTS) + len(WRONG_FACTS) >= 40


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
        check_rule(half_gelu, examples=EXAMPLES)
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


@pytest.mark.parametrize(("gain", "passed", "failed"), [(3, 5, 0), (4, 3, 2)])
def test_the_plugin_tests_rules_of_ones_own(tmp_path, gain, passed, failed):
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["fimtheory.pytest_plugin"]\n')
    (tmp_path / "test_own.py").write_text(USERS_TEST.replace("GAIN)", f"{gain})"))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    command += ["--fimtheory-rules", "Third", "--fimtheory-examples", "6", str(tmp_path)]
    made = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    told = made.stdout.splitlines()[-1]
    assert f"{passed} passed" in told, made.stdout
    assert (f"{failed} failed" in told) is bool(failed)
    assert "3 skipped" in told


@pytest.mark.usefixtures("own_rules")
def test_the_program_of_a_failure_imports_layers_of_ones_own(monkeypatch):
    @ft.layer
    class Own(layers.Layer):
        pass

    monkeypatch.setattr(Own, "__module__", "own_layers")
    with pytest.raises(PropertyError) as caught:
        Case("gain[Own]", (Own(),), ((3,),), (), 0).fail("sound", "a test")
    assert "\nfrom own_layers import Own\n" in caught.value.snippet


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


@pytest.mark.parametrize("rounded", [1.13, sympy.Float(1.13), sympy.Symbol("a") * 1.13])
def test_a_rounded_number_in_a_claim_is_refused(rounded):
    right = registry.find_rule((layers.GELU,), GAIN)
    claim = ft.Claim(Relation.LE, rounded, right.reference)
    with (
        registry.replaced(right, lambda site: claim) as wrong,
        pytest.raises(RuleError, match=r"gain\[GELU\] claims .*: write sympy\.Rational\(x\)"),
    ):
        check_rule(wrong, examples=1)


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


def test_what_is_left_where_a_norm_removes_all_that_attention_reads_is_no_failure():
    rule, eps = "gain[LayerNorm, MultiHeadSelfAttention]", 1e-5
    run = (layers.LayerNorm(2, eps), layers.MultiHeadSelfAttention(2, 1, bias=False))
    case = Case(rule, run, ((4, 2),), ("ones",), 12)  # the projections read the mean, which is zero
    assert properties.sound(case).relation is Relation.LE


def test_a_flat_part_of_a_function_is_not_taken_for_all_of_it():
    case = Case("gain[Hardtanh]", (layers.Hardtanh(-3.0, -1.0),), ((4,),), ("normal",), 362879)
    assert properties.sound(case).ratio <= 1


def test_a_shift_that_leaves_no_digit_of_what_it_shifts_is_no_failure():
    run = (layers.LayerNorm(3, 1e-5), layers.MultiHeadSelfAttention(3, 1, bias=False))
    rule, styles = "gain[LayerNorm, MultiHeadSelfAttention]", ("normal", "huge", "normal")  # a shift of 1e40
    assert properties.composes(Case(rule, run, ((6, 3),), styles)).ratio is None


def test_a_norm_that_is_rounded_up_to_a_normal_number_does_not_scale():
    case = Case("gain[GroupNorm]", (layers.GroupNorm(1, 4),), ((4,),), ("denormal",))
    torch.set_flush_denormal(False)
    try:
        with pytest.raises(properties.NotApplicableError, match="however small the weight"):
            properties.scales(case)
    finally:
        torch.set_flush_denormal(True)  # as tests/conftest.py has it


@pytest.mark.parametrize(
    "layer",
    [layers.Softmax(), layers.ConvTranspose1d(1, 1, (2,), padding=(2,), dilation=(3,), output_padding=(1,))],
)
def test_an_equality_is_claimed_only_where_it_is_reached(layer):
    shape = (1,) if isinstance(layer, layers.Softmax) else (1, 2)
    claim = registry.find_rule((type(layer),), GAIN).claim(registry.Site.of(layer, inputs=(shape,), node="f"))
    assert claim.relation is Relation.LE
