"""Weights: reading and writing files, and checking tensors against what a graph expects.

Files are ``.safetensors``, or ``.pt``/``.pth``/``.bin`` read with ``torch.load(weights_only=True)``; neither runs code.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from fimtheory.ensemble import Initial, Parameter
from fimtheory.errors import NonFiniteError, WeightsError

__all__ = ["FLOATS", "check_weights", "read_weights", "write_weights"]

_SHOWN = 5
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Return the tensors of a weight file by name, on the CPU.

    Raises
    ------
    WeightsError
        The file cannot be read, holds something else than named tensors, or has an unknown suffix.
    """
    file = Path(path)
    try:
        if file.suffix == ".safetensors":
            return safetensors.torch.load_file(file)
        if file.suffix in (".pt", ".pth", ".bin"):
            return _named_tensors(torch.load(file, map_location="cpu", weights_only=True), file)
    except OSError as error:
        raise WeightsError(f"{file}: cannot be read: {error.strerror or error}") from None
    except SafetensorError as error:
        raise WeightsError(f"{file}: not a safetensors file, or truncated: {error}") from None
    except pickle.UnpicklingError:
        raise WeightsError(
            f"{file}: holds more than tensors, and loading it would run code; save model.state_dict() instead"
        ) from None
    except (EOFError, RuntimeError, ValueError):
        raise WeightsError(f"{file}: not a torch file, or truncated") from None
    raise WeightsError(f"{file}: unknown suffix {file.suffix!r}; expected .safetensors, .pt, .pth or .bin")


def write_weights(tensors: Mapping[str, Tensor], path: str | Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write named tensors as safetensors; the file appears whole or not at all.

    Raises
    ------
    WeightsError
        The file cannot be written.
    """
    target = Path(path)
    partial = target.with_name(target.name + ".partial")
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    try:
        partial.write_bytes(safetensors.torch.save(plain, None if metadata is None else dict(metadata)))
        partial.replace(target)
    except (OSError, SafetensorError) as error:
        partial.unlink(missing_ok=True)
        raise WeightsError(f"{target}: cannot be written: {error}") from None


def check_weights(
    weights: Mapping[str, Any], expected: Mapping[str, Parameter], dtype: torch.dtype, where: str = "weights"
) -> dict[str, Tensor]:
    """Return copies of the tensors in ``dtype`` (counters stay int64), in the order of ``expected``.

    Parameters
    ----------
    weights
        Tensors by state-dict key; any floating-point type.
    expected
        What each key must hold.
    dtype
        Floating-point type of the result.
    where
        What the weights are called in a message.

    Raises
    ------
    WeightsError
        Keys are missing or left over, a shape or a type is wrong, a running variance is negative, or an attention
        mask hides every key of a query.
    NonFiniteError
        A value is NaN or infinite, or becomes infinite in ``dtype``.
    """
    missing = [key for key in expected if key not in weights]
    unknown = [key for key in weights if key not in expected]
    if missing or unknown:
        causes = [f"{cause} {_listed(keys)}" for cause, keys in (("missing", missing), ("unknown", unknown)) if keys]
        raise WeightsError(f"{where}: {'; '.join(causes)}; expected the {len(expected)} tensors of the graph")
    odd = [key for key in expected if not isinstance(weights[key], Tensor)]
    if odd:
        raise WeightsError(f"{where}: not tensors: {_listed(odd)}")
    misshapen = [
        f"{key} has shape {tuple(weights[key].shape)} instead of {parameter.shape}"
        for key, parameter in expected.items()
        if tuple(weights[key].shape) != parameter.shape
    ]
    if misshapen:
        raise WeightsError(f"{where}: {_listed(misshapen)}")
    mistyped = [f"{key} is {weights[key].dtype}" for key, p in expected.items() if not _fits(weights[key], p)]
    if mistyped:
        raise WeightsError(f"{where}: {_listed(mistyped)}; expected floating-point tensors (and integer counters)")
    converted = {
        key: weights[key].detach().to(torch.int64 if parameter.initial is Initial.COUNT else dtype, copy=True)
        for key, parameter in expected.items()
    }
    masks = [key for key, parameter in expected.items() if parameter.initial is Initial.MASK]
    blind = [key for key in masks if bool(converted[key].isneginf().all(-1).any())]
    if blind:
        raise WeightsError(f"{where}: every key is hidden from a query in {_listed(blind)}; leave it one to attend to")
    broken = [key for key, tensor in converted.items() if not _is_finite(tensor, expected[key])]
    if broken:
        given = [key for key in broken if not _is_finite(weights[key], expected[key])]
        cause = "NaN or infinite values in" if given else f"values too large for {dtype} in"
        raise NonFiniteError(f"{where}: {cause} {_listed(given or broken)}")
    negative = [k for k, p in expected.items() if p.initial is Initial.VARIANCE and bool((converted[k] < 0).any())]
    if negative:
        raise WeightsError(f"{where}: negative running variance in {_listed(negative)}")
    return converted


def _fits(tensor: Tensor, parameter: Parameter) -> bool:
    if parameter.initial is Initial.COUNT:
        return tensor.dtype in (torch.int64, torch.int32)
    return tensor.dtype in FLOATS


def _is_finite(tensor: Tensor, parameter: Parameter) -> bool:
    """Whether all values are finite, or minus infinity in a mask."""
    hidden = tensor.isneginf() if parameter.initial is Initial.MASK else False
    return bool((tensor.isfinite() | hidden).all())


def _named_tensors(value: Any, file: Path) -> dict[str, Tensor]:
    if not isinstance(value, Mapping):
        raise WeightsError(f"{file}: holds a {type(value).__name__}; expected a state dict, names to tensors")
    odd = [str(key) for key, entry in value.items() if not isinstance(key, str) or not isinstance(entry, Tensor)]
    if odd:
        raise WeightsError(f"{file}: not named tensors: {_listed(odd)}; expected a state dict, names to tensors")
    return dict(value)


def _listed(parts: Iterable[str]) -> str:
    given = list(parts)
    more = f" and {len(given) - _SHOWN} more" if len(given) > _SHOWN else ""
    return ", ".join(given[:_SHOWN]) + more
