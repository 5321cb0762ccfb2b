"""Numbers of any size in float64: powers of two without rounding, norms without overflow, modules in double."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from fimtheory.errors import DataError

__all__ = ["double", "normalised", "times_power_of_two"]


def times_power_of_two(values: Tensor, exponent: Tensor) -> Tensor:
    """Return ``values * 2**exponent`` with no rounding unless the result leaves the range of float64.

    ``torch.ldexp`` is right only in its values: its derivative (torch 2.13) is zero where ``2**exponent`` is large.

    Parameters
    ----------
    values : Tensor
        float64, any shape.
    exponent : Tensor
        int64, broadcastable to ``values``; ``|exponent| <= 2044``.

    Examples
    --------
    >>> times_power_of_two(torch.tensor([3.0], dtype=torch.float64), torch.tensor([-1000])).item() == 3 * 2.0**-1000
    True
    """
    half = exponent.div(2, rounding_mode="floor")
    for part in (half, exponent - half):  # 2**e has the biased exponent e + 1023 and an empty fraction
        values = values * ((part.clamp(-1022, 1022) + 1023) << 52).view(torch.float64)
    return values


def normalised(v: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``v`` ``(B, ...)`` scaled to l2 norm 1 per input, and the norms ``(B,)``; a zero vector stays zero."""
    flat = v.flatten(1)
    largest = flat.abs().amax(1, keepdim=True)
    flat = flat / largest.where(largest > 0, 1.0)
    norm = flat.norm(dim=1, keepdim=True)
    return (flat / norm.where(norm > 0, 1.0)).view_as(v), (largest * norm).squeeze(1)


def double(module: nn.Module) -> nn.Module:
    """Return a deep copy of ``module`` in float64; the original is untouched.

    Raises
    ------
    DataError
        If the module cannot be copied, or some parameter or buffer is not float64 afterwards (quantised or complex).
    """
    try:
        converted = copy.deepcopy(module).double()
    except RuntimeError as error:
        raise DataError(f"{type(module).__name__} cannot be copied to float64: {error}") from error
    for name, tensor in [*converted.named_parameters(), *converted.named_buffers()]:
        floating = tensor.is_floating_point() or tensor.is_complex() or tensor.is_quantized
        if floating and tensor.dtype != torch.float64:
            raise DataError(f"{name} is {tensor.dtype} and has no float64 form: pass a module with real weights")
    return converted
