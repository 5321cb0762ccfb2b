"""The derivative of a module at a batch of inputs, as a linear map and its transpose."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from fimtheory.errors import DataError, MissingRuleError
from fimtheory.fisher.constant_layers import has_foreign_backward, layers_with_constant_weights
from fimtheory.fisher.packed_convolution import PackedConvolutions, packs

__all__ = ["Linearisation", "derivative_kernels"]


@contextmanager
def derivative_kernels() -> Iterator[None]:
    """Run attention by kernels that have derivatives of every order and mode; restores the settings on exit.

    Flash and memory-efficient attention have no forward-mode derivative, and the fast path of
    ``nn.MultiheadAttention`` none at all.
    """
    fastpath = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)


@contextmanager
def _named_derivative_errors(mode: str) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise MissingRuleError(
            f"{mode} differentiation failed: {_first_line(error)} "
            "Replace the operator that torch names by one with derivatives of both modes."
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


class Linearisation:
    """``J = df/dx`` at each input of a batch: one forward pass, then products without another.

    Reverse mode gives ``J^T u``.  It is linear in u, so its own reverse mode gives ``J v``, for about the cost of a
    forward pass, where forward mode costs that and the forward pass again.  Only operators of torch are transposed so:
    a backward written in Python need not be differentiable and may not say so; a module with one is pushed forward by
    forward mode.

    Parameters
    ----------
    module : nn.Module
        In eval mode.
    x : Tensor
        ``(B, *input)``.

    Attributes
    ----------
    logits : Tensor
        What the module returns.
    has_foreign_backward : bool
        Whether a backward written in Python takes part.

    Raises
    ------
    DataError
        If the module rejects the inputs.
    MissingRuleError
        If an operator has no derivative.
    """

    def __init__(self, module: nn.Module, x: Tensor) -> None:
        self._module = module
        # torch cannot replace the weights of a scripted module, which costs time where they require gradients.
        scripted = any(isinstance(part, torch.jit.ScriptModule) for part in module.modules())
        named = () if scripted else module.named_parameters()
        self._constants = {name: weight.detach() for name, weight in named}
        self._packed = PackedConvolutions()
        self._linearise(x)

    def at(self, x: Tensor) -> Linearisation:
        """Return the derivative of the same module at other inputs."""
        other = copy.copy(self)
        other._linearise(x)
        return other

    def _linearise(self, x: Tensor) -> None:
        module = self._module
        try:
            self._x, self._output = self._evaluate(x.detach())
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError, TypeError) as error:
            try:
                with torch.no_grad():
                    module(x)
            except (RuntimeError, ValueError, TypeError):
                raise DataError(f"the module rejects inputs of shape {tuple(x.shape)}: {_first_line(error)}") from error
            raise MissingRuleError(f"the module runs, but cannot be differentiated: {_first_line(error)}") from error
        self.logits = self._output.detach() if isinstance(self._output, Tensor) else self._output
        self.has_foreign_backward = isinstance(self._output, Tensor) and has_foreign_backward(self._output)
        self._transposable = not self.has_foreign_backward
        self._transposed: tuple[Tensor, Tensor] | None = None
        self._functional_pullback: Callable[[Tensor], tuple[Tensor]] | None = None

    def _evaluate(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return a copy of x and the output there, in the layout of packed convolutions if the module bears it."""
        if packs(x):
            try:
                return self._evaluate_copy(x.clone(memory_format=torch.channels_last))
            except torch.OutOfMemoryError:
                raise
            except (RuntimeError, ValueError, TypeError):  # a view that expects the usual layout, or a real fault
                pass
        return self._evaluate_copy(x.clone())

    def _evaluate_copy(self, copy: Tensor) -> tuple[Tensor, Tensor]:
        copy.requires_grad_()
        with torch.enable_grad(), derivative_kernels(), layers_with_constant_weights(self._packed):
            return copy, self._run(copy)

    def _run(self, x: Tensor) -> Tensor:
        return torch.func.functional_call(self._module, self._constants, (x,)) if self._constants else self._module(x)

    def pull_back(self, u: Tensor) -> Tensor:
        """Return ``J^T u``, ``(B, *input)``, for u ``(B, K)``."""
        if not self._output.requires_grad:
            return torch.zeros_like(self._x)
        if self._transposable and self._transposed is None:
            try:
                return self._pull_back_recorded(u)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError:  # an operator that has one derivative only
                self._transposable = False
        with _named_derivative_errors("reverse-mode"):
            return torch.autograd.grad(self._output, self._x, u, retain_graph=True, materialize_grads=True)[0]

    def _pull_back_recorded(self, u: Tensor) -> Tensor:
        """Pull back and keep the graph of it, in which u is a variable: its reverse mode is J."""
        cotangent = u.detach().clone().requires_grad_()
        with torch.enable_grad():
            gradient = torch.autograd.grad(
                self._output, self._x, cotangent, create_graph=True, materialize_grads=True
            )[0]  # fmt: skip
        self._transposed = gradient, cotangent
        return gradient.detach()

    def push_forward(self, v: Tensor) -> Tensor:
        """Return ``J v``, ``(B, K)``, for v ``(B, *input)``."""
        if not self._output.requires_grad:
            return torch.zeros_like(self.logits)
        if self._transposable:
            try:
                return self._push_forward_by_transposition(v)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError:  # an operator that has one derivative only
                self._transposable, self._transposed = False, None
        return self.forward_mode(v, torch.arange(len(v), device=v.device))[1]

    def _push_forward_by_transposition(self, v: Tensor) -> Tensor:
        if self._transposed is None:
            self._pull_back_recorded(torch.zeros_like(self.logits))
        assert self._transposed is not None
        gradient, cotangent = self._transposed
        if not gradient.requires_grad:
            return torch.zeros_like(self.logits)
        return torch.autograd.grad(gradient, cotangent, v, retain_graph=True, materialize_grads=True)[0]

    def forward_mode(self, v: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits at the inputs of ``index`` in a pass of their own, and ``J v`` there by forward mode.

        Convolutions are torch's own there, which is evidence for the packed ones.
        """
        x = self._x.detach()[index].contiguous()
        with (
            torch.no_grad(), derivative_kernels(), layers_with_constant_weights(), forward_ad.dual_level(),
            _named_derivative_errors("forward-mode"),
        ):  # fmt: skip
            logits, image = forward_ad.unpack_dual(self._run(forward_ad.make_dual(x, v)))
        return logits, torch.zeros_like(logits) if image is None else image

    def pull_back_each(self, cotangents: Tensor) -> Tensor:
        """Return ``J^T u`` for each u of ``cotangents`` ``(n, B, K)``; several by ``torch.func.vmap`` where it can."""
        if len(cotangents) > 1:
            try:
                return self._pull_back_together(cotangents)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError:  # an operator without a batching rule: one at a time gives the same
                pass
        return torch.stack([self.pull_back(u) for u in cotangents])

    def _pull_back_together(self, cotangents: Tensor) -> Tensor:
        with torch.no_grad(), derivative_kernels():  # torch's own layers: their batching rules are faster on small nets
            if self._functional_pullback is None:
                self._functional_pullback = torch.func.vjp(self._run, self._x.detach().contiguous())[1]  # pyright: ignore
            return torch.func.vmap(self._functional_pullback)(cotangents)[0]
