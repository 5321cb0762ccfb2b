"""Ranges of pooling and of reductions over dimensions."""

from __future__ import annotations

from flint import arb

from fimtheory import layers
from fimtheory.balls import ball
from fimtheory.ranges.base import Flow, Range, ranged, root, size_of

__all__: list[str] = []


def _averaged(flow: Flow, x: Range) -> Range:
    """No output exceeds the entries that it is a mean or a maximum of; f(0) = 0, so the whole grows by the gain."""
    return Range.of(flow.output, entry=x.entry, norm=flow.gain() * x.norm)


for _kind in (
    layers.MaxPool1d, layers.MaxPool2d, layers.MaxPool3d, layers.AdaptiveMaxPool1d, layers.AdaptiveMaxPool2d,
    layers.AdaptiveMaxPool3d, layers.AdaptiveAvgPool1d, layers.AdaptiveAvgPool2d, layers.AdaptiveAvgPool3d,
    layers.Mean, layers.Amax,
):  # fmt: skip
    ranged(_kind)(_averaged)


@ranged(layers.AvgPool1d)
@ranged(layers.AvgPool2d)
@ranged(layers.AvgPool3d)
def _average_pool(flow: Flow, x: Range) -> Range:
    """A mean, or with a divisor so many times as much as the window has entries for one of the divisor's."""
    divisor = flow.layer.divisor
    entry = x.entry if divisor is None else x.entry * size_of(flow.layer.kernel) / divisor
    return Range.of(flow.output, entry=entry, norm=flow.gain() * x.norm)


@ranged(layers.LpPool2d)
def _lp_pool(flow: Flow, x: Range) -> Range:
    """The p-th root of k times a mean of p-th powers, k the size of the window."""
    largest = ball(size_of(flow.layer.kernel)).root(flow.layer.norm_type)
    return Range.of(flow.output, entry=largest * x.entry, norm=flow.gain() * x.norm)


def _reduced(flow: Flow) -> int:
    """Return how many entries are reduced to one."""
    return size_of(flow.inputs[0]) // size_of(flow.output)


@ranged(layers.Sum)
def _sum(flow: Flow, x: Range) -> Range:
    return Range.of(flow.output, entry=_reduced(flow) * x.entry, norm=flow.gain() * x.norm)


@ranged(layers.LogSumExp)
def _log_sum_exp(flow: Flow, x: Range) -> Range:
    """At most the largest entry plus log n, with f(0) = log n and gain 1."""
    return _with_value_at_zero(flow, x, x.entry, ball(_reduced(flow)).log())


@ranged(layers.LogSoftmax)
def _log_softmax(flow: Flow, x: Range) -> Range:
    """Entries are differences of an entry and a log-sum-exp, and f(0) = -log n."""
    return _with_value_at_zero(flow, x, 2 * x.entry, ball(int(flow.output[flow.layer.dim])).log())


def _with_value_at_zero(flow: Flow, x: Range, entry: arb, at_zero: arb) -> Range:
    return Range.of(
        flow.output, entry=entry + at_zero, norm=flow.gain() * x.norm + root(size_of(flow.output)) * at_zero
    )
