"""The input-space Fisher information of a torch classifier, as a matrix-free operator.

With logits ``f(x)`` of shape ``(K,)``, Jacobian ``J = df/dx`` and ``p = softmax(f / tau)``, the Fisher information is
``F = J^T S_p J / tau^2``, ``S_p = diag(p) - p p^T``.  Writing ``S_p = R^T R`` with ``R = diag(sqrt p)(I - 1 p^T)``, the
``d x d`` matrix F and the ``K x K`` matrix ``G = R J J^T R^T / tau^2`` have the same nonzero eigenvalues, and one
product with G costs one vector-Jacobian and one Jacobian-vector product (theory.md, section 7).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from fimtheory.errors import AdjointTestError, DataError, GraphError, MissingRuleError, NonFiniteError, ShapeError

__all__ = [
    "FisherOperator", "SoftmaxFactor", "check_arguments", "check_logits", "derivative_kernels", "double", "normalised",
    "require_tensor", "times_power_of_two",
]  # fmt: skip

_LN2 = math.log(2)
_USE_FLOAT64 = "evaluate fimtheory.fisher.double(module) in float64"


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
            f"{mode} differentiation failed: {str(error).splitlines()[0]} "
            "Replace the operator that torch names by one with derivatives of both modes."
        ) from error


class SoftmaxFactor:
    r"""A factor of the scaled softmax covariance: ``R^T R = 2**-exponent S_p / tau**2``.

    With top class t, ``(R w)_i = sqrt(p_i) (w_i - w_t - m)`` for ``i != t`` and ``(R w)_t = -sqrt(p_t) m``, where
    ``m = sum_{j != t} p_j (w_j - w_t)``.  Only off-top probabilities enter, each from its own log-probability, so
    nothing is lost to ``1 - p_t`` however saturated the softmax is; the exponent brings the largest weight near 1, so
    that probabilities below the float64 range still give full accuracy.

    Parameters
    ----------
    log_probs : Tensor
        ``(B, K)`` float64, ``log softmax(f / tau)``.  Differentiable (the exponent counts as a constant).
    temperature : float
        tau.

    Attributes
    ----------
    exponent : Tensor
        ``(B,)`` int64: ``2**exponent`` is the power of two nearest to ``p_2 / tau**2``, p_2 the runner-up.
    top : Tensor
        ``(B, 1)`` int64: the most probable class.
    """

    def __init__(self, log_probs: Tensor, temperature: float) -> None:
        self.top = log_probs.argmax(1, keepdim=True)
        is_top = torch.zeros_like(log_probs, dtype=torch.bool).scatter(1, self.top, True)
        rest = log_probs.masked_fill(is_top, -torch.inf)
        runner_up = rest.detach().amax(1, keepdim=True)
        log_scale = runner_up - 2 * math.log(temperature)
        exponent = (log_scale / _LN2).round().clamp(-(2.0**62), 2.0**62)
        self.exponent = exponent.squeeze(1).long()
        remainder = (log_scale - _LN2 * exponent).clamp(-1, 1)  # |remainder| <= ln(2)/2 unless log_scale exceeds 1e15
        self._p = rest.exp()
        self._row = (0.5 * (rest - runner_up + remainder)).exp()  # sqrt(p_i), scaled; 0 for the top class
        self._top_row = self._row * (0.5 * (rest + log_probs.gather(1, self.top))).exp()  # sqrt(p_t) p_j, scaled

    def apply(self, w: Tensor) -> Tensor:
        """Return ``R w``; ``w`` and the result are ``(B, K)`` float64."""
        centred = w - w.gather(1, self.top)
        mean = (self._p * centred).sum(1, keepdim=True)
        return (self._row * (centred - mean)).scatter(1, self.top, -(self._top_row * centred).sum(1, keepdim=True))

    def apply_transposed(self, u: Tensor) -> Tensor:
        """Return ``R^T u``, whose entries sum to zero; ``u`` and the result are ``(B, K)`` float64."""
        inner = (self._row * u).sum(1, keepdim=True)
        c = self._row * u - self._p * inner - self._top_row * u.gather(1, self.top)
        return c.scatter(1, self.top, -c.sum(1, keepdim=True))


def normalised(v: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``v`` ``(B, ...)`` scaled to l2 norm 1 per input, and the norms ``(B,)``; a zero vector stays zero."""
    flat = v.flatten(1)
    largest = flat.abs().amax(1, keepdim=True)
    flat = flat / largest.where(largest > 0, 1.0)
    norm = flat.norm(dim=1, keepdim=True)
    return (flat / norm.where(norm > 0, 1.0)).view_as(v), (largest * norm).squeeze(1)


class FisherOperator:
    r"""``F(x)`` and its ``K x K`` twin ``G(x)`` for a batch of inputs, by products only.

    Nothing of size ``d x d`` or ``d x K`` is formed.  All results are float64; the module runs in the dtype of ``x``.
    Quantities named *scaled* are to be multiplied by ``2**exponent`` (one exponent per input), which keeps them near 1
    when lam itself leaves the range of floating point.

    Parameters
    ----------
    module : nn.Module
        In eval mode; maps ``(B, *input)`` to logits ``(B, K)``, ``K >= 2``, each sample on its own.
    x : Tensor
        ``(B, *input)``, floating point, finite, in the dtype and on the device of the module.
    temperature : float
        tau of the softmax, positive.

    Attributes
    ----------
    logits : Tensor
        ``(B, K)``, in the module's dtype.
    log_probs, probs : Tensor
        ``(B, K)`` float64.
    K : int
        Number of classes.
    exponent : Tensor
        ``(B,)`` int64.
    evaluations : int
        Vector-Jacobian and Jacobian-vector products so far, each of one input.

    Raises
    ------
    GraphError
        If the module or a part of it is in training mode.
    DataError
        If ``x`` is not a batch of floating-point inputs that the module accepts.
    ShapeError
        If the output is not ``(B, K)`` with ``K >= 2``.
    NonFiniteError
        If an input, a logit or a derivative is NaN or infinite.
    MissingRuleError
        If an operator of the module has no derivative.

    Examples
    --------
    >>> head = nn.Linear(3, 2, bias=False, dtype=torch.float64).eval()
    >>> x = torch.zeros(1, 3, dtype=torch.float64)
    >>> w = (head.weight[0] - head.weight[1]).detach()
    >>> torch.allclose(FisherOperator(head, x).product(w[None]), w.dot(w) * w / 4)
    True
    """

    def __init__(self, module: nn.Module, x: Tensor, temperature: float = 1.0) -> None:
        check_arguments(module, x, temperature)
        self.module = module
        self.x = x.detach()
        self.temperature = temperature
        self.evaluations = 0
        self.logits, self._pullback = self._forward()
        check_logits(self.logits, len(x))
        self.K = self.logits.shape[1]
        self.log_probs = (self.logits.double() / temperature).log_softmax(1)
        _require_finite(self.log_probs, "logits / temperature", "check the weights, the inputs and the temperature")
        self.probs = self.log_probs.exp()
        self.factor = SoftmaxFactor(self.log_probs, temperature)
        # One random pullback sets the scale of J and is one half of the adjoint test.
        generator = torch.Generator().manual_seed(0)
        probe = torch.randn(self.logits.shape, generator=generator, dtype=torch.float64)
        probe = (probe - probe.mean(1, keepdim=True)).to(self.logits)  # constant shifts of the logits do not matter
        self.probe = probe.double()
        self.probe_vjp = self.vjp(self.probe)
        size = normalised(self.probe_vjp)[1]
        self.jacobian_exponent = size.log2().floor().where(size > 0, 0.0).long()
        self.exponent = self.factor.exponent + 2 * self.jacobian_exponent

    def _forward(self) -> tuple[Tensor, Callable[[Tensor], tuple[Tensor]]]:
        try:
            with torch.no_grad(), derivative_kernels():
                return torch.func.vjp(self.module, self.x)  # pyright: ignore[reportReturnType]
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            try:
                with torch.no_grad():
                    self.module(self.x)
            except (RuntimeError, ValueError):
                raise DataError(f"the module rejects inputs of shape {tuple(self.x.shape)}: {reason}") from error
            raise MissingRuleError(f"the module runs, but torch.func cannot differentiate it: {reason}") from error

    def vjp(self, u: Tensor) -> Tensor:
        """Return ``J^T u``, shape ``(B, *input)`` float64, by reverse mode; ``u`` is ``(B, K)``."""
        with torch.no_grad(), _named_derivative_errors("reverse-mode"):
            (result,) = self._pullback(u.to(self.logits))
        self.evaluations += len(u)
        return _require_finite(result.double(), "J^T u", _USE_FLOAT64)

    def jvp(self, v: Tensor) -> Tensor:
        """Return ``J v``, shape ``(B, K)`` float64, by forward mode; ``v`` is ``(B, *input)``."""
        return self._logits_and_jvp(v)[1]

    def _logits_and_jvp(self, v: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad(), derivative_kernels(), _named_derivative_errors("forward-mode"):
            logits, result, *_ = torch.func.jvp(self.module, (self.x,), (v.to(self.x),))
        self.evaluations += len(v)
        return logits, _require_finite(result.double(), "J v", _USE_FLOAT64)

    def half_product(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``g = J^T R^T u / tau`` as unit vectors ``(B, *input)`` and their scaled norms ``(B,)``.

        The squared norm is the scaled Rayleigh quotient ``u^T G u`` of a unit ``u``; here scaled means to be multiplied
        by ``2**(exponent / 2)``.
        """
        direction, norm = normalised(self.vjp(self.factor.apply_transposed(u)))
        return direction, times_power_of_two(norm, -self.jacobian_exponent)

    def gram_product(self, u: Tensor) -> Tensor:
        """Return the scaled ``G u = R J J^T R^T u / tau^2``; ``u`` and the result are ``(B, K)`` float64.

        G is positive semidefinite of rank at most ``min(K - 1, d)``, its largest eigenvalue is lam, and ``sqrt(p)``
        is in its null space.
        """
        direction, norm = self.half_product(u)
        image = times_power_of_two(self.jvp(direction), -self.jacobian_exponent.unsqueeze(1))
        return norm.unsqueeze(1) * self.factor.apply(image)

    def product(self, v: Tensor) -> Tensor:
        """Return ``F v``, not scaled; ``v`` and the result are ``(B, *input)``, the result float64."""
        direction, norm = normalised(v.double())
        image = times_power_of_two(self.jvp(direction), -self.jacobian_exponent.unsqueeze(1))
        unscaled = self.vjp(self.factor.apply_transposed(self.factor.apply(image)))
        shape = (-1,) + (1,) * (v.ndim - 1)
        return norm.view(shape) * times_power_of_two(unscaled, (self.exponent - self.jacobian_exponent).view(shape))

    def margin_gradients(self, start: int, stop: int, chunk: int) -> Tensor:
        """Return gradients of margins ``f_i - f_t``, t the top class, for ``start <= i < stop`` of the K - 1 others.

        Shape ``(B, stop - start, d)``, module dtype, not scaled; classes in increasing order without the top class.
        ``chunk`` of them are pulled back at a time; more than one go through ``torch.func.vmap`` where it can.
        """
        cotangents = torch.zeros(stop - start, *self.logits.shape, dtype=self.logits.dtype, device=self.x.device)
        classes = self.other_classes()[:, start:stop].T.unsqueeze(2)
        cotangents.scatter_(2, classes, 1.0).scatter_(2, self.factor.top.expand_as(classes), -1.0)
        parts = [self._pull_back_each(part) for part in cotangents.split(chunk)]
        self.evaluations += cotangents.shape[0] * cotangents.shape[1]
        return _require_finite(torch.cat(parts).flatten(2).transpose(0, 1), "J^T u", _USE_FLOAT64)

    def _pull_back_each(self, cotangents: Tensor) -> Tensor:
        with torch.no_grad():
            if len(cotangents) > 1:
                try:
                    return torch.func.vmap(self._pullback)(cotangents)[0]
                except RuntimeError:  # an operator without a batching rule: one at a time gives the same
                    pass
            with _named_derivative_errors("reverse-mode"):
                return torch.stack([self._pullback(u)[0] for u in cotangents])

    def other_classes(self) -> Tensor:
        """Return the K - 1 classes other than the top one, increasing; ``(B, K - 1)`` int64."""
        index = torch.arange(self.K - 1, device=self.x.device)
        return index + (index >= self.factor.top)

    def select(self, index: Tensor) -> FisherOperator:
        """Return the operator of ``x[index]``; it goes on counting evaluations, and its exponents may differ."""
        selected = FisherOperator(self.module, self.x[index], self.temperature)
        selected.evaluations += self.evaluations
        return selected

    def adjoint_test(self) -> None:
        """Compare ``<J v, u>`` by forward mode with ``<v, J^T u>`` by reverse mode, per input, for random u and v.

        The tolerance is ``4 sqrt(eps)`` of the size such inner products have for random vectors, eps that of the
        module's dtype: derivatives that are wrong in one layer fail by orders of magnitude more.

        Raises
        ------
        AdjointTestError
            If the two disagree for some input.
        GraphError
            If they disagree per input but agree in the sum over the batch (then samples influence one another), if two
            forward passes give different logits, or if J is zero at every input although the logits change around it.
        """
        generator = torch.Generator().manual_seed(1)
        v = torch.randn(self.x.shape, generator=generator, dtype=torch.float64).to(self.x).double()
        logits, image = self._logits_and_jvp(v)
        root_eps = torch.finfo(self.logits.dtype).eps ** 0.5
        drift = (logits - self.logits).abs().amax(1).double()
        for i in (drift > root_eps * self.logits.abs().amax(1).double()).nonzero()[:, 0].tolist():
            raise GraphError(
                f"input {i}: two forward passes gave logits that differ by {drift[i]:.3g}; "
                "the module is random or keeps state: remove noise and functional dropout"
            )
        if not image.any() and not self.probe_vjp.any():
            self._require_constant(v, root_eps)
        forward = (image * self.probe).sum(1)
        reverse = (self.probe_vjp * v).flatten(1).sum(1)
        size = (image.norm(dim=1) * self.probe.norm(dim=1)) / self.K**0.5
        size += normalised(self.probe_vjp)[1] * normalised(v)[1] / v[0].numel() ** 0.5
        failed = ((forward - reverse).abs() > 4 * root_eps * size).nonzero()[:, 0].tolist()
        if not failed:
            return
        i = failed[0]
        if len(v) > 1 and (forward - reverse).sum().abs() <= 4 * root_eps * size.norm():
            raise GraphError(
                f"input {i}: the samples of a batch influence one another (batch statistics, attention over it), so "
                "lam of one input is undefined: give the module running statistics or pass one input at a time"
            )
        raise AdjointTestError(
            f"input {i}: forward mode gives <J v, u> = {forward[i]:.9g}, reverse mode <v, J^T u> = {reverse[i]:.9g}; "
            "one is wrong, so no estimate can be trusted. torch's batch norm is known to do this at batch size 1 when "
            "flatten(2).transpose(1, 2) follows: pass the input twice. Otherwise correct the backward or jvp of the "
            "module's own autograd functions, or evaluate fimtheory.fisher.double(module)."
        )

    def _require_constant(self, v: Tensor, step: float) -> None:
        """Refuse a module that reports J = 0 at every input while its logits move along ``v``."""
        with torch.no_grad(), derivative_kernels():
            change = self.module(self.x + (step * v).to(self.x)) - self.logits
        if (change.abs().amax(1) > step**1.5 * self.logits.abs().amax(1)).all():
            raise GraphError(
                "J is zero at every input, but the logits change nearby: the forward detaches or rounds its input, or "
                "all inputs sit on a kink; remove torch.no_grad and detach from the forward, or move the inputs"
            )


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
    _require_finite(x, "its value", "clean the data")


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
    _require_finite(logits, "its logits", "check the weights and the size of the inputs")


def _require_finite(values: Tensor, what: str, remedy: str) -> Tensor:
    bad = (~values.isfinite().flatten(1).all(1)).nonzero()[:, 0].tolist()
    if bad:
        raise NonFiniteError(f"input {bad[0]}: {what} has NaN or infinite entries ({len(bad)} inputs); {remedy}")
    return values
