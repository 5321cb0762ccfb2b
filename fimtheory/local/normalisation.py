r"""Layer norm, RMS norm and group norm over a ball.

Let y be a token, centred where the layer centres it, of D entries, ``w = y / sqrt(D)``, ``s = sqrt(|w|^2 + eps)``.  The
normalised token is ``sqrt(D) N(w)`` with ``N(w) = w / s``, and its Jacobian in y is

    DN(w) = (I - n n^T) / s,     n = w / s.

Theorem.  Let ``a = |w_0|`` and ``|w - w_0| <= r <= a``, ``b = a - r`` and ``s_b = sqrt(b^2 + eps)``.  Then

    ||DN(w) - DN(w_0)||  <=  min(G(r), 1 / s_b),    G(r) = 2 / sqrt(3) * integral of 1 / ((a - x)^2 + eps) over [0, r].

Proof.  N is the gradient of ``s``, a convex function, so that ``0 <= DN <= I / s``: the norm of a difference is at most
``1 / s_b``.  The second derivative of N is the third of s, a symmetric trilinear form; its norm is attained on the
diagonal (Banach 1938), where for a unit vector h with ``c = (w . h) / s``

    D^3 s [h, h, h]  =  -3 c (1 - c^2) / s^2,      at most  2 / sqrt(3) / s^2  in magnitude, for  c^2 = 1/3.

On the segment from w_0 to w, at distance x from w_0, s^2 is at least ``(a - x)^2 + eps``.  With angles
``tan A = a / sqrt(eps)`` and ``tan B = b / sqrt(eps)`` the integral is ``(A - B) / sqrt(eps)``, and
``sin(A - B) = sqrt(eps) r / (s_a s_b) = z``; so it is ``r / (s_a s_b) asin(z) / z``, where ``asin(z) / z`` is convex in
z^2 (its series has positive coefficients), hence at most ``1 + (pi / 2 - 1) z^2`` on [0, 1].  For r > a the rest of the
segment adds ``(r - a) / eps`` to the integral, and b is 0.

A secant from w_0 is the mean of DN over the segment.  As G is convex, the mean misses DN at a point w' near w_0 by at
most ``(G(o) + G(o + r)) / 2`` where ``o = |w' - w_0|`` and G belongs to w'.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from fimtheory import layers
from fimtheory.layers import Layer, Shape
from fimtheory.local.affine import LOST, AffineMap
from fimtheory.local.products import groups_of
from fimtheory.local.unknown import centred, distances, opened, totals
from fimtheory.local.walk import Form, Walk
from fimtheory.norms.interconnection import euclidean
from fimtheory.norms.rounding import gamma_n

__all__ = ["NORMALISATIONS", "Normalisation", "deviation"]

_UP = 1.0 + 2.0**-18
_CONSTANT = 2.0 / math.sqrt(3.0) * (1.0 + 2.0**-40)

NORMALISATIONS = (layers.LayerNorm, layers.LayerNormOver, layers.RMSNorm, layers.GroupNorm)


def deviation(a: Tensor, r: Tensor, eps: float) -> Tensor:
    """G of the theorem, rounded up.

    >>> deviation(torch.tensor([1.0]).double(), torch.tensor([0.1]).double(), 1e-12).item()  # 2/sqrt(3) (1/.9 - 1)
    0.1283...
    """
    root, below = math.sqrt(eps) * (1.0 - 2.0**-40), (1.0 - 2.0**-40)
    inside = torch.minimum(r, a)
    far = torch.hypot(a, torch.full_like(a, root)) * below
    near = torch.hypot((a - inside) * below, torch.full_like(a, root)) * below
    sine = (inside / far * (root / near)).clamp_max(1.0)
    angle = inside / far / near * (1.0 + (math.pi / 2 - 1.0) * sine.square())
    return _CONSTANT * (angle + (r - inside) / root / root) * _UP


@final
@dataclass(frozen=True, slots=True)
class Normalisation:
    """A layer that normalises groups of entries, in order ``(tokens, size)``, and then scales and shifts them."""

    eps: float
    centres: bool
    size: int
    affine: tuple[AffineMap, ...]

    @classmethod
    def at(cls, layer: Layer, node: str, tensors: Mapping[str, Tensor], shape: Shape) -> Normalisation:
        """Return the map of a layer at a node whose input has the shape."""
        sizes = tuple(int(n) for n in shape)
        total = math.prod(sizes)
        weight, bias = tensors.get("weight"), tensors.get("bias")
        match layer:
            case layers.GroupNorm():
                size = total // int(layer.groups)
                each = (-1, *[1] * (len(sizes) - 1))
                weight, bias = (None if t is None else t.reshape(each) for t in (weight, bias))
            case layers.LayerNormOver():
                size = math.prod(int(n) for n in layer.shape)
            case layers.LayerNorm() | layers.RMSNorm():
                size = sizes[-1]
            case _:
                raise AssertionError(f"{type(layer).__name__} is no normalisation")
        made = [
            AffineMap.at(kind(tuple(t.shape)), node, {"": t}, (sizes,), sizes)
            for kind, t in ((layers.MultiplyConstant, weight), (layers.AddConstant, bias))
            if t is not None
        ]
        return cls(float(layer.eps), not isinstance(layer, layers.RMSNorm), size, tuple(made))

    def form(self, walk: Walk, node: str, inputs: Sequence[Form]) -> Form:
        """Form of the normalised, scaled and shifted value."""
        (given,) = inputs
        shape = given.centre.shape
        tokens = given.padded(walk.columns).viewed(lambda t: t.reshape(-1, self.size))
        if self.centres:
            tokens = centred(tokens, torch.full((self.size,), 1.0 / self.size, dtype=torch.float64))
        made = self._normalised(walk, node, tokens).viewed(lambda t: t.reshape(shape))
        for affine in self.affine:
            made = walk.affine(affine, [made])
        return made

    def _normalised(self, walk: Walk, node: str, tokens: Form) -> Form:
        """Form of the normalised tokens (tokens, size)."""
        groups, count, root = groups_of(tokens), len(tokens.centre), math.sqrt(self.size)
        moved = walk.movement(node, "tokens", lambda: distances(walk, node, tokens.rows(), groups, count))
        tokens = tokens.padded(walk.columns)
        a = euclidean(tokens.centre, 1) / root * (1.0 - 2.0**-16)
        off = totals(tokens.spread.flatten(), groups, count) / root * _UP + LOST
        r = moved / root * _UP + off
        both = deviation(a, r, self.eps)
        rho = (deviation(a, off, self.eps) + both) / 2 * _UP if walk.secant else both
        least = torch.hypot((a - r).clamp_min(0.0), torch.full_like(a, math.sqrt(self.eps))) * (1.0 - 2.0**-40)
        rho = torch.minimum(rho, 1.0 / least * _UP)

        w = tokens.centre / root
        length = torch.hypot(euclidean_exactly(w), torch.full_like(a, math.sqrt(self.eps)))[:, None]
        n = w / length
        rounding = gamma_n(4 * self.size + 64)
        centre = n * root

        def projected(values: Tensor, normal: Tensor, sign: float) -> Tensor:
            return (values + sign * normal * (values * normal).sum(-1, keepdim=True)) / length

        # N(w) differs from N(w') by DN(w') (w - w'), and by what a mean of DN misses.
        bent = (deviation(a, off, self.eps) * off * root)[:, None] * _UP
        spread = projected(tokens.spread, n.abs(), 1.0) * _UP + bent + rounding * centre.abs()
        columns = projected(tokens.columns, n, -1.0)
        sizes = euclidean(tokens.columns, 0)
        error = projected(tokens.error + rounding * sizes, n.abs(), 1.0)
        added = opened(walk, tokens.rows(), groups, groups, rho, 1.0 / length.flatten(), moved)
        columns = torch.cat([columns, added.reshape(-1, *n.shape)])
        return Form(centre, spread * _UP + LOST, columns, error * _UP + LOST)


def euclidean_exactly(values: Tensor) -> Tensor:
    """Euclidean norms along the last dimension to within rounding, of numbers whose squares may over- or underflow."""
    largest = values.abs().amax(-1, keepdim=True).clamp_min(1e-290)
    return torch.linalg.vector_norm(values / largest, dim=-1) * largest.squeeze(-1)
