"""The input-space Fisher information of a torch classifier, as a matrix-free operator.

With logits ``f(x)`` of shape ``(K,)``, Jacobian ``J = df/dx`` and ``p = softmax(f / tau)``, the Fisher information is
``F = J^T S_p J / tau^2``, ``S_p = diag(p) - p p^T``.  Writing ``S_p = R^T R`` with ``R = diag(sqrt p)(I - 1 p^T)``, the
``d x d`` matrix F and the ``K x K`` matrix ``G = R J J^T R^T / tau^2`` have the same nonzero eigenvalues, and one
product with G costs one vector-Jacobian and one Jacobian-vector product (theory.md, section 7).
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from fimtheory.fisher.adjoint import adjoint_test, require_symmetric
from fimtheory.fisher.linearisation import Linearisation
from fimtheory.fisher.requirements import check_arguments, check_logits, require_finite
from fimtheory.fisher.scaling import normalised, times_power_of_two
from fimtheory.fisher.softmax_factor import SoftmaxFactor

__all__ = ["FisherOperator"]

_NO_DERIVATIVE = (
    "an operator overflows, or has no derivative there: evaluate fimtheory.fisher.double(module), or move the input"
)


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
    seed : int
        Of the random probe that sets the scale of J and begins the adjoint test.

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
    places : Tensor
        ``(B,)`` int64: where each input stood in the batch that was given, for messages.
    probe, probe_vjp : Tensor
        ``(B, K)`` float64: a random cotangent c whose entries sum to zero; ``(B, *input)``: ``J^T c``.
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

    def __init__(self, module: nn.Module, x: Tensor, temperature: float = 1.0, seed: int = 0) -> None:
        check_arguments(module, x, temperature)
        self.module = module
        self.x = x.detach()
        self.temperature = temperature
        self.evaluations = 0
        self.places = torch.arange(len(x), device=x.device)
        self._linearisation = Linearisation(module, self.x)
        self.logits = self._linearisation.logits
        check_logits(self.logits, len(x))
        self.K = self.logits.shape[1]
        self.log_probs = (self.logits.double() / temperature).log_softmax(1)
        require_finite(self.log_probs, "logits / temperature", "check the weights, the inputs and the temperature")
        self.probs = self.log_probs.exp()
        self.factor = SoftmaxFactor(self.log_probs, temperature)
        # One random pullback sets the scale of J and is one half of the adjoint test.
        generator = torch.Generator().manual_seed(seed)
        probe = torch.randn(self.logits.shape, generator=generator, dtype=torch.float64)
        probe = (probe - probe.mean(1, keepdim=True)).to(self.logits)  # constant shifts of the logits do not matter
        self.probe = probe.double()
        self.probe_vjp = self.vjp(self.probe)
        size = normalised(self.probe_vjp)[1]
        self.jacobian_exponent = size.log2().floor().where(size > 0, 0.0).long()
        self.exponent = self.factor.exponent + 2 * self.jacobian_exponent

    def vjp(self, u: Tensor) -> Tensor:
        """Return ``J^T u``, shape ``(B, *input)`` float64, by reverse mode; ``u`` is ``(B, K)``."""
        result = self._linearisation.pull_back(u.to(self.logits))
        self.evaluations += len(u)
        return require_finite(result.double(), "J^T u", _NO_DERIVATIVE, self.places)

    def jvp(self, v: Tensor) -> Tensor:
        """Return ``J v``, shape ``(B, K)`` float64; ``v`` is ``(B, *input)``."""
        result = self._linearisation.push_forward(v.to(self.x))
        self.evaluations += len(v)
        return require_finite(result.double(), "J v", _NO_DERIVATIVE, self.places)

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
        pushed = self._scaled_jvp(direction)
        image = norm.unsqueeze(1) * self.factor.apply(pushed)
        require_symmetric(self, u, norm, pushed, image)
        return image

    def pushed_probe(self) -> Tensor:
        """Return ``R J J^T c`` up to scale, ``(B, K)``, c the random cotangent ``probe``: a start for iterations."""
        return self.factor.apply(self._scaled_jvp(normalised(self.probe_vjp)[0]))

    def _scaled_jvp(self, v: Tensor) -> Tensor:
        return times_power_of_two(self.jvp(v), -self.jacobian_exponent.unsqueeze(1))

    def product(self, v: Tensor) -> Tensor:
        """Return ``F v``, not scaled; ``v`` and the result are ``(B, *input)``, the result float64."""
        direction, norm = normalised(v.double())
        image = self._scaled_jvp(direction)
        unscaled = self.vjp(self.factor.apply_transposed(self.factor.apply(image)))
        shape = (-1,) + (1,) * (v.ndim - 1)
        return norm.view(shape) * times_power_of_two(unscaled, (self.exponent - self.jacobian_exponent).view(shape))

    def __matmul__(self, v: Tensor) -> Tensor:
        """Return ``F v`` as `product` does."""
        return self.product(v)

    def margin_gradients(self, classes: Tensor, chunk: int) -> Tensor:
        """Return gradients of the margins ``f_i - f_t``, t the top class, for the ``classes`` i of each input.

        ``classes`` is ``(B, n)`` int64; the result ``(B, n, d)``, module dtype, not scaled.  ``chunk`` of them are
        pulled back at a time; more than one go through ``torch.func.vmap`` where it can.
        """
        count = classes.shape[1]
        cotangents = torch.zeros(count, *self.logits.shape, dtype=self.logits.dtype, device=self.x.device)
        index = classes.T.unsqueeze(2)
        cotangents.scatter_(2, index, 1.0).scatter_(2, self.factor.top.expand_as(index), -1.0)
        rows = self.x.new_empty(count, *self.x.shape)
        for start in range(0, count, chunk):
            rows[start : start + chunk] = self._linearisation.pull_back_each(cotangents[start : start + chunk])
        self.evaluations += count * len(self.x)
        return require_finite(rows.flatten(2).transpose(0, 1), "J^T u", _NO_DERIVATIVE, self.places)

    def other_classes(self) -> Tensor:
        """Return the K - 1 classes other than the top one, increasing; ``(B, K - 1)`` int64."""
        index = torch.arange(self.K - 1, device=self.x.device)
        return index + (index >= self.factor.top)

    def select(self, index: Tensor) -> FisherOperator:
        """Return the operator of ``x[index]``, linearised anew, with the same exponents; it goes on counting."""
        selected = copy.copy(self)
        selected.x = self.x[index]
        selected._linearisation = self._linearisation.at(selected.x)
        for name in ("places", "logits", "log_probs", "probs", "probe", "probe_vjp", "jacobian_exponent", "exponent"):
            setattr(selected, name, getattr(self, name)[index])
        selected.factor = SoftmaxFactor(selected.log_probs, self.temperature)
        return selected

    @property
    def has_foreign_backward(self) -> bool:
        """Whether a backward of the module is written in Python; products with J then go by forward mode."""
        return self._linearisation.has_foreign_backward

    def adjoint_test(self) -> None:
        """Compare forward with reverse mode; see ``fimtheory.fisher.adjoint``.

        Raises
        ------
        AdjointTestError, GraphError
            If they disagree, or the module is not a function of each input alone.
        """
        adjoint_test(self)

    def forward_mode(self, v: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits at ``x[index]`` by themselves and ``J v`` there, float64, by forward mode.

        v is ``(len(index), *input)``; nothing of `jvp` is used.
        """
        logits, image = self._linearisation.forward_mode(v.to(self.x), index)
        self.evaluations += len(v)
        return logits, require_finite(image.double(), "J v", _NO_DERIVATIVE, self.places[index])
