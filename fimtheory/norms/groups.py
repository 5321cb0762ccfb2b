"""Kernels of grouped convolutions as kernels without groups."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["ungrouped"]


def ungrouped(kernel: Tensor, groups: int) -> Tensor:
    """Kernel (c_out, c_in, *taps) over all input channels, zero between groups, from (c_out, c_in / groups, *taps).

    >>> ungrouped(torch.tensor([[1.0], [2.0]]), 2).tolist()
    [[1.0, 0.0], [0.0, 2.0]]
    """
    if groups == 1:
        return kernel
    outputs, inputs = kernel.shape[:2]
    whole = torch.zeros(outputs, inputs * groups, *kernel.shape[2:], dtype=kernel.dtype)
    each = outputs // groups
    for g in range(groups):
        whole[g * each : (g + 1) * each, g * inputs : (g + 1) * inputs] = kernel[g * each : (g + 1) * each]
    return whole
