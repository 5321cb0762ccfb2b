"""Where the batch is in a value of an exported program, and what is left of the value for one input.

A layer graph describes one input; an exported program computes a batch.  The batch is a dimension that programs move
(permute) and merge with others (windows of an image become more rows), so every value carries its place: dimension
``batch`` has size ``outer * count * inner``, in that order, count being the number of inputs.  One input's shape has
``outer * inner`` there, or leaves the dimension out where that is 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from fimtheory.errors import SourceError

__all__ = ["Layout", "Traced", "UnsupportedError"]


class UnsupportedError(SourceError):
    """One operation cannot be imported; collected, so that all of a model's are reported at once."""


@final
@dataclass(frozen=True, slots=True)
class Layout:
    """Shape of a batched value, the dimension that holds the batch, and what is merged with the batch there.

    >>> windows = Layout((2, 8, 7), 2).viewed((4, 4, 7))
    >>> windows, windows.sample
    (Layout(shape=(4, 4, 7), count=2, batch=0, outer=1, inner=2), (2, 4, 7))
    """

    shape: tuple[int, ...]
    count: int
    batch: int = 0
    outer: int = 1
    inner: int = 1

    @property
    def merged(self) -> int:
        """Size for one input of the dimension that holds the batch."""
        return self.outer * self.inner

    @property
    def sample(self) -> tuple[int, ...]:
        """Shape for one input."""
        kept = (self.merged,) if self.merged > 1 else ()
        return (*self.shape[: self.batch], *kept, *self.shape[self.batch + 1 :])

    @property
    def rank(self) -> int:
        """Number of dimensions, the batch included."""
        return len(self.shape)

    def dim(self, given: int) -> int:
        """Return the dimension of one input that is dimension ``given`` of the batch.

        Raises
        ------
        UnsupportedError
            It is the one that holds the batch.
        """
        at = given % self.rank
        if at == self.batch:
            raise UnsupportedError("acts across the inputs of a batch; each must be computed on its own")
        return at if self.merged > 1 or at < self.batch else at - 1

    def dims(self, given: Sequence[int]) -> tuple[int, ...]:
        """Return several dimensions of one input, in increasing order."""
        return tuple(sorted(self.dim(d) for d in given))

    def viewed(self, shape: Sequence[int]) -> Layout:
        """Return the layout after a view as ``shape``: as many entries as before precede the batch.

        Raises
        ------
        UnsupportedError
            The view tears the batch apart.
        """
        before, passed = math.prod(self.shape[: self.batch]) * self.outer, 1
        for at, size in enumerate(shape):
            outer = before // passed
            if before % passed == 0 and size % (outer * self.count) == 0:
                return Layout(tuple(shape), self.count, at, outer, size // (outer * self.count))
            passed *= size
        raise UnsupportedError(f"{self.shape} is viewed as {tuple(shape)}, which mixes the inputs of a batch")

    def permuted(self, dims: Sequence[int]) -> tuple[Layout, tuple[int, ...]]:
        """Return the layout after a permutation, and the permutation of one input's dimensions."""
        order = [d % self.rank for d in dims]
        made = replace(self, shape=tuple(self.shape[d] for d in order), batch=order.index(self.batch))
        if self.merged > 1:
            return made, tuple(order)
        return made, tuple(self.dim(d) for d in order if d != self.batch)

    def resized(self, shape: Sequence[int]) -> Layout:
        """Return the layout of a value that differs only in the sizes, or in the number, of the other dimensions.

        Raises
        ------
        UnsupportedError
            The dimension that holds the batch is no longer in its place.
        """
        if len(shape) <= self.batch or shape[self.batch] != self.shape[self.batch]:
            raise UnsupportedError(f"the batch is lost between shapes {self.shape} and {tuple(shape)}")
        return replace(self, shape=tuple(shape))

    def constant(self, value: Tensor) -> Tensor:
        """Return a constant that meets a value of this layout (dimensions aligned from the right), for one input.

        Raises
        ------
        UnsupportedError
            The constant differs between the inputs of the batch, or joins them.
        """
        at = self.batch - (self.rank - value.dim())
        if at < 0:
            return value
        size = value.shape[at]
        if size == self.shape[self.batch]:
            rows = value.unflatten(at, (self.outer, self.count, self.inner))
            first = rows.select(at + 1, 0)
            if any(not torch.equal(rows.select(at + 1, k), first) for k in range(1, self.count)):
                raise UnsupportedError("meets a constant that differs between the inputs of a batch")
            kept = first.flatten(at, at + 1)
            return kept if self.merged > 1 else kept.squeeze(at)
        if size != 1:
            raise UnsupportedError(f"meets a constant of shape {tuple(value.shape)} along the batch of {self.shape}")
        return value if self.merged > 1 else value.squeeze(at)

    def by_input(self, value: Tensor) -> Tensor:
        """Return a batched value with the batch first and one input's shape after it."""
        split = value.unflatten(self.batch, (self.outer, self.count, self.inner)).movedim(self.batch + 1, 0)
        return split.reshape(self.count, *self.sample)


@final
@dataclass(frozen=True, slots=True)
class Traced:
    """A value that depends on the input: the node that computes it, and its layout."""

    node: str
    layout: Layout

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape, the batch included."""
        return self.layout.shape

    @property
    def sample(self) -> tuple[int, ...]:
        """Shape for one input."""
        return self.layout.sample
