"""Sensitive directions against dense eigenvectors, divergences against 50 digits, and attacks against their claims."""

import itertools
import json
import math

import mpmath
import oracles
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from test_estimators import linear, origin, with_spectrum
from test_fisher import net
from test_surveys import command
from torch import nn

import fimtheory as ft
from fimtheory import directions, zoo
from fimtheory.claims import Status
from fimtheory.data import load_data
from fimtheory.directions import divergence
from fimtheory.directions_command import parse_box
from fimtheory.errors import AdjointTestError, DataError, GraphError, NonFiniteError, ShapeError
from fimtheory.fisher import derivative_kernels
from fimtheory.plots import plot_directions


def jacobian(module, x):
    with derivative_kernels():  # no fused attention, which has no derivative to batch
        return oracles.jacobian(oracles.single(module), x).detach()


def spectra(module, x, temperature=1.0):
    """Eigenvalues and eigenvectors of F at each input, increasing, from dense Jacobians."""
    values, vectors = [], []
    for each in x:
        jac = jacobian(module, each) / temperature
        p = (module(each[None])[0] / temperature).softmax(0).detach()
        relative = jac - p @ jac
        made = torch.linalg.eigh(relative.T @ (p[:, None] * relative))
        values.append(made.eigenvalues)
        vectors.append(made.eigenvectors)
    return torch.stack(values), torch.stack(vectors)


def smooth(classes=5, seed=0):
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Linear(6, 20), nn.Tanh(), nn.Linear(20, classes)).double().eval()
    for parameter in module.parameters():
        parameter.data *= 2
    return module, torch.randn(7, 6, dtype=torch.float64)


def apart(a, b):
    """Return ``1 - |<a, b>|`` of unit vectors, which no sign changes."""
    return 1 - (a.flatten(1) * b.flatten(1)).sum(1).abs()


# ---- directions -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(12))
def test_directions_are_the_dense_eigenvectors(seed):
    module, x, temperature = net(seed)
    values, vectors = spectra(module, x, temperature)
    found = ft.sensitive_direction(module, x, temperature=temperature)
    assert found.vector.shape == x.shape
    assert len(found) == len(x)
    torch.testing.assert_close(found.vector.flatten(1).norm(dim=1), torch.ones(len(x)).double(), rtol=1e-12, atol=0)
    torch.testing.assert_close(found.lam, values[:, -1], rtol=1e-9, atol=0)
    torch.testing.assert_close(found.log10_lam, values[:, -1].log10(), rtol=0, atol=1e-9)
    gap = 1 - values[:, -2] / values[:, -1]
    torch.testing.assert_close(found.gap, gap, rtol=0, atol=1e-8)
    assert (apart(found.vector, vectors[:, :, -1]) < 1e-12 / gap.square()).all()
    assert (found.residual < 1e-7).all()


def test_a_direction_is_as_sharp_as_its_residual_and_gap_say():
    """100 classes and a loose tolerance: the angle to the dense eigenvector is at most residual over gap."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(40, 60), nn.Tanh(), nn.Linear(60, 100)).double().eval()
    x = torch.randn(20, 40, dtype=torch.float64)
    values, vectors = spectra(module, x)
    loose = ft.sensitive_direction(module, x, tol=0.05)
    assert loose.status is Status.LOWER
    assert (loose.lam <= values[:, -1] * (1 + 1e-12)).all()
    assert (loose.lam >= values[:, -1] * (1 - loose.residual) * (1 - 1e-12)).all()
    true_gap = 1 - values[:, -2] / values[:, -1]
    sine = (1 - (1 - apart(loose.vector, vectors[:, :, -1])).square()).sqrt()
    assert (sine > 1e-4).any()
    assert (sine <= 1.5 * loose.residual / true_gap).all()
    sharp = ft.sensitive_direction(module, x)
    assert (apart(sharp.vector, vectors[:, :, -1]) < 1e-6).all()
    torch.testing.assert_close(sharp.gap, true_gap, rtol=0, atol=1e-4)


def test_a_direction_that_is_one_of_a_plane_has_no_gap():
    module = with_spectrum([2.0, 2.0, 0.5] + [0.1] * 30, 1)
    x = origin(module, 3)
    found = ft.sensitive_direction(module, x)
    assert (found.gap.abs() < 1e-8).all()
    plane = spectra(module, x)[1][:, :, -2:]
    inside = torch.einsum("bdr,bd->br", plane, found.vector).norm(dim=1)
    torch.testing.assert_close(inside, torch.ones(3).double(), rtol=1e-9, atol=0)


@pytest.mark.parametrize("seed", range(6))
def test_along_a_direction_the_predicted_class_becomes_less_probable(seed):
    module, x, temperature = net(seed)
    found = ft.sensitive_direction(module, x, temperature=temperature)
    for k, each in enumerate(x):
        jac = jacobian(module, each) / temperature
        logits = module(each[None])[0] / temperature
        p, top = logits.softmax(0), logits.argmax()
        slope = (jac[top] - p @ jac) @ found.vector[k].flatten()
        assert slope < 0


@pytest.mark.parametrize("gap", [0.0, 40.0, 900.0, 3000.0])
def test_a_saturated_softmax_keeps_direction_sign_and_logarithm(gap):
    """Two classes: the direction is that of the rows' difference, away from the predicted one; lam is p (1-p) |w|^2."""
    W = torch.tensor([[1.0, 2.0, -2.0], [0.0, 0.0, 0.0]])
    module = linear(W, torch.tensor([gap, 0.0]).double())
    found = ft.sensitive_direction(module, origin(module))
    torch.testing.assert_close(found.vector[0], -W[0].double() / 3, rtol=1e-12, atol=1e-15)
    with mpmath.workdps(50):
        truth = mpmath.log10(9 * mpmath.exp(-gap) / (1 + mpmath.exp(-gap)) ** 2)
        assert found.log10_lam.item() == pytest.approx(float(truth), abs=1e-9)
    assert (found.gap.item(), found.status) == (1.0, Status.EXACT)


def test_no_direction_is_sensitive_where_lam_is_zero():
    module = linear(torch.zeros(4, 3), torch.arange(4.0))
    found = ft.sensitive_direction(module, origin(module, 2))
    assert (found.lam.tolist(), found.gap.tolist(), found.residual.tolist()) == ([0.0] * 2, [0.0] * 2, [0.0] * 2)
    assert not found.vector.any()
    moved = ft.spectral_attack(module, origin(module, 2), 1.0)
    assert torch.equal(moved.x, origin(module, 2))
    assert (moved.kl.tolist(), moved.distance.tolist(), moved.changed.tolist()) == ([0.0] * 2, [0.0] * 2, [False] * 2)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(2, 7), st.integers(1, 6), st.sampled_from([1e-160, 1e-3, 1.0, 1e3, 1e160]), st.booleans(),
    st.integers(0, 10**6),
)  # fmt: skip
def test_directions_of_adversarial_weights(classes, dim, size, rank_one, seed):
    """Linear models at the origin, so that F is W^T S W: v^T F v = lam ||v||^2 and no unit vector has more."""
    generator = torch.Generator().manual_seed(seed)
    W = torch.randn(classes, dim, generator=generator, dtype=torch.float64)
    if rank_one:
        W = torch.outer(W[:, 0], W[0])
    bias = torch.randn(classes, generator=generator, dtype=torch.float64)
    module = linear(size * W, bias)
    found = ft.sensitive_direction(module, origin(module))
    values, _ = spectra(linear(W, bias), origin(module))
    assert found.log10_lam.item() == pytest.approx(math.log10(values[0, -1]) + 2 * math.log10(size), abs=1e-7)
    p = bias.softmax(0)
    pushed = W @ found.vector[0]
    along = (p * (pushed - p @ pushed).square()).sum().item()
    assert along == pytest.approx(values[0, -1].item(), rel=1e-7)
    second = values[0, -2].item() if dim > 1 else 0.0
    assert found.gap.item() == pytest.approx(1 - second / values[0, -1].item(), abs=1e-6)


def test_float32_agrees_with_float64():
    module, x, _ = net(5)
    expected = ft.sensitive_direction(module, x.float().double())
    found = ft.sensitive_direction(module.float(), x.float())
    assert found.vector.dtype == torch.float64
    assert (apart(found.vector, expected.vector) < 1e-5).all()
    assert (expected.vector * found.vector).sum() > 0


def test_equal_seeds_give_equal_directions():
    module, x = smooth(classes=30)
    first, again = (ft.sensitive_direction(module, x, tol=0.1, seed=3) for _ in range(2))
    assert torch.equal(first.vector, again.vector)
    assert len(repr(first)) < 200
    assert repr(first).startswith("<Directions: lam of 7 inputs from ")


# ---- attacks ----------------------------------------------------------------------------------------------------


def exact_divergence(log_p, log_q):
    with mpmath.workdps(50):
        pairs = [(mpmath.mpf(a), mpmath.mpf(b)) for a, b in zip(log_p.tolist(), log_q.tolist(), strict=True)]
        p, q = (mpmath.matrix([mpmath.exp(pair[k]) for pair in pairs]) for k in (0, 1))
        p, q = p / sum(p), q / sum(q)  # float64 logarithms do not quite add up to 1
        return float(sum(a * mpmath.log(a / b) for a, b in zip(p, q, strict=True)))


@pytest.mark.parametrize("size", [1e-9, 1e-5, 1e-3, 0.009, 0.011, 0.3, 3.0, 40.0, 600.0])
def test_a_divergence_loses_no_digits_where_distributions_are_near_or_far(size):
    generator = torch.Generator().manual_seed(1)
    z = 3 * torch.randn(40, 6, generator=generator, dtype=torch.float64)
    q = (z + size * torch.randn(40, 6, generator=generator, dtype=torch.float64)).log_softmax(1)
    p = z.log_softmax(1)
    expected = torch.tensor([exact_divergence(*pair) for pair in zip(p, q, strict=True)], dtype=torch.float64)
    # Logarithms of up to 10 are rounded to 1e-15, which is a relative error of 1e-15 / size in their differences.
    torch.testing.assert_close(divergence(p, q), expected, rtol=5e-14 / min(size, 1), atol=0)
    assert divergence(p, p).tolist() == [0.0] * 40


def test_the_divergence_reached_is_the_predicted_one_to_first_order():
    """|KL / (eps^2 lam / 2) - 1| falls in proportion to eps."""
    module, x = smooth()
    errors = []
    for eps in (1e-2, 1e-3, 1e-4):
        moved = ft.spectral_attack(module, x, eps)
        torch.testing.assert_close(moved.quadratic, eps**2 * moved.directions.lam / 2, rtol=1e-9, atol=0)
        errors.append((moved.kl / moved.quadratic - 1).abs())
        with torch.no_grad():
            p, q = (module(each).log_softmax(1) for each in (x, moved.x))
        expected = torch.tensor([exact_divergence(*pair) for pair in zip(p, q, strict=True)], dtype=torch.float64)
        torch.testing.assert_close(moved.kl, expected, rtol=1e-9, atol=0)
    assert errors[1].max() < 0.01
    for worse, better in itertools.pairwise(errors):
        assert (better < 0.13 * worse + 1e-6).all()


def test_no_random_direction_of_that_length_does_as_much():
    module, x = smooth()
    eps = 1e-3
    moved = ft.spectral_attack(module, x, eps)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        log_p = module(x).log_softmax(1)
        for _ in range(300):
            v = torch.randn(x.shape, generator=generator, dtype=torch.float64)
            end = x + eps * v / v.norm(dim=1, keepdim=True)
            reached = (log_p.exp() * (log_p - module(end).log_softmax(1))).sum(1)
            assert (reached <= moved.kl * (1 + 0.01)).all()


def test_of_the_two_ways_the_one_of_the_larger_divergence_is_taken():
    module, x = smooth(seed=4)
    moved = ft.spectral_attack(module, x, 0.7, temperature=2.0)
    with torch.no_grad():
        log_p = (module(x) / 2).log_softmax(1)
        both = []
        for sign in (1, -1):
            log_q = (module(x + sign * 0.7 * moved.directions.vector) / 2).log_softmax(1)
            both.append((log_p.exp() * (log_p - log_q)).sum(1))
    torch.testing.assert_close(moved.kl, torch.maximum(*both), rtol=1e-6, atol=0)
    assert torch.equal(moved.sign, torch.where(both[0] >= both[1], 1.0, -1.0).double())
    assert len(moved.sign.unique()) == 2
    torch.testing.assert_close(moved.x, x + 0.7 * moved.sign[:, None] * moved.directions.vector, rtol=0, atol=1e-12)
    with torch.no_grad():
        assert torch.equal(moved.before, module(x).argmax(1))
        assert torch.equal(moved.after, module(moved.x).argmax(1))
    assert torch.equal(moved.changed, moved.before != moved.after)
    assert 0 < moved.changed.sum() < len(x)
    assert moved.status is Status.LOWER
    assert f"{int(moved.changed.sum())} predictions changed" in repr(moved)
    assert len(repr(moved)) < 200


@pytest.mark.parametrize("eps", [1e-6, 0.05, 0.5, 30.0])
@pytest.mark.parametrize("box", [None, (0, 1), (torch.zeros(1, 8, 8), torch.tensor(1.0))])
def test_moves_stay_within_their_length_and_the_box(eps, box):
    module, x = zoo.load("digits_mlp"), load_data("digits:test", (1, 8, 8), n=12).inputs
    moved = ft.spectral_attack(module, x, eps, box=box)
    assert moved.x.dtype == torch.float32
    assert (moved.distance <= eps).all()
    torch.testing.assert_close(moved.distance, (moved.x.double() - x.double()).flatten(1).norm(dim=1))
    if box is None:
        assert (moved.distance > 0.9 * eps - 1e-6).all()
    else:
        assert moved.x.min() >= 0
        assert moved.x.max() <= 1
        assert eps < 1e-3 or (moved.distance < 0.99 * eps).all()
    F = [oracles.jacobian(oracles.single(module.double()), each.double()).detach() for each in x]
    with torch.no_grad():
        p = module(x.double()).softmax(1)
    for k, jac in enumerate(F):
        pushed = jac @ (moved.x[k].double() - x[k].double()).flatten()
        variance = (p[k] * (pushed - p[k] @ pushed).square()).sum()
        assert moved.quadratic[k].item() == pytest.approx(variance.item() / 2, rel=1e-3)


class Wrong(nn.Module):
    """A head whose logits are infinite beyond 1."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3, 2).double()

    def forward(self, x):
        return self.head(x) + torch.where(x[:, :1].abs() > 1, torch.inf, 0.0)


X = torch.full((2, 3), 0.5, dtype=torch.float64)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda m: ft.spectral_attack(m, X, 0.0), DataError, "eps is 0.0"),
        (lambda m: ft.spectral_attack(m, X, math.nan), DataError, "eps is nan"),
        (lambda m: ft.spectral_attack(m, X, math.inf), DataError, "eps is inf"),
        (lambda m: ft.spectral_attack(m, X, 1.0, box=(0.6, 1.0)), DataError, "outside the box"),
        (lambda m: ft.spectral_attack(m, X, 1.0, tol=1.0), DataError, "tol is 1.0"),
        (lambda m: ft.sensitive_direction(m, X, tol=0.0), DataError, "tol is 0.0"),
        (lambda m: ft.sensitive_direction(m, X, temperature=-1.0), DataError, "temperature is -1.0"),
        (lambda m: ft.sensitive_direction(m, X[:, :2]), DataError, "rejects inputs"),
        (lambda m: ft.sensitive_direction(m.train(), X), GraphError, "training mode"),
        (lambda m: ft.sensitive_direction(nn.Linear(3, 1).double().eval(), X), ShapeError, "one logit"),
        (lambda m: ft.spectral_attack(Wrong().eval(), X, 9.0), NonFiniteError, "input 0: its logits"),
    ],
)
def test_what_makes_no_sense_is_refused(call, error, words):
    with pytest.raises(error, match=words):
        call(nn.Linear(3, 2).double().eval())


def test_nothing_is_attacked_by_wrong_derivatives(monkeypatch):
    def refuse(operator):
        raise AdjointTestError("wrong")

    monkeypatch.setattr(directions.FisherOperator, "adjoint_test", refuse)
    for call in (lambda: ft.sensitive_direction(*smooth()), lambda: ft.spectral_attack(*smooth(), 0.1)):
        with pytest.raises(AdjointTestError):
            call()


# ---- plots and the command line ---------------------------------------------------------------------------------


def images(channels, height=5, width=9, count=10):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(channels * height * width, 4)).eval()
    x = torch.rand(count, channels, height, width)
    return x, ft.spectral_attack(module, x, 0.4)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("count", [1, 10])
def test_a_plot_holds_each_image_its_direction_and_its_move(channels, count, tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    figures = []
    own = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (figures.append(self), own(self, *a, **k))[1])
    x, attack = images(channels, count=count)
    plot_directions(x, attack, tmp_path / "made.png")
    shown = min(count, 8)
    pictures = [axes for axes in figures[0].axes if axes.images]
    drawn = [axes.images[0].get_array() for axes in pictures]
    assert len(drawn) == (2 + channels) * shown
    vectors = attack.directions.vector * attack.sign.view(-1, 1, 1, 1)
    largest = vectors[:shown].abs().max().item()
    low, high = min(0, attack.x[:shown].min().item()), max(1, attack.x[:shown].max().item())
    for k in range(shown):
        column = drawn[k::shown]
        for got, image in ((column[0], x[k]), (column[-1], attack.x[k])):
            expected = ((image - low) / (high - low)).movedim(0, -1).squeeze(-1)
            torch.testing.assert_close(torch.as_tensor(got.data), expected.double(), rtol=1e-5, atol=1e-6)
        for channel in range(channels):
            torch.testing.assert_close(torch.as_tensor(column[1 + channel].data), vectors[k, channel])
            assert pictures[(1 + channel) * shown + k].images[0].get_clim() == (-largest, largest)
        assert f"input {k}" in pictures[k].get_title()
        assert f"predicted {attack.before[k]}" in pictures[k].get_title()
        label = pictures[(1 + channels) * shown + k].xaxis.label
        assert label.get_text() == f"predicted {attack.after[k]}" + "\n(changed)" * bool(attack.changed[k])
        assert (label.get_fontweight() == "bold") == bool(attack.changed[k])
    bars = {axes.get_ylabel(): axes.get_ylim() for axes in figures[0].axes if axes.get_label() == "<colorbar>"}
    assert bars["change in a move\nof length 1"] == (-largest, largest)
    if channels == 1:
        assert bars["value"] == pytest.approx((low, high))
    else:
        assert f"black {low:.2g},\nwhite {high:.2g}" in pictures[0].get_ylabel()
    with Image.open(tmp_path / "made.png") as opened:
        assert opened.size[0] > 150 * shown


def test_a_plot_is_the_same_file_again_and_takes_images_only(tmp_path):
    x, attack = images(1)
    for name in ("one.svg", "two.svg"):
        plot_directions(x, attack, tmp_path / name)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    with pytest.raises(DataError, match="give the same ones"):
        plot_directions(x[:3], attack, tmp_path / "other.svg")
    module, vectors = smooth()
    with pytest.raises(DataError, match=r"shape \(6,\) cannot be drawn"):
        plot_directions(vectors, ft.spectral_attack(module, vectors, 0.1), tmp_path / "other.svg")
    with pytest.raises(DataError, match=r"\.svg or \.png"):
        plot_directions(x, attack, tmp_path / "other.pdf")
    assert not list(tmp_path.glob("other*"))


def test_the_command_says_what_the_functions_say(tmp_path, monkeypatch, capsys):
    plot = tmp_path / "made.svg"
    options = ("directions", "zoo:digits_mlp", "--eps", 0.5, "--box", "0,1", "--n", 5)
    status, out, err = command(monkeypatch, capsys, *options, "--plot", plot, "--json")
    assert (status, err) == (0, "")
    made = json.loads(out)
    data = load_data("digits:test", (1, 8, 8), n=5)
    attack = ft.spectral_attack(zoo.load("digits_mlp"), data.inputs, 0.5, box=(0, 1))
    assert made["lam"] == attack.directions.lam.tolist()
    assert made["gap"] == attack.directions.gap.tolist()
    assert made["attack"]["kl"] == attack.kl.tolist()
    assert made["attack"]["after"] == attack.after.tolist()
    assert (made["attack"]["status"], made["eps"], made["data"]) == ("lower", 0.5, "5 of digits:test")
    assert made["source_index"] == data.indices.tolist()
    assert plot.read_text().startswith("<?xml")
    status, out, err = command(monkeypatch, capsys, *options)
    assert (status, err) == (0, "")
    assert f"{int(attack.changed.sum())} of 5 predictions changed" in out
    rows = [line.split() for line in out.splitlines() if line.strip()[:1].isdigit()][:5]
    assert [row[:3] for row in rows] == [
        [str(k), str(index), str(before)]
        for k, (index, before) in enumerate(zip(data.indices.tolist(), attack.before.tolist(), strict=True))
    ]
    assert max(map(len, out.splitlines())) <= 80
    assert "…" not in out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("zoo:digits_mlp",), "--eps"),
        (("zoo:digits_mlp", "--eps", -1), "eps is -1"),
        (("zoo:digits_mlp", "--eps", 1, "--box", "1,0"), "--box 1,0: expected two numbers"),
        (("zoo:digits_mlp", "--eps", 1, "--box", "a"), "--box a"),
        (("zoo:digits_mlp", "--eps", 1, "--box", "0,nan"), "--box 0,nan"),
        (("zoo:digits_mlp", "--eps", 1, "--box", "0,0.5"), "outside the box"),
        (("zoo:digits_mlp", "--eps", 1, "--plot", "made.pdf"), ".svg or .png"),
        (("ResNet", "--eps", 1), "symbolic"),
    ],
)
def test_the_command_refuses_what_makes_no_sense(options, words, monkeypatch, capsys):
    status, out, err = command(monkeypatch, capsys, "directions", *options)
    assert (status, out) == (2, "")
    assert len(err.strip().splitlines()) == 1
    assert words in err


def test_a_box_is_two_numbers():
    assert parse_box(None) is None
    assert parse_box("-inf,1e3") == (-math.inf, 1000.0)
