"""What cannot be imported: one clear error, and differences between a graph and its module are found."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from source_modules import Apply, responses, trained
from torch import nn

import fimtheory as ft
from fimtheory import layers
from fimtheory.errors import SourceError
from fimtheory.sources.operations import registry

EXAMPLE = torch.linspace(-1, 1, 6)[None]


def refused(function, example=EXAMPLE, match=None, **more):
    module = function if isinstance(function, nn.Module) else Apply(function)
    with pytest.raises(SourceError, match=match) as caught:
        ft.from_torch(module.eval(), example, **more)
    assert "\n" not in str(caught.value)
    return str(caught.value)


class Branches(nn.Module):
    def forward(self, x):
        return x * 2 if x.sum() > 0 else x


class Counts(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return x * 2


class Drops(nn.Module):
    def forward(self, x):
        return F.dropout(x, 0.5, training=True)


# ---- the call ---------------------------------------------------------------------------------------------------


def test_what_is_not_a_module_is_refused():
    with pytest.raises(SourceError, match=r"takes a torch.nn.Module, got a function"):
        ft.from_torch(lambda x: x, EXAMPLE)


def test_training_mode_is_refused_wherever_it_is():
    module = nn.Sequential(nn.Linear(6, 2), nn.Sequential(nn.Dropout(), nn.ReLU())).eval()
    module[1][0].train()
    with pytest.raises(SourceError, match=r"^1\.0 is in training mode; call module.eval\(\) first"):
        ft.from_torch(module, EXAMPLE)


@pytest.mark.parametrize(
    ("example", "message"),
    [
        (None, "needs an example input"),
        ((), "needs an example input"),
        ({}, "needs an example input"),
        (torch.tensor(1.0), "no batch dimension"),
        (torch.zeros(0, 6), "no batch dimension"),
        (torch.zeros(1, 5), "fails on the example input"),
        (torch.zeros(1, 6, dtype=torch.complex64), "which argument is the input"),
        (torch.zeros(1, 6, dtype=torch.int64), "which argument is the input"),
    ],
)
def test_an_example_that_is_no_batch_of_real_inputs_is_refused(example, message):
    refused(nn.Linear(6, 2), example, message)


def test_numbers_without_a_derivative_are_refused():
    refused(nn.Sequential(nn.Flatten()), torch.arange(6)[None], "no derivative, and 0 embeddings", input="input")
    refused(nn.Sequential(nn.Flatten()), torch.zeros(1, 6, dtype=torch.complex64), "is complex", input="input")


# ---- the module -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Branches(), "control flow that depends on the data"),
        (Counts(), "changes its own state"),
        (Drops(), "dropout"),
        (Apply(lambda x: torch.ones(2, 3)), "does not depend on the input"),
        (Apply(lambda x: x), "the output is the input"),
        (Apply(lambda x: x.reshape(2, 3, 2, 1).sum(3).mT), r"expected logits \(batch, classes\)"),
        (Apply(lambda x: x.reshape(-1, 3) * 2), r"expected logits \(batch, classes\)"),
        (Apply(lambda x: x.sum(1)), r"expected logits \(batch, classes\)"),
        (Apply(lambda x: x.sum()), "aten.sum"),
    ],
)
def test_a_module_that_is_no_classifier_is_refused(module, message):
    refused(module, match=message)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x - x.mean(0), "aten.mean.dim .* acts across the inputs"),
        (lambda x: x - x.mean(), "aten.mean.default .* reduces over the batch"),
        (lambda x: x.flip(0), "aten.flip"),
        (lambda x: x.roll(1), "rolls the flattened batch"),
        (lambda x: x.roll(1, 0), "acts across the inputs"),
        (lambda x: F.softmax(x, 0), "acts across the inputs"),
        (lambda x: x[:1] + x, "aten.slice"),
        (lambda x: x[0].expand(2, -1), "aten.select"),
        (lambda x: x[[1, 0]], "aten.index"),
        (lambda x: x.index_select(0, torch.tensor([1, 0])), "aten.index_select"),
        (lambda x: torch.cat([x, x])[1:3], "the batch is lost"),
        (lambda x: torch.stack([x, x], 0).sum(1), "acts across the inputs"),
        (lambda x: x.mT.reshape(4, 3).mT.reshape(3, 4).T.flatten(1)[:2], "mixes the inputs|across the inputs"),
        (lambda x: F.linear(x.mT, torch.ones(2, 2).to(x)).mT, "across the inputs"),
        (lambda x: x + torch.arange(2.0).reshape(2, 1).to(x), "differs between the inputs"),
        (lambda x: x.repeat(2, 1)[:2], "repeats the inputs"),
        (lambda x: F.batch_norm(x, None, None, training=True), "aten._native_batch_norm_legit.no_stats"),
        (lambda x: F.layer_norm(x, x.shape), "layer norm over the batch"),
        (lambda x: x @ x.mT @ x, "across the inputs"),
        (lambda x: F.scaled_dot_product_attention(x, x, x), "across the inputs"),
        (lambda x: F.unfold(x.reshape(-1, 2, 3), 2), r"im2col.* windows of a value of shape \(2, 2, 3\)"),
        (
            lambda x: F.unfold(x.reshape(-1, 1, 1, 3), (1, 2)),
            r"\(2, 1, 1, 3\) of which are one input's; expected \(batch,",
        ),
        (lambda x: F.unfold(x.reshape(-1, 1, 2, 3).transpose(0, 1), 2), r"shape \(1, 2, 2, 3\), \(1, 2, 3\) of which"),
        (lambda x: F.fold(x, (4, 2), (2, 1)), r"col2im.* windows of a value of shape \(2, 6\)"),
        (
            lambda x: F.fold(x.reshape(-1, 2, 3).transpose(0, 1), (4, 1), (2, 1)),
            r"shape \(2, 2, 3\), \(2, 3\) of which",
        ),
        (lambda x: F.adaptive_max_pool1d(x, 2), r"pools a value of shape \(2, 6\) to \(2,\); expected a batch"),
        (lambda x: responses(x.reshape(-1, 2, 3), 2, 0), "acts across the inputs"),
        (lambda x: responses(x.reshape(-1, 2, 3), (0, 2), 1), "acts across the inputs"),
    ],
)
def test_values_that_mix_the_inputs_of_a_batch_are_refused(function, message):
    assert "cannot be imported" in refused(function, match=message)


# ---- operations -------------------------------------------------------------------------------------------------


class Unknown(nn.Module):
    """Four operations without a layer, one of them twice; what follows them is not reported."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(6, 6), Apply(torch.exp), nn.ReLU())

    def forward(self, x):
        return self.inner(x) + torch.exp(x).cumsum(1) + torch.fft.fft(x).real + x / (1 + x.abs().amax(1, keepdim=True))


def test_all_operations_that_cannot_be_read_are_listed_in_one_error():
    message = refused(Unknown())
    assert message.startswith("Unknown: 6 operations cannot be imported")
    assert "aten.exp.default at exp (module 'inner.1', inputs [(2, 6)]) and 1 more" in message
    assert "aten.div.Tensor" in message
    assert "divides by a value that depends on the input" in message
    assert "fft" in message
    assert "cumsum" in message
    assert "relu" not in message
    assert "registry.reads" in message


def _almost(x, factor, order=2, channels=1, other=None):
    """Return a value times a factor of norms g and their mean m; ``other`` may give the value other entries."""
    x = x.reshape(-1, 2, 3)
    g = torch.linalg.vector_norm(x, order, dim=2, keepdim=True)
    value = x if other is None else other(x)
    return value * factor(g, g.mean(channels, keepdim=True))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x * x.sum(1, keepdim=True).exp(), "aten.exp"),
        (lambda x: F.linear(x, torch.ones(6, 6).to(x) * x[0, 0]), "acts across"),
        (lambda x: F.conv1d(x[:, None], torch.ones(1, 1, 2).to(x) * x.sum()), "aten.sum"),
        (lambda x: torch.where(x > 0, x, 2 * x), "aten.gt"),
        (lambda x: x.to(torch.int64).to(x.dtype), "which has no derivative"),
        (lambda x: x.gather(1, x.argsort(1)), "aten.argsort"),
        (lambda x: torch.cat([x, torch.ones(2, 1).to(x), 2 * x], 1), "joins constants between"),
        (lambda x: torch.einsum("bi,bi->b", x, x)[:, None].expand(-1, 2), "is not a matrix product"),
        (lambda x: x**5, "the power 5"),
        (lambda x: x * torch.tanh(F.softplus(x, threshold=1.0)), "with threshold 1.0 jumps"),
        (lambda x: torch.exp(-F.softplus(-x, threshold=-0.5)), "with threshold -0.5 jumps"),
        (lambda x: (x / 0.0).sigmoid(), "divides by zero"),
        (lambda x: 1 / (5 * x + 7) + x / (5 * x + 7) ** 2, "divides by a value that depends"),
        (lambda x: x @ torch.ones(6, 6, dtype=torch.float32), "fails on the example input|fails in float64"),
        (lambda x: F.hardshrink(x), "aten.le"),
        (lambda x: F.threshold(x, 0.5, 1.0), "jumps at its threshold"),
        (lambda x: F.lp_pool1d(x[:, None], 3, 2).flatten(1), "other powers of negative numbers"),
        (lambda x: x**0.5, "the power 0.5"),
        (lambda x: x.masked_fill(torch.eye(6)[0] > 0, -torch.inf), "fills with infinity"),
        (
            lambda x: F.max_pool2d(F.pad(x[:, None, None], (3, 0), value=-torch.inf), (1, 4)),
            "no padding of a max pooling",
        ),
        (lambda x: x.reciprocal(), "aten.reciprocal"),
        (lambda x: x.sqrt(), "aten.sqrt"),
        (lambda x: torch.addcmul(x[:, None].expand(-1, 3, -1), x[:, None], x[:, None]), "to a larger value"),
        (lambda x: _almost(x, lambda g, m: g / m), "aten.linalg_vector_norm"),
        (lambda x: _almost(x, lambda g, m: g / torch.add(m, 0.1, alpha=2)), "aten.linalg_vector_norm"),
        (lambda x: _almost(x, lambda g, m: g / (m + g)), "aten.linalg_vector_norm"),
        (lambda x: _almost(x, lambda g, m: g.sin() / (m + 0.1)), "aten.linalg_vector_norm"),
        (lambda x: _almost(x, lambda g, m: g / (m.sin() + 0.1)), "aten.linalg_vector_norm"),
        (lambda x: _almost(x, lambda g, m: g / (g.abs().mean(1, keepdim=True) + 0.1)), "aten.linalg_vector_norm"),
        (lambda x: _almost(x, lambda g, m: g / (g.mean(1) + 0.1)), "aten.linalg_vector_norm"),
        (lambda x: _almost(x, lambda g, m: g / (m + 0.1), order=1), "aten.linalg_vector_norm"),
        (lambda x: _almost(x, lambda g, m: g / (m + 0.1), order=3), "aten.linalg_vector_norm"),
        (lambda x: _almost(x, lambda g, m: g / (m + 0.1), channels=(1, 2)), "aten.linalg_vector_norm"),
        (lambda x: _almost(x, lambda g, m: g / (m + 0.1), other=torch.sin), "aten.linalg_vector_norm"),
    ],
)
def test_an_operation_without_a_layer_is_named(function, message):
    """The last of them are almost global response normalisations."""
    refused(function, match=message)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: 3 * x if x.shape[0] == 1 else 2 * x,
        lambda x: x / x.shape[0],
        lambda x: x * (4 // x.shape[0]),
        lambda x: 2 * x[:, None].squeeze(),
        lambda x: 3 * x if x.shape[0] < 3 else 2 * x,
    ],
)
def test_a_function_that_depends_on_the_size_of_the_batch_is_refused(function):
    """The program is exported for a batch of two, and nothing in it shows what was computed from that number."""
    refused(function, match="may not depend on that size|fails")


# ---- the comparison ---------------------------------------------------------------------------------------------


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(2, 3, 3, stride=1, padding=1), nn.BatchNorm2d(3), nn.Linear(48, 3)

    def forward(self, x):
        return self.head(torch.relu(self.norm(self.conv(x))).flatten(1))


IMAGE = torch.randn(1, 2, 4, 4, generator=torch.Generator().manual_seed(0))


def with_reader(monkeypatch, target, make):
    """Replace the reader of an operation by one that changes its call."""
    own = registry._READERS[target]
    monkeypatch.setitem(registry._READERS, target, lambda g, call: own(g, make(call)))


def changed(**values):
    def change(call):
        for name, value in values.items():
            setattr(call, name, value(getattr(call, name)))
        return call

    return change


aten = torch.ops.aten

LINEAR, CONVOLUTION, NORM = aten.linear.default, aten.conv2d.default, aten._native_batch_norm_legit_no_training.default
BUGS = {
    "columns in another order": (LINEAR, changed(weight=lambda w: w.flip(1)), "head"),
    "no bias": (LINEAR, changed(bias=torch.zeros_like), "head"),
    "kernel flipped": (CONVOLUTION, changed(weight=lambda w: w.flip(-1)), "conv"),
    "kernel transposed": (CONVOLUTION, changed(weight=lambda w: w.mT.contiguous()), "conv"),
    "twice the epsilon": (NORM, changed(eps=lambda e: 2 * e), "norm"),
    "no shift": (NORM, changed(bias=lambda b: None), "norm"),
    "mean moved": (NORM, changed(running_mean=lambda m: m + 1e-6), "norm"),
}


@pytest.mark.parametrize("bug", BUGS)
def test_a_reader_that_is_wrong_is_found_and_the_node_named(bug, monkeypatch):
    target, make, node = BUGS[bug]
    with_reader(monkeypatch, target, make)
    with pytest.raises(SourceError, match=rf"^node {node} \({target}\): its values differ from the model's"):
        ft.from_torch(trained(Net()), IMAGE)


def test_a_product_across_the_batch_is_found_where_the_sizes_happen_to_fit():
    with pytest.raises(SourceError):
        ft.from_torch(Apply(lambda x: F.linear(x.mT, torch.ones(2, 2).to(x)).mT).eval(), torch.ones(1, 2))


def test_a_layer_of_the_wrong_kind_is_found_though_the_logits_are_constant(monkeypatch):
    monkeypatch.setitem(registry._READERS, aten.relu.default, lambda g, call: g.add(layers.LeakyReLU(1e-6), call.input))
    module = trained(Net())
    nn.init.zeros_(module.head.weight)
    with pytest.raises(SourceError, match=r"aten.relu.default\): its values differ"):
        ft.from_torch(module, IMAGE)


def test_a_reader_that_gives_another_shape_is_found(monkeypatch):
    with_reader(monkeypatch, aten.conv2d.default, changed(padding=lambda p: [0, 0]))
    with pytest.raises(ft.FimTheoryError):
        ft.from_torch(trained(Net()), IMAGE)
