"""Products of two values that both depend on the input: entry by entry, with a gate, and of matrices.

With d for increments from the centre (marked 0), and for differentials,

    increments:   A B - A0 B0  =  A dB + dA B0  =  A0 dB + dA B0 + (A - A0) dB,
    differential: d(A B)       =  A dB + dA B   =  A0 dB + dA B0 + (A - A0) dB + dA (B - B0).

Column j of (A - A0) dB is an unknown matrix of norm at most ``||A - A0||_F`` times column j of dB, and row i of
dA (B - B0) one of norm at most ``||B - B0||_F`` times row i of dA: they are blocks of an interconnection, and the
first walk bounds both norms over the ball.  A product entry by entry is one of 1 x 1 matrices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from fimtheory import layers
from fimtheory.layers import Shape
from fimtheory.local.affine import LOST
from fimtheory.local.unknown import distances, opened, totals
from fimtheory.local.walk import Form, Walk
from fimtheory.norms.interconnection import Rows, euclidean
from fimtheory.norms.rounding import gamma_n

__all__ = ["Product", "groups_of", "movements", "product"]

_UP = 1.0 + 2.0**-18


@final
@dataclass(frozen=True, slots=True)
class Product:
    """A layer that multiplies its two inputs."""

    layer: layers.Multiply | layers.Gate | layers.MatMul
    shape: Shape

    def form(self, walk: Walk, node: str, inputs: Sequence[Form]) -> Form:
        """Form of the product."""
        first, second = inputs
        shape = tuple(int(n) for n in self.shape)
        if isinstance(self.layer, layers.MatMul):
            if self.layer.transpose_second:
                second = second.viewed(lambda t: t.transpose(-1, -2))
            first, second = (each.viewed(lambda t: t.reshape(-1, *t.shape[-2:])) for each in (first, second))
        else:
            second = second.viewed(lambda t: _repeated(t, shape))
            first, second = (each.viewed(lambda t: t.reshape(-1, 1, 1)) for each in (first, second))
        moved = walk.movement(node, "factors", lambda: movements(walk, node, first, second))
        made = product(walk, first, second, moved)
        return made.viewed(lambda t: t.reshape(shape))


def _repeated(gate: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A gate repeated to a shape: along dimensions of size 1, and along leading ones."""
    return gate.expand(shape)


def groups_of(form: Form) -> Tensor:
    """The index along the first dimension of each entry, in order."""
    count = len(form.centre)
    return torch.arange(count).repeat_interleave(form.centre.numel() // max(count, 1))


def movements(walk: Walk, node: str, *forms: Form) -> Tensor:
    """How far each matrix (h, rows, columns) of each form moves over the ball: (forms, h)."""
    count = len(forms[0].centre)
    parts = [form.padded(walk.columns).rows() for form in forms]
    rows = Rows(torch.cat([part.values for part in parts]), torch.cat([part.error for part in parts]))
    groups = torch.cat([groups_of(form) + k * count for k, form in enumerate(forms)])
    return distances(walk, node, rows, groups, count * len(forms)).reshape(len(forms), count)


def product(walk: Walk, first: Form, second: Form, moved: Tensor) -> Form:
    """Form of A B for matrices (h, n, k) and (h, k, m), the two of which move by at most ``moved`` (2, h)."""
    first, second = first.padded(walk.columns), second.padded(walk.columns)
    a, b = first.centre, second.centre
    (count, rows, inner), columns = a.shape, b.shape[2]
    off = [totals(form.spread.flatten(), groups_of(form), count) for form in (first, second)]
    rounding = gamma_n(2 * inner + 16)

    def mixed(left: Tensor, right: Tensor) -> Tensor:
        """Sizes of ``A dB + dA B`` from sizes of dA and dB."""
        return a.abs() @ right + left @ b.abs()

    spread = mixed(first.spread, second.spread) + first.spread @ second.spread + rounding * (a.abs() @ b.abs())
    known = a @ second.columns + first.columns @ b
    left, right = (euclidean(form.columns, 0) for form in (first, second))
    error = mixed(first.error, second.error) + rounding * mixed(left, right)
    if walk.secant:
        error = error + (left + first.error) @ second.spread  # dA times the exact B0

    entries = torch.arange(count * rows * columns).reshape(count, rows, columns)
    by_column = (entries // (rows * columns) * columns + entries % columns).flatten()
    each = torch.arange(count * inner * columns)
    by_factor = each // (inner * columns) * columns + each % columns
    added = [
        opened(
            walk,
            second.rows(),
            by_factor,
            by_column,
            ((moved[0] + off[0]) * _UP).repeat_interleave(columns),
            torch.linalg.matrix_norm(a).repeat_interleave(columns),
            moved[1].repeat_interleave(columns),
        )
    ]
    if not walk.secant:
        added.append(
            opened(
                walk,
                first.rows(),
                torch.arange(count * rows * inner) // inner,
                (entries // columns).flatten(),
                ((moved[1] + off[1]) * _UP).repeat_interleave(rows),
                torch.linalg.matrix_norm(b).repeat_interleave(rows),
                moved[0].repeat_interleave(rows),
            )
        )
    unknown = torch.cat(added).reshape(-1, count, rows, columns)
    return Form(a @ b, spread * _UP + LOST, torch.cat([known, unknown]), error * _UP + LOST)
