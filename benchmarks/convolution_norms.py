"""Certified and true norms of the convolutions of ResNet-18 at 224x224, with random weights from seed 0.

The certified norm is that of ``fimtheory.norms.convolution`` on the plain kernel.  The true one is a power iteration
in float64 on the zero-padded operator and its adjoint, until its relative change is 1e-10: a lower bound, and slow
(half an hour).  Everything runs on one thread, so that CPU seconds count work: on a shared machine the threads of one
matrix product spin while they wait for each other, which can cost several times the work itself (unless the environment
says OMP_WAIT_POLICY=passive).

Run: python benchmarks/convolution_norms.py
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import torch
from coverage_models import torchvision_module
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn
from torch.nn.functional import conv2d, conv_transpose2d

from fimtheory import norms

CHANGE = 1e-10


class Layer(NamedTuple):
    """A convolution of the network and the size of its input image."""

    name: str
    module: nn.Conv2d
    size: tuple[int, ...]


class Row(NamedTuple):
    """The certified norm of one layer and what it cost."""

    norm: norms.CertifiedNorm
    cpu: float
    wall: float


def convolutions(model: nn.Module, image: Tensor) -> list[Layer]:
    """Return the convolutions of a network in the order in which they are applied to an image."""
    layers: list[Layer] = []

    def record(name: str, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(module, nn.Conv2d)
        layers.append(Layer(name, module, tuple(inputs[0].shape[2:])))

    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_pre_hook(partial(record, name))
    with torch.no_grad():
        model(image)
    return layers


def certified(layer: Layer) -> Row:
    """Certify the norm of a layer, with the time of this process on its processors and on the clock."""
    module = layer.module
    wall, cpu = time.perf_counter(), time.process_time()
    norm = norms.convolution(
        module.weight,
        layer.size,
        stride=pair(module.stride),
        padding=pair(module.padding),
        dilation=pair(module.dilation),
        groups=module.groups,
    )
    return Row(norm, time.process_time() - cpu, time.perf_counter() - wall)


def pair(sizes: tuple[int, ...] | str) -> tuple[int, ...]:
    """Refuse paddings given by name."""
    assert not isinstance(sizes, str), "the networks of this table pad by numbers"
    return sizes


def power_iteration(layer: Layer) -> Iterator[float]:
    """Yield ever larger lower bounds on the norm of the zero-padded operator, in float64."""
    module, height_width = layer.module, layer.size
    kernel = module.weight.detach().double()
    stride, padding, dilation = pair(module.stride), pair(module.padding), pair(module.dilation)
    more = {"stride": stride, "padding": padding, "dilation": dilation, "groups": module.groups}
    x = torch.randn(1, module.in_channels, *height_width, dtype=torch.float64)
    while True:
        y = conv2d(x / x.norm(), kernel, **more)
        yield float(y.norm())
        each = zip(height_width, y.shape[2:], kernel.shape[2:], stride, padding, dilation, strict=True)
        unread = [n - ((m - 1) * s - 2 * p + d * (k - 1) + 1) for n, m, k, s, p, d in each]
        x = conv_transpose2d(y, kernel, output_padding=unread, **more)


def true_norm(layer: Layer) -> float:
    """Iterate until the norm settles."""
    previous = 0.0
    for norm in power_iteration(layer):
        if norm - previous <= CHANGE * norm:
            return norm
        previous = norm
    raise AssertionError("a power iteration does not end by itself")


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    layers = convolutions(torchvision_module("resnet18").eval(), torch.randn(1, 3, 224, 224))
    rows = [certified(layer) for layer in layers]
    truths = [true_norm(layer) for layer in track(layers, "power iteration")]
    table = Table("layer", "certified", "true", "ratio", "method", "CPU s", "wall s")
    for layer, row, truth in zip(layers, rows, truths, strict=True):
        ratio, times = f"{row.norm.upper / truth:.4f}", (f"{row.cpu:.2f}", f"{row.wall:.2f}")
        table.add_row(layer.name, f"{row.norm.upper:.5f}", f"{truth:.5f}", ratio, row.norm.method, *times)
    product = math.prod(row.norm.upper / truth for row, truth in zip(rows, truths, strict=True))
    cpu, wall = sum(row.cpu for row in rows), sum(row.wall for row in rows)
    table.add_section()
    table.add_row("product, total", "", "", f"{product:.4f}", "", f"{cpu:.1f}", f"{wall:.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()
