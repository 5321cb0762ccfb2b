"""Local bounds through norms, attention and products, and what they rest on, against dense Jacobians of the ball."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import jacobian, log10_lam, single
from test_local import largest_lam, samples

import fimtheory as ft
from fimtheory import layers, zoo
from fimtheory.errors import NonFiniteError
from fimtheory.local import attention, products, walk
from fimtheory.local.balls import Ball
from fimtheory.local.centre import centres
from fimtheory.local.normalisation import deviation
from fimtheory.local.passes import passes
from fimtheory.local.summaries import factor
from fimtheory.local.walk import Form, Walk, increments
from fimtheory.local.walk import jacobian as jacobian_form
from fimtheory.norms import interconnection_multipliers as multipliers
from fimtheory.norms.interconnection import Interconnection, Rows

EPS = st.sampled_from([1e-12, 1e-6, 1e-2, 1.0, 1e3])
RADII = st.sampled_from([0.0, 1e-6, 1e-3, 1e-2, 0.1, 1.0])


def normal(generator, *shape):
    return torch.randn(shape, generator=generator, dtype=torch.float64)


# ---- blocks of interconnections ---------------------------------------------------------------------------------


def contraction(rows, columns, generator, flat):
    made = normal(generator, rows, columns)
    if flat:
        made = torch.outer(made[:, 0], made[0])
    return made / torch.linalg.matrix_norm(made, 2)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**20), st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 2)), max_size=3))
def test_gram_bounds_every_jacobian_of_blocks(seed, stages):
    """``stages`` are the numbers that a block receives and hands on, and how many such blocks there are."""
    generator = torch.Generator().manual_seed(seed)
    inputs, outputs = 3, 2
    system, blocks = Interconnection.of_inputs(inputs), []
    for taken, given_, count in stages:
        rows = normal(generator, taken * count, inputs + len(system))
        takes = torch.arange(count).repeat(taken)  # interleaved
        gives = torch.arange(count).repeat_interleave(given_)
        blocks.append((rows, takes, gives))
        system = system.extended(Rows(rows, torch.zeros(len(rows)).double()), takes=takes, gives=gives)
    last = normal(generator, outputs, inputs + len(system))
    rows = Rows(last, torch.zeros(outputs).double())
    found = [system.gram(rows), multipliers.for_rows(system, rows).gram(rows)]
    found.append(multipliers.for_norm(system, rows, torch.eye(outputs).double()).gram(rows))
    assert found[0] is not None
    for trial in range(20):
        whole = torch.eye(inputs, dtype=torch.float64)  # (u, q) as functions of u
        for received, takes, gives in blocks:
            p = received @ whole
            q = torch.zeros(len(gives), inputs, dtype=torch.float64)
            for block in range(int(takes.max()) + 1):
                here, there = takes == block, gives == block
                q[there] = contraction(int(there.sum()), int(here.sum()), generator, trial % 2) @ p[here]
            whole = torch.cat([whole, q])
        made = last @ whole
        for y in found:
            if y is not None:
                scale = y.diagonal().rsqrt()
                gap = scale[:, None] * (y - made @ made.T) * scale
                assert torch.linalg.eigvalsh(0.5 * (gap + gap.T))[0].item() >= -1e-9


def test_a_block_needs_one_multiplier():
    """A rotation by any angle: with two multipliers for the two numbers the bound would be too small."""
    one = torch.eye(2, dtype=torch.float64)
    both = torch.zeros(2).long()
    system = Interconnection.of_inputs(2).extended(Rows(one, torch.zeros(2).double()), takes=both, gives=both)
    assert len(system.multipliers) == 1
    rows = Rows(torch.tensor([[0.0, 0.0, 1.0, 0.0]]).double(), torch.zeros(1).double())
    y = multipliers.for_rows(system, rows).gram(rows)
    assert 1.0 <= y.item() <= 1.01


def test_norms_of_blocks():
    one = torch.eye(2, dtype=torch.float64)
    both = torch.zeros(2).long()
    system = Interconnection.of_inputs(2).extended(Rows(one, torch.zeros(2).double()), takes=both, gives=both)
    system = system.extended(Rows(torch.ones(1, 4).double(), torch.zeros(1).double()))
    for scale in (1.0, 1e-200, 1e200):
        found = system.block_norms(scale * torch.tensor([[3.0, 4.0, -2.0], [0.0, 0.0, 0.0]]).double())
        torch.testing.assert_close(found / scale, torch.tensor([[5.0, 2.0], [0.0, 0.0]]).double(), rtol=1e-9, atol=0)
        assert bool((found[0] >= scale * torch.tensor([5.0, 2.0]).double()).all())


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**20), st.integers(1, 6), st.integers(1, 6), st.sampled_from([1.0, 1e-120, 1e120]))
def test_a_factor_is_above_its_matrix(seed, order, rank, scale):
    generator = torch.Generator().manual_seed(seed)
    root = normal(generator, order, rank) * 10.0 ** (4 * normal(generator, order, 1)) * scale
    gram = root @ root.T
    lower = factor(gram)
    assert lower is not None
    unit = gram.diagonal().rsqrt()
    a, b = (unit[:, None] * each for each in (lower, root))
    gap = a @ a.T - b @ b.T
    assert torch.linalg.eigvalsh(0.5 * (gap + gap.T))[0].item() >= -1e-14
    assert gap.abs().max().item() <= 1e-9


# ---- norms ------------------------------------------------------------------------------------------------------


def slope_of_norm(w, eps):
    s = (w.square().sum() + eps).sqrt()
    return (torch.eye(len(w), dtype=torch.float64) - torch.outer(w, w) / s**2) / s


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**20), st.integers(1, 5), EPS, st.sampled_from([0.0, 1e-5, 0.3, 1.0, 30.0]), RADII)
def test_deviation_bounds_jacobians_and_secants_of_norms(seed, size, eps, length, radius):
    generator = torch.Generator().manual_seed(seed)
    w0 = normal(generator, size)
    w0 = w0 / w0.norm() * length
    a, r = w0.norm()[None], torch.tensor([radius]).double()
    bound, none = deviation(a, r, eps).item(), deviation(a, 0 * r, eps).item()
    least = math.hypot(max(0.0, length - radius), math.sqrt(eps))
    start = slope_of_norm(w0, eps)
    directions = [-w0, w0, *(normal(generator, size) for _ in range(6))]
    angle = math.acos(1 / math.sqrt(3))  # where the constant 2 / sqrt(3) is attained
    across = normal(generator, size)
    directions.append(-w0 / max(length, 1e-300) * math.cos(angle) + across / across.norm() * math.sin(angle))
    for h in directions:
        if h.norm() == 0:
            continue
        h = h / h.norm() * radius
        room = 1e-12 / math.sqrt(eps)
        gap = torch.linalg.matrix_norm(slope_of_norm(w0 + h, eps) - start, 2).item()
        assert gap <= min(bound, 1 / least) + room
        # The mean over the segment, by Gauss-Legendre on many pieces.
        points = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000
        mean = torch.stack([slope_of_norm(w0 + t * h, eps) for t in points[::40]]).mean(0)
        if radius <= 0.1 * (length + math.sqrt(eps)):
            assert torch.linalg.matrix_norm(mean - start, 2).item() <= (bound + none) / 2 * 1.01 + room


def test_deviation_is_nearly_attained():
    w0, eps, radius = torch.tensor([1.0, 0.0]).double(), 1e-12, 1e-3
    worst = 0.0
    for angle in torch.linspace(0, math.pi, 400):
        w = w0 + radius * torch.stack([angle.cos(), angle.sin()]).double()
        worst = max(worst, torch.linalg.matrix_norm(slope_of_norm(w, eps) - slope_of_norm(w0, eps), 2).item())
    bound = deviation(torch.ones(1).double(), torch.tensor([radius]).double(), eps).item()
    assert 0.98 * bound <= worst <= bound


# ---- products and attention, one block after the other ----------------------------------------------------------


def forms_of(shapes, centre):
    """Identity forms of consecutive parts of the input."""
    total = centre.numel()
    unit, made, start = torch.eye(total, dtype=torch.float64), [], 0
    for shape in shapes:
        size = math.prod(shape)
        part = slice(start, start + size)
        zero = torch.zeros(shape, dtype=torch.float64)
        made.append(Form(centre[part].reshape(shape), zero, unit[:, part].reshape(-1, *shape), zero))
        start += size
    return made


def recorded(monkeypatch, module):
    """What is handed to `opened`."""
    calls, original = [], module.opened

    def record(walk, received, takes, gives, rho, known, moved):
        calls.append((takes, gives, rho))
        return original(walk, received, takes, gives, rho, known, moved)

    monkeypatch.setattr(module, "opened", record)
    return calls


@pytest.mark.parametrize("secant", [True, False])
@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
@pytest.mark.parametrize("radius", [1e-4, 0.1, 2.0])
def test_blocks_of_a_softmax_mean_hold_what_is_unknown(monkeypatch, secant, scale, radius):
    generator = torch.Generator().manual_seed(1)
    shapes = ((2, 3, 4), (2, 4, 2))
    centre = normal(generator, sum(math.prod(s) for s in shapes)) * scale
    calls = recorded(monkeypatch, attention)
    here = Walk(
        ft.LayerGraph([ft.Node("x", layers.Input((40,)))]),
        {},
        Ball(centre, radius, "l2"),
        Interconnection.of_inputs(len(centre)),
        torch.zeros(0).double(),
        secant=secant,
    )
    logits, value = forms_of(shapes, centre)
    visible = torch.ones(shapes[0], dtype=torch.bool)
    visible[:, 0, 2] = False
    hidden = torch.where(visible, 0.0, -math.inf)
    moved, differences = torch.full((2,), radius).double(), torch.full((2, 3, 4, 4), radius * math.sqrt(2)).double()
    differences = differences * visible[..., None] * visible[..., None, :]
    made = attention._mean(here, logits, value, moved, differences, visible)
    (_, _, rho), (_, _, rho_value) = calls
    known = made.columns[: len(centre)]
    of_logits = known[:24].reshape(2, 3, 4, 2, 3, 2)
    of_value = known[24:].reshape(2, 4, 2, 2, 3, 2)
    a0, v0 = (form.centre for form in (logits, value))
    p0 = (a0 + hidden).softmax(-1)

    def slope(p, v):
        s = torch.diag_embed(p) - p[..., :, None] * p[..., None, :]
        return s @ v[:, None]  # (h, n, m, e)

    for k in range(60):
        h = normal(generator, len(centre))
        h = h / h.norm() * radius * (1.0 if k % 2 else 0.3)
        a, v = a0 + h[:24].reshape(a0.shape), v0 + h[24:].reshape(v0.shape)
        p = (a + hidden).softmax(-1)
        if secant:
            steps = (torch.arange(64, dtype=torch.float64) + 0.5) / 64
            found = torch.stack([slope((a0 + t * (a - a0) + hidden).softmax(-1), v0) for t in steps]).mean(0)
        else:
            found = slope(p, v)
        for head in range(2):
            for query in range(3):
                gap = found[head, query] - of_logits[head, query, :, head, query]
                size = torch.linalg.matrix_norm(gap, 2).item()
                assert size <= rho.reshape(2, 3)[head, query].item() * (1 + 1e-9) + 1e-5 * radius**2
            gap = p[head] - of_value[head, :, 0, head, :, 0].T
            assert torch.linalg.matrix_norm(gap, 2).item() <= rho_value[2 * head].item()
    torch.testing.assert_close(made.centre, p0 @ v0)


@pytest.mark.parametrize("secant", [True, False])
@pytest.mark.parametrize("radius", [1e-4, 0.5])
def test_blocks_of_a_product_hold_what_is_unknown(monkeypatch, secant, radius):
    generator = torch.Generator().manual_seed(2)
    shapes = ((2, 3, 4), (2, 4, 2))
    centre = normal(generator, sum(math.prod(s) for s in shapes))
    calls = recorded(monkeypatch, products)
    here = Walk(
        ft.LayerGraph([ft.Node("x", layers.Input((40,)))]),
        {},
        Ball(centre, radius, "l2"),
        Interconnection.of_inputs(len(centre)),
        torch.zeros(0).double(),
        secant=secant,
    )
    first, second = forms_of(shapes, centre)
    made = products.product(here, first, second, torch.full((2, 2), radius).double())
    known = made.columns[: len(centre)].flatten(1)  # (inputs, outputs)
    a0, b0 = first.centre, second.centre
    for _ in range(40):
        h = normal(generator, len(centre))
        h = h / h.norm() * radius
        a, b = a0 + h[:24].reshape(a0.shape), b0 + h[24:].reshape(b0.shape)
        if secant:
            rest = (a @ b - a0 @ b0).flatten() - h @ known
            want = ((a - a0) @ (b - b0)).flatten()
            torch.testing.assert_close(rest, want)
            assert len(calls) == 1
        else:
            x = torch.cat([a.flatten(), b.flatten()])
            jac = jacobian(lambda u: u[:24].reshape(shapes[0]) @ u[24:].reshape(shapes[1]), x)
            assert torch.linalg.matrix_norm(jac - known.T, 2).item() <= sum(call[2].max().item() for call in calls)
        assert torch.linalg.matrix_norm(a - a0, 2).max().item() <= calls[0][2].min().item()


# ---- networks ---------------------------------------------------------------------------------------------------


@st.composite
def networks(draw, plain=False):
    """A small classifier with one to three norms, products or attentions, and its weights."""
    nodes = []

    def add(layer, *inputs):
        nodes.append(ft.Node(f"n{len(nodes)}", layer, inputs))
        return nodes[-1].name

    tokens, dim = draw(st.integers(1, 3)), draw(st.sampled_from([1, 2, 4]))
    shape = (tokens, dim)
    eps = st.just(0.1) if plain else EPS
    here = add(layers.Input(shape))
    for _ in range(draw(st.integers(1, 3))):
        choice = draw(
            st.sampled_from(["layer", "over", "rms", "group", "attention", "apart", "gate", "product", "matmul", "act"])
        )
        match choice:
            case "layer":
                here = add(layers.LayerNorm(dim, draw(eps)), here)
            case "over":
                here = add(layers.LayerNormOver(shape if draw(st.booleans()) else (dim,), draw(eps)), here)
            case "rms":
                here = add(layers.RMSNorm(dim, draw(eps)), here)
            case "group":
                groups = draw(st.sampled_from([1, tokens]))
                here = add(layers.GroupNorm(groups, tokens, draw(eps), draw(st.booleans())), here)
            case "attention":
                heads = draw(st.sampled_from([1, min(2, dim)]))
                made = add(layers.MultiHeadSelfAttention(dim, heads, draw(st.booleans())), here)
                here = add(layers.Add(), here, made) if draw(st.booleans()) else made
            case "apart":
                kind = draw(st.sampled_from(["plain", "causal", "bias", "mask"]))
                bias = (tokens, tokens) if kind in ("bias", "mask") else ()
                parts = [add(layers.Linear(dim, dim), here) for _ in range(3)]
                here = add(layers.ScaledDotProductAttention(0.7, kind == "causal", bias), *parts)
            case "gate":
                here = add(layers.Gate(), here, add(layers.Sigmoid(), add(layers.Linear(dim, 1), here)))
            case "product":
                other = here if draw(st.booleans()) else add(layers.Linear(dim, dim), here)
                here = add(layers.Multiply(), here, other)
            case "matmul":
                other = add(layers.Linear(dim, dim), here)
                scores = add(layers.MatMul(True), here, other)
                here = add(layers.MatMul(), scores, here)
            case "act":
                here = add(draw(st.sampled_from([layers.GELU(), layers.ReLU()])), add(layers.Linear(dim, dim), here))
    flat = add(layers.Flatten(), here)
    add(layers.Linear(tokens * dim, 3), flat)
    graph = ft.LayerGraph(nodes)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    weights = {}
    style = "plain" if plain else draw(st.sampled_from(["plain", "plain", "plain", "huge", "tiny", "zero", "rank one"]))
    for key, t in ft.instantiate(graph, 0).state_dict().items():
        made = (t.double() + 0.3 * normal(generator, *t.shape)) * {"huge": 30.0, "tiny": 1e-4}.get(style, 1.0)
        if style == "zero" and draw(st.booleans()):
            made = torch.zeros_like(made)
        if style == "rank one" and made.dim() == 2:
            made = made[:1].expand_as(made).clone()
        if "." not in key and draw(st.booleans()):  # a bias of scores: every query keeps its own key
            made = torch.where(torch.eye(*made.shape[-2:]).bool(), made, -math.inf)
        weights[key] = made
    module = ft.instantiate(graph, weights=weights, dtype=torch.float64)
    x = normal(generator, *shape)
    if not plain:
        match draw(st.sampled_from(["normal", "normal", "constant", "zero", "large", "small"])):
            case "constant":
                x = x[:, :1].expand_as(x).clone()
            case "zero":
                x = torch.zeros_like(x)
            case "large":
                x = 100.0 * x
            case "small":
                x = 1e-3 * x
    return module, x


def bound_of(module, x, radius, norm):
    """The bound, or None where it is refused because it is beyond float64."""
    try:
        return ft.local_bound(module, x[None], radius, norm=norm)
    except NonFiniteError:
        return None


@settings(max_examples=40, deadline=None)
@given(networks(), RADII, st.sampled_from(["l2", "linf"]), st.booleans())
def test_no_input_of_the_ball_exceeds_the_bound(case, radius, norm, anew):
    module, x = case
    with pytest.MonkeyPatch.context() as patch:
        if anew:
            patch.setattr(walk, "_MANY", 3)
        bound = bound_of(module, x, radius, norm)
    if bound is not None:
        assert 10.0 ** largest_lam(module, x, radius, norm) <= bound.value.item() * (1 + 1e-9) + 1e-25


@settings(max_examples=40, deadline=None)
@given(networks(plain=True), st.booleans())
def test_the_bound_tends_to_lam(case, anew):
    module, x = case
    with pytest.MonkeyPatch.context() as patch:
        if anew:
            patch.setattr(walk, "_MANY", 3)
        bound = ft.local_bound(module, x[None], 1e-8)
    want = 10.0 ** log10_lam(module, x)
    assert want <= bound.value.item() * (1 + 1e-9) + 1e-25
    # The norm of a token of one entry is constant, with a Jacobian as steep as 1 / sqrt(eps) that cancels.
    if bound.by == ("probabilities",) and want > 1e-3:
        assert bound.value.item() <= want * 1.01 + 1e-4


@settings(max_examples=40, deadline=None)
@given(networks(), RADII, st.booleans())
def test_walks_enclose_increments_and_jacobians(case, radius, anew):
    module, x = case
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        if anew:
            patch.setattr(walk, "_MANY", 3)
        try:
            made = passes(module)
            first = Walk.at(module.graph, made, Ball(x, radius, "l2"))
            first.centres = centres(module.graph, made, x)
            logits = increments(first)
            second = Walk.at(module.graph, made, Ball(x, radius, "l2"))
            rows = jacobian_form(second, first).rows()
        except NonFiniteError:
            return
        gram, size = second.system.gram(rows), first.increment(logits.rows())
        centre = module(x[None])[0]
        room = 1e-9 * (1 + centre.abs().max())
        assert bool(((logits.centre - centre).abs() <= logits.spread + room).all())
        for point in samples(x, radius, "l2", 10):
            change = (module(point[None])[0] - centre).abs()
            assert bool((change <= size * (1 + 1e-9) + room).all())
            if gram is not None:
                jac = jacobian(single(module), point)
                scale = gram.diagonal().rsqrt()
                gap = scale[:, None] * (gram - jac @ jac.T) * scale
                assert torch.linalg.eigvalsh(0.5 * (gap + gap.T))[0].item() >= -1e-9


@settings(max_examples=40, deadline=None)
@given(networks())
def test_centres_are_the_values(case):
    module, x = case
    found = centres(module.graph, passes(module), x)
    values = dict(module.values(x[None]))
    for node, (centre, spread) in found.items():
        if node in values:
            value = values[node][0].detach()
            size = 1.0 + value.abs().max().item()
            assert bool((spread <= 2.0**-52 * centre.abs() + 1e-40 * size).all()), node
            largest = max(1.0, max(v.abs().max().item() for v in values.values()))
            assert bool(((value - centre).abs() <= 1e-6 * largest).all()), node


def test_a_query_without_keys_is_refused():
    nodes = [
        ft.Node("x", layers.Input((2, 2))),
        ft.Node("a", layers.ScaledDotProductAttention(1.0, False, (2, 2)), ("x",) * 3),
    ]
    nodes += [ft.Node("f", layers.Flatten(), ("a",)), ft.Node("y", layers.Linear(4, 2), ("f",))]
    graph = ft.LayerGraph(nodes)
    module = ft.instantiate(graph, 0, dtype=torch.float64)
    module.state_dict()["a"].fill_(-math.inf)  # after it was checked
    with pytest.raises(NonFiniteError, match="node a: a query sees no key"):
        ft.local_bound(module, torch.zeros(1, 2, 2).double(), 0.1)


@pytest.mark.slow
def test_a_vision_transformer():
    model = zoo.load("digits_vit").double()
    x = torch.rand(1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    bound = ft.local_bound(model, x[None], 1e-6).value.item()
    want = 10.0 ** log10_lam(model, x)
    assert want <= bound <= 1.01 * want


@pytest.mark.parametrize("radius", [0.0, 1e-9, 0.1])
def test_a_norm_of_one_entry_is_constant_at_every_radius(radius):
    graph = ft.LayerGraph(
        [
            ft.Node("x", layers.Input((4,))),
            ft.Node("a", layers.Linear(4, 1), ("x",)),
            ft.Node("n", layers.LayerNorm(1), ("a",)),
            ft.Node("y", layers.Linear(1, 3), ("n",)),
        ]
    )
    found = ft.local_bound(ft.instantiate(graph, 0, dtype=torch.float64), torch.ones(1, 4, dtype=torch.float64), radius)
    assert 0.0 <= found.value.item() < 1e-9
