"""FisherOperator against dense float64 matrices, finite differences and closed forms."""

import math
import warnings

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.linalg import eigsh
from torch import nn
from torch.nn.functional import dropout

from fimtheory.errors import AdjointTestError, DataError, GraphError, MissingRuleError, NonFiniteError, ShapeError
from fimtheory.fisher import (
    FisherOperator,
    SoftmaxFactor,
    derivative_kernels,
    double,
    linear_operator,
    times_power_of_two,
)


def jacobian(module, x):
    """Dense J, (B, K, d), by torch.func.jacrev on one input at a time."""
    with derivative_kernels():
        rows = [torch.func.jacrev(lambda z: module(z.unsqueeze(0)).squeeze(0))(one) for one in x]
    return torch.stack(rows).flatten(2).detach()


def dense_fisher(module, x, temperature=1.0):
    """Dense F, (B, d, d), from its definition E_y[grad log p_y grad log p_y^T]."""
    J = jacobian(module, x) / temperature
    p = (module(x) / temperature).softmax(1).detach()
    scores = J - torch.einsum("bk,bkd->bd", p, J).unsqueeze(1)
    return torch.einsum("bk,bkd,bke->bde", p, scores, scores)


def dense_lam(module, x, temperature=1.0):
    return torch.linalg.eigvalsh(dense_fisher(module, x, temperature))[:, -1]


class TokenNet(nn.Module):
    """Four tokens, one attention layer, mean over tokens."""

    def __init__(self, classes, dim=8):
        super().__init__()
        self.encoder = nn.TransformerEncoderLayer(dim, 2, 12, batch_first=True, activation="gelu")
        self.head = nn.Linear(dim, classes)

    def forward(self, x):
        return self.head(self.encoder(x).mean(1))


def net(seed):
    """Return a small float64 net of one of six kinds, its inputs and a temperature."""
    torch.manual_seed(seed)
    classes, kind = 2 + seed % 7, seed % 6
    if kind < 3:
        activation = (nn.ReLU, nn.Tanh, nn.GELU)[kind]
        module = nn.Sequential(nn.Linear(7, 16), activation(), nn.Linear(16, 12), activation(), nn.Linear(12, classes))
        x = torch.randn(3, 7)
    elif kind == 3:
        module = nn.Sequential(
            nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(24, classes)
        )
        x = torch.randn(3, 2, 6, 6)
        module(torch.randn(20, 2, 6, 6))  # running statistics other than 0 and 1
    elif kind == 4:
        module = nn.Sequential(
            nn.Conv2d(2, 6, 3, stride=2, groups=2), nn.GroupNorm(2, 6), nn.SiLU(), nn.AdaptiveAvgPool2d(2),
            nn.Flatten(), nn.LayerNorm(24), nn.Linear(24, classes),
        )  # fmt: skip
        x = torch.randn(3, 2, 7, 7)
    else:
        module, x = TokenNet(classes), torch.randn(3, 4, 8)
    for p in module.parameters():
        p.data *= 2
    return module.double().eval(), x.double(), (1.0, 0.5, 3.0)[seed % 3]


@pytest.mark.parametrize("seed", range(6))
def test_product_is_the_dense_matrix(seed):
    module, x, temperature = net(seed)
    operator = FisherOperator(module, x, temperature)
    operator.adjoint_test()
    F = dense_fisher(module, x, temperature)
    v = torch.randn_like(x)
    expected = torch.einsum("bde,be->bd", F, v.flatten(1)).view_as(v)
    torch.testing.assert_close(operator.product(v), expected, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("seed", range(6))
def test_scipy_finds_lam_through_the_linear_operator(seed):
    module, x, temperature = net(seed)
    operator = FisherOperator(module, x[1:2], temperature)
    F = linear_operator(operator)
    top = eigsh(F, k=1, return_eigenvectors=False)[0]
    assert top == pytest.approx(dense_lam(module, x[1:2], temperature).item(), rel=1e-9)
    v = np.random.default_rng(seed).standard_normal((F.shape[0], 2))
    np.testing.assert_allclose(F @ v, dense_fisher(module, x[1:2], temperature)[0].numpy() @ v, rtol=1e-9, atol=1e-13)
    assert torch.equal(operator @ x[1:2], operator.product(x[1:2]))
    with pytest.raises(DataError, match="3 inputs"):
        linear_operator(FisherOperator(module, x))


@pytest.mark.parametrize("seed", range(6))
def test_gram_operator_has_the_spectrum_of_f(seed):
    module, x, temperature = net(seed)
    operator = FisherOperator(module, x, temperature)
    columns = [operator.gram_product(e.expand(len(x), -1)) for e in torch.eye(operator.K, dtype=torch.float64)]
    G = times_power_of_two(torch.stack(columns, 2), operator.exponent.view(-1, 1, 1))
    torch.testing.assert_close(G, G.mT, rtol=1e-9, atol=1e-14)
    m = min(operator.K, x[0].numel())
    ours = torch.linalg.eigvalsh(G)[:, -m:]
    theirs = torch.linalg.eigvalsh(dense_fisher(module, x, temperature))[:, -m:]
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-13)
    null = operator.probs.sqrt()
    assert operator.gram_product(null).norm(dim=1).max() < 1e-13


@pytest.mark.parametrize("seed", [1, 2, 4, 5])
def test_quadratic_form_against_finite_differences_of_sqrt_p(seed):
    """<F v, z> = 4 <D sqrt(p) v, D sqrt(p) z>: no derivative of the package enters the right-hand side."""
    module, x, temperature = net(seed)
    h = 1e-4

    def difference(direction):
        with torch.no_grad():
            ahead, behind = ((module(x + s * h * direction) / temperature).softmax(1).sqrt() for s in (1, -1))
        return (ahead - behind) / (2 * h)

    v, z = torch.randn(2, *x.shape, dtype=torch.float64)
    measured = 4 * (difference(v) * difference(z)).sum(1)
    ours = (FisherOperator(module, x, temperature).product(v) * z).flatten(1).sum(1)
    torch.testing.assert_close(ours, measured, rtol=1e-4, atol=1e-7)


def exact_covariance(logits, temperature):
    """S_p / tau^2 with 600 digits."""
    with mpmath.workdps(600):
        weights = [mpmath.exp(mpmath.mpf(z) / temperature) for z in logits]
        p = [w / sum(weights) for w in weights]
        tau2 = mpmath.mpf(temperature) ** 2
        return [[((p[i] if i == j else 0) - p[i] * p[j]) / tau2 for j in range(len(p))] for i in range(len(p))]


@pytest.mark.parametrize(
    ("logits", "temperature"),
    [
        ([0.3, -0.2, 0.1], 1.0),
        ([27.6310211159, 0.0, -0.5, -3.0], 1.0),  # p = 1 - 1e-12
        ([0.0, 900.0, -1.0], 1.0),  # off-top masses below the float64 range
        ([5.0, 5.0, -1000.0], 0.1),
        ([1.0, 1.0, 1.0], 1e3),
    ],
)
def test_softmax_factor_keeps_relative_accuracy(logits, temperature):
    z = torch.tensor([logits], dtype=torch.float64)
    factor = SoftmaxFactor((z / temperature).log_softmax(1), temperature)
    S = exact_covariance(logits, temperature)
    scale = mpmath.mpf(2) ** factor.exponent.item()
    with mpmath.workdps(600):
        size = max(abs(entry) for row in S for entry in row)
        for j in range(len(logits)):
            unit = torch.zeros_like(z)
            unit[0, j] = 1
            column = factor.apply_transposed(factor.apply(unit))[0]
            for i, value in enumerate(column.tolist()):
                assert abs(mpmath.mpf(value) * scale - S[i][j]) <= 4e-13 * size


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 12), st.floats(0, 60, allow_subnormal=False), st.integers(0, 10**6))
def test_softmax_factor_is_adjoint_and_kills_constants(classes, spread, seed):
    generator = torch.Generator().manual_seed(seed)
    z, u, w = torch.randn(3, 5, classes, dtype=torch.float64, generator=generator)
    factor = SoftmaxFactor((spread * z).log_softmax(1), 1.0)
    left, right = (factor.apply(w) * u).sum(1), (factor.apply_transposed(u) * w).sum(1)
    torch.testing.assert_close(left, right, rtol=1e-10, atol=1e-12)
    assert factor.apply(torch.ones_like(w)).abs().max() == 0
    assert factor.apply_transposed(u).sum(1).abs().max() < 1e-14


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_lower_precision_modules_run(dtype):
    module, x, _ = net(1)
    truth = dense_fisher(module, x)
    operator = FisherOperator(module.to(dtype), x.to(dtype))
    operator.adjoint_test()
    v = torch.randn_like(x)
    error = operator.product(v.to(dtype)) - torch.einsum("bde,be->bd", truth, v)
    assert operator.logits.dtype == dtype
    assert error.norm() < 40 * torch.finfo(dtype).eps * torch.einsum("bde,be->bd", truth, v).norm()


@pytest.mark.parametrize("size", [1e-200, 1e150])
def test_jacobians_near_the_ends_of_float64(size):
    """Lam itself, 1e-400 or 1e300 times another, never passes through a product that leaves the range."""
    small, x = nn.Linear(4, 3).double().eval(), torch.zeros(2, 4).double()
    small.bias.data.zero_()
    large = double(small)
    large.weight.data *= size
    u = torch.randn(2, 3, dtype=torch.float64)
    one, other = FisherOperator(small, x), FisherOperator(large, x)
    ratio = other.gram_product(u) / one.gram_product(u)
    decades = math.log10(2) * (other.exponent - one.exponent).double().unsqueeze(1) + ratio.log10()
    torch.testing.assert_close(decades, torch.full_like(decades, 2 * math.log10(size)), rtol=1e-12, atol=0)


@given(st.floats(-1e6, 1e6, allow_subnormal=False), st.integers(-2040, 2040))
def test_powers_of_two_match_ldexp(value, exponent):
    try:
        expected = math.ldexp(value, exponent)
    except OverflowError:
        expected = math.copysign(math.inf, value)
    result = times_power_of_two(torch.tensor(value, dtype=torch.float64), torch.tensor(exponent)).item()
    assert result == expected or abs(result - expected) < 1e-307  # subnormals may round twice or flush


class WrongBackward(torch.autograd.Function):
    """The square, with the derivative of the cube in reverse mode only."""

    @staticmethod
    def forward(x):
        return x**2

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * gradient

    @staticmethod
    def jvp(ctx, tangent):
        (x,) = ctx.saved_tensors
        return 2 * x * tangent


class NoForwardMode(torch.autograd.Function):
    """The square, without a jvp."""

    @staticmethod
    def forward(x):
        return x**2

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, gradient):
        return 2 * ctx.saved_tensors[0] * gradient


class OldStyle(torch.autograd.Function):
    """The square, in the style that torch.func refuses."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    def backward(ctx, gradient):
        return 2 * ctx.saved_tensors[0] * gradient


class Apply(nn.Module):
    """Linear, a function, linear."""

    def __init__(self, function, classes=4):
        super().__init__()
        self.first, self.last, self.function = nn.Linear(6, 9), nn.Linear(9, classes), function

    def forward(self, x):
        return self.last(self.function(self.first(x)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_adjoint_test_catches_a_wrong_backward(dtype):
    module, x = Apply(WrongBackward.apply).eval().to(dtype), torch.randn(3, 6, dtype=dtype)
    with pytest.raises(AdjointTestError, match=r"input 0: forward mode gives .* reverse mode"):
        FisherOperator(module, x).adjoint_test()


def test_adjoint_test_names_the_input():
    def wrong_for_large_inputs(z):
        return torch.where(x_is_large, WrongBackward.apply(z), z**2)

    module, x = Apply(wrong_for_large_inputs).eval(), torch.randn(3, 6)
    x_is_large = torch.tensor([[False], [False], [True]])
    with pytest.raises(AdjointTestError, match="input 2"):
        FisherOperator(module, x).adjoint_test()


class TransposedNorm(nn.Module):
    """The pattern for which torch 2.13 on CPU pulls back wrongly at batch size 1."""

    def __init__(self):
        super().__init__()
        self.convolution, self.norm, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Linear(4, 5)

    def forward(self, x):
        return torch.tanh(self.head(self.norm(self.convolution(x)).flatten(2).transpose(1, 2))).mean(1)


def test_batch_norm_at_batch_size_one_is_right_or_refused():
    module, x = TransposedNorm(), torch.randn(2, 3, 4, 4)
    module(torch.randn(9, 3, 4, 4))
    module = module.double().eval()
    x = x.double()
    pair = FisherOperator(module, x)
    pair.adjoint_test()
    expected = pair.product(x)[:1]
    single = FisherOperator(module, x[:1])
    try:
        single.adjoint_test()
    except AdjointTestError:
        return
    torch.testing.assert_close(single.product(x[:1]), expected)


class OverTheBatch(nn.Module):
    """Attention that takes the batch for the sequence."""

    def __init__(self):
        super().__init__()
        self.attention, self.head = nn.MultiheadAttention(6, 1), nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.attention(x, x, x)[0])


@pytest.mark.parametrize(
    "module",
    [
        nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8, track_running_stats=False), nn.Tanh(), nn.Linear(8, 3)),
        OverTheBatch(),
    ],
)
def test_samples_that_influence_one_another_are_refused(module):
    with pytest.raises(GraphError, match="samples of a batch influence one another"):
        FisherOperator(module.eval(), torch.randn(5, 6)).adjoint_test()


def test_training_mode_is_refused():
    module = nn.Sequential(nn.Linear(6, 3), nn.Dropout()).eval()
    module[1].train()
    with pytest.raises(GraphError, match=r"1 is in training mode.*module\.eval\(\)"):
        FisherOperator(module, torch.randn(2, 6))


def test_randomness_is_refused():
    module = Apply(lambda z: dropout(z, 0.5)).eval()
    with pytest.raises(GraphError, match="two forward passes"):
        FisherOperator(module, torch.randn(2, 6)).adjoint_test()


class Detached(nn.Linear):
    """Its forward hides the input from both modes of differentiation."""

    def forward(self, x):
        return super().forward(x.detach())


class Inferring(nn.Linear):
    """Its forward is written to serve predictions."""

    @torch.inference_mode()
    def forward(self, x):
        return super().forward(x)


def test_inference_mode_is_named_as_what_hides_derivatives():
    x = torch.randn(2, 6)
    with pytest.raises(GraphError, match=r"the module computes its output under torch\.inference_mode"):
        FisherOperator(Inferring(6, 3).eval(), x).adjoint_test()
    with torch.inference_mode(), pytest.raises(GraphError, match=r"this was called under torch\.inference_mode"):
        FisherOperator(nn.Linear(6, 3).eval(), x).adjoint_test()


def test_a_forward_that_detaches_is_refused():
    with pytest.raises(GraphError, match="J is zero at every input, but the logits change"):
        FisherOperator(Detached(6, 3).eval(), torch.randn(2, 6)).adjoint_test()


@pytest.mark.parametrize(
    ("module", "x", "error", "message"),
    [
        (nn.Linear(6, 1), torch.zeros(2, 6), ShapeError, "one logit"),
        (nn.Linear(6, 3), torch.zeros(2, 4, 6), ShapeError, r"shape \(2, 4, 3\)"),
        (nn.LSTM(6, 3), torch.zeros(2, 6), ShapeError, "returned tuple"),
        (nn.Linear(6, 3), torch.zeros(2, 6, dtype=torch.int64), DataError, "int64"),
        (nn.Linear(6, 3), torch.zeros(2, 6, dtype=torch.complex64), DataError, "complex64"),
        (nn.Linear(6, 3), torch.zeros(2, 6, dtype=torch.float64), DataError, "float64 .* weights torch.float32"),
        (nn.Linear(6, 3), torch.zeros(0, 6), DataError, "non-empty"),
        (nn.Linear(6, 3), torch.zeros(6), DataError, "batch"),
        (nn.Linear(6, 3), torch.zeros(2, 5), DataError, r"rejects inputs of shape \(2, 5\)"),
        (nn.Linear(6, 3), torch.full((2, 6), torch.nan), NonFiniteError, "input 0: its value"),
        (Apply(lambda z: 1e30 * z * z), torch.full((2, 6), 1e30), NonFiniteError, "input 0: its logits"),
        (Apply(torch.sqrt), -torch.ones(2, 6), NonFiniteError, "its logits"),
        (Apply(lambda z: (z - z).sqrt()), torch.ones(2, 6), NonFiniteError, r"J\^T u"),
    ],
)
def test_bad_input_gets_one_clear_error(module, x, error, message):
    with pytest.raises(error, match=message):
        FisherOperator(module.eval(), x)


def test_the_nonfinite_input_is_named():
    x = torch.zeros(4, 6)
    x[2, 3] = torch.inf
    with pytest.raises(NonFiniteError, match="input 2"):
        FisherOperator(nn.Linear(6, 3).eval(), x)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf])
def test_temperature_must_be_positive(temperature):
    with pytest.raises(DataError, match="temperature"):
        FisherOperator(nn.Linear(6, 3).eval(), torch.zeros(2, 6), temperature)


@pytest.mark.parametrize("function", [NoForwardMode, OldStyle])
def test_missing_forward_mode_is_named(function):
    operator = FisherOperator(Apply(function.apply).eval(), torch.ones(2, 6))
    with pytest.raises(MissingRuleError, match="forward-mode differentiation failed"):
        operator.jvp(torch.ones(2, 6))
    with pytest.raises(MissingRuleError, match="forward-mode differentiation failed"):
        operator.adjoint_test()


def test_attention_settings_are_restored():
    torch.backends.mha.set_fastpath_enabled(True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        module = TokenNet(3).eval()
        FisherOperator(module, torch.randn(2, 4, 8)).adjoint_test()
    assert torch.backends.mha.get_fastpath_enabled()
    assert torch.backends.cuda.flash_sdp_enabled()
    with pytest.raises(ZeroDivisionError), derivative_kernels():
        _ = 1 / torch.backends.mha.get_fastpath_enabled()
    assert torch.backends.mha.get_fastpath_enabled()


def test_weights_and_inputs_are_left_alone():
    module, x, _ = net(3)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    x.requires_grad_()
    result = FisherOperator(module, x).product(torch.randn_like(x))
    assert not result.requires_grad
    assert x.grad is None
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())


def test_double_copies():
    module = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    copy = double(module)
    assert {t.dtype for t in [*copy.parameters(), *copy.buffers()] if t.is_floating_point()} == {torch.float64}
    assert module[0].weight.dtype == torch.float32
    assert torch.equal(copy[0].weight, module[0].weight.double())


def test_double_fails_loudly():
    module = nn.Linear(3, 2)
    module.register_buffer("phase", torch.zeros(2, dtype=torch.complex64))
    with pytest.raises(DataError, match=r"phase is torch\.complex64"):
        double(module)
    uncopyable = nn.Linear(3, 2)
    uncopyable.derived = uncopyable.weight * 2
    with pytest.raises(DataError, match="cannot be copied"):
        double(uncopyable)
