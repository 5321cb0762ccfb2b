"""The worst-case search: its gradient, its domain, and suprema that are known."""

import math

import pytest
import torch
from test_fisher import Apply, TokenNet, WrongBackward, dense_lam, net
from torch import nn

from fimtheory.claims import Status
from fimtheory.domains import Domain
from fimtheory.errors import AdjointTestError, DataError, GraphError, MissingRuleError
from fimtheory.estimators import estimate, exact
from fimtheory.fisher import FisherOperator, double
from fimtheory.search import log_lam_gradient, worst_case


def linear(dim, classes, seed):
    torch.manual_seed(seed)
    return nn.Linear(dim, classes).double().eval()


def supremum(module):
    """D_W^2 / 4, the supremum of lam over all inputs of a linear classifier (T3 of theory.md)."""
    return torch.cdist(module.weight, module.weight).max().item() ** 2 / 4


def log_lam(module, x, temperature):
    return dense_lam(module, x, temperature).log()


@pytest.mark.parametrize("seed", [1, 2, 4, 5, 7, 8, 10, 11])
def test_gradient_against_finite_differences(seed):
    """Smooth nets: MLPs with tanh and GELU, group and layer norm with SiLU, attention."""
    module, x, temperature = net(seed)
    operator = FisherOperator(module, x, temperature)
    gradient = log_lam_gradient(operator, exact(operator).vector)
    for _ in range(3):
        v, h = torch.randn_like(x), 1e-5
        measured = (log_lam(module, x + h * v, temperature) - log_lam(module, x - h * v, temperature)) / (2 * h)
        ours = (gradient * v).flatten(1).sum(1)
        torch.testing.assert_close(ours, measured, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("seed", [0, 3, 6, 9])
def test_gradient_inside_a_linear_piece(seed):
    """ReLU nets and max pooling: only p moves, J does not."""
    module, x, temperature = net(seed)
    operator = FisherOperator(module, x, temperature)
    gradient = log_lam_gradient(operator, exact(operator).vector)
    v, h = torch.randn_like(x), 1e-7
    measured = (log_lam(module, x + h * v, temperature) - log_lam(module, x - h * v, temperature)) / (2 * h)
    torch.testing.assert_close((gradient * v).flatten(1).sum(1), measured, rtol=1e-4, atol=1e-5)


def test_gradient_of_a_saturated_softmax():
    """K = 2: log lam = log p(1 - p) + const has the gradient (1 - 2 p) (w_1 - w_2), also where p(1 - p) is 1e-800."""
    module = linear(5, 2, 0)
    w = (module.weight[0] - module.weight[1]).detach()
    x = (torch.tensor([0.1, 3.0, 1000.0, -2000.0], dtype=torch.float64).unsqueeze(1) * w) / w.dot(w)
    module.bias.data.zero_()
    operator = FisherOperator(module, x)
    p = (x @ w).sigmoid()
    expected = (1 - 2 * p).unsqueeze(1) * w
    torch.testing.assert_close(log_lam_gradient(operator, exact(operator).vector), expected, rtol=1e-10, atol=1e-12)


def test_gradient_is_zero_where_lam_is():
    module = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 3)).double().eval()
    module[0].bias.data.fill_(-1.0)
    operator = FisherOperator(module, torch.zeros(2, 4, dtype=torch.float64))
    assert torch.equal(log_lam_gradient(operator, exact(operator).vector), torch.zeros(2, 4, dtype=torch.float64))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("dim", "classes"), [(2, 3), (6, 3)])
def test_the_supremum_of_a_linear_model_is_approached_and_never_exceeded(dim, classes, seed):
    module = linear(dim, classes, seed)
    x0 = torch.randn(6, dim, dtype=torch.float64)
    found = worst_case(module, x0, starts=8, steps=60, seed=seed)
    bound = supremum(module)
    assert (found.values <= bound * (1 + 1e-12)).all()
    assert found.value >= 0.99 * bound
    assert found.status == Status.LOWER


def test_value_is_lam_at_x_and_beats_the_data():
    torch.manual_seed(1)
    module = nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 5)).eval()
    for p in module.parameters():
        p.data *= 2
    x0 = torch.randn(20, 6)
    found = worst_case(module, x0, starts=16, steps=40)
    wide = nn.Sequential(*[type(m)(m.in_features, m.out_features) if isinstance(m, nn.Linear) else m for m in module])
    wide.load_state_dict(module.state_dict())
    wide = wide.double().eval()
    assert found.value == pytest.approx(dense_lam(wide, found.x.double().unsqueeze(0)).item(), rel=1e-10)
    assert found.value > 1.05 * estimate(module, x0).lam.max().item()
    scattered = torch.cat([scale * torch.randn(500, 6) for scale in (0.1, 0.3, 1, 3, 10)])
    assert found.value > estimate(module, scattered).lam.max().item()
    assert found.x.dtype == torch.float32
    assert found.x.shape == (6,)
    assert found.values.shape == found.log10_values.shape == (16,)
    assert found.inputs.shape == (16, 6)
    assert found.log10_value == pytest.approx(math.log10(found.value), abs=1e-12)
    assert found.value == found.values.max().item()
    assert (found.starts, found.steps, found.method) == (16, 40, "exact")
    torch.testing.assert_close(found.values, dense_lam(wide, found.inputs.double()), rtol=1e-9, atol=0)


@pytest.mark.parametrize("make", [lambda: net(3)[:2], lambda: (TokenNet(4).eval(), torch.randn(5, 4, 8))])
def test_max_pool_batch_norm_and_attention_climb(make):
    module, x0 = make()
    found = worst_case(module, x0, starts=6, steps=15)
    assert found.value > 1.05 * estimate(module, x0).lam.max().item()


def test_many_classes_climb_by_lanczos():
    torch.manual_seed(2)
    module = nn.Sequential(nn.Linear(8, 30), nn.GELU(), nn.Linear(30, 90)).eval()
    x0 = torch.randn(6, 8)
    found = worst_case(module, x0, starts=8, steps=25)
    assert found.method == "lanczos"
    assert found.value > 1.05 * estimate(module, x0).lam.max().item()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_box_and_ball_hold(dtype):
    torch.manual_seed(4)
    module = nn.Sequential(nn.Linear(9, 20), nn.Tanh(), nn.Linear(20, 4)).to(dtype).eval()
    x0 = torch.rand(5, 9, dtype=dtype)
    low = torch.linspace(-0.5, 0.0, 9, dtype=dtype)
    boxed = worst_case(module, x0, starts=9, steps=20, box=(low, 1.0))
    assert (boxed.inputs >= low).all()
    assert (boxed.inputs <= 1).all()
    ball = worst_case(module, x0, starts=9, steps=20, ball=0.3)
    distance = torch.cdist(ball.inputs.double(), x0.double()).amin(1)
    assert (distance <= 0.3).all()
    assert distance.max() > 0.29
    both = worst_case(module, x0, starts=9, steps=20, ball=0.3, box=(low, 1.0))
    assert (torch.cdist(both.inputs.double(), x0.double()).amin(1) <= 0.3).all()
    assert (both.inputs >= low).all()
    assert (both.inputs <= 1).all()
    start = estimate(module, x0).lam.max().item()
    everywhere = worst_case(module, x0, starts=9, steps=20)
    assert start < both.value <= ball.value * 1.05
    assert ball.value < everywhere.value


def test_ball_holds_strictly_far_from_zero_in_float32():
    centres = 1e3 * torch.randn(200, 7)
    domain = Domain(centres, None, 0.01)
    x = domain.project(centres + torch.randn(200, 7))
    distance = (x.double() - centres.double()).norm(dim=1)
    assert (distance <= 0.01).all()
    assert distance.max() > 0.008


def test_box_holds_to_the_last_digit_in_a_ball():
    """Centre + (edge - centre) may round to beyond the edge."""
    centres, edge = -torch.rand(3000, 1, dtype=torch.float64), 0.1
    assert (centres + (edge - centres) > edge).any()
    x = Domain(centres, (-1.0, edge), 5.0).project(centres + 2)
    assert (x <= edge).all()


def test_optimum_in_a_ball_of_a_margin_model():
    """K = 2, lam = p (1 - p) |w|^2 depends on the margin only: the best point is nearest to the boundary."""
    module = linear(4, 2, 3)
    w, b = (module.weight[0] - module.weight[1]).detach(), (module.bias[0] - module.bias[1]).item()
    x0 = (5.0 - b) * w / w.dot(w)  # margin 5
    radius = 3.0 / w.norm().item()
    found = worst_case(module, x0.unsqueeze(0), starts=4, steps=60, ball=radius)
    p = torch.tensor(2.0).double().sigmoid().item()  # margin 5 - 3
    assert found.value == pytest.approx(p * (1 - p) * w.dot(w).item(), rel=1e-6)


def test_equal_seeds_give_equal_results():
    module, x0, _ = net(1)
    torch.manual_seed(7)
    first = worst_case(module, x0, starts=7, steps=6, seed=3)
    torch.manual_seed(8)
    again = worst_case(module, x0, starts=7, steps=6, seed=3)
    other = worst_case(module, x0, starts=7, steps=6, seed=4)
    assert torch.equal(first.inputs, again.inputs)
    assert first.value == again.value
    assert not torch.equal(first.inputs, other.inputs)


def test_no_steps_and_one_start():
    module, x0, _ = net(0)
    best = estimate(module, x0).lam.max().item()
    still = worst_case(module, x0, starts=1, steps=0)
    assert (still.value, still.steps) == (pytest.approx(best, rel=1e-9), 0)
    assert worst_case(module, x0[:1], starts=5, steps=3).value >= estimate(module, x0[:1]).lam.item()


def test_dead_and_overflowing_starts_do_no_harm():
    """Zero lam at the data (no slope to follow), infinite logits far outside."""

    class Explosive(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 3)

        def forward(self, x):
            return self.linear(torch.relu(x - 1) + (x.abs() - 80).relu() ** 30)

    module = Explosive().eval()
    found = worst_case(module, torch.zeros(2, 3), starts=12, steps=30)
    assert math.isfinite(found.value)
    assert found.value > 0
    assert found.inputs.isfinite().all()
    assert worst_case(module, torch.zeros(1, 3), starts=1, steps=30).value > 0


def test_temperature_is_the_same_as_smaller_logits():
    module, x0, _ = net(1)
    found = worst_case(module, x0, starts=4, steps=5, temperature=0.5)
    scaled = double(module)
    for p in scaled[4].parameters():
        p.data *= 2
    torch.testing.assert_close(found.inputs, worst_case(scaled, x0, starts=4, steps=5).inputs, rtol=1e-6, atol=1e-6)
    assert found.value == pytest.approx(dense_lam(module, found.x.unsqueeze(0), 0.5).item(), rel=1e-9)


def test_progress_goes_to_stderr_on_request_only(capsys):
    module, x0, _ = net(1)
    worst_case(module, x0, starts=3, steps=2)
    assert capsys.readouterr() == ("", "")
    worst_case(module, x0, starts=3, steps=2, progress=True)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "worst case" in shown.err


class OneDerivative(torch.autograd.Function):
    """The square, whose backward torch may not differentiate again."""

    forward, setup_context, jvp = WrongBackward.forward, WrongBackward.setup_context, WrongBackward.jvp

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        return 2 * ctx.saved_tensors[0] * gradient


class Narrowing(nn.Linear):
    """A forward that computes in float32 whatever it is given."""

    def forward(self, x):
        return super().forward(x).float()


@pytest.mark.parametrize(
    ("module", "options", "error", "message"),
    [
        (Apply(OneDerivative.apply).eval(), {}, MissingRuleError, "second derivatives"),
        (Apply(WrongBackward.apply).eval(), {}, AdjointTestError, "input 0"),
        (Narrowing(6, 3).eval(), {}, DataError, r"torch\.float32 for float64 inputs"),
        (nn.Linear(6, 3), {}, GraphError, "training mode"),
        (nn.Linear(6, 3).eval(), {"box": (0.0, 1.0)}, DataError, "outside the box"),
        (nn.Linear(6, 3).eval(), {"ball": -1.0}, DataError, r"ball = -1\.0"),
        (nn.Linear(6, 3).eval(), {"starts": 0}, DataError, "starts = 0"),
    ],
)
def test_bad_input_gets_one_clear_error(module, options, error, message):
    with pytest.raises(error, match=message):
        worst_case(module, torch.randn(4, 6), **{"starts": 4, "steps": 2} | options)


def test_weights_are_left_alone():
    module, x0, _ = net(3)
    module = module.float()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    worst_case(module, x0.float(), starts=3, steps=2)
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    assert all(p.grad is None for p in module.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_ten_classes_come_near_the_supremum(seed):
    module = linear(20, 10, seed)
    found = worst_case(module, torch.randn(8, 20, dtype=torch.float64), seed=seed)
    assert 0.95 * supremum(module) <= found.value <= supremum(module) * (1 + 1e-12)
