"""Semidefinite bounds against the Jacobians of admissible slopes, lam at searched inputs, and the solver's optimum."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from joint_oracle import Jacobian
from oracles import ascend, log10_lam
from semidefinite_optimum import interconnection, optimum
from test_local import jittered, networks, perceptron

import fimtheory as ft
from fimtheory import layers, norms, semidefinite
from fimtheory.errors import FimTheoryError, GraphError, MissingRuleError, NonFiniteError, SizeError
from fimtheory.norms.interconnection import Interconnection, Rows
from fimtheory.norms.interconnection_diameter import feasible, for_diameter, postponed

pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop")
ACTIVATIONS = (layers.ReLU(), layers.GELU(), layers.SiLU(), layers.LeakyReLU(0.2), layers.Tanh(), layers.Abs())


# ---- soundness --------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(networks())
def test_no_input_exceeds_the_bound(case):
    module, x = case
    bound = ft.semidefinite_bound(module).value
    generator = torch.Generator().manual_seed(0)
    starts = [x, *(10.0**k * torch.randn(x.shape, generator=generator, dtype=torch.float64) for k in (-1, 0, 1))]
    found = max([*(ascend(module, each, 4, generator)[0] for each in starts)])
    assert 10.0**found <= bound * (1 + 1e-9) + 1e-25


@st.composite
def convolutional(draw):
    """Small images: convolutions, a sum around a branch, activations before and behind pools; and weights."""
    act = st.sampled_from(ACTIVATIONS)
    width = draw(st.sampled_from([1, 2]))
    nodes = [ft.Node("x", layers.Input((1, 4, 4)))]

    def add(layer, *inputs):
        nodes.append(ft.Node(f"n{len(nodes)}", layer, inputs or (nodes[-1].name,)))
        return nodes[-1].name

    add(layers.Conv2d(1, width, (3, 3), padding=(1, 1)))
    here = add(draw(act))
    if draw(st.booleans()):
        add(layers.Conv2d(width, width, (3, 3), padding=(1, 1)))
        here = add(layers.Add(), here, add(draw(act)))
        here = add(draw(act))
    kernel, stride, padding = draw(st.sampled_from([((2, 2), (2, 2), (0, 0)), ((3, 2), (1, 2), (1, 0))]))
    pooled = add(layers.MaxPool2d(kernel, stride, padding))
    if draw(st.booleans()):  # something else reads the activation as well: it must stay where it is
        pooled = add(layers.Concat(0), pooled, add(layers.MaxPool2d(kernel, stride, padding), here))
    add(draw(act))
    add(layers.Flatten())
    size = ft.LayerGraph(nodes).shapes[nodes[-1].name][0]
    add(layers.Linear(size, draw(st.integers(2, 4))))
    graph, seed = ft.LayerGraph(nodes, "drawn"), draw(st.integers(0, 2**20))
    torch.manual_seed(seed)
    weights = jittered({key: t.double() for key, t in ft.instantiate(graph, seed).state_dict().items()})
    style = draw(st.sampled_from(["plain", "plain", "positive", "rank one", "zero", "tiny", "huge", "rows"]))
    for key in [key for key in weights if key.endswith("weight")]:
        weights[key] = styled(weights[key], style, draw)
    return ft.instantiate(graph, weights=weights, dtype=torch.float64), seed


def styled(t, style, draw):
    match style:
        case "positive":  # every path adds up
            return t.abs()
        case "rank one":
            return t[:1].expand_as(t).clone()
        case "zero":
            return torch.zeros_like(t) if draw(st.booleans()) else t
        case "tiny":
            return t * 1e-40
        case "huge":
            return t * 1e30
        case "rows":
            return t * (10.0 ** torch.randint(-6, 7, (len(t),))).reshape(-1, *[1] * (t.dim() - 1))
    return t


@settings(max_examples=25, deadline=None)
@given(convolutional())
def test_no_admissible_jacobian_exceeds_the_bound(case):
    """Slopes and winners of every entry and window of the network as it is given, ascended to vertices."""
    module, seed = case
    bound = ft.semidefinite_bound(module).value
    found = max(Jacobian(module.graph, module.state_dict()).ascended(seed + k) for k in range(4))
    assert found**2 / 4 <= bound * (1 + 1e-9) + 1e-200


@pytest.mark.parametrize(
    "made",
    [
        (layers.ReLU(), layers.MaxPool2d((2, 2), (2, 2))),
        (layers.MaxPool2d((2, 2), (2, 2)), layers.ReLU()),
        (layers.GELU(), layers.MaxPool2d((2, 2), (2, 2))),
    ],
    ids=str,
)
def test_bounds_of_one_positive_layer_are_attained(made):
    """With positive weights the largest slopes are the worst for every path; with one window a channel nothing is lost.

    One linear unit per window: the least bound is that of the largest gain, (1 + slack) times what is attained.
    """
    graph = perceptron(*made, layers.Flatten(), layers.Linear(1, 2, False), shape=(1, 2, 2))
    weights = {"l3.weight": torch.tensor([[1.0], [-1.0]], dtype=torch.float64)}
    module = ft.instantiate(graph, weights=weights, dtype=torch.float64)
    steepest = (
        max(float(end) for end in semidefinite._ends(made[0] if len(made) == 2 else layers.ReLU()))
        if not (isinstance(made[0], layers.MaxPool2d))
        else 1.0
    )
    found = ft.semidefinite_bound(module)
    attained = Jacobian(graph, weights).ascended(0) ** 2 / 4
    assert attained == pytest.approx(steepest**2)
    assert attained <= found.value
    assert found.value <= attained * (1.01 if found.multipliers <= 4 else 2.5)
    assert found.multipliers == (4 if not isinstance(made[0], layers.GELU) else 7)


# ---- optimality -------------------------------------------------------------------------------------------------


def residual(act):
    nodes = [
        ft.Node("x", layers.Input((1, 3, 3))),
        ft.Node("first", layers.Conv2d(1, 2, (3, 3), padding=(1, 1)), ("x",)),
        ft.Node("act", act, ("first",)),
        ft.Node("second", layers.Conv2d(2, 1, (3, 3), padding=(1, 1)), ("act",)),
        ft.Node("sum", layers.Add(), ("x", "second")),
        ft.Node("last", act, ("sum",)),
        ft.Node("flat", layers.Flatten(), ("last",)),
        ft.Node("head", layers.Linear(9, 3), ("flat",)),
    ]
    return ft.LayerGraph(nodes)


@pytest.mark.parametrize(
    "graph",
    [
        perceptron(layers.Linear(5, 12), layers.ReLU(), layers.Linear(12, 12), layers.ReLU(), layers.Linear(12, 4),
                   shape=(5,)),
        perceptron(layers.Linear(4, 10), layers.GELU(), layers.Linear(10, 10), layers.Tanh(), layers.Linear(10, 2),
                   shape=(4,)),
        residual(layers.ReLU()),
        residual(layers.SiLU()),
    ],
    ids=["relu", "gelu", "residual", "residual silu"],
)  # fmt: skip
def test_the_optimum_of_a_solver_is_reached(graph):
    for seed in range(2):
        module = ft.instantiate(graph, seed, dtype=torch.float64)
        best = optimum(*interconnection(module)) / 4
        found = ft.semidefinite_bound(module).value
        assert best * (1 - 1e-4) <= found <= best * (1 + 2e-3)


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(2, 12), min_size=3, max_size=5), st.integers(0, 2**20), st.sampled_from(ACTIVATIONS[:4]))
def test_never_worse_than_the_recursion(sizes, seed, act):
    made = [each for n, m in itertools.pairwise(sizes) for each in (layers.Linear(n, m), act)]
    graph = perceptron(*made[:-1], shape=tuple(sizes[:1]))
    module = ft.instantiate(graph, seed, dtype=torch.float64)
    weights = [module.state_dict()[f"l{2 * k}.weight"] for k in range(len(sizes) - 1)]
    slopes = [tuple(float(end) for end in semidefinite._ends(act))] * (len(weights) - 1)
    recursion = norms.chain_head(weights, slopes).upper ** 2 / 4
    assert ft.semidefinite_bound(module).value <= recursion * (1 + 2e-3)


# ---- multipliers ------------------------------------------------------------------------------------------------


def drawn(generator, *shape):
    rows = torch.randn(shape, generator=generator, dtype=torch.float64)
    return Rows(rows, 1e-15 * rows.norm(dim=1))


@pytest.mark.parametrize("outputs", [2, 3, 40])
def test_multipliers_make_the_largest_difference_smaller(outputs):
    generator = torch.Generator().manual_seed(3)
    system = Interconnection.of_inputs(3)
    for size in (4, 5, 3):
        system = postponed(system, drawn(generator, size, 3 + len(system)))
    rows = drawn(generator, outputs, 15)
    rows.values[:, 3] = 0.0
    system.rows.values[:, 3] = 0.0  # nothing reads the first unknown number
    start = feasible(system)
    assert torch.equal(start.seen, system.seen)
    before, after = start.gram(rows), for_diameter(start, rows).gram(rows)
    assert before is not None
    assert after is not None

    def largest(y):
        return (y.diagonal()[:, None] + y.diagonal() - y - y.T).max().item()

    assert largest(after) < 0.9 * largest(before)


def test_systems_without_unknown_numbers_or_differences():
    generator = torch.Generator().manual_seed(3)
    none = Interconnection.of_inputs(3)
    rows = drawn(generator, 2, 3)
    assert len(for_diameter(feasible(none), rows)) == 0
    system = feasible(postponed(none, drawn(generator, 2, 3)))
    equal = Rows(torch.ones(3, 5, dtype=torch.float64), torch.zeros(3, dtype=torch.float64))
    assert torch.equal(for_diameter(system, equal).multipliers, system.multipliers)


# ---- what is returned, and what is refused ----------------------------------------------------------------------


def small():
    return perceptron(layers.Linear(3, 6), layers.ReLU(), layers.Linear(6, 5), layers.ReLU(), layers.Linear(5, 3))


@pytest.mark.parametrize("scale", [1e-60, 1e-6, 1e6, 1e60])
def test_units_do_not_matter(scale):
    module = ft.instantiate(small(), 1, dtype=torch.float64)
    before = ft.semidefinite_bound(module).value
    state = module.state_dict()
    state["l0.weight"], state["l4.weight"] = state["l0.weight"] * scale, state["l4.weight"] / scale
    after = ft.semidefinite_bound(ft.instantiate(small(), weights=state, dtype=torch.float64)).value
    assert before == pytest.approx(after, rel=5e-3)


def test_a_network_without_activations_has_its_own_gain():
    module = ft.instantiate(perceptron(layers.Linear(3, 4)), 1, dtype=torch.float64)
    found = ft.semidefinite_bound(module)
    w = module.state_dict()["l0.weight"]
    assert found.multipliers == 0
    assert found.value == pytest.approx((w[:, None] - w).square().sum(-1).max().item() / 4, rel=1e-5)


def test_dead_networks_have_none():
    state = {k: torch.zeros_like(t) for k, t in ft.instantiate(small(), 1).state_dict().items()}
    assert 0.0 <= ft.semidefinite_bound(ft.instantiate(small(), weights=state)).value <= 1e-20


def test_the_rung_and_the_bound_are_those_of_the_matrix_inequality():
    module = ft.instantiate(small(), 1, dtype=torch.float64)
    for tau in (1, 2):
        derivation = ft.derive(small(), temperature=tau)
        usual, found = ft.evaluate(derivation, module), ft.evaluate(derivation, module, semidefinite=True)
        alone = ft.semidefinite_bound(module)
        assert [rung.name for rung in found.ladder] == [*(r.name for r in usual.ladder), "semidefinite programme"]
        assert found.value == pytest.approx(min(usual.value, alone.value / tau**2), rel=1e-9)
        assert found.value >= min(usual.value, alone.value / tau**2) * (1 - 1e-15)
        assert found.rows[-1].rule == "semidefinite programme"
        assert "certified" in repr(alone)
        x = torch.randn(3, dtype=torch.float64)
        assert log10_lam(module, x, tau) <= found.log10


def test_other_layers_are_named():
    graph = perceptron(layers.LayerNorm(4), layers.Linear(4, 2), shape=(4,))
    with pytest.raises(MissingRuleError, match=r"node l0.*LayerNorm"):
        ft.semidefinite_bound(ft.instantiate(graph))
    with pytest.raises(MissingRuleError, match=r"node l0.*PReLU"):
        ft.semidefinite_bound(ft.instantiate(perceptron(layers.PReLU(), layers.Linear(4, 2), shape=(4,))))


def test_large_networks_are_refused_before_any_work():
    width = semidefinite.MOST_SLOPES + 1
    module = ft.instantiate(perceptron(layers.Linear(3, width), layers.ReLU(), layers.Linear(width, 2)))
    with pytest.raises(SizeError, match=rf"{width} slopes.*at most {semidefinite.MOST_SLOPES}.*ft.evaluate"):
        ft.semidefinite_bound(module)
    pool = perceptron(layers.MaxPool2d((6, 6), (1, 1)), layers.Flatten(), layers.Linear(15 * 15, 2), shape=(1, 20, 20))
    with pytest.raises(SizeError, match=f"{15 * 15 * 35} slopes"):
        ft.semidefinite_bound(ft.instantiate(pool))


def test_what_is_no_model_or_no_classifier_is_refused():
    with pytest.raises(GraphError, match="from_torch"):
        ft.semidefinite_bound(torch.nn.Linear(3, 2))
    with pytest.raises(GraphError):
        ft.semidefinite_bound(ft.instantiate(perceptron(layers.Linear(3, 1))))


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e308])
def test_weights_beyond_float64_are_refused(value):
    module = ft.instantiate(small(), 1, dtype=torch.float64)
    with torch.no_grad():
        module.get_parameter("l2.weight").fill_(value)
    with pytest.raises(FimTheoryError, match=r"l2\.weight|float64"):
        ft.semidefinite_bound(module)
    assert issubclass(NonFiniteError, FimTheoryError)
