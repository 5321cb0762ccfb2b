"""Every rule about a gain, a slope, a token norm or a Jacobian's growth against an independent truth."""

from __future__ import annotations

import itertools
import math
import sys

import pytest
import sympy
import torch
from flint import arb, arb_series, ctx
from one_layer import SLACK, claim_of, gain_of, graph_of, module_of, value_of
from oracles import jacobian, norm, single

import fimtheory as ft
from fimtheory import layers
from fimtheory.balls import evaluated
from fimtheory.bibliography import BIBLIOGRAPHY
from fimtheory.claims import VALUE_BOUNDS, Quantity, Relation
from fimtheory.registry import rules
from fimtheory.rules.activations import ACTIVATIONS
from fimtheory.rules.pooling import _riesz_thorin_square, adaptive_average_pool_gain
from fimtheory.strategies import ELEMENTWISE, parameters_of, tensor_in_style

# ---- every rule -------------------------------------------------------------------------------------------------

BOUNDS = (Quantity.GAIN, Quantity.SLOPES, Quantity.JACOBIAN_VARIANCE, *VALUE_BOUNDS)


@pytest.mark.parametrize("rule", [r for r in rules() if r.quantity in BOUNDS], ids=lambda r: r.name)
def test_every_bound_states_itself_and_names_a_known_work(rule):
    assert rule.reference.key in BIBLIOGRAPHY
    assert rule.function.__doc__, "state what the rule claims"


@pytest.mark.parametrize("rule", [r for r in rules() if r.quantity is Quantity.GAIN], ids=lambda r: r.name)
def test_every_gain_shows_an_example(rule):
    doc = rule.function.__doc__
    assert ">>>" in doc
    assert "Proof" in doc
    assert "Conditions" in doc


def test_every_layer_with_a_jacobian_variance_has_a_gain():
    covered = {q: {r.types for r in rules() if r.quantity is q and len(r.types) == 1} for q in BOUNDS}
    assert covered[Quantity.JACOBIAN_VARIANCE] <= covered[Quantity.GAIN]


def test_claims_carry_the_reference_of_a_known_work():
    for kind in ELEMENTWISE:
        layer = layers.Clamp(0.0) if kind is layers.Clamp else kind()
        assert claim_of(Quantity.GAIN, layer, (4,)).reference.key in BIBLIOGRAPHY


# ---- activations ------------------------------------------------------------------------------------------------

VARIANTS = [
    *(kind() for kind in ACTIVATIONS if kind is not layers.Clamp),
    *(layers.Clamp(*ends) for ends in ((None, 2.0), (0.0, None), (0.5, None), (None, -1.0), (-1.0, 1.0), (-3.0, 0.5))),
    *(layers.Threshold(t, t) for t in (-1.0, 0.5)),
    *(layers.LeakyReLU(a) for a in (0.0, 0.3, 1.0, 3.0, -0.4, -2.5)),
    *(layers.ELU(a) for a in (0.0, 0.3, 2.5, -0.7, -3.0)),
    *(layers.CELU(a) for a in (0.1, 4.0)),
    *(layers.Softplus(b) for b in (0.1, 20.0)),
    *(layers.Hardtanh(*ends) for ends in ((0.0, 6.0), (-3.0, -1.0))),
    *(layers.Softshrink(t) for t in (0.0, 2.0)),
]


def derivatives(layer, points):
    """Derivative of an elementwise layer at each point, by autograd in float64."""
    (length,) = points.shape
    x = points.clone().requires_grad_()
    values = module_of(layer, shape=(length,))(x[None])
    return torch.autograd.grad(values.sum(), x)[0]


GRID = torch.cat([torch.linspace(-30, 30, 200_001), torch.logspace(-6, 2, 2001), -torch.logspace(-6, 2, 2001)]).double()


@pytest.mark.parametrize("layer", VARIANTS, ids=repr)
def test_slopes_contain_every_derivative(layer):
    found = derivatives(layer, GRID)
    low, high = (float(end) for end in claim_of(Quantity.SLOPES, layer, (4,)).expression)
    rounding = 1e-13 * max(1, abs(low), high)
    assert low - rounding <= found.min()
    assert found.max() <= high + rounding


@pytest.mark.parametrize("layer", VARIANTS, ids=repr)
def test_activation_gain_is_the_largest_slope(layer):
    claim = claim_of(Quantity.GAIN, layer, (4,))
    low, high = claim_of(Quantity.SLOPES, layer, (4,)).expression
    assert claim.expression == sympy.Max(abs(low), abs(high))
    steepest = derivatives(layer, GRID).abs().max()
    assert steepest <= gain_of(layer, (4,)) * SLACK
    if claim.relation is Relation.EQ:
        assert steepest >= gain_of(layer, (4,)) * (1 - 1e-3)


@pytest.mark.parametrize("layer", VARIANTS, ids=repr)
def test_even_mean_square_of_slopes(layer):
    """The factor for symmetric preactivations bounds (phi'(h)^2 + phi'(-h)^2) / 2 away from the kink at 0."""
    points = GRID[GRID > 0]
    found = (derivatives(layer, points) ** 2 + derivatives(layer, -points) ** 2) / 2
    factor = value_of(claim_of(Quantity.JACOBIAN_VARIANCE, layer, (4,), symmetric=True), layer, (4,))
    assert found.max() <= factor * SLACK
    general = value_of(claim_of(Quantity.JACOBIAN_VARIANCE, layer, (4,)), layer, (4,))
    assert general == pytest.approx(gain_of(layer, (4,)) ** 2)
    assert factor <= general * SLACK


@pytest.mark.parametrize("slopes", [(0.25,), (-3.0, 0.5), (0.1, -0.2)])
def test_prelu_gain(slopes):
    layer = layers.PReLU(len(slopes))
    weight = torch.tensor(slopes, dtype=torch.float64)
    x = torch.tensor([[1.0] * len(slopes), [-1.0] * len(slopes)], dtype=torch.float64).T
    shape = tuple(x.shape)
    truth = norm(jacobian(single(module_of(layer, shape=shape, weights={"n0.weight": weight})), x))
    assert truth == pytest.approx(gain_of(layer, shape, {"weight": weight}), rel=1e-14)


def _sigmoid(x):
    return 1 / (1 + (-x).exp())


def _tanh(x):
    return 2 * _sigmoid(2 * x) - 1


def _gelu(x):
    return x * (1 + (x / arb(2).sqrt()).erf()) / 2


def _gelu_tanh(x):
    return x * (1 + _tanh((2 / arb.pi()).sqrt() * (x + arb("0.044715") * x * x * x))) / 2


def _mish(x):
    return x * _tanh((1 + x.exp()).log())


SMOOTH = {
    layers.GELU: _gelu,
    layers.GELUTanh: _gelu_tanh,
    layers.SiLU: lambda x: x * _sigmoid(x),
    layers.QuickGELU: lambda x: x * _sigmoid(arb("1.702") * x),
    layers.Mish: _mish,
}
EDGE = 40
"""Beyond, |phi'(x) - [x > 0]| <= |x|^3 e^(5 - |x|) < 1e-10 for all of them, so the extreme slopes lie within."""


def _slope(function, at):
    """Enclose the first three Taylor coefficients of phi on a ball: phi', phi'' / 2, and so on."""
    series = function(arb_series([at, 1], prec=4))
    return [series[k] for k in range(1, 4)]


def _extreme_slope(function, level, sign):
    """Prove sign phi' <= level on [-EDGE, EDGE]; return the largest value of sign phi' met, rounded down."""
    ctx.prec = 128
    ends = [arb(k) / 4 for k in range(-4 * EDGE, 4 * EDGE + 1)]
    pending, best, cells = list(itertools.pairwise(ends)), arb(-1), 0
    while pending:
        low, high = pending.pop()
        cells += 1
        assert cells < 20_000, "no proof found: the claimed end of the interval is too tight, or wrong"
        middle = ((low + high) / 2).mid()
        radius = ((high - low) / 2).upper()
        first, second, _ = _slope(function, middle)
        best = max(best, (sign * first).lower())
        try:
            third = _slope(function, arb(middle, radius))[2]
        except ValueError:  # the cell is so wide that a denominator may vanish on it
            third = arb.pos_inf()
        t = arb(0, radius)
        whole = first + 2 * second * t + 3 * third * t * t
        if not (sign * whole).upper() <= level:
            pending += [(low, middle), (middle, high)]
    return best


@pytest.mark.parametrize("kind", SMOOTH, ids=lambda k: k.__name__)
def test_ends_of_smooth_slopes_are_proved_in_interval_arithmetic(kind):
    low, high = (evaluated(end, {}) for end in claim_of(Quantity.SLOPES, kind(), (4,)).expression)
    tangent = (
        1e-12 if kind is layers.GELU else 0
    )  # its ends are exact, where no enclosure of positive width can reach them
    above = _extreme_slope(SMOOTH[kind], high.upper() + tangent, 1)
    below = _extreme_slope(SMOOTH[kind], (-low).upper() + tangent, -1)
    assert float(high.upper() - above) <= 1e-9
    assert float((-low).upper() - below) <= (2e-7 if kind is layers.Mish else 1e-9)
    x = arb(EDGE)
    assert float(high) > 1 + float(x**3 * (5 - x).exp())


# ---- pooling ----------------------------------------------------------------------------------------------------

WINDOWS = [
    (k, s, p, d, n)
    for k, s, d, n in itertools.product((1, 2, 3, 4), (1, 2, 3, 5), (1, 2, 3), (5, 12))
    for p in {0, k // 2}
    if n + 2 * p - d * (k - 1) - 1 >= 0 and not (p and d > 1)
]


def most_windows(k, s, p, d, n):
    """Largest number of windows of one dimension that an entry lies in, by counting."""
    count = [0] * n
    for m in range((n + 2 * p - d * (k - 1) - 1) // s + 1):
        for j in range(k):
            position = m * s + j * d - p
            if 0 <= position < n:
                count[position] += 1
    return max(count), count.index(max(count))


@pytest.mark.parametrize("window", WINDOWS)
def test_max_pool_gain(window):
    k, s, p, d, n = window
    layer = layers.MaxPool2d((k, 1), (s, 1), (p, 0), (d, 1))
    gain = gain_of(layer, (1, n, 2))
    windows, where = most_windows(*window)
    assert math.sqrt(windows) <= gain * SLACK
    if n == 12 and d == 1:
        assert gain == pytest.approx(math.sqrt(windows))
    x = -torch.arange(2.0 * n, dtype=torch.float64).reshape(1, n, 2)
    x[0, where] = 1.0  # a peak wins every window it lies in
    truth = norm(jacobian(single(module_of(layer, shape=(1, n, 2))), x))
    assert truth == pytest.approx(math.sqrt(windows))


def test_the_stem_pool_of_a_resnet_has_gain_two():
    layer = layers.MaxPool2d((3, 3), (2, 2), (1, 1))
    x = torch.zeros(1, 7, 7, dtype=torch.float64)
    x[0, 3, 3] = 1.0
    assert norm(jacobian(single(module_of(layer, shape=(1, 7, 7))), x)) == pytest.approx(2.0)
    assert gain_of(layer, (1, 7, 7)) == 2.0


def dense(layer, shape):
    """Matrix of a linear layer."""
    return jacobian(single(module_of(layer, shape=shape)), torch.zeros(shape, dtype=torch.float64))


@pytest.mark.parametrize("window", [(k, s, p, n) for k, s, p, d, n in WINDOWS if d == 1])
def test_average_pool_gain(window):
    k, s, p, n = window
    layer = layers.AvgPool2d((k, 1), (s, 1), (p, 0))
    assert norm(dense(layer, (1, n, 1))) <= gain_of(layer, (1, n, 1)) * SLACK


@pytest.mark.parametrize(("k", "s"), [(1, 1), (2, 1), (3, 1), (3, 2), (4, 2), (2, 3), (5, 3)])
def test_average_pool_gain_is_reached_on_large_inputs(k, s):
    layer = layers.AvgPool2d((k, 1), (s, 1))
    assert norm(dense(layer, (1, 150, 1))) >= gain_of(layer, (1, 150, 1)) * (1 - 2e-3)


def test_pools_multiply_over_dimensions():
    for layer in (layers.AvgPool2d((3, 2), (2, 1)), layers.AdaptiveAvgPool2d((3, 2)), layers.AdaptiveAvgPool2d((2, 7))):
        assert norm(dense(layer, (2, 5, 7))) <= gain_of(layer, (2, 5, 7)) * SLACK


@pytest.mark.parametrize("n", range(1, 13))
def test_adaptive_average_pool_gain(n):
    for m in range(1, 16):
        layer = layers.AdaptiveAvgPool2d((m, 1))
        claim = claim_of(Quantity.GAIN, layer, (1, n, 1))
        truth = norm(dense(layer, (1, n, 1)))
        assert truth <= float(claim.expression) * SLACK
        if claim.relation is Relation.EQ:
            assert truth == pytest.approx(float(claim.expression))


def test_column_sums_of_large_adaptive_pools(monkeypatch):
    exact = {(n, m): _riesz_thorin_square(n, m) for n in range(1, 41) for m in range(1, 41)}
    monkeypatch.setattr(sys.modules["fimtheory.rules.pooling"], "_MOST_ENTRIES", 0)
    for (n, m), square in exact.items():
        assert square <= _riesz_thorin_square(n, m)


def test_huge_adaptive_pools_are_bounded_at_once():
    site = ft.Site.of(layers.AdaptiveAvgPool2d((7, 7)), inputs=((1, 10**12, 10**12 + 1),))
    assert 0 < adaptive_average_pool_gain(site).expression < 1


# ---- norms, softmax, moves --------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", ["normal", "ones", "signs", "single", "zero", "large"])
@pytest.mark.parametrize("eps", [1e-5, 0.3])
@pytest.mark.parametrize("features", [1, 2, 3, 7])
def test_layer_norm(style, eps, features):
    generator = torch.Generator().manual_seed(1)
    layer, shape = layers.LayerNorm(features, eps), (3, features)
    graph = graph_of(layer, shape=shape)
    weights = {key: tensor_in_style(p, style, generator).double() for key, p in parameters_of(graph)}
    own = {key.removeprefix("n0."): tensor for key, tensor in weights.items()}
    module = ft.instantiate(graph, weights=weights, dtype=torch.float64)
    gain = gain_of(layer, shape, own)
    radius = value_of(claim_of(Quantity.TOKEN_NORM, layer, shape), layer, shape, own)
    floor = sympy.Rational(1, 2)
    local_claim = claim_of(Quantity.GAIN, layer, shape, token_variance=floor)
    assert local_claim.conditions
    local = value_of(local_claim, layer, shape, own)
    for scale in (0.0, 1e-3, 0.1, 1.0, 30.0):
        x = scale * torch.randn(shape, generator=generator, dtype=torch.float64) + 0.7
        truth = norm(jacobian(single(module), x))
        assert truth <= gain * (1 + 1e-9) + 1e-11
        assert single(module)(x).norm(dim=-1).max() <= radius * SLACK + 1e-300
        if x.var(-1, correction=0).min() >= 0.5:
            assert truth <= local * (1 + 1e-9) + 1e-11
        if scale == 0.0:  # constant tokens attain it
            assert truth == pytest.approx(gain, rel=1e-9, abs=1e-9)


def test_softmax_gain_is_approached_at_two_tied_entries():
    for temperature in (1.0, 0.1, 7.0):
        layer = layers.Softmax(temperature)
        module = module_of(layer, shape=(4,))
        tied = torch.tensor([0.0, 0.0, -200.0 * temperature, -200.0 * temperature], dtype=torch.float64)
        assert norm(jacobian(single(module), tied)) == pytest.approx(gain_of(layer, (4,)))
        for seed in range(20):
            x = 3 * temperature * torch.randn(4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
            assert norm(jacobian(single(module), x)) <= gain_of(layer, (4,)) * SLACK
            assert single(module)(x).norm() <= 1


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (layers.Flatten(), (2, 3, 2)),
        (layers.Reshape((6, 2)), (2, 3, 2)),
        (layers.Permute((2, 0, 1)), (2, 3, 2)),
        (layers.Dropout(0.9), (3,)),
        (layers.Identity(), (3,)),
        (layers.ClassToken(3), (4, 3)),
        (layers.PositionEmbedding(4, 3), (4, 3)),
        (layers.SelectToken(2), (4, 3)),
    ],
    ids=repr,
)
def test_moves_have_gain_one(layer, shape):
    x = torch.randn(shape, dtype=torch.float64)
    assert norm(jacobian(single(module_of(layer, shape=shape)), x)) == pytest.approx(1.0)
    assert gain_of(layer, shape) == 1.0


@pytest.mark.parametrize("seed", range(12))
def test_convolution_with_batch_norm_is_one_map(seed):
    generator = torch.Generator().manual_seed(seed)
    conv = layers.Conv2d(2, 4, (3, 2), (1 + seed % 3, 1), (seed % 2, 1), (1, 1 + seed % 2), 1 + seed % 2)
    graph = graph_of(conv, layers.BatchNorm2d(4, 1e-3), layers.Flatten(), shape=(2, 6, 5))
    weights = {key: tensor_in_style(p, "normal", generator).double() for key, p in parameters_of(graph)}
    weights["n1.num_batches_tracked"] = torch.zeros((), dtype=torch.int64)
    module = ft.instantiate(graph, weights=weights, dtype=torch.float64)
    truth = norm(jacobian(single(module), torch.randn(2, 6, 5, dtype=torch.float64)))
    bound = ft.evaluate(ft.derive(graph), module)
    assert "gain[Conv2d, BatchNorm2d]" in bound.rules
    certified = 10 ** ((bound.log10 + math.log10(2)) / 2)
    assert truth * (1 - 1e-9) <= certified <= 1.5 * truth


# ---- attention --------------------------------------------------------------------------------------------------


def attention_tensors(dim, heads, scale, seed, bias=True):
    generator = torch.Generator().manual_seed(seed)

    def normal(*size):
        return scale * torch.randn(size, generator=generator, dtype=torch.float64)

    made = {"in_proj_weight": normal(3 * dim, dim), "out_proj.weight": normal(dim, dim)}
    return made | {"in_proj_bias": normal(3 * dim), "out_proj.bias": normal(dim)} if bias else made


def attention_gain(layer, tokens, tensors, radius):
    R = sympy.Symbol("R", nonnegative=True)
    return gain_of(layer, (tokens, layer.dim), tensors, known=[(R, radius)], premises=(R,))


def attention_truth(layer, tensors, x):
    weights = {f"n0.{key}": tensor for key, tensor in tensors.items()}
    return norm(jacobian(single(module_of(layer, shape=tuple(x.shape), weights=weights)), x))


def into_ball(x, radius):
    return x * (radius / x.norm(dim=-1, keepdim=True).clamp_min(1e-12)).clamp_max(1.0)


@pytest.mark.parametrize("seed", range(10))
def test_attention_gain_holds_under_search(seed):
    tokens, dim, heads = [(2, 2, 1), (3, 2, 2), (4, 3, 1), (5, 4, 2), (1, 2, 1)][seed % 5]
    radius, scale = [(1.0, 1.0), (2.0, 0.5), (0.3, 2.0), (4.0, 1.0)][seed % 4]
    layer = layers.MultiHeadSelfAttention(dim, heads, bias=seed % 3 > 0)
    tensors = attention_tensors(dim, heads, scale, seed, layer.bias)
    gain = attention_gain(layer, tokens, tensors, radius)
    generator = torch.Generator().manual_seed(seed)
    x = into_ball(radius * torch.randn(tokens, dim, generator=generator, dtype=torch.float64), radius)
    best, step = attention_truth(layer, tensors, x), 0.5
    for _ in range(40):  # random ascent on the ball
        trial = into_ball(x + step * radius * torch.randn(x.shape, generator=generator, dtype=torch.float64), radius)
        found = attention_truth(layer, tensors, trial)
        x, best, step = (trial, found, step * 1.3) if found > best else (x, best, step * 0.9)
    assert 0.005 * gain < best <= gain * SLACK


def test_attention_gain_is_nearly_sharp():
    """N - 2 queries that look at two opposite keys: the root of N in the bound is no artefact."""
    tokens, strength = 128, 20.0
    layer = layers.MultiHeadSelfAttention(2, 1, bias=False)
    eye = torch.eye(2, dtype=torch.float64)
    query = math.sqrt(2) * torch.diag(torch.tensor([-strength, 0.0], dtype=torch.float64))
    tensors = {"in_proj_weight": torch.cat([query, eye, eye]), "out_proj.weight": eye}
    x = torch.tensor([[1.0, 0.0]], dtype=torch.float64).repeat(tokens, 1)
    x[0], x[1] = torch.tensor([0.0, 1.0]), torch.tensor([0.0, -1.0])
    truth, gain = attention_truth(layer, tensors, x), attention_gain(layer, tokens, tensors, 1.0)
    assert 0.7 * gain < truth <= gain


def test_attention_gain_is_nearly_attained_by_two_opposite_tokens():
    """x = +-w and logits that swap w with a normal z: both parts of the gain are attained by one perturbation."""
    layer = layers.MultiHeadSelfAttention(2, 1, bias=False)
    eye = torch.eye(2, dtype=torch.float64)
    swap = 10 * math.sqrt(2) * torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
    tensors = {"in_proj_weight": torch.cat([swap, eye, eye]), "out_proj.weight": eye}
    x = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    truth, gain = attention_truth(layer, tensors, x), attention_gain(layer, 2, tensors, 1.0)
    assert truth == pytest.approx(20)
    assert 0.93 * gain < truth <= gain


def test_attention_gain_grows_with_the_tokens_that_look_at_one():
    """49 tokens look at their opposite: the largest column sum of the attention matrix is what the gain allows."""
    layer = layers.MultiHeadSelfAttention(2, 1, bias=False)
    eye = torch.eye(2, dtype=torch.float64)
    tensors = {"in_proj_weight": torch.cat([-2 * math.sqrt(2) * eye, eye, eye]), "out_proj.weight": eye}
    x = torch.tensor([[-1.0, 0.0]], dtype=torch.float64).repeat(50, 1)
    x[0, 0] = 1.0
    truth, gain = attention_truth(layer, tensors, x), attention_gain(layer, 50, tensors, 1.0)
    assert 0.75 * gain < truth <= gain


def test_attention_gain_holds_where_it_is_tight():
    """Equal tokens and no logits: every output is the mean value, and the gain is that of one column of P."""
    layer = layers.MultiHeadSelfAttention(2, 1, bias=False)
    eye = torch.eye(2, dtype=torch.float64)
    tensors = {"in_proj_weight": torch.cat([0 * eye, 0 * eye, eye]), "out_proj.weight": eye}
    x = torch.ones(5, 2, dtype=torch.float64)
    assert attention_truth(layer, tensors, x) == pytest.approx(attention_gain(layer, 5, tensors, 2.0))
