"""Where a search for the worst input may go."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Box", "Domain", "Inside", "column", "norms"]

Box = tuple[float | Tensor, float | Tensor]
Inside = Callable[[Any, Tensor], Tensor]
"""Of a module and a batch of inputs: which of them may be visited, ``(B,)`` bool."""


@dataclass(frozen=True)
class Domain:
    """Where inputs may go: a box, an l2 ball around ``centres`` (one per start), both, or everywhere.

    Attributes
    ----------
    centres : Tensor
        ``(S, *input)``, inside the box.
    box : (lo, hi) or None
        Numbers, or tensors that broadcast to ``(*input)``.
    ball : float or None
        Radius.
    inside : function or None
        Of the module and inputs ``(S, *input)``: which of them may be visited, ``(S,)`` bool.
    """

    centres: Tensor
    box: Box | None
    ball: float | None
    inside: Inside | None = None

    def admits(self, module: nn.Module, x: Tensor) -> Tensor:
        """Return which inputs have finite logits and may be visited, ``(S,)`` bool."""
        with torch.no_grad():
            finite = module(x).isfinite().all(1)
        return finite if self.inside is None else finite & self.inside(module, x)

    def project(self, x: Tensor) -> Tensor:
        """Return a point of the domain near each ``x``; the ball holds in exact arithmetic, not up to rounding.

        Clip to the box, then shrink towards the centre: the segment stays in the box, which is convex.
        """
        if self.box is not None:
            x = self._clip(x)
        if self.ball is None:
            return x
        offset = (x - self.centres).double()
        eps = torch.finfo(x.dtype).eps
        # Rounding x moves it by at most eps |x| / 2 <= eps (|centre| + radius) / 2.
        radius = (self.ball * (1 - 4 * eps) - eps * norms(self.centres)).clamp(min=0)
        size = norms(offset)
        shrink = torch.where(size > radius, radius / size.where(size > 0, 1.0), 1.0)
        x = (self.centres.double() + offset * column(shrink, x)).to(x.dtype)
        return x if self.box is None else self._clip(x)

    def _clip(self, x: Tensor) -> Tensor:
        assert self.box is not None
        low, high = (torch.as_tensor(side, dtype=x.dtype, device=x.device) for side in self.box)
        return torch.minimum(torch.maximum(x, low), high)


def norms(x: Tensor) -> Tensor:
    """Return the l2 norm of each input, ``(S,)`` float64."""
    return x.double().flatten(1).norm(dim=1)


def column(values: Tensor, like: Tensor) -> Tensor:
    """Return one value per input in a shape that broadcasts against the inputs."""
    return values.view(-1, *(1,) * (like.ndim - 1))
