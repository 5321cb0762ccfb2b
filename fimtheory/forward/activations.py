"""Elementwise functions, and softmax, in torch."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from fimtheory import layers
from fimtheory.claims import Quantity
from fimtheory.forward.base import Forward, in_torch
from fimtheory.registry import Site, rule


def _without_tensors(apply: Callable[[Tensor], Tensor]) -> Callable[[Site], Forward]:
    """Return the rule of a layer that has neither tensors nor numbers of its own."""
    return lambda site: lambda tensors, x: apply(x)


def _same(x: Tensor) -> Tensor:
    return x


def _hardsigmoid(x: Tensor) -> Tensor:
    """Hard sigmoid of slope 1/6; in float64 F.hardsigmoid has 1/6 rounded to float32, and no second derivative."""
    return (x / 6 + 0.5).clamp(0, 1)


def _log_sigmoid(x: Tensor) -> Tensor:
    return -torch.logaddexp(-x, torch.zeros_like(x))


def _quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


for _kind, _map in (
    (layers.ReLU, F.relu),
    (layers.ReLU6, F.relu6),
    (layers.SELU, F.selu),
    (layers.GELU, F.gelu),
    (layers.GELUTanh, functools.partial(F.gelu, approximate="tanh")),
    (layers.SiLU, F.silu),
    (layers.Mish, F.mish),
    (layers.Tanh, torch.tanh),
    (layers.Sigmoid, torch.sigmoid),
    (layers.Hardsigmoid, _hardsigmoid),
    (layers.Hardswish, F.hardswish),
    (layers.Softsign, F.softsign),
    (layers.Tanhshrink, F.tanhshrink),
    (layers.LogSigmoid, _log_sigmoid),
    (layers.Abs, torch.abs),
    (layers.Sin, torch.sin),
    (layers.Cos, torch.cos),
    (layers.Erf, torch.erf),
    (layers.Atan, torch.atan),
    (layers.QuickGELU, _quick_gelu),
    (layers.Identity, _same),
    (layers.Dropout, _same),
):
    rule(_kind, quantity=Quantity.FORWARD, reference=in_torch(f"nn.{_kind.__name__}"))(_without_tensors(_map))


@rule(layers.PReLU, quantity=Quantity.FORWARD, reference=in_torch("nn.functional.prelu"))
def _prelu(site: Site) -> Forward:
    return lambda tensors, x: F.prelu(x, tensors["weight"])


@rule(layers.LeakyReLU, quantity=Quantity.FORWARD, reference=in_torch("nn.functional.leaky_relu"))
def _leaky_relu(site: Site) -> Forward:
    slope = site.layer.negative_slope
    return lambda tensors, x: F.leaky_relu(x, slope)


@rule(layers.ELU, quantity=Quantity.FORWARD, reference=in_torch("nn.functional.elu"))
def _elu(site: Site) -> Forward:
    alpha = site.layer.alpha
    return lambda tensors, x: F.elu(x, alpha)


@rule(layers.CELU, quantity=Quantity.FORWARD, reference=in_torch("nn.functional.celu"))
def _celu(site: Site) -> Forward:
    alpha = site.layer.alpha
    # F.celu has 1 / alpha rounded to float32 in its derivative, in float64 too
    return lambda tensors, x: alpha * F.elu(x / alpha)


@rule(layers.Softplus, quantity=Quantity.FORWARD, reference=in_torch("nn.functional.softplus"))
def _softplus(site: Site) -> Forward:
    beta = site.layer.beta
    # F.softplus jumps by 2e-9 where it turns linear, so it has no Lipschitz constant; this one has
    return lambda tensors, x: torch.logaddexp(beta * x, torch.zeros_like(x)) / beta


@rule(layers.Hardtanh, quantity=Quantity.FORWARD, reference=in_torch("nn.functional.hardtanh"))
def _hardtanh(site: Site) -> Forward:
    low, high = site.layer.minimum, site.layer.maximum
    return lambda tensors, x: F.hardtanh(x, low, high)


@rule(layers.Clamp, quantity=Quantity.FORWARD, reference=in_torch("aten.clamp"))
def _clamp(site: Site) -> Forward:
    low, high = site.layer.minimum, site.layer.maximum
    return lambda tensors, x: x.clamp(low, high)


@rule(layers.Threshold, quantity=Quantity.FORWARD, reference=in_torch("nn.functional.threshold"))
def _threshold(site: Site) -> Forward:
    threshold, value = site.layer.threshold, site.layer.value
    return lambda tensors, x: F.threshold(x, threshold, value)


@rule(layers.Softshrink, quantity=Quantity.FORWARD, reference=in_torch("nn.functional.softshrink"))
def _softshrink(site: Site) -> Forward:
    threshold = site.layer.threshold
    return lambda tensors, x: F.softshrink(x, threshold)


@rule(layers.Softmax, quantity=Quantity.FORWARD, reference=in_torch("softmax"))
def _softmax(site: Site) -> Forward:
    temperature = site.layer.temperature
    return lambda tensors, x: (x / temperature).softmax(-1)


@rule(layers.SoftmaxOver, quantity=Quantity.FORWARD, reference=in_torch("softmax"))
def _softmax_over(site: Site) -> Forward:
    dim = site.layer.dim + 1
    return lambda tensors, x: x.softmax(dim)


@rule(layers.LogSoftmax, quantity=Quantity.FORWARD, reference=in_torch("log_softmax"))
def _log_softmax(site: Site) -> Forward:
    dim = site.layer.dim + 1
    return lambda tensors, x: x.log_softmax(dim)
