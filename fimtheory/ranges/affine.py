"""Ranges of affine maps: a weight, perhaps with a batch norm folded into it, a factor, or a mean.

An entry of ``A x + c`` is at most ``||A||_inf max |x| + max |c|`` and at most ``||A||_(2,inf) ||x|| + max |c|``, where
``||x||`` is the norm of what the entry sees; the whole is at most ``||A|| ||x|| + ||c||``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from flint import arb
from torch import Tensor

from fimtheory import layers, norms
from fimtheory.balls import ball
from fimtheory.measures.operators import output_scale_of
from fimtheory.norms import RowScale
from fimtheory.ranges.base import Flow, Range, ranged, root, size_of

__all__: list[str] = []


@final
@dataclass(frozen=True, slots=True)
class _Offset:
    """The constant of an affine map, one number per channel or feature: largest magnitude, and norm."""

    largest: arb
    norm: arb

    @classmethod
    def of(cls, vector: Tensor, scale: RowScale | None = None) -> _Offset:
        """Return the offset ``vector``, after an optional factor for each entry."""
        column = vector.reshape(-1, 1)
        return cls(
            ball(norms.infinity_norm(column, row_scale=scale).upper),
            ball(norms.dense(column, row_scale=scale).upper),
        )

    def __add__(self, other: _Offset) -> _Offset:
        return _Offset(self.largest + other.largest, self.norm + other.norm)


_NONE = _Offset(ball(0), ball(0))


def _scale_and_offset(flow: Flow) -> tuple[RowScale | None, _Offset]:
    """Return the folded factors of the weight's rows, and what the run adds."""
    bias = flow.tensors[0].get("bias")
    if len(flow.layers) == 1:
        return None, _NONE if bias is None else _Offset.of(bias)
    scale, offset = _batch_norm_of(flow)
    return scale, offset if bias is None else offset + _Offset.of(bias, scale)


def _batch_norm_of(flow: Flow) -> tuple[RowScale, _Offset]:
    """Return the factors of the batch norm at the end of a run, and its offset ``beta - scale mean``."""
    tensors = flow.tensors[-1]
    scale = output_scale_of(flow.layers[-1], tensors)
    return scale, _Offset.of(tensors["bias"]) + _Offset.of(tensors["running_mean"], scale)


def _affine(flow: Flow, x: Range, rows: Tensor, *, seen: arb, by_token: bool) -> Range:
    """Range of a weight whose ``rows`` act on parts of x of norm at most ``seen``: whole tokens, or windows."""
    scale, offset = _scale_and_offset(flow)
    norm = flow.measured("operator norm")
    positions = root(size_of(flow.output) // len(rows))
    straight = ball(norms.infinity_norm(rows, row_scale=scale).upper) * x.entry
    entry = straight.min(ball(norms.two_to_infinity_norm(rows, row_scale=scale).upper) * seen) + offset.largest
    whole = norm * x.norm + positions * offset.norm
    if by_token:
        return Range.of(flow.output, entry=entry, token=norm * seen + offset.norm, norm=whole)
    return Range.of(flow.output, entry=entry, norm=whole)


@ranged(layers.Linear)
def _linear(flow: Flow, x: Range) -> Range:
    return _affine(flow, x, flow.weights["weight"], seen=x.token, by_token=True)


@ranged(layers.PatchEmbedding)
def _patches(flow: Flow, x: Range) -> Range:
    """A token is the image of one patch."""
    rows = flow.weights["weight"].flatten(1)
    return _affine(flow, x, rows, seen=x.norm.min(root(rows.shape[1]) * x.entry), by_token=True)


@ranged(layers.Conv1d)
@ranged(layers.Conv1d, layers.BatchNorm1d)
@ranged(layers.Conv2d)
@ranged(layers.Conv2d, layers.BatchNorm2d)
@ranged(layers.Conv3d)
@ranged(layers.Conv3d, layers.BatchNorm3d)
def _convolution(flow: Flow, x: Range) -> Range:
    """Padding with zeros only shortens windows."""
    return _affine(flow, x, flow.tensors[0]["weight"].flatten(1), seen=x.norm, by_token=False)


@ranged(layers.ConvTranspose1d)
@ranged(layers.ConvTranspose1d, layers.BatchNorm1d)
@ranged(layers.ConvTranspose2d)
@ranged(layers.ConvTranspose2d, layers.BatchNorm2d)
@ranged(layers.ConvTranspose3d)
@ranged(layers.ConvTranspose3d, layers.BatchNorm3d)
def _transposed_convolution(flow: Flow, x: Range) -> Range:
    """An entry of the output meets every channel of its group through some of the taps, each at another position."""
    layer, weight = flow.layers[0], flow.tensors[0]["weight"]
    assert isinstance(layer, layers.ConvTranspose1d | layers.ConvTranspose2d | layers.ConvTranspose3d)
    by_group = weight.flatten(2).unflatten(0, (int(layer.groups), -1)).transpose(1, 2)
    return _affine(flow, x, by_group.flatten(2).flatten(0, 1), seen=x.norm, by_token=False)


@ranged(layers.BatchNorm1d)
@ranged(layers.BatchNorm2d)
@ranged(layers.BatchNorm3d)
def _batch_norm(flow: Flow, x: Range) -> Range:
    gain, (_, offset) = flow.gain(), _batch_norm_of(flow)
    return Range.of(
        flow.output,
        entry=gain * x.entry + offset.largest,
        token=gain * x.token + root(int(flow.output[-1])) * offset.largest,
        norm=gain * x.norm + root(size_of(flow.output[1:])) * offset.norm,
    )


@ranged(layers.MultiplyConstant)
def _factors(flow: Flow, x: Range) -> Range:
    gain = flow.gain()
    return Range.of(flow.output, entry=gain * x.entry, token=gain * x.token, norm=gain * x.norm)


@ranged(layers.MatmulConstant)
def _matrix(flow: Flow, x: Range) -> Range:
    """Before x, the matrix adds multiples of tokens; behind x it acts on each."""
    matrix, norm = flow.weights[""], flow.gain()
    if flow.layer.before:
        rows = ball(norms.infinity_norm(matrix).upper)
        return Range.of(flow.output, entry=rows * x.entry, token=rows * x.token, norm=norm * x.norm)
    entry = (ball(norms.infinity_norm(matrix.T).upper) * x.entry).min(
        ball(norms.two_to_infinity_norm(matrix.T).upper) * x.token
    )
    return Range.of(flow.output, entry=entry, token=norm * x.token, norm=norm * x.norm)


@ranged(layers.MultiHeadSelfAttention)
def _self_attention(flow: Flow, x: Range) -> Range:
    """An output token is W_O applied to means of ``W_V,h x_j + b_V,h``, head by head, plus a bias."""
    dim, weights = int(flow.layer.dim), flow.weights
    token = flow.measured("value norm") * x.token
    if flow.layer.bias:
        token += ball(norms.vector(weights["in_proj_bias"][2 * dim :]).upper)
    token *= flow.measured("output projection norm")
    if flow.layer.bias:
        token += ball(norms.vector(weights["out_proj.bias"]).upper)
    return Range.of(flow.output, token=token)
