"""Bounds on lam in a ball, and the enclosures they rest on, against sampled and searched inputs of the ball."""

import itertools
import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import jacobian, log10_lam, single

import fimtheory as ft
from fimtheory import layers
from fimtheory.claims import Quantity
from fimtheory.errors import DataError, FimTheoryError, GraphError, MissingRuleError, NonFiniteError, ShapeError
from fimtheory.local.activations import _DERIVATIVES, secants, slopes
from fimtheory.local.affine import AffineMap, is_affine
from fimtheory.local.balls import Ball
from fimtheory.local.passes import passes
from fimtheory.local.walk import Walk, increments
from fimtheory.local.walk import jacobian as jacobian_form
from fimtheory.registry import Site, require_rule
from fimtheory.strategies.windows import BATCH_NORMS

pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop")
LEAKY = (0.01, 0.2, 1.0, 3.0, -0.5, -2.0, 0.0)
ACTIVATIONS = (
    *(kind() for kind in _DERIVATIVES),
    *(layers.LeakyReLU(slope) for slope in LEAKY),
    *(layers.ELU(alpha) for alpha in (0.3, 2.5, 0.0, -1.5, 1e9)),
    *(layers.CELU(alpha) for alpha in (0.1, 5.0)),
    *(layers.Softplus(beta) for beta in (0.2, 30.0)),
    *(layers.Hardtanh(*ends) for ends in ((0.0, 2.0), (-3.0, -1.0))),
    *(layers.SELU(), layers.GELUTanh(), layers.Mish(), layers.QuickGELU(), layers.Softshrink(0.5), layers.Sin()),
    *(layers.Tanhshrink(), layers.Cos(), layers.Clamp(-1.0, 0.5), layers.Threshold(0.5, 0.5)),
)
SMOOTH = (layers.GELU(), layers.SiLU(), layers.Tanh(), layers.Softplus(), layers.Sigmoid(), layers.Erf())


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


def function_of(layer):
    apply = require_rule(layer, Quantity.FORWARD, "").function(Site((layer,), ("",), (), ()))
    return lambda x: apply({}, x[None])[0]


# ---- activations ------------------------------------------------------------------------------------------------

ends = st.one_of(
    st.integers(-8000, 8000).map(lambda n: n / 997),
    st.sampled_from([0.0, -3.0, 3.0, 6.0, 1.0, -1.0, 2**0.5, -(2**0.5), 2.4, -2.4, 1e3]),
)
widths = st.sampled_from([0.0, 1e-12, 1e-6, 1e-3, 0.1, 1.0, 5.0, 20.0])


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(ACTIVATIONS), ends, widths, widths)
def test_slopes_hold_every_derivative_and_secants_every_secant(layer, centre, below, above):
    function = function_of(layer)
    low, high = tensor(centre - below), tensor(centre + above)
    points = torch.cat([torch.linspace(low.item(), high.item(), 203, dtype=torch.float64), low, high, tensor(centre)])
    points = points.clamp(low, high).requires_grad_()
    values = function(points)
    (derivatives,) = torch.autograd.grad(values.sum(), points)
    least, largest = slopes(layer, low, high)
    room = 1e-12 * max(1.0, derivatives.abs().max().item())
    assert least.item() - room <= derivatives.min().item()
    assert derivatives.max().item() <= largest.item() + room
    start = tensor(centre)
    first, last = secants(layer, (start, start), low, high)
    assert least.item() <= first.item() <= last.item() <= largest.item()
    gap = points.detach() - start
    far = gap.abs() > 1e-4
    if far.any():
        found = ((values.detach() - function(start)) / gap)[far]
        room = 1e-11 * max(1.0, values.abs().max().item()) / gap[far].abs()
        assert bool((found >= first - room).all())
        assert bool((found <= last + room).all())


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from([layers.ReLU(), *(layers.LeakyReLU(s) for s in LEAKY)]),
    st.integers(-2000, 2000).map(lambda n: n / 997),
    st.sampled_from([0.0, 1e-3, 0.5]),
    widths,
    widths,
    st.sampled_from([1.0, 1e-8, 1e-150, 1e-250, 1e-306, 1e200]),
)
def test_secants_of_kinks_hold_from_every_centre_and_at_every_scale(layer, centre, spread, below, above, scale):
    left = Fraction(getattr(layer, "negative_slope", 0.0))
    first, last = tensor((centre - spread) * scale), tensor((centre + spread) * scale)
    low, high = first - below * scale, last + above * scale
    least, largest = (Fraction(end.item()) for end in secants(layer, (first, last), low, high))
    for start in {Fraction(end.item()) for end in (first, last)}:
        for stop in {Fraction(end.item()) for end in (low, high, first, last)} - {start}:
            value, there = (z if z > 0 else left * z for z in (start, stop))
            assert least <= (there - value) / (stop - start) <= largest


def test_secants_of_a_kink_are_attained():
    first, last = secants(layers.LeakyReLU(-1.0), (tensor(1.0), tensor(1.0)), tensor(-1.0), tensor(2.0))
    assert abs(first.item()) < 1e-9
    assert last.item() == 1.0
    first, last = secants(layers.LeakyReLU(3.0), (tensor(-1.0), tensor(-1.0)), tensor(-2.0), tensor(1.0))
    assert abs(first.item() - 2.0) < 1e-9
    assert last.item() == 3.0


def test_layers_without_slopes_have_none():
    zero = tensor(0.0)
    for layer in (layers.LayerNorm(1), layers.PReLU(), layers.Softmax()):
        assert slopes(layer, zero, zero) is None
        assert secants(layer, (zero, zero), zero, zero) is None


# ---- balls and affine maps --------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("scale", [1.0, 1e-200, 1e200])
def test_extent_of_a_ball_is_attained(norm, scale):
    rows = scale * torch.randn(5, 4, dtype=torch.float64)
    ball = Ball(torch.zeros(4, dtype=torch.float64), 0.3, norm)
    best = rows.sign() if norm == "linf" else rows / scale / (rows / scale).norm(dim=1, keepdim=True)
    attained = (rows * 0.3 * best).sum(1)
    found = ball.extent(rows)
    assert bool((found >= attained * (1 - 1e-15)).all())
    assert bool((found <= attained * 1.0001).all())
    assert ball.euclidean >= (0.3 if norm == "l2" else 0.6)


AFFINE = (
    (layers.Linear(4, 3), ((4,),)),
    (layers.Linear(4, 3, bias=False), ((2, 4),)),
    (layers.Conv2d(2, 4, (3, 2), (2, 1), (1, 1), (1, 2), 2), ((2, 4, 4),)),
    (layers.Conv1d(2, 3, (3,)), ((2, 5),)),
    (layers.Conv3d(1, 2, (2, 2, 2)), ((1, 2, 3, 2),)),
    (layers.PatchEmbedding(2, 3, 2), ((2, 4, 4),)),
    (layers.BatchNorm1d(3), ((3,),)),
    (layers.BatchNorm1d(3), ((3, 4),)),
    (layers.BatchNorm2d(2), ((2, 3, 3),)),
    (layers.BatchNorm3d(2, 1.0), ((2, 2, 1, 2),)),
    (layers.AvgPool2d((3, 2), (2, 1), (1, 1), True), ((2, 4, 4),)),
    (layers.AvgPool2d((2, 2), (1, 2), (1, 0), False, False), ((2, 4, 4),)),
    (layers.AvgPool2d((2, 2), (2, 2), (0, 0), False, True, 3), ((2, 4, 4),)),
    (layers.AdaptiveAvgPool2d((3, 1)), ((2, 4, 5),)),
    (layers.AddConstant((1, 2, 1)), ((2, 3),)),
    (layers.ConcatConstant(1, (2, 1), True), ((2, 3),)),
    (layers.MultiplyConstant((1, 3)), ((2, 3),)),
    (layers.ClassToken(3), ((2, 3),)),
    (layers.PositionEmbedding(2, 3), ((2, 3),)),
    (layers.SelectToken(1), ((2, 3),)),
    (layers.Select(0, 1), ((2, 3),)),
    (layers.Slice(1, 0, 3, 2), ((2, 3),)),
    (layers.Mean((0,), False), ((4, 3),)),
    (layers.Sum((1,), True), ((4, 3),)),
    (layers.Add(), ((3,), (3,), (3,))),
    (layers.Concat(0), ((3,), (2,))),
    (layers.Flatten(), ((2, 3),)),
    (layers.Reshape((3, 2)), ((2, 3),)),
    (layers.Permute((1, 0)), ((2, 3),)),
)


def affine_of(layer, shapes, scale=1.0):
    """The map of a layer with random float32 weights, and its dense matrix from its values at unit vectors."""
    nodes = [ft.Node("x", layers.Input((sum(math.prod(s) for s in shapes),)))]
    names = []
    offset = 0
    for k, shape in enumerate(shapes):
        size = math.prod(shape)
        nodes.append(ft.Node(f"s{k}", layers.Slice(0, offset, offset + size), ("x",)))
        nodes.append(ft.Node(f"r{k}", layers.Reshape(shape), (f"s{k}",)))
        names.append(f"r{k}")
        offset += size
    graph = ft.LayerGraph([*nodes, ft.Node("y", layer, tuple(names))])
    module = ft.instantiate(graph, weights=jittered(ft.instantiate(graph).state_dict(), scale))
    return passes(module)["y"], graph.shapes["y"]


def jittered(state, scale=1.0):
    """Other tensors than the initial ones, which are zero or one in many layers."""
    return {
        key: t
        if not t.is_floating_point()
        else t + torch.rand_like(t)
        if key.endswith("running_var")
        else (t + 0.3 * torch.randn_like(t)) * scale
        for key, t in state.items()
    }


@pytest.mark.parametrize(("layer", "shapes"), AFFINE, ids=lambda v: type(v).__name__)
@pytest.mark.parametrize("scale", [1.0, 1e3])
def test_affine_maps_act_on_values_columns_and_bounds(layer, shapes, scale):
    affine, shape = affine_of(layer, shapes, scale)
    zeros = [torch.zeros(1, *s, dtype=torch.float64) for s in shapes]
    offset = affine.values(*zeros)[0]
    assert tuple(offset.shape) == tuple(shape)
    assert not bool(affine.columns(*zeros).any())
    sizes = [math.prod(s) for s in shapes]
    unit = torch.eye(sum(sizes), dtype=torch.float64)
    units = [part.reshape(-1, *s) for part, s in zip(unit.split(sizes, 1), shapes, strict=True)]
    matrix = affine.columns(*units).flatten(1).T
    x = torch.randn(3, sum(sizes), dtype=torch.float64)
    parts = [part.reshape(-1, *s) for part, s in zip(x.split(sizes, 1), shapes, strict=True)]
    linear = (x @ matrix.T).reshape(3, *shape)
    torch.testing.assert_close(affine.columns(*parts), linear)
    torch.testing.assert_close(affine.values(*parts), linear + offset)
    bounds = affine.bounds(*(part.abs() for part in parts)).flatten(1)
    want = x.abs() @ matrix.abs().T
    assert bool((bounds >= want * (1 - 1e-12)).all())
    assert bool((bounds <= want * 1.001).all())


@pytest.mark.parametrize(
    ("layer", "shapes"), [case for case in AFFINE if type(case[0]) not in BATCH_NORMS.values()], ids=lambda v: str(v)
)
def test_rounding_covers_the_exact_values(layer, shapes):
    """Against rational arithmetic, with the matrix and the offset that the layer has at unit vectors and at zero.

    Weights of 24 bits: entries of the matrix are exact, but for averages, whose divisor is not a power of two.
    """
    affine, _ = affine_of(layer, shapes)
    sizes = [math.prod(s) for s in shapes]
    unit = torch.eye(sum(sizes), dtype=torch.float64)
    units = [part.reshape(-1, *s) for part, s in zip(unit.split(sizes, 1), shapes, strict=True)]
    matrix = [[Fraction(v) for v in row] for row in affine.columns(*units).flatten(1).T.tolist()]
    offset = affine.values(*(torch.zeros(1, *s, dtype=torch.float64) for s in shapes)).flatten().tolist()
    if "Avg" in type(layer).__name__ or isinstance(layer, layers.Mean):
        matrix = [[v.limit_denominator(1000) for v in row] for row in matrix]
    x = torch.randn(1, sum(sizes), dtype=torch.float64) * 10.0 ** torch.randint(-3, 4, (sum(sizes),))
    parts = [part.reshape(-1, *s) for part, s in zip(x.split(sizes, 1), shapes, strict=True)]
    exact = [Fraction(v) for v in x[0].tolist()]
    rounding = affine.rounding(*(part.abs() for part in parts)).flatten()
    columns, values = affine.columns(*parts).flatten(), affine.values(*parts).flatten()
    beside = affine.offset_rounding(parts[0][0]).expand(affine.values(*parts)[0].shape).flatten()
    for i, row in enumerate(matrix):
        want = sum((w * v for w, v in zip(row, exact, strict=True)), Fraction(0))
        assert abs(Fraction(columns[i].item()) - want) <= Fraction(rounding[i].item())
        assert abs(Fraction(values[i].item()) - want - Fraction(offset[i])) <= Fraction((rounding + beside)[i].item())


def test_offsets_of_any_size_have_a_rounding():
    for size in (1e-60, 1.0, 1e60):
        state = {"y.weight": torch.ones(2, 2).double(), "y.bias": tensor(size, size)}
        graph = ft.LayerGraph([ft.Node("x", layers.Input((2,))), ft.Node("y", layers.Linear(2, 2), ("x",))])
        affine = passes(ft.instantiate(graph, weights=state, dtype=torch.float64))["y"]
        assert 2.0**-53 * size <= float(affine.offset_rounding(torch.zeros(2).double())) <= 2.0**-45 * size


def test_affine_maps_are_of_affine_layers():
    assert is_affine(layers.Linear(2, 2))
    assert not is_affine(layers.ReLU())
    assert isinstance(affine_of(layers.Flatten(), ((2, 3),))[0], AffineMap)


# ---- networks ---------------------------------------------------------------------------------------------------


@st.composite
def networks(draw, smooth=False):
    """A small classifier of layers that have a local form, with shortcuts, and its weights."""
    nodes, shapes = [], {}

    def add(layer, *inputs):
        name = f"n{len(nodes)}"
        nodes.append(ft.Node(name, layer, inputs))
        shapes[name] = tuple(int(n) for n in ft.LayerGraph(nodes_of(name)).shapes[name])
        return name

    def nodes_of(name):
        """The nodes that the newest reads, as a graph needs one output."""
        by_name, needed, todo = {node.name: node for node in nodes}, set(), [name]
        while todo:
            here = todo.pop()
            if here not in needed:
                needed.add(here)
                todo.extend(by_name[here].inputs)
        return [node for node in nodes if node.name in needed]

    kinds = SMOOTH if smooth else ACTIVATIONS
    image = draw(st.booleans())
    here = add(layers.Input(draw(st.sampled_from([(1, 4, 4), (2, 3, 4)])) if image else (draw(st.integers(1, 5)),)))
    for _ in range(draw(st.integers(1, 4))):
        shape, choice = shapes[here], draw(st.sampled_from(["act", "act", "map", "map", "norm", "sum", "cat", "pool"]))
        if choice == "act":
            here = add(draw(st.sampled_from(kinds)), here)
        elif choice == "norm":
            here = add(BATCH_NORMS[len(shape)](shape[0]), here)
        elif choice == "sum":
            branch = add(draw(st.sampled_from(kinds)), add(same(shape), here))
            here = add(layers.Add(), *draw(st.permutations([branch, *draw(st.sampled_from([[here], [here, here]]))])))
        elif choice == "cat" and math.prod(shape) <= 16:
            branch = add(draw(st.sampled_from(kinds)), add(same(shape), here))
            here = add(layers.Concat(0), here, branch)
        elif choice == "pool" and len(shape) == 3 and min(shape[1:]) > 1:
            here = add(draw(pools(shape, smooth)), here)
        elif len(shape) == 3:
            groups = draw(st.sampled_from([g for g in (1, 2) if shape[0] % g == 0]))
            kernel, stride = draw(st.sampled_from([(1, 1), (2, 3), (3, 3)])), draw(st.sampled_from([(1, 1), (2, 1)]))
            if all(n + 2 >= k for n, k in zip(shape[1:], kernel, strict=True)):
                here = add(layers.Conv2d(shape[0], 2, kernel, stride, (1, 1), (1, 1), groups), here)
        else:
            here = add(layers.Linear(shape[0], draw(st.integers(1, 6)), draw(st.booleans())), here)
    if len(shapes[here]) == 3:
        here = add(layers.Flatten(), here)
    add(layers.Linear(shapes[here][0], draw(st.integers(2, 4))), here)
    graph = ft.LayerGraph(nodes, "drawn")
    seed = draw(st.integers(0, 2**20))
    torch.manual_seed(seed)
    weights = jittered({key: t.double() for key, t in ft.instantiate(graph, seed).state_dict().items()}, 1.5)
    weights = {k: t.long() if k.endswith("batches_tracked") else t for k, t in weights.items()}
    style = "plain" if smooth else draw(st.sampled_from(["plain", "plain", "steep", "zero", "duplicates"]))
    for key, t in weights.items():
        if style == "steep" and key.endswith("weight"):
            weights[key] = 4.0 * t
        elif key.endswith("weight") and style == "zero" and draw(st.booleans()):
            weights[key] = torch.zeros_like(t)
        elif key.endswith("weight") and style == "duplicates":
            weights[key] = t[:1].expand_as(t).clone()
    module = ft.instantiate(graph, weights=weights, dtype=torch.float64)
    x = torch.randn(graph.shapes["n0"], dtype=torch.float64)
    if not smooth and draw(st.integers(0, 3)) == 0:
        x = torch.full_like(x, draw(st.sampled_from([0.0, 1.0])))
    return module, x


def same(shape):
    if len(shape) == 3:
        return layers.Conv2d(shape[0], shape[0], (3, 3), padding=(1, 1))
    return layers.Linear(shape[0], shape[0])


@st.composite
def pools(draw, shape, smooth):
    kernel = tuple(draw(st.integers(1, min(3, n))) for n in shape[1:])
    padding = tuple(draw(st.integers(0, k // 2)) for k in kernel)
    stride = tuple(draw(st.integers(1, 3)) for _ in kernel)
    ceil_mode = draw(st.booleans())
    if smooth or draw(st.integers(0, 2)) == 0:
        return layers.AvgPool2d(kernel, stride, padding, ceil_mode, draw(st.booleans()))
    dilation = tuple(
        draw(st.integers(1, min(2, (n - 1) // max(1, k - 1)))) for n, k in zip(shape[1:], kernel, strict=True)
    )
    if any(d > 1 for d in dilation):
        padding = (0, 0)
    return layers.MaxPool2d(kernel, stride, padding, dilation, ceil_mode)


def within(x, change, radius, norm):
    """x plus the change, scaled back into the ball."""
    if norm == "linf":
        return x + change.clamp(-radius, radius)
    size = change.norm().item()
    return x + (change * (radius / size) if size > radius else change)


def samples(x, radius, norm, count):
    for k in range(count):
        change = torch.randn_like(x)
        if norm == "linf":
            yield within(x, radius * (change.sign() if k % 2 else 2 * torch.rand_like(x) - 1), radius, norm)
        else:
            yield within(x, radius * change / change.norm() * (1.0 if k % 2 else torch.rand(()).item()), radius, norm)


def lam_squared_gain(module, x):
    """A differentiable trace of F, which has its largest values near those of lam."""
    function = single(module)
    p = function(x).softmax(0)
    rows = torch.func.jacrev(function)(x).flatten(1)
    centred = rows - p @ rows
    return (p[:, None] * centred.square()).sum()


def largest_lam(module, x, radius, norm, steps=5):
    """Largest log10 lam of sampled inputs of the ball, and of those that gradient ascent from the best one finds."""
    points = [x, *samples(x, radius, norm, 12)]
    found, here = max(((log10_lam(module, each), each) for each in points), key=lambda pair: pair[0])
    for step in (radius, radius / 3, radius / 10, radius / 30, radius / 100)[:steps]:
        try:
            gradient = torch.func.grad(lambda v: lam_squared_gain(module, v))(here)
        except RuntimeError as error:  # torch differentiates a few activations once only
            if "not implemented" not in str(error):
                raise
            break
        steepest = gradient.abs().max().item()
        if not bool(gradient.isfinite().all()) or steepest < 1e-290:
            break
        scaled = gradient / steepest  # the norm of a tiny gradient would underflow
        direction = scaled.sign() if norm == "linf" else scaled / scaled.norm()
        trial = within(x, here + step * direction - x, radius, norm)
        value = log10_lam(module, trial)
        if value > found:
            found, here = value, trial
    return found


RADII = st.sampled_from([0.0, 1e-6, 1e-2, 0.1, 0.3, 1.0])
BALLS = st.sampled_from(["l2", "linf"])


@settings(max_examples=90, deadline=None)
@given(networks(), RADII, BALLS)
def test_no_input_of_the_ball_exceeds_the_bound(case, radius, norm):
    module, x = case
    bound = ft.local_bound(module, x[None], radius, norm=norm)
    found = 10.0 ** largest_lam(module, x, radius, norm)
    assert found <= bound.value.item() * (1 + 1e-9) + 1e-25


@settings(max_examples=60, deadline=None)
@given(networks(), RADII, BALLS)
def test_walks_enclose_values_increments_and_jacobians(case, radius, norm):
    module, x = case
    ball = Ball(x, radius, norm)
    with torch.no_grad():
        maps = passes(module)
        first = Walk.at(module.graph, maps, ball)
        logits = increments(first)
        second = Walk.at(module.graph, maps, ball)
        rows = jacobian_form(second, first).rows()
        gram = second.system.gram(rows)
        size = first.increment(logits.rows())
        centre = dict(module.values(x[None]))
        for point in samples(x, radius, norm, 12):
            values = dict(module.values(point[None]))
            for name, (low, high) in first.ranges.items():
                if name in module.graph.order:
                    (source,) = module.graph.inputs(name)
                    value = values[source][0]
                    room = 1e-9 * (1 + value.abs())
                    assert bool((low - room <= value).all()), name
                    assert bool((value <= high + room).all()), name
            change = (values[module.graph.output] - centre[module.graph.output])[0].abs()
            assert bool((change <= size * (1 + 1e-9) + 1e-12).all())
            assert gram is not None
            jac = jacobian(single(module), point)
            scale = gram.diagonal().rsqrt()
            gap = scale[:, None] * (gram - jac @ jac.T) * scale
            least = torch.linalg.eigvalsh(0.5 * (gap + gap.T))[0].item()
            assert least >= -1e-9


@settings(max_examples=30, deadline=None)
@given(networks(smooth=True))
def test_a_point_has_its_own_lam(case):
    module, x = case
    bound = ft.local_bound(module, x[None], 0.0)
    want = 10.0 ** log10_lam(module, x)
    assert want <= bound.value.item() * (1 + 1e-9)
    if bound.by == ("probabilities",):
        assert bound.value.item() <= want * 1.05 + 1e-9


@pytest.mark.parametrize(
    "act", [layers.ReLU(), layers.LeakyReLU(), layers.GELU(), layers.SiLU(), layers.Tanh()], ids=str
)
def test_a_perceptron_at_a_point_has_its_own_lam(act):
    graph = perceptron(layers.Linear(4, 6), act, layers.Linear(6, 5), act, layers.Linear(5, 3), shape=(4,))
    for seed in range(3):
        module, x = ft.instantiate(graph, seed, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
        want = 10.0 ** log10_lam(module, x)
        bound = ft.local_bound(module, x[None], 0.0)
        assert bound.by == ("probabilities",)
        assert want <= bound.value.item() * (1 + 1e-9)
        assert bound.value.item() <= want * (1 + 1e-4)


def perceptron(*made, shape=(3,)):
    nodes = [ft.Node("x", layers.Input(shape))]
    for k, layer in enumerate(made):
        nodes.append(ft.Node(f"l{k}", layer, (nodes[-1].name,)))
    return ft.LayerGraph(nodes)


@pytest.mark.parametrize("first", [1e-160, 1e-170, 1e-30, 1e-6, 1e6, 1e30, 1e150, 1e160])
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_units_between_layers_do_not_matter(first, norm):
    """Weights times c, then 1/c: the same network for an activation of degree one."""
    graph = perceptron(layers.Linear(3, 4), layers.ReLU(), layers.Linear(4, 4), layers.LeakyReLU(), layers.Linear(4, 3))
    weights = ft.instantiate(graph, 1, dtype=torch.float64).state_dict()
    x = torch.randn(1, 3, dtype=torch.float64)
    before = ft.local_bound(ft.instantiate(graph, weights=weights, dtype=torch.float64), x, 0.3, norm=norm)
    scaled = {**weights, **{k: weights[k] * first for k in ("l0.weight", "l0.bias", "l2.bias")}}
    scaled["l4.weight"] = weights["l4.weight"] / first
    after = ft.local_bound(ft.instantiate(graph, weights=scaled, dtype=torch.float64), x, 0.3, norm=norm)
    assert before.value.item() == pytest.approx(after.value.item(), rel=0.01)
    assert int(before.open) == int(after.open) > 0


@pytest.mark.parametrize("scale", [1e-150, 1e-10, 1e4, 1e15, 1e40])
def test_steep_flat_and_saturated_networks(scale):
    graph = perceptron(layers.Linear(3, 4), layers.Tanh(), layers.Linear(4, 4), layers.ReLU(), layers.Linear(4, 2))
    weights = {k: t * scale for k, t in ft.instantiate(graph, 1, dtype=torch.float64).state_dict().items()}
    module = ft.instantiate(graph, weights=weights, dtype=torch.float64)
    x = torch.randn(3, dtype=torch.float64)
    for radius in (0.0, 1e-3, 1.0):
        bound = ft.local_bound(module, x[None], radius).value.item()
        assert math.isfinite(bound)
        assert 10.0 ** largest_lam(module, x, radius, "l2") <= bound


@pytest.mark.parametrize("scale", [1e120, 1e200, 1e300])
def test_weights_beyond_float64_are_refused_by_name(scale):
    graph = perceptron(layers.Linear(3, 4), layers.ReLU(), layers.Linear(4, 4), layers.ReLU(), layers.Linear(4, 2))
    weights = {k: t * scale for k, t in ft.instantiate(graph, 1, dtype=torch.float64).state_dict().items()}
    module = ft.instantiate(graph, weights=weights, dtype=torch.float64)
    with pytest.raises(NonFiniteError, match="radius"):
        ft.local_bound(module, torch.randn(1, 3, dtype=torch.float64), 0.5)


@pytest.mark.parametrize("depth", [1, 3, 6])
def test_dead_networks(depth):
    """Zero weights in all layers, in the first or in the last: lam is zero, and nothing is divided by it."""
    made = [each for _ in range(depth) for each in (layers.Linear(3, 3), layers.ReLU())]
    graph = perceptron(*made, layers.Linear(3, 3))
    weights = ft.instantiate(graph, 1, dtype=torch.float64).state_dict()
    for dead in ({"l0.weight", "l0.bias"}, {f"l{2 * depth}.weight"}, set(weights)):
        state = {k: torch.zeros_like(t) if k in dead else t for k, t in weights.items()}
        module = ft.instantiate(graph, weights=state, dtype=torch.float64)
        for radius in (0.0, 0.5):
            assert 0.0 <= ft.local_bound(module, torch.randn(1, 3).double(), radius).value.item() <= 1e-20


def test_a_batch_norm_without_variance():
    graph = perceptron(layers.Linear(3, 4), layers.BatchNorm1d(4), layers.ReLU(), layers.Linear(4, 3))
    weights = ft.instantiate(graph, 1, dtype=torch.float64).state_dict()
    weights["l1.running_var"] = torch.zeros_like(weights["l1.running_var"])
    module, x = ft.instantiate(graph, weights=weights, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    bound = ft.local_bound(module, x[None], 0.1).value.item()
    assert 10.0 ** largest_lam(module, x, 0.1, "l2") <= bound < 1e12


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize(
    "pool",
    [
        layers.MaxPool2d((3, 3), (2, 2), (1, 1)),
        layers.MaxPool2d((2, 2), (1, 1)),
        layers.MaxPool2d((2, 3), (2, 2), (1, 0), (1, 1), True),
        layers.MaxPool2d((2, 2), (3, 3), (0, 0), (2, 3), True),
        layers.MaxPool2d((1, 1), (2, 2)),
        layers.MaxPool2d((5, 5), (5, 5)),
    ],
    ids=str,
)
def test_max_pools(pool, norm):
    graph = perceptron(layers.Conv2d(1, 2, (3, 3), padding=(1, 1)), pool, layers.Flatten(), shape=(1, 5, 5))
    width = graph.shapes[graph.output][0]
    graph = perceptron(*(graph.layer(n) for n in graph.order[1:]), layers.Linear(width, 3), shape=(1, 5, 5))
    module = ft.instantiate(graph, 3, dtype=torch.float64)
    with torch.no_grad():
        module.get_parameter("l0.bias").sub_(3.0)  # all entries are negative: zeros of the padding would win
    x = torch.randn(1, 5, 5, dtype=torch.float64)
    want = 10.0 ** log10_lam(module, x)
    assert want <= ft.local_bound(module, x[None], 0.0).value.item() <= want * (1 + 1e-4)
    for radius in (0.01, 0.3):
        bound = ft.local_bound(module, x[None], radius, norm=norm).value.item()
        assert 10.0 ** largest_lam(module, x, radius, norm) <= bound
    ball = Ball(x, 0.0, "l2")
    with torch.no_grad():
        logits = increments(Walk.at(graph, passes(module), ball))
        torch.testing.assert_close(logits.centre, module(x[None])[0])


def test_equal_entries_in_a_pool():
    """Ties: the Jacobian may follow any of the entries that win."""
    graph = perceptron(layers.MaxPool2d((2, 2), (2, 2)), layers.Flatten(), layers.Linear(4, 3), shape=(1, 4, 4))
    module = ft.instantiate(graph, 3, dtype=torch.float64)
    bound = ft.local_bound(module, torch.ones(1, 1, 4, 4, dtype=torch.float64), 0.0)
    for _ in range(5):
        assert 10.0 ** log10_lam(module, 1 + 1e-9 * torch.randn(1, 4, 4).double()) <= bound.value.item() * 1.0001


# ---- what is returned and refused -------------------------------------------------------------------------------


def small():
    return ft.instantiate(perceptron(layers.Linear(3, 4), layers.ReLU(), layers.Linear(4, 2)), 0)


def test_every_input_of_a_batch_has_its_own_bound():
    module, x = small(), torch.randn(3, 3)
    bound = ft.local_bound(module, x, 0.1, norm="linf")
    assert len(bound) == 3
    assert (bound.radius, bound.norm, str(bound.status)) == (0.1, "linf", "certified")
    assert "3 inputs" in repr(bound)
    alone = torch.cat([ft.local_bound(module, each[None], 0.1, norm="linf").value for each in x])
    assert torch.equal(bound.value, alone)
    none = ft.local_bound(module, x[:0], 0.1)
    assert len(none) == 0
    assert "no inputs" in repr(none)


def test_bounds_grow_with_the_ball():
    module, x = small(), torch.randn(2, 3)
    found = [ft.local_bound(module, x, radius).value for radius in (0.0, 0.01, 0.1, 1.0)]
    for less, more in itertools.pairwise(found):
        assert bool((less <= more * 1.001).all())


@pytest.mark.parametrize("count", [0, 1])
@pytest.mark.parametrize(
    ("radius", "norm"), [(-0.1, "l2"), (math.nan, "l2"), (math.inf, "linf"), (0.1, "l1"), (0.1, "")]
)
def test_balls_that_are_none_are_refused(radius, norm, count):
    with pytest.raises(DataError, match=r"norm|radius"):
        ft.local_bound(small(), torch.zeros(count, 3), radius, norm=norm)


def test_inputs_that_do_not_fit_are_refused():
    module = small()
    for shape in ((3,), (1, 4), (1, 3, 1), ()):
        with pytest.raises(ShapeError, match="expected a batch"):
            ft.local_bound(module, torch.zeros(shape), 0.1)
    for value in (math.nan, math.inf):
        with pytest.raises(NonFiniteError, match="input"):
            ft.local_bound(module, torch.full((1, 3), value), 0.1)
    for x in ([[0.0, 0.0, 0.0]], torch.zeros(1, 3, dtype=torch.int64), torch.zeros(1, 3, dtype=torch.complex64)):
        with pytest.raises(DataError):
            ft.local_bound(module, x, 0.1)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (layers.L2Normalize(1, 1e-6), (2, 4)),
        (layers.LocalResponseNorm(3), (2, 4)),
        (layers.PReLU(), (2, 4)),
        (layers.Softmax(), (2, 4)),
        (layers.MaxPool1d((2,), (2,)), (2, 4)),
        (layers.Scale(2.0), (2, 4)),
    ],
    ids=lambda v: type(v).__name__,
)
def test_layers_without_a_local_form_are_named(layer, shape):
    graph = perceptron(layer, layers.Flatten(), shape=shape)
    graph = perceptron(layer, layers.Flatten(), layers.Linear(graph.shapes[graph.output][0], 2), shape=shape)
    with pytest.raises(MissingRuleError, match=f"node l0.*{type(layer).__name__}"):
        ft.local_bound(ft.instantiate(graph), torch.zeros(1, *shape), 0.1)


def test_graphs_that_are_no_classifiers_are_refused():
    for layer, shape in ((layers.Linear(3, 1), (3,)), (layers.ReLU(), (2, 3))):
        with pytest.raises(GraphError):
            ft.local_bound(ft.instantiate(perceptron(layer, shape=shape)), torch.zeros(1, *shape), 0.1)


def test_weights_that_are_not_finite_are_refused():
    module = small()
    with torch.no_grad():
        module.get_parameter("l0.weight")[0, 0] = math.nan
    with pytest.raises(FimTheoryError, match=r"l0\.weight"):
        ft.local_bound(module, torch.zeros(1, 3), 0.1)


def test_a_module_without_layers_is_refused():
    with pytest.raises(GraphError, match="from_torch"):
        ft.local_bound(torch.nn.Linear(3, 2), torch.zeros(1, 3), 0.1)


def test_values_beyond_float64_are_no_known_slopes():
    made = ft.instantiate(perceptron(layers.Linear(2, 2), layers.ReLU(), layers.Linear(2, 2), shape=(2,)))
    walk = Walk.at(made.graph, passes(made), Ball(torch.full((2,), float("inf"), dtype=torch.float64), 0.1, "l2"))
    with pytest.raises(NonFiniteError, match="beyond float64"):
        increments(walk)
