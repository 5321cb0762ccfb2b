"""The exact matrix of a small zero-padded convolution: every weight is placed by index, nothing is computed."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from fimtheory.norms.stride_one import Geometry

__all__ = ["toeplitz"]


def toeplitz(kernel: Tensor, geometry: Geometry) -> Tensor:
    """Matrices of the groups, shape (groups, outputs * positions, inputs * positions), from a float64 kernel.

    >>> line = Geometry((1, 1, 3), (3,), (1,), (1,), (1,), 1)
    >>> toeplitz(torch.tensor([[[1.0, 2.0, 3.0]]], dtype=torch.float64), line).tolist()
    [[[2.0, 3.0, 0.0], [1.0, 2.0, 3.0], [0.0, 1.0, 2.0]]]
    """
    c_out, c_in, *taps = kernel.shape
    groups, outputs = geometry.groups, c_out // geometry.groups
    blocks = kernel.reshape(groups, outputs, c_in, *taps)
    shape = (groups, outputs, *geometry.output_size, c_in, *geometry.input_size)
    operator = torch.zeros(shape, dtype=torch.float64, device="cpu")
    for tap in itertools.product(*(range(k) for k in taps)):
        placed = [geometry.placements(dimension, t) for dimension, t in enumerate(tap)]
        rows = torch.meshgrid(*(outs for outs, _ in placed), indexing="ij")
        columns = torch.meshgrid(*(ins for _, ins in placed), indexing="ij")
        # Index arrays separated by slices come first in the indexed shape: (*rows, groups, outputs, c_in).
        operator[:, :, *rows, :, *columns] = blocks[:, :, :, *tap]
    return operator.reshape(groups, outputs * math.prod(geometry.output_size), c_in * math.prod(geometry.input_size))
