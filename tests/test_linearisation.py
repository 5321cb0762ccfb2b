"""Linearisation against jacobians that torch takes of the untouched module, layer by layer."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_fisher import Apply, NoForwardMode, OldStyle, WrongBackward
from torch import nn
from torch.nn import functional as F  # noqa: N812

from fimtheory.errors import GraphError, MissingRuleError
from fimtheory.estimators import estimate
from fimtheory.fisher.linearisation import Linearisation, derivative_kernels


def jacobian(module, x):
    """Dense J of the module itself, ``(B, K, *input)``."""
    with derivative_kernels():
        rows = [torch.func.jacrev(lambda z: module(z.unsqueeze(0)).squeeze(0))(one) for one in x]
    return torch.stack(rows).detach()


def check(module, x):
    module = module.double().eval()
    with torch.no_grad():
        logits = module(x)
    J = jacobian(module, x).flatten(2)
    generator = torch.Generator().manual_seed(0)
    u = torch.randn(logits.shape, generator=generator, dtype=torch.float64)
    v = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    linear = Linearisation(module, x)
    close = {"rtol": 1e-10, "atol": 1e-12}
    torch.testing.assert_close(linear.logits, logits, **close)
    torch.testing.assert_close(linear.pull_back(u).flatten(1), torch.einsum("bkd,bk->bd", J, u), **close)
    image = torch.einsum("bkd,bd->bk", J, v.flatten(1))
    torch.testing.assert_close(linear.push_forward(v), image, **close)
    torch.testing.assert_close(linear.push_forward(2 * v), 2 * image, **close)
    index = torch.arange(len(x)).flip(0)[:2]
    again, tangent = linear.forward_mode(v[index], index)
    torch.testing.assert_close(again, logits[index], **close)
    torch.testing.assert_close(tangent, image[index], **close)
    each = linear.pull_back_each(torch.stack([u, -2 * u, torch.ones_like(u)]))
    for k, cotangent in enumerate((u, -2 * u, torch.ones_like(u))):
        torch.testing.assert_close(each[k].flatten(1), torch.einsum("bkd,bk->bd", J, cotangent), **close)
    return linear


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_convolutions_of_every_shape(data):
    dimensions = data.draw(st.integers(1, 3))
    sizes = lambda least, most: tuple(data.draw(st.integers(least, most)) for _ in range(dimensions))  # noqa: E731
    groups = data.draw(st.sampled_from([1, 2]))
    kernel, dilation, stride = sizes(1, 3), sizes(1, 2), sizes(1, 3)
    padding = data.draw(st.sampled_from(["same", "valid", None]))
    padding = sizes(0, 2) if padding is None else padding
    stride = (1,) * dimensions if padding == "same" else stride
    kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dimensions - 1]
    torch.manual_seed(data.draw(st.integers(0, 10**6)))
    layer = kind(2 * groups, 3 * groups, kernel, stride, padding, dilation, groups, data.draw(st.booleans()))
    x = torch.randn(3, 2 * groups, *(5 + size for size in sizes(0, 3))).double()
    check(nn.Sequential(layer, nn.Tanh(), nn.Flatten()), x)


def norms(dimensions, affine, statistics=True):
    kind = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[dimensions - 1]
    module = nn.Sequential(kind(4, affine=affine, track_running_stats=statistics), nn.Tanh(), nn.Flatten())
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point():
            tensor.data.uniform_(0.3, 2.0)
    return module


@pytest.mark.parametrize("dimensions", [1, 2, 3])
@pytest.mark.parametrize("affine", [True, False])
def test_batch_norms(dimensions, affine):
    check(norms(dimensions, affine), torch.randn(3, 4, *(3,) * dimensions).double())


class Hyper(nn.Module):
    """Weights that depend on the input: they are not constants, and derivatives pass through them."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.make = kind, nn.Linear(8, 8)

    def forward(self, x):
        made = torch.tanh(self.make(x.flatten(1)))
        rows = []
        for one, weight in zip(x, made, strict=True):
            if self.kind == "linear":
                rows.append(F.linear(one.flatten(), weight.view(1, 8).expand(3, 8), weight[:3]))
            elif self.kind == "convolution":
                rows.append(F.conv1d(one.view(1, 1, 8), weight[:3].view(1, 1, 3), weight[3:4]).flatten())
            else:
                mean, variance = torch.tensor([[0.3, -0.2], [1.5, 0.7]]).double()  # constants, as torch requires
                rows.append(F.batch_norm(one.view(1, 2, 4), mean, variance, weight[:2], weight[2:4]).flatten())
        return torch.stack(rows)


@pytest.mark.parametrize("kind", ["linear", "convolution", "batch norm"])
def test_weights_made_from_the_input(kind):
    check(Hyper(kind), torch.randn(2, 8).double())


class Attention(nn.Module):
    """Multi-head attention by torch's module or by its function, over six tokens."""

    def __init__(self, functional):
        super().__init__()
        self.functional, self.attention, self.head = (
            functional,
            nn.MultiheadAttention(8, 2, batch_first=True),
            nn.Linear(8, 3),
        )

    def forward(self, x):
        if self.functional:
            return self.head(F.scaled_dot_product_attention(x, torch.sin(x), x)).mean(1)
        return self.head(self.attention(x, x, x, need_weights=False)[0]).mean(1)


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (Attention(True), (3, 6, 8)),
        (Attention(False), (3, 6, 8)),
        (nn.Sequential(nn.Conv2d(2, 4, 3), nn.MaxPool2d(2), nn.GELU(), nn.Flatten(), nn.Linear(16, 4)), (3, 2, 6, 6)),
        (nn.Sequential(nn.ConvTranspose2d(2, 3, 3), nn.SiLU(), nn.GroupNorm(3, 3), nn.Flatten()), (3, 2, 3, 3)),
        (nn.Sequential(nn.Linear(6, 5), nn.LayerNorm(5), nn.Softplus()), (3, 6)),
        (nn.Sequential(nn.Unflatten(1, (2, 3)), nn.Linear(3, 4), nn.Flatten(), nn.Softmax(1)), (3, 6)),
    ],
)  # fmt: skip
def test_layers_of_torch(module, shape):
    torch.manual_seed(1)
    assert not check(module, torch.randn(shape).double()).has_foreign_backward


class Dense(nn.Module):
    """Concatenations of growing states, also with constants, along axes counted from either end."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(4, 3), nn.Linear(7, 2), nn.Linear(10, 3)
        self.register_buffer("constant", torch.ones(1, 1))

    def forward(self, x):
        y = torch.cat([x, torch.tanh(self.first(x))], 1)
        y = torch.cat((torch.sin(self.second(y)), y), dim=-1)
        z = self.head(torch.cat([y, self.constant.expand(len(x), -1)], 1))
        return torch.concatenate(
            [z, torch.cat([x.square()], 1), torch.cat([self.constant, self.constant]).sum() * x], 1
        )


def test_concatenations():
    assert not check(Dense(), torch.randn(3, 4).double()).has_foreign_backward


def test_tied_weights():
    shared = nn.Linear(5, 5)
    check(nn.Sequential(shared, nn.Tanh(), shared), torch.randn(3, 5).double())


def test_backwards_written_in_python_are_pushed_forward_by_forward_mode():
    class Right(WrongBackward):
        @staticmethod
        def backward(ctx, gradient):
            return 2 * ctx.saved_tensors[0] * gradient.detach().clone()  # cannot be differentiated, and says nothing

    assert check(Apply(Right.apply), torch.randn(3, 6).double()).has_foreign_backward
    for function in (NoForwardMode, OldStyle):
        assert Linearisation(Apply(function.apply).double().eval(), torch.randn(2, 6).double()).has_foreign_backward


def test_a_constant_module_has_no_derivative():
    class Constant(nn.Linear):
        def forward(self, x):
            return self.bias.expand(len(x), -1)

    linear = Linearisation(Constant(4, 3).double().eval(), torch.randn(2, 4).double())
    assert not linear.push_forward(torch.randn(2, 4).double()).any()
    assert not linear.pull_back(torch.randn(2, 3).double()).any()


def test_weights_keep_their_gradients_and_settings():
    module = nn.Sequential(nn.Linear(4, 3), nn.Tanh()).double().eval()
    module[0].weight.grad = torch.ones(3, 4).double()
    x = torch.randn(2, 4).double()
    linear = Linearisation(module, x)
    linear.push_forward(linear.pull_back(torch.randn(2, 3).double()))
    assert torch.equal(module[0].weight.grad, torch.ones(3, 4).double())
    assert module[0].bias.grad is None
    assert module[0].weight.requires_grad


class Scratch(nn.Module):
    """A convolution whose weights are written into a buffer that the next forward pass overwrites."""

    def __init__(self):
        super().__init__()
        self.base, self.scratch, self.head = torch.ones(3), torch.zeros(9, 1, 3).double(), nn.Linear(8, 4)

    def forward(self, x):
        weight = self.scratch[: len(x)]
        weight.copy_(self.base * (1 + x.detach().square().mean(1)).view(-1, 1, 1))
        return self.head(F.conv1d(x.unsqueeze(0), weight, padding=1, groups=len(x))[0].tanh())


def test_weights_overwritten_after_the_forward_pass_are_refused():
    x = torch.randn(5, 8).double()
    with pytest.raises(MissingRuleError, match="modified by an in-place operation"):
        estimate(Scratch().double().eval(), x)


def test_a_module_that_runs_but_leaves_torch_is_named_so():
    module = Apply(lambda z: torch.from_numpy(z.numpy() ** 2)).double().eval()
    with pytest.raises(MissingRuleError, match="the module runs, but cannot be differentiated: Can't call numpy"):
        estimate(module, torch.randn(3, 6).double())


@pytest.mark.parametrize("batch", [2, 3, 8])
@pytest.mark.parametrize("foreign", [False, True])
def test_a_batch_statistic_without_a_derivative_is_refused(batch, foreign):
    def scaled(z):
        z = WrongBackward.apply(z) * 0 + z if foreign else z
        return z * z.detach().std()

    with pytest.raises(GraphError, match="influence one another"):
        estimate(Apply(scaled).double().eval(), torch.randn(batch, 6).double())


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_scripted_modules():
    module = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double().eval()
    x = torch.randn(3, 6).double()
    scripted = torch.jit.trace(module, x)
    torch.testing.assert_close(estimate(scripted, x).lam, estimate(module, x).lam, rtol=1e-12, atol=0)
