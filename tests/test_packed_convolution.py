"""Packed convolutions against torch's own in float64, and what they are part of."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F  # noqa: N812

from fimtheory.estimators import estimate
from fimtheory.fisher.linearisation import Linearisation
from fimtheory.fisher.packed_convolution import PackedConvolutions


def test_what_ends_the_process_in_onednn_is_left_to_torch():
    """Strides and gaps together (torch 2.13, a segmentation fault)."""
    x, weight = torch.randn(1, 2, 3, 1), torch.randn(1, 2, 2, 1)
    assert PackedConvolutions().find(x, weight, [2, 2], [2, 3], [2, 2], 1) is None
    module = nn.Sequential(nn.Conv2d(2, 4, (2, 1), 2, (1, 0), (2, 1)), nn.Flatten(), nn.Linear(8, 3)).eval()
    estimate(module, x, "exact")


def size_of_errors(x, weight):
    return 1e-5 * float(x.abs().max() * weight.abs().max()) * weight[0].numel()


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_maps_and_transposes_of_every_shape(data):
    pair = lambda *choices: [data.draw(st.sampled_from(choices)) for _ in range(2)]  # noqa: E731
    kernel, padding = pair(1, 2, 3, 4, 7), pair(0, 1, 2, 3)
    stride = data.draw(st.sampled_from([[1, 1], [2, 2], [3, 3], [4, 4], [1, 2], [3, 1]]))
    dilation = data.draw(st.sampled_from([[1, 1]] * 8 + [[2, 2], [1, 2]]))
    groups, into, out = (data.draw(st.integers(1, 3)) for _ in range(3))
    least = [d * (k - 1) + 1 - 2 * p for d, k, p in zip(dilation, kernel, padding, strict=True)]
    sides = [max(1, each) + data.draw(st.integers(0, 5)) for each in least]
    torch.manual_seed(data.draw(st.integers(0, 10**6)))
    scale = data.draw(st.sampled_from([1.0, 1e-30, 1e15]))
    weight = scale * torch.randn(out * groups, into, *kernel)
    x = torch.randn(data.draw(st.integers(1, 3)), into * groups, *sides)
    if data.draw(st.booleans()):
        x = x.contiguous(memory_format=torch.channels_last)
    biases = (None, torch.randn(out * groups), torch.randn(2 * out * groups)[::2], torch.randn(1).expand(out * groups))
    bias = biases[data.draw(st.integers(0, 3))]

    packed = PackedConvolutions().find(x, weight, stride, padding, dilation, groups)
    if dilation != [1, 1] or any(pad >= size for pad, size in zip(padding, kernel, strict=True)):
        assert packed is None
        return
    assert packed is not None
    leaf = x.double().requires_grad_()
    image = F.conv2d(leaf, weight.double(), None, stride, padding, dilation, groups)
    expected = image if bias is None else image + bias.double().view(-1, 1, 1)
    found = packed(x, bias)
    assert (found - expected).abs().max() <= size_of_errors(x, weight) + 1e-5
    assert not x.is_contiguous() or found.is_contiguous()

    y = torch.randn(image.shape)
    if packed.transpose is not None:
        back = torch.autograd.grad(image, leaf, y.double())[0]
        assert (packed.transpose(y, x.shape[2:]) - back).abs().max() <= out * size_of_errors(y, weight) + 1e-5 * scale
    else:
        assert stride != [1, 1]


def test_other_arrays_are_left_to_torch(monkeypatch):
    image, weight = torch.randn(1, 2, 5, 5), torch.randn(3, 2, 3, 3)
    options = ([1, 1], [0, 0], [1, 1], 1)
    assert PackedConvolutions().find(image, weight, *options) is not None
    assert PackedConvolutions().find(image.double(), weight.double(), *options) is None
    assert PackedConvolutions().find(image.to("meta"), weight.to("meta"), *options) is None
    assert PackedConvolutions().find(image[:0], weight, *options) is None
    assert PackedConvolutions().find(image[0], weight[0], *options) is None
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert PackedConvolutions().find(image, weight, *options) is None


class Views(nn.Module):
    """Convolutions of several strides, and a view that only the usual layout allows."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 7, 2, 3), nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.third, self.head = nn.Conv2d(8, 6, 3, 2, 1), nn.Linear(6 * 9, 5)

    def forward(self, x):
        x = torch.relu(self.second(torch.relu(self.first(x))))
        return self.head(torch.tanh(self.third(x)).view(len(x), -1))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_networks_in_float32(layout):
    torch.manual_seed(3)
    module = Views().eval()
    x = torch.randn(4, 3, 12, 12)
    if layout is torch.channels_last:
        module.forward = lambda x: module.head(
            torch.tanh(module.third(torch.relu(module.second(torch.relu(module.first(x)))))).flatten(1)
        )
        x = x.contiguous(memory_format=layout)
    u, v = torch.randn(4, 5), torch.randn_like(x)
    linear = Linearisation(module, x)
    found = linear.logits, linear.pull_back(u), linear.pull_back(2 * u), linear.push_forward(v), linear.push_forward(v)
    values = estimate(module, x, "lanczos").value
    module.double()
    linear = Linearisation(module, x.double())
    expected = linear.logits, linear.pull_back(u.double()), linear.push_forward(v.double())
    for one, other in zip(found, (expected[0], expected[1], 2 * expected[1], expected[2], expected[2]), strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(values, estimate(module, x.double(), "exact").value, rtol=1e-4, atol=0)


def test_weights_overwritten_after_the_pass_are_refused():
    module = Views().eval()
    linear = Linearisation(module, torch.randn(2, 3, 12, 12))
    linear.pull_back(torch.randn(2, 5))
    with torch.no_grad():
        module.second.weight.mul_(2)
    with pytest.raises(Exception, match="modified"):
        linear.pull_back(torch.randn(2, 5))
