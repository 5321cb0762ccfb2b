r"""Softmax attention over a ball: logits are a `product` of queries and keys, outputs means of values by their softmax.

For one query let a be its logits, p their softmax, ``S_p = diag(p) - p p^T``, and V the values, one a row.  The output
is ``o = V^T p``.  With 0 for the centre, d for increments or differentials, and a mean S of S_p over the segment of
logits from the centre,

    increments:   o - o0  =  V0^T S da + dV^T p,
    differential: d o     =  V^T S_p da + dV^T p.

S_p annihilates constants: any row may be subtracted from V, here the centre's mean ``p0^T V0``, which leaves
``C = V0 - 1 p0^T V0`` and ``t = C^T p0``, zero but for rounding.  Put ``e = p - p0``; then

    C^T (S_p - S_p0)  =  C^T diag(e) - (C^T e) p^T - t e^T,
    ||.||  <=  F(h) = ||diag(h) C|| + | |C|^T h | |p| + |t| |h|      where |e_j| <= h_j,

because ``C^T diag(e)^2 C`` grows with the squares of e, and the rest is the triangle inequality.  What V misses of V0
adds ``||V - V0|| ||S_p||``, where ``||S_p|| <= min(1/2, max p)``.  F is convex in h: with
``|p(t) - p0| <= h' + t h''`` on the segment, the mean S_p of secants misses S_p0 by at most ``F(h') + F(h'') / 2``.

Where the ``a_k - a_j`` are known up to D_jk, ``p_j = 1 / sum_k exp(a_k - a_j)`` has known ends, hence h_j.  Along the
segment ``p_j' = p_j sum_k p_k (da_j - da_k)``, which gives h''.  In every column of the values, dV^T p is
``P0 dV`` and an unknown ``P - P0`` times dV, of norm at most that of the matrix of all h_j.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from fimtheory import layers
from fimtheory.errors import NonFiniteError
from fimtheory.layers import Shape
from fimtheory.local.affine import LOST, AffineMap
from fimtheory.local.products import groups_of, movements, product
from fimtheory.local.unknown import centred, opened, require_finite, spectral, times, totals
from fimtheory.local.walk import Form, Walk
from fimtheory.norms import interconnection_multipliers as multipliers
from fimtheory.norms.interconnection import Rows, euclidean
from fimtheory.norms.rounding import UNIT, gamma_n

__all__ = ["Attention", "SelfAttention"]

_UP = 1.0 + 2.0**-18
_EXP = 2.0**-36  # relative error of torch's exponential, and of sums and quotients of few
_FAR = 700.0  # exp of more overflows


@final
@dataclass(frozen=True, slots=True)
class SelfAttention:
    """Attention of tokens to themselves in heads, between two projections."""

    heads: int
    inward: AffineMap
    outward: AffineMap

    @classmethod
    def at(
        cls, layer: layers.MultiHeadSelfAttention, node: str, tensors: Mapping[str, Tensor], shape: Shape
    ) -> SelfAttention:
        """Return the map of a layer at a node whose input has the shape."""
        tokens, dim = (int(n) for n in shape)
        made = [
            AffineMap.at(
                layers.Linear(dim, wide, layer.bias),
                node,
                {name: tensors[key] for name, key in (("weight", weight), ("bias", bias)) if key in tensors},
                ((tokens, dim),),
                (tokens, wide),
            )
            for wide, weight, bias in (
                (3 * dim, "in_proj_weight", "in_proj_bias"),
                (dim, "out_proj.weight", "out_proj.bias"),
            )
        ]
        return cls(layer.heads, *made)

    def form(self, walk: Walk, node: str, inputs: Sequence[Form]) -> Form:
        """Form of the projected output."""
        projected = walk.affine(self.inward, inputs)
        tokens, wide = projected.centre.shape
        width = wide // (3 * self.heads)
        query, key, value = (
            projected.viewed(lambda t, k=k: t.reshape(tokens, 3, self.heads, width)[:, k].permute(1, 0, 2))
            for k in range(3)
        )
        visible = torch.ones((self.heads, tokens, tokens), dtype=torch.bool)
        mixed = _attended(walk, node, times(query, 1.0 / math.sqrt(width)), key, value, None, visible)
        joined = mixed.viewed(lambda t: t.permute(1, 0, 2).reshape(tokens, self.heads * width))
        return walk.affine(self.outward, [joined])


@final
@dataclass(frozen=True, slots=True)
class Attention:
    """Attention on queries, keys and values of their own; ``bias`` may hide keys by minus infinity."""

    layer: layers.ScaledDotProductAttention
    bias: Tensor | None

    def form(self, walk: Walk, node: str, inputs: Sequence[Form]) -> Form:
        """Form of the output."""
        shape = inputs[0].centre.shape
        query, key, value = (form.viewed(lambda t: t.reshape(-1, *t.shape[-2:])) for form in inputs)
        scores = (*shape[:-1], key.centre.shape[1])
        bias = torch.zeros(scores, dtype=torch.float64)
        if self.bias is not None:
            bias = self.bias.expand(1, *scores)[0]
        if self.layer.causal:
            bias = bias.masked_fill(torch.ones(scores[-2:], dtype=torch.bool).triu(1), -math.inf)
        bias = bias.reshape(-1, *scores[-2:])
        visible = bias > -math.inf
        if not bool(visible.any(-1).all()):
            raise NonFiniteError(f"node {node}: a query sees no key, so its softmax is no number; mask fewer keys")
        mixed = _attended(
            walk, node, times(query, self.layer.scale), key, value, bias.masked_fill(~visible, 0.0), visible
        )
        return mixed.viewed(lambda t: t.reshape(*shape[:-1], -1))


def _attended(walk: Walk, node: str, query: Form, key: Form, value: Form, bias: Tensor | None, visible: Tensor) -> Form:
    """Form of the means of values (h, m, e) by the softmax of ``q k^T + bias``, q (h, n, d) and k (h, m, d)."""
    moved = walk.movement(node, "factors", lambda: movements(walk, node, query, key, value))
    logits = product(walk, query, key.viewed(lambda t: t.transpose(1, 2)), moved[:2])
    if bias is not None:
        spread = logits.spread + UNIT * (logits.centre.abs() + bias.abs()) * _UP
        logits = Form(logits.centre + bias, spread, logits.columns, logits.error)
    shares = visible.to(torch.float64)
    logits = centred(logits, shares / shares.sum(-1, keepdim=True))
    differences = walk.movement(node, "logits", lambda: _differences(walk, node, logits, visible))
    return _mean(walk, logits, value, moved[2], differences, visible)


def _differences(walk: Walk, node: str, logits: Form, visible: Tensor) -> Tensor:
    """Bounds on how much the differences of the logits of a query move over the ball: (h, n, m, m)."""
    rows = logits.rows()
    count = logits.centre.shape[-1]
    each = [
        Rows(values, error) for values, error in zip(rows.values.split(count), rows.error.split(count), strict=True)
    ]
    found = torch.stack([walk.pairwise(part) for part in each])
    system = multipliers.for_rows(walk.system, rows)
    gram = system.gram(rows)
    if gram is not None and bool(torch.isfinite(gram).all()):
        walk.system = system
        blocks = gram.unflatten(0, (-1, count)).unflatten(2, (-1, count)).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
        squares = blocks.diagonal(dim1=1, dim2=2)
        size = squares[:, :, None] + squares[:, None, :]
        forms = (size - blocks - blocks.mT).clamp_min(0.0) + 8.0 * UNIT * size
        found = torch.minimum(found, forms.sqrt() * (walk.ball.euclidean * _UP))
    require_finite(node, found)
    both = visible.flatten(0, 1)
    return torch.where(both[:, :, None] & both[:, None, :], found, 0.0).reshape(*visible.shape, count)


def _ends(centre: Tensor, off: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
    """Least and largest probabilities (h, n, m) where differences of logits are off by at most ``off``."""
    size = centre.abs()
    room = 4.0 * UNIT * (size[..., :, None] + size[..., None, :])
    off = off + room
    off.diagonal(dim1=-2, dim2=-1).zero_()
    above = centre[..., None, :] - centre[..., :, None]  # a_k - a_j at [j, k]
    seen = visible.to(torch.float64)[..., None, :]
    largest, least = (
        visible / ((above + sign * off).clamp(-_FAR, _FAR).exp() * seen).sum(-1).clamp_min(1e-290)
        for sign in (-1.0, 1.0)
    )
    return least * (1.0 - 2.0 * _EXP), (largest * (1.0 + 2.0 * _EXP)).clamp_max(1.0)


def _mean(walk: Walk, logits: Form, value: Form, value_moved: Tensor, differences: Tensor, visible: Tensor) -> Form:
    """Form of the means of the values by the softmax of the logits, which move by no more than is stated."""
    logits, value = logits.padded(walk.columns), value.padded(walk.columns)
    a, v = logits.centre, value.centre
    (heads, queries, keys), width = a.shape, v.shape[2]
    p = a.masked_fill(~visible, -math.inf).softmax(-1)
    off = logits.spread[..., :, None] + logits.spread[..., None, :]
    least, largest = _ends(a, (differences + off) * _UP, visible)
    apart = _apart(p, least, largest)
    start = _apart(p, *_ends(a, off * _UP, visible))
    # Along the segment, p_j changes by at most p_j sum_k p_k D_jk.
    drift = largest * (differences @ largest[..., None])[..., 0] * _UP

    middle = p @ v  # (h, n, e)
    c = v[:, None] - middle[:, :, None]  # (h, n, m, e)
    scale = (v.abs()[:, None] + middle.abs()[:, :, None]).flatten(2).norm(dim=2) * _UP
    length = largest.norm(dim=-1).clamp_max(1.0) * _UP
    left = (c * p[..., None]).sum(2).norm(dim=-1) + gamma_n(keys + 16) * (c.abs() * p[..., None]).sum(2).norm(dim=-1)

    def missed(h: Tensor) -> Tensor:
        weighted = spectral((h[..., None] * c).flatten(0, 1)).reshape(heads, queries)
        across = (c.abs() * h[..., None]).sum(2).norm(dim=-1)
        return (weighted + across * length + left * h.norm(dim=-1)) * _UP

    of_softmax = largest.amax(-1).clamp_max(0.5)
    value_off = totals(value.spread.flatten(), groups_of(value), heads)
    rounding = gamma_n(2 * keys + 32)
    rho = missed(apart)
    if walk.secant:
        rho = torch.minimum(rho, missed(start) + 0.5 * missed(drift))
        rho = rho + value_off[:, None] * of_softmax
    else:
        rho = rho + (value_moved + value_off)[:, None] * of_softmax
    rho = (rho + 4.0 * rounding * scale) * _UP
    matrix = (c * p[..., None] - p[..., None] * (c * p[..., None]).sum(2, keepdim=True)).transpose(2, 3)

    spread = p @ value.spread + start @ (v.abs() + value.spread) + rounding * (p @ v.abs())
    columns = (matrix @ logits.columns[..., None])[..., 0] + p @ value.columns
    sizes = [euclidean(form.columns, 0) for form in (logits, value)]
    error = (matrix.abs() @ (logits.error + rounding * sizes[0])[..., None])[..., 0]
    error = error + p @ (value.error + rounding * sizes[1])

    entries = torch.arange(heads * queries * width).reshape(heads, queries, width)
    by_query = (entries // width).flatten()
    by_column = (entries // (queries * width) * width + entries % width).flatten()
    each = torch.arange(heads * keys * width)
    pairs = 2.0 * visible.sum(
        -1
    )  # twice the sum of squares around the mean is that of all differences, by their number
    logit_moved = torch.linalg.vector_norm(differences, dim=(-2, -1)) / pairs.sqrt() * _UP
    added = [
        opened(
            walk,
            logits.rows(),
            torch.arange(heads * queries * keys) // keys,
            by_query,
            rho.flatten(),
            torch.linalg.matrix_norm(matrix).flatten(),
            logit_moved.flatten(),
        ),
        opened(
            walk,
            value.rows(),
            each // (keys * width) * width + each % width,
            by_column,
            spectral(apart).repeat_interleave(width),
            torch.linalg.matrix_norm(p).repeat_interleave(width),
            value_moved.repeat_interleave(width),
        ),
    ]
    unknown = torch.cat(added).reshape(-1, heads, queries, width)
    return Form(middle, spread * _UP + LOST, torch.cat([columns, unknown]), error * _UP + LOST)


def _apart(p: Tensor, least: Tensor, largest: Tensor) -> Tensor:
    """Bounds on |p' - p| for p' between two ends."""
    return torch.maximum(largest - p, p - least).clamp_min(0.0) * _UP + 2.0**-50 * p + LOST
