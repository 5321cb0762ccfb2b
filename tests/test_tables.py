"""Tables of the terminal: bounds are rounded up, what was found down, and nothing is broken at 80 columns."""

import dataclasses
import io
from fractions import Fraction

import pytest
import torch
from rich.console import Console

import fimtheory as ft
from fimtheory import survey_tables, tables, zoo
from fimtheory.claims import Status
from fimtheory.surveys import survey

UPPER = {Status.CERTIFIED, Status.EXPECTED, Status.HEURISTIC}


def drawn(table, width=80):
    console = Console(file=io.StringIO(), width=width)
    console.print(table)
    return console.file.getvalue()


def cells(table):
    """Rows as lists of plain text."""
    return list(zip(*([str(cell) for cell in column.cells] for column in table.columns), strict=True))


@pytest.fixture(scope="module")
def verdict():
    return ft.verify(ft.families.mlp((6,), inputs=(4,), classes=3), torch.randn(8, 4), starts=4, steps=5)


def test_a_verdict_shows_bounds_rounded_up_and_what_was_found_down(verdict):
    bound, usual, found, worst = verdict.bound, verdict.baseline, verdict.estimates, verdict.worst
    exact = [(bound.value, bound.log10), (usual.value, usual.log10), (bound.expected_value, bound.expected_log10)]
    exact += [(found.lam.max().item(), found.log10_lam.max().item()), (worst.value, worst.log10_value)]
    for (what, value, log10, status), number, logarithm in zip(
        cells(tables.verdict_table(verdict)), *zip(*exact, strict=True), strict=False
    ):
        for shown, honest in ((value, number), (log10, logarithm)):
            difference = Fraction(shown) - Fraction(honest)
            assert (difference >= 0) == (status in UPPER), what
            assert abs(difference) < abs(Fraction(honest)) / 100 + Fraction(1, 1000), what


def test_a_bound_beyond_floats_is_rounded_up_from_its_logarithm(verdict):
    vast = dataclasses.replace(verdict.bound, value=None, log10=400.3015)
    _, value, log10, _ = cells(tables.bound_table(vast, verdict.baseline, verdict.derivation))[0]
    assert (value, log10) == ("2.01e+400", "400.302")


@pytest.fixture(scope="module")
def surveys(verdict):
    """A survey with limits and one of exact values, each with its summary."""
    model = ft.instantiate(verdict.derivation.graph, verdict.seed)
    found = (survey(model, torch.randn(40, 4), method, level=0.9) for method in ("lanczos", "auto"))
    return [(each, each.summary(0.9, resamples=200)) for each in found]


def test_a_level_is_answered_by_an_upper_limit_or_by_why_there_is_none(surveys):
    limits, exact = surveys
    rows = cells(survey_tables.estimates_table("mlp", "data", 0, *limits, 0.9))
    assert [status for *_, status, _ in rows] == ["lower"] * 9 + ["level 0.9"]
    assert Fraction(rows[-1][1]) >= Fraction(limits[0].upper.max().item())
    assert "no limit of level 0.9 is needed" in " ".join(
        drawn(survey_tables.estimates_table("mlp", "data", 0, *exact, 0.9)).split()
    )
    assert "level 0.9" not in drawn(survey_tables.estimates_table("mlp", "data", 0, *exact))


def test_statistics_are_rounded_down_and_their_intervals_outward(surveys):
    for found, summary in surveys:
        rows = cells(survey_tables.estimates_table("mlp", "data", 0, found, summary))
        for name, lam, log10, status, interval in rows[:9]:
            truth = summary[name]
            assert 0 <= Fraction(truth.value) - Fraction(lam) < Fraction(truth.value) / 100
            assert 0 <= Fraction(truth.log10) - Fraction(log10) < Fraction(1, 1000)
            assert status == ("exact" if found is surveys[1][0] else "lower")
            if truth.interval is not None:
                low, high = interval.split(" to ")
                assert Fraction(low) <= Fraction(truth.interval.low)
                assert high == "inf" or Fraction(high) >= Fraction(truth.interval.high)
            assert bool(interval) == (truth.interval is not None)
        text = " ".join(drawn(survey_tables.estimates_table("mlp", "data", 0, found, summary)).split())
        assert "With confidence 90 %, at most 5.60 % of the source has a larger" in text  # 1 - 0.1^(1/40) = 0.0559...
        assert ("The values are lower bounds on lam." in text) == (found is surveys[0][0])


def test_steps_of_gain_1_are_counted_but_not_shown(verdict):
    steps = cells(tables.step_table("mlp", verdict.bound))
    shown = [row for row in verdict.bound.rows if row.log10 != 0 or row.method]
    text = drawn(tables.step_table("mlp", verdict.bound))
    assert f"{len(verdict.bound.rows) - len(shown)} steps of gain exactly 1 are left out" in text
    assert not any("ReLU" in step for _, step, _, _ in steps)
    contributions = [Fraction(decades) for _, _, _, decades in steps if decades]
    assert 0 <= sum(contributions) - Fraction(verdict.bound.log10) < Fraction(len(contributions), 1000)


SMALL_RESNET = ft.families.resnet((1, 1), widths=(4, 8), input_shape=(1, 8, 8), classes=3)


@pytest.mark.parametrize(
    ("name", "graph"), [("resnet", SMALL_RESNET), ("digits_vit", zoo.graph("digits_vit"))], ids=["resnet", "vit"]
)
def test_the_steps_of_a_model_fit_80_columns_without_breaking_a_name(name, graph):
    derivation = ft.derive(graph, token_variance="0.1")
    found = ft.evaluate(derivation, zoo.load(name) if name in zoo.names() else ft.instantiate(graph))
    text = drawn(tables.step_table(name, found))
    for node in graph.nodes[1:]:
        assert node.block in text
    for row in found.rows:
        assert row.method.split(" ")[0].removesuffix(";") in text
    assumption = "variance at least 1/10" if name == "digits_vit" else ""
    below = drawn(tables.bound_table(found, found, derivation))
    assert assumption in " ".join(below.split())
    assert "$" not in below
