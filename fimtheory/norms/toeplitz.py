"""The exact matrix of a small zero-padded convolution: every weight is placed by index, nothing is computed."""

from __future__ import annotations

import torch
from torch import Tensor

from fimtheory.norms.stride_one import Geometry

__all__ = ["toeplitz"]


def toeplitz(kernel: Tensor, geometry: Geometry) -> Tensor:
    """Matrices of the groups, shape (groups, outputs * h_out * w_out, inputs * h_in * w_in), from a float64 kernel.

    >>> line = Geometry((1, 1, 1, 3), (1, 3), (1, 1), (0, 1), (1, 1), 1)
    >>> toeplitz(torch.tensor([[[[1.0, 2.0, 3.0]]]], dtype=torch.float64), line).tolist()
    [[[2.0, 3.0, 0.0], [1.0, 2.0, 3.0], [0.0, 1.0, 2.0]]]
    """
    c_out, c_in, k1, k2 = kernel.shape
    groups, outputs = geometry.groups, c_out // geometry.groups
    (h_out, w_out), (h_in, w_in) = geometry.output_size, geometry.input_size
    blocks = kernel.reshape(groups, outputs, c_in, k1, k2)
    operator = torch.zeros(groups, outputs, h_out, w_out, c_in, h_in, w_in, dtype=torch.float64, device="cpu")
    for a in range(k1):
        out_rows, in_rows = geometry.placements(0, a)
        for b in range(k2):
            out_columns, in_columns = geometry.placements(1, b)
            # Index arrays separated by slices come first in the indexed shape: (rows, columns, groups, outputs, c_in).
            operator[:, :, out_rows[:, None], out_columns, :, in_rows[:, None], in_columns] = blocks[..., a, b]
    return operator.reshape(groups, outputs * h_out * w_out, c_in * h_in * w_in)
