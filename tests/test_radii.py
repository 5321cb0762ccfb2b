"""Certified radii: exact where they can be, never beyond an adversarial example, and never outside of the domain."""

import dataclasses
import math
import warnings

import mpmath
import pytest
import torch
from adversarial_distance import adversarial_distance
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

import fimtheory as ft
from fimtheory import layers, radii, zoo
from fimtheory.data import load_data
from fimtheory.errors import AssumptionError, DataError, FimTheoryError, GraphError, NonFiniteError
from fimtheory.fisher import double

mp = mpmath.mp.clone()
mp.dps = 60


def linear(weight, bias=None, *after):
    """A linear classifier, or one with layers after it, of integer weights: its logits have no rounding."""
    weight = torch.tensor(weight, dtype=torch.float32)
    classes, size = weight.shape
    builder = ft.Builder("linear")
    node = builder.add("head", layers.Linear(size, classes), builder.add("x", layers.Input((size,))))
    for k, layer in enumerate(after):
        node = builder.add(f"after{k}", layer, node)
    bias = torch.zeros(classes) if bias is None else torch.tensor(bias, dtype=torch.float32)
    return ft.instantiate(builder.graph(), weights={"head.weight": weight, "head.bias": bias})


def evaluated(model, **options):
    return ft.evaluate(ft.derive(model.graph, **options), model)


def identity(classes):
    """Logits that are the input: two rows are sqrt(2) apart, so lam <= 1/2 and logit differences move by sqrt(2)."""
    return linear(torch.eye(classes).tolist())


# ---- exact where it can be --------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1, "1/3", 7])
def test_the_radius_of_two_classes_is_the_distance_to_the_line(temperature):
    model = linear([[3, -1, 2], [1, 4, -2]], [5, -7])
    x = torch.tensor([[1.0, 2.0, 3.0], [-4.0, 0.0, 9.0], [100.0, -50.0, 25.0]])
    found = ft.certified_radius(model, x, evaluated(model, temperature=temperature))
    for row, radius in zip(x.tolist(), found.radius.tolist(), strict=True):
        margin = sum(w * v for w, v in zip((2, -5, 4), row, strict=True)) + 12
        exact = abs(mp.mpf(margin)) / mp.sqrt(4 + 25 + 16)
        assert mp.mpf(radius) <= exact
        assert radius == pytest.approx(float(exact), rel=1e-9)
    assert found.by == ("margin",) * 3
    assert found.predicted.tolist() == model(x).argmax(1).tolist()
    assert found.status is ft.Status.CERTIFIED


def test_the_radius_without_a_linear_head_is_exact_where_the_factor_root_two_is_attained():
    model = linear([[1, 0], [0, 1]], None, layers.ReLU())
    evaluation = evaluated(model)
    assert evaluation.derivation.theorem.head == "softmax"
    found = ft.certified_radius(model, torch.tensor([[5.0, 2.0], [1.0, 8.0]]), evaluation)
    assert found.radius.tolist() == pytest.approx([3 / math.sqrt(2), 7 / math.sqrt(2)], rel=1e-7)
    assert (found.radius < torch.tensor([3.0, 7.0], dtype=torch.float64) / math.sqrt(2)).all()


def test_the_nearest_class_counts():
    found = ft.certified_radius(identity(3), torch.tensor([[5.0, 4.0, -9.0]]), evaluated(identity(3)))
    assert found.radius.item() == pytest.approx(1 / math.sqrt(2), rel=1e-9)


def nearest_distribution(p):
    """Least Fisher-Rao distance from ``p`` to a distribution of another top class, by minimisation on the sphere."""
    top = int(p.argmax())
    best = math.inf
    for other in range(len(p)):
        if other != top:
            tied = {"type": "ineq", "fun": lambda s, j=other: abs(s[j]) - abs(s[top])}
            sphere = {"type": "eq", "fun": lambda s: (s**2).sum() - 1}
            start = p.sqrt().numpy().copy()
            start[other] = start[top]
            done = minimize(lambda s: -(abs(s) * p.sqrt().numpy()).sum(), start / (start**2).sum() ** 0.5,
                            constraints=[tied, sphere], method="SLSQP", tol=1e-12)  # fmt: skip
            best = min(best, 2 * math.acos(min(1.0, -done.fun)))
    return best


@pytest.mark.parametrize("temperature", [1, "5/2"])
@pytest.mark.parametrize("logits", [[2.0, 1.0, 0.5], [0.1, 0.0, -0.2, 0.05], [3.0, -1.0], [1.0, 4.0, 3.5, -2.0, 0.0]])
def test_the_fisher_rao_radius_is_the_distance_to_the_nearest_distribution_that_decides_otherwise(logits, temperature):
    evaluation = evaluated(identity(len(logits)), temperature=temperature)
    x = torch.tensor([logits])
    found = ft.certified_radius(identity(len(logits)), x, evaluation)
    tau = float(evaluation.derivation.temperature)
    distance = nearest_distribution((x[0].double() / tau).softmax(0))
    assert found.fisher_rao.item() == pytest.approx(distance * tau * math.sqrt(2), rel=1e-5)  # lam <= 1 / (2 tau^2)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(-800, 800, width=32, allow_subnormal=False), min_size=2, max_size=6))
def test_both_radii_are_rounded_down_from_their_formulas_and_the_margin_is_never_the_smaller_one(logits):
    root = mp.sqrt(mp.mpf(3) / 7)
    margin, angle, by = radii._both(logits, radii.arb(3).sqrt() / radii.arb(7).sqrt(), radii.arb(1))
    first, second = sorted(map(mp.mpf, logits), reverse=True)[:2]
    top = 1 / mp.fsum(mp.exp(mp.mpf(z) - first) for z in logits)
    exact = 2 * mp.asin(mp.sqrt(top / 2) * -mp.expm1((second - first) / 2)) / root
    assert (1 - mp.mpf(1e-12)) * exact - 1e-300 <= mp.mpf(angle) <= exact * (1 + mp.mpf(10) ** -50)
    assert mp.mpf(margin) <= (first - second) / 2 / root * (1 + mp.mpf(10) ** -50)
    assert margin >= angle
    assert by == ("tie" if first == second else "margin")


def test_a_softmax_that_rounds_to_one_loses_nothing():
    model, x = identity(3), torch.tensor([[5000.0, -5000.0, 0.0], [100.0, 60.0, 60.0]])
    found = ft.certified_radius(model, x, evaluated(model))
    assert found.margin.tolist() == pytest.approx([5000 / math.sqrt(2), 40 / math.sqrt(2)], rel=1e-12)
    assert found.fisher_rao.tolist() == pytest.approx([math.pi / 2 * math.sqrt(2)] * 2, rel=1e-8)


# ---- ends of the scale ------------------------------------------------------------------------------------------


def test_ties_have_radius_zero_and_constant_models_have_no_limit():
    x = torch.tensor([[1.0, 1.0, 0.0], [2.0, 1.0, 0.0]])
    tied = ft.certified_radius(identity(3), x, evaluated(identity(3)))
    assert (tied.radius[0].item(), tied.by) == (0.0, ("tie", "margin"))
    constant = linear([[0, 0], [0, 0]], [2, 1])
    found = ft.certified_radius(constant, torch.zeros(1, 2), evaluated(constant))
    assert (found.radius.item(), found.by) == (math.inf, ("constant",))
    undecided = linear([[0, 0], [0, 0]], [1, 1])
    found = ft.certified_radius(undecided, torch.zeros(1, 2), evaluated(undecided))
    assert (found.radius.item(), found.by) == (0.0, ("tie",))


@pytest.mark.parametrize(("log10", "radius"), [(400.0, 0.5e-200), (-500.0, 0.5e250), (700.0, 0.0), (math.inf, 0.0)])
def test_bounds_beyond_floats_give_radii_rounded_down(log10, radius):
    evaluation = dataclasses.replace(evaluated(identity(2)), log10=log10, value=None)
    found = ft.certified_radius(identity(2), torch.tensor([[1.0, 0.0]]), evaluation).radius.item()
    assert found == pytest.approx(radius, rel=1e-12)
    assert mp.mpf(found) <= mp.mpf(1) / 2 / mp.mpf(10) ** (mp.mpf(log10) / 2)


def test_a_radius_beyond_floats_is_the_largest_float_and_not_infinite():
    evaluation = dataclasses.replace(evaluated(identity(2)), log10=-700.0)
    found = ft.certified_radius(identity(2), torch.tensor([[1.0, 0.0]]), evaluation)
    assert (found.radius.item(), found.by) == (torch.finfo(torch.float64).max, ("margin",))


# ---- nothing nearer -----------------------------------------------------------------------------------------------


def attacked(model, x, **options):
    found = ft.certified_radius(model, x, evaluated(model))
    distance, nearest = adversarial_distance(double(model), x.double(), **options)
    assert (double(model)(nearest).argmax(1) != found.predicted)[distance.isfinite()].all()
    return found, distance


@pytest.mark.parametrize("name", ["digits_mlp", "digits_mlp_adv", "digits_vgg_adv"])
def test_no_adversarial_example_is_nearer_than_the_radius(name):
    found, distance = attacked(zoo.load(name), load_data("digits:test", (1, 8, 8), n=6).inputs, starts=2, steps=6)
    assert distance.isfinite().all()
    assert (found.radius <= distance).all()
    assert (found.radius > 0).all()


def test_the_attack_finds_a_radius_that_is_too_large_by_a_thousandth(monkeypatch):
    model, x = linear([[3, -1, 2], [1, 4, -2]], [5, -7]), torch.randn(8, 3)
    found, distance = attacked(model, x, starts=1, steps=3)
    assert (found.radius <= distance).all()
    honest = radii.power_of_ten
    monkeypatch.setattr(radii, "power_of_ten", lambda exponent: honest(exponent) / radii.arb("1.002"))
    too_large = ft.certified_radius(model, x, evaluated(model))
    assert (too_large.radius > distance).all()


def test_attacks_of_foolbox_find_nothing_nearer():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        foolbox = pytest.importorskip("foolbox", exc_type=ImportError)
        model = zoo.load("digits_mlp_adv")
        x = load_data("digits:test", (1, 8, 8), n=6).inputs
        found = ft.certified_radius(model, x, evaluated(model))
        wrapped = foolbox.PyTorchModel(model, bounds=(-10, 10), device="cpu")
        for attack in (foolbox.attacks.L2DeepFoolAttack(), foolbox.attacks.L2FMNAttack(steps=60)):
            _, clipped, success = attack(wrapped, x, found.predicted, epsilons=None)
            assert success.any()
            distance = (clipped - x).double().flatten(1).norm(dim=1)
            assert (found.radius <= distance)[success].all()


# ---- the domain ---------------------------------------------------------------------------------------------------


def gated():
    """A gate on unbounded values: its theorem assumes bounds on them."""
    builder = ft.Builder("gated")
    x = builder.add("x", layers.Input((3,)))
    gate = builder.add("gate", layers.Sigmoid(), builder.add("fc", layers.Linear(3, 3), x))
    builder.add("head", layers.Linear(3, 2), builder.add("product", layers.Multiply(), x, gate))
    return ft.instantiate(builder.graph(), seed=1)


def test_a_radius_ends_at_the_box_on_which_the_bound_holds():
    model, x = gated(), torch.tensor([[0.5, -0.25, 0.0], [0.0, 0.9999999, 0.0]])
    wide, narrow = (ft.evaluate(ft.derive(model.graph), model, input_bound=side) for side in (50.0, 1.0))
    free = ft.certified_radius(model, x, wide)
    assert "box" not in free.by
    found = ft.certified_radius(model, x, narrow)
    assert found.by[1] == "box"
    assert found.radius[1].item() == 1 - x[1, 1].item()
    assert found.domain == "inputs with entries at most 1.0 in absolute value"
    with pytest.raises(DataError, match="larger input bound"):
        ft.certified_radius(model, 2 * x, narrow)


def test_an_input_bound_that_no_number_rests_on_is_no_limit():
    model = identity(2)
    evaluation = ft.evaluate(ft.derive(model.graph), model, input_bound=1.0)
    assert ft.certified_radius(model, torch.tensor([[9.0, 0.0]]), evaluation).by == ("margin",)


def test_a_bound_under_another_condition_gives_no_radius():
    model = zoo.load("digits_vit")
    evaluation = evaluated(model, token_variance="1/1000")
    with pytest.raises(AssumptionError, match="without a token variance"):
        ft.certified_radius(model, torch.rand(1, 1, 8, 8), evaluation)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda m, x, e: ft.certified_radius(m, x, m), DataError, "ft.evaluate"),
        (lambda m, x, e: ft.certified_radius(identity(4), torch.zeros(1, 4), e), GraphError, "another graph"),
        (lambda m, x, e: ft.certified_radius("model", x, e), DataError, "nn.Module"),
        (lambda m, x, e: ft.certified_radius(m, x.tolist(), e), DataError, "list"),
        (lambda m, x, e: ft.certified_radius(m, x.long(), e), DataError, "int64"),
        (lambda m, x, e: ft.certified_radius(m, x[:0], e), DataError, "non-empty"),
        (lambda m, x, e: ft.certified_radius(m, x / 0, e), NonFiniteError, "NaN"),
        (lambda m, x, e: ft.certified_radius(m, x[:, :2], e), FimTheoryError, "shape"),
        (lambda m, x, e: ft.certified_radius(torch.nn.Linear(2, 3), x, e), GraphError, "training"),
        (lambda m, x, e: ft.certified_radius(torch.nn.Linear(2, 3).eval(), x, e), DataError, "rejects"),
    ],
)
def test_what_does_not_fit_is_refused(call, error, words):
    model = identity(3)
    with pytest.raises(error, match=words):
        call(model, torch.zeros(2, 3), evaluated(model))


def test_batches_give_what_single_inputs_give():
    model, x = zoo.load("digits_mlp"), load_data("digits:test", (1, 8, 8), n=70).inputs
    evaluation = evaluated(model)
    together = ft.certified_radius(model, x, evaluation)
    alone = torch.cat([ft.certified_radius(model, x[k : k + 1], evaluation).radius for k in (0, 63, 64, 69)])
    assert together.radius[[0, 63, 64, 69]].tolist() == pytest.approx(alone.tolist(), rel=1e-12)
    assert len(together) == 70
    assert len(repr(together)) < 200


# ---- accuracy -----------------------------------------------------------------------------------------------------


@pytest.fixture
def accuracy():
    model, x = identity(2), torch.tensor([[4.0, 0.0], [0.0, 2.0], [0.0, 1.0], [3.0, 0.0]])
    found = ft.certified_radius(model, x, evaluated(model))  # radii 4, 2, 1, 3 over sqrt(2)
    return ft.certified_accuracy(found, torch.tensor([0, 1, 0, 0]))


def test_accuracy_counts_inputs_that_are_right_and_certified(accuracy):
    half = 2**-0.5
    assert [accuracy.at(r * half) for r in (0, 0.9, 1.9, 2.1, 3.1, 4.1)] == [0.75, 0.75, 0.75, 0.5, 0.25, 0]
    falls, shares = accuracy.steps()
    assert falls.tolist() == pytest.approx([2 * half, 3 * half, 4 * half])
    assert shares.tolist() == [0.75, 0.5, 0.25]
    table = accuracy.table()
    assert table[0] == (0.0, 0.75)
    assert table[-1][1] == 0
    assert [share for _, share in table] == [accuracy.at(radius) for radius, _ in table]
    assert 5 <= len(table) <= 11


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (torch.zeros(4), "integers"),
        ([0, 1, 0, 0], "integers"),
        (torch.zeros(3).long(), "each of 4"),
        (torch.tensor([0, 1, 2, 0]), "classes 0 to 1"),
        (torch.tensor([0, 1, -1, 0]), "classes 0 to 1"),
    ],
)
def test_labels_that_are_no_classes_are_refused(accuracy, labels, words):
    with pytest.raises(DataError, match=words):
        ft.certified_accuracy(accuracy.radii, labels)


@pytest.mark.parametrize("radius", [-1.0, math.nan])
def test_no_accuracy_at_what_is_no_radius(accuracy, radius):
    with pytest.raises(DataError, match="at least 0"):
        accuracy.at(radius)


def test_curves_of_constant_and_of_wrong_models_end_well(accuracy):
    constant = linear([[0, 0], [0, 0]], [2, 1])
    found = ft.certified_radius(constant, torch.zeros(2, 2), evaluated(constant))
    half_right = ft.certified_accuracy(found, torch.tensor([0, 1]))
    assert half_right.table() == [(0.0, 0.5)]
    assert half_right.at(math.inf) == 0.5


@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_a_plot_is_written_and_the_same_each_time(accuracy, tmp_path, suffix):
    pytest.importorskip("matplotlib")
    from fimtheory.plots import plot_accuracy

    for name in ("one", "two"):
        plot_accuracy({"own": accuracy}, tmp_path / f"{name}{suffix}")
    first, second = ((tmp_path / f"{name}{suffix}").read_bytes() for name in ("one", "two"))
    assert first == second
    assert len(first) > 1000


def test_a_plot_that_cannot_be_written_is_refused(accuracy, tmp_path):
    pytest.importorskip("matplotlib")
    from fimtheory.plots import plot_accuracy

    for path, words in ((tmp_path / "no" / "p.svg", "no folder"), (tmp_path / "p.pdf", "svg or"),
                        (tmp_path / "dir.svg", "cannot be written")):  # fmt: skip
        if path.name == "dir.svg":
            path.mkdir()
        with pytest.raises(DataError, match=words):
            plot_accuracy({"own": accuracy}, path)
    with pytest.raises(DataError, match="at least one"):
        plot_accuracy({}, tmp_path / "p.svg")
