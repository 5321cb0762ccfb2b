"""What a module and its inputs must be before anything is computed from their derivatives."""

from __future__ import annotations

from torch import Tensor, nn

from fimtheory.errors import DataError, GraphError, NonFiniteError, ShapeError

__all__ = ["check_arguments", "check_logits", "require_finite", "require_tensor"]


def require_tensor(x: object) -> None:
    """Refuse inputs that are not a tensor.

    Raises
    ------
    DataError
        ``x`` is something else; the message says how an array becomes one.
    """
    if not isinstance(x, Tensor):
        raise DataError(
            f"inputs are a {type(x).__name__}; expected a torch.Tensor, as torch.from_numpy(array) makes one"
        )


def check_arguments(module: nn.Module, x: Tensor, temperature: float) -> None:
    """Refuse what is no classifier in evaluation with a finite batch of inputs in its dtype and on its device.

    Raises
    ------
    DataError, GraphError, NonFiniteError
        See ``FisherOperator``.
    """
    if not isinstance(module, nn.Module):
        raise DataError(f"expected an nn.Module, got {type(module).__name__}")
    training = [name or "the module itself" for name, part in module.named_modules() if part.training]
    if training:
        raise GraphError(f"{training[0]} is in training mode, so inputs influence one another: call module.eval()")
    require_tensor(x)
    if not x.is_floating_point():
        raise DataError(f"inputs are {x.dtype}: Fisher information needs real floating-point inputs")
    if x.ndim < 2 or x.numel() == 0:
        raise DataError(f"inputs have shape {tuple(x.shape)}: expected a non-empty batch (B, *input)")
    weights = {(p.dtype, p.device) for p in module.parameters() if p.is_floating_point()}
    if weights and (x.dtype, x.device) not in weights:
        dtype, device = next(iter(weights))
        raise DataError(f"inputs are {x.dtype} on {x.device}, weights {dtype} on {device}: convert one of them")
    if not 0 < temperature < float("inf"):
        raise DataError(f"temperature is {temperature}: expected a positive number")
    require_finite(x, "its value", "clean the data")


def check_logits(logits: Tensor, batch: int) -> None:
    """Refuse outputs of a module that are no finite logits ``(batch, K)``, ``K >= 2``.

    Raises
    ------
    ShapeError, NonFiniteError
        See ``FisherOperator``.
    """
    if not isinstance(logits, Tensor) or not logits.is_floating_point():
        raise ShapeError(f"the module returned {type(logits).__name__}: expected one tensor of real logits (B, K)")
    if logits.ndim != 2 or len(logits) != batch:
        raise ShapeError(f"the module returned shape {tuple(logits.shape)} for {batch} inputs: expected logits (B, K)")
    if logits.shape[1] < 2:
        raise ShapeError("the module returned one logit: a classifier has K >= 2; for a sigmoid s return (0, s)")
    require_finite(logits, "its logits", "check the weights and the size of the inputs")


def require_finite(values: Tensor, what: str, remedy: str, places: Tensor | None = None) -> Tensor:
    """Return ``values`` ``(B, ...)``, or raise ``NonFiniteError`` with the first input that is not finite.

    ``places`` ``(B,)`` are the numbers of the inputs, by default 0 to B - 1.
    """
    bad = (~values.isfinite().flatten(1).all(1)).nonzero()[:, 0].tolist()
    if bad:
        first = bad[0] if places is None else int(places[bad[0]])
        raise NonFiniteError(f"input {first}: {what} has NaN or infinite entries ({len(bad)} inputs); {remedy}")
    return values
