"""Random probes, drawn for each input on its own, and the product that probes of the input space need."""

from __future__ import annotations

import torch
from torch import Tensor

from fimtheory.fisher import FisherOperator, times_power_of_two

__all__ = ["class_probe", "input_probe", "root_product"]


def class_probe(operator: FisherOperator, generator: torch.Generator) -> Tensor:
    """Return standard normal vectors ``(B, K)`` float64, which G multiplies."""
    return torch.randn(operator.log_probs.shape, generator=generator, dtype=torch.float64).to(operator.x.device)


def input_probe(operator: FisherOperator, generator: torch.Generator) -> Tensor:
    """Return standard normal vectors ``(B, *input)`` float64, which F multiplies."""
    return torch.randn(operator.x.shape, generator=generator, dtype=torch.float64).to(operator.x.device)


def root_product(operator: FisherOperator, v: Tensor) -> Tensor:
    """Return the scaled ``R J v / tau``, ``(B, K)``, for v ``(B, *input)``: its squared norm is ``v^T F v``.

    Scaled means to be multiplied by ``2**(exponent / 2)``.
    """
    return operator.factor.apply(times_power_of_two(operator.jvp(v), -operator.jacobian_exponent.unsqueeze(1)))
