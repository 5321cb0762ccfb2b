"""Certified robust radii: how far an input may move before a model can change its mind (T7)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import final

import torch
from flint import arb, ctx
from torch import Tensor, nn

from fimtheory.balls import PRECISION, ball, evaluated, lower_float, power_of_ten
from fimtheory.claims import Condition, Status
from fimtheory.decimals import significant
from fimtheory.derivation import Derivation
from fimtheory.errors import AssumptionError, DataError, GraphError
from fimtheory.evaluation import Evaluation
from fimtheory.fisher import check_arguments, check_logits, double, require_tensor
from fimtheory.instantiation import GraphModule
from fimtheory.local import LocalRadii

__all__ = ["CertifiedAccuracy", "Radii", "certified_accuracy", "certified_radius"]

_BATCH = 64


@final
@dataclass(frozen=True, slots=True)
class Radii:
    """Radii within which a prediction cannot change, one entry per input.

    Attributes
    ----------
    radius : Tensor
        ``(B,)`` float64, in l2 of the module's own input units: every input nearer than this has the same predicted
        class, with a logit above all others.  Rounded down; inf where no input changes the prediction.
    fisher_rao, margin : Tensor
        ``(B,)`` float64: the radii of the two certificates, rounded down.
    by : tuple of str
        What gives each radius: ``margin``, ``fisher-rao`` or ``local``, whichever is largest; ``box`` where it ends at
        the domain of the bound; ``tie`` where two classes share the largest logit, so that it is 0; ``constant`` where
        the bound on lam is 0.
    predicted : Tensor
        ``(B,)`` int64: class of the largest logit, the first of them in a tie.
    classes : int
        K.
    status : Status
        Certified.
    domain : str
        For which inputs the bound on lam holds, in words.
    local : Tensor or None
        ``(B,)`` float64: the radii by bounds around each input (``local_radius``), where `with_local` was given them.
    """

    radius: Tensor
    fisher_rao: Tensor
    margin: Tensor
    by: tuple[str, ...]
    predicted: Tensor
    classes: int
    status: Status
    domain: str
    local: Tensor | None = None

    def __len__(self) -> int:
        return len(self.by)

    def with_local(self, found: LocalRadii) -> Radii:
        """Return the larger radius of these and of those by bounds around the same inputs.

        A radius that ends at the domain of the bound on lam may become larger: a local bound has no domain.

        Raises
        ------
        DataError
            The others are not in l2, not of as many inputs, or of a model that predicts other classes.
        """
        if found.norm != "l2":
            raise DataError(f"the local radii are in {found.norm}; these are in l2")
        certain = found.radius > 0  # where two logits are equal but for rounding, either may be the larger
        same = len(found) == len(self) and torch.equal(found.predicted[certain], self.predicted[certain])
        if not same:
            raise DataError("the local radii are of other inputs, or of a model that predicts other classes")
        larger = (found.radius > self.radius).tolist()
        by = tuple("local" if better else name for better, name in zip(larger, self.by, strict=True))
        return replace(self, radius=torch.maximum(self.radius, found.radius), by=by, local=found.radius)

    def __repr__(self) -> str:
        won = ", ".join(f"{count} by {name}" for name, count in Counter(self.by).most_common())
        median = self.median
        return f"<Radii: median {significant(median, _log10(median), up=False)} ({self.status}, l2), {won}>"

    @property
    def median(self) -> float:
        """The lower median."""
        return self.radius.quantile(0.5, interpolation="lower").item()


def certified_radius(module: nn.Module, x: Tensor, evaluation: Evaluation) -> Radii:
    r"""Return how far each input may move in l2 before the prediction of ``module`` can change (T7).

    Let ``Lam`` be the certified bound on lam, tau the temperature, ``p = softmax(z / tau)`` at an input with logits z,
    c the largest class and j another.  Two radii are certified, and the larger one is reported:

    - margin: ``min_j (z_c - z_j) / (2 tau sqrt(Lam))``;
    - Fisher-Rao: ``2 arcsin((sqrt(p_c) - sqrt(p_j)) / sqrt(2)) / sqrt(Lam)``, j the runner-up.

    Proof.  Both rest on how the theorem concludes, so write ``M = 2 tau sqrt(Lam)``.

    *Logit differences are Lipschitz with constant M.*  If the logits are ``W g(x) + b`` (rule *head*),
    ``Lam = D_W^2 L(g)^2 / (4 tau^2)`` and ``M = D_W L(g)``; and ``z_i - z_j`` moves by
    ``|<w_i - w_j, g(x) - g(x')>| <= D_W L(g) ||x - x'||``.  Otherwise (rule *softmax*) ``Lam = L(f)^2 / (2 tau^2)`` and
    ``M = sqrt(2) L(f)``; and ``z_i - z_j = <e_i - e_j, f(x)>`` moves by at most ``sqrt(2) L(f) ||x - x'||``.
    Where a stack gives the smaller ``Lam = R_W^2 L(h)^2 / (4 tau^2)``, ``M = R_W L(h)``, and R_W bounds how every
    difference of two logits moves with h; where the semidefinite bound is the smaller one, twice its root is such a
    bound for the whole network (``semidefinite``).
    So ``z_c - z_j`` stays positive for every j nearer than the margin radius.

    *The map to distributions with the Fisher-Rao metric is Lipschitz with constant sqrt(Lam).*  On the segment between
    two logit vectors, of which the second is z + D, the metric has length ``int sqrt(D^T S_{p_s} D) / tau ds``, and
    ``D^T S D`` is a variance of the entries of D, at most ``(max D - min D)^2 / 4`` (Popoviciu).  By the first part
    ``max D - min D <= M ||x - x'||``, so that ``d_FR(p(x), p(x')) <= M ||x - x'|| / (2 tau)``.
    On the sphere of square roots ``d_FR(p, q) = 2 arccos(sum_i sqrt(p_i q_i))`` is twice an angle, and where
    ``q_j >= q_c`` the point ``sqrt(q)`` lies on or beyond the hyperplane with unit normal ``(e_c - e_j) / sqrt(2)``.
    The angle to that hyperplane is ``arcsin((sqrt(p_c) - sqrt(p_j)) / sqrt(2))``, least for the runner-up.

    *The margin is never the smaller one.*  Where ``p_c + p_j = 1``, with ``p_c = cos^2 a``, the numerators are
    ``log cot(a) / sqrt(Lam) = artanh(sin y) / sqrt(Lam)`` and ``y / sqrt(Lam)``, ``y = pi/2 - 2a``, and
    ``artanh(sin y) >= y``; other classes scale ``sqrt(p_c) - sqrt(p_j)`` down and leave ``p_c / p_j`` as it is.  The
    Fisher-Rao radius is what a bound on lam alone, without the Lipschitz constant behind it, would give.

    The logits are computed by a float64 copy of the module and then taken as exact: everything after them is rounded
    so that no radius is too large (ball arithmetic, by differences of logits, so that a saturated softmax loses
    nothing), but rounding inside the forward pass is not modelled.

    Parameters
    ----------
    module : nn.Module
        The classifier, in eval mode, with the weights that ``evaluation`` is about (their equality is not checked);
        maps ``(B, *input)`` to logits ``(B, K)``, each sample on its own.
    x : Tensor
        ``(B, *input)``, floating point, finite.
    evaluation : Evaluation
        What ``ft.evaluate`` returned for these weights.  Its bound must hold for all inputs or on a box of inputs; on
        a box a radius ends at its faces.

    Returns
    -------
    Radii
        Radii in l2 of the units of ``x``: a module that normalises pixels itself has them in pixels.  Certified.

    Raises
    ------
    AssumptionError
        The bound holds only for inputs that meet another condition, such as a token variance.
    DataError, ShapeError, NonFiniteError, GraphError
        The inputs do not fit the module or lie outside of the bound's box, or the module or the evaluation is of
        another kind or about another graph.

    References
    ----------
    The margin certificate is that of Tsuzuku, Sato and Sugiyama (arXiv:1802.04034); for the Fisher-Rao metric see
    arXiv:2606.04767, where lam at the input stands in the place of Lam.

    Examples
    --------
    >>> from fimtheory.derive import derive
    >>> from fimtheory.evaluation import evaluate
    >>> from fimtheory.graph import Builder
    >>> from fimtheory.instantiation import instantiate
    >>> from fimtheory.layers import Input, Linear
    >>> builder = Builder("line")
    >>> _ = builder.add("head", Linear(2, 2), builder.add("x", Input((2,))))
    >>> weights = {"head.weight": torch.tensor([[3.0, 4.0], [0.0, 0.0]]), "head.bias": torch.zeros(2)}
    >>> model = instantiate(builder.graph(), weights=weights)
    >>> radii = certified_radius(model, torch.tensor([[5.0, 0.0]]), evaluate(derive(builder.graph()), model))
    >>> round(radii.radius.item(), 12), radii.by  # the line 3 x + 4 y = 0 is 3 away
    (3.0, ('margin',))
    """
    if not isinstance(evaluation, Evaluation):
        raise DataError(f"expected what ft.evaluate returns, got a {type(evaluation).__name__}")
    derivation = evaluation.derivation
    _require_domain(derivation)
    if isinstance(module, GraphModule) and module.graph.nodes != derivation.graph.nodes:
        raise GraphError(
            f"the model computes another graph ({module.graph!r}) than the evaluation is about ({derivation.graph!r})"
        )
    logits = _logits(module, x)
    room = _room(x, evaluation)
    ctx.prec = PRECISION
    root = power_of_ten(evaluation.log10).sqrt()
    tau = evaluated(derivation.temperature, {})
    margins, angles, names, radii = [], [], [], []
    for row, free in zip(logits.tolist(), room, strict=True):
        margin, angle, name = _both(row, root, tau)
        radius = max(margin, angle)
        if free < radius:
            radius, name = free, "box"
        margins.append(margin)
        angles.append(angle)
        names.append(name)
        radii.append(radius)
    return Radii(
        torch.tensor(radii, dtype=torch.float64),
        torch.tensor(angles, dtype=torch.float64),
        torch.tensor(margins, dtype=torch.float64),
        tuple(names),
        logits.argmax(1).cpu(),
        logits.shape[1],
        Status.CERTIFIED,
        evaluation.domain,
    )


@final
@dataclass(frozen=True, slots=True)
class CertifiedAccuracy:
    """Which labelled inputs are classified right, and how far that is certain.

    Attributes
    ----------
    radii : Radii
    labels : Tensor
        ``(B,)`` int64, on the CPU.
    """

    radii: Radii
    labels: Tensor

    def __repr__(self) -> str:
        return f"<CertifiedAccuracy: {self.at(0):.3f} of {len(self.radii)} inputs right; {self.radii!r}>"

    @property
    def correct(self) -> Tensor:
        """Which inputs are classified right, ``(B,)`` bool."""
        return self.radii.predicted == self.labels

    def at(self, radius: float) -> float:
        """Return the share of inputs that are right and stay right at every input nearer than ``radius``; certified.

        At 0 it is the accuracy.

        Raises
        ------
        DataError
            The radius is not a number of at least 0.
        """
        return self.count(radius) / len(self.radii)

    def count(self, radius: float) -> int:
        """Return how many inputs ``at`` counts.

        Raises
        ------
        DataError
            The radius is not a number of at least 0.
        """
        if not radius >= 0:
            raise DataError(f"the radius is {radius}; expected a number of at least 0")
        return int((self.correct & (self.radii.radius >= radius)).sum())

    def steps(self) -> tuple[Tensor, Tensor]:
        """Return the radii at which the share falls, increasing, and the share up to and at each; both float64."""
        falls = self.radii.radius[self.correct & self.radii.radius.isfinite()].unique()
        return falls, torch.tensor([self.at(radius) for radius in falls.tolist()], dtype=torch.float64)

    def table(self, rows: int = 8) -> list[tuple[float, float]]:
        """Return about ``rows`` round radii, from 0 to where no input is certain, and the share at each."""
        falls = self.steps()[0]
        if not len(falls) or falls[-1] == 0:
            return [(0.0, self.at(0))]
        step = _round_number(falls[-1].item() / rows)
        count = math.floor(Decimal(falls[-1].item()) / step) + 1
        radii = [float(k * step) for k in range(count + 1)]
        return [(radius, self.at(radius)) for radius in radii]


def certified_accuracy(radii: Radii, labels: Tensor) -> CertifiedAccuracy:
    """Return the accuracy that ``radii`` certify on labelled inputs, as a function of the radius.

    Parameters
    ----------
    radii : Radii
        What ``certified_radius`` returned for the inputs.
    labels : Tensor
        ``(B,)`` integers from 0 to K - 1: the right classes.

    Raises
    ------
    DataError
        The labels are not one class of the model for each input.
    """
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.is_complex():
        raise DataError(f"labels are {getattr(labels, 'dtype', type(labels).__name__)}; expected a tensor of integers")
    if tuple(labels.shape) != (len(radii),):
        raise DataError(f"labels have shape {tuple(labels.shape)}; expected one for each of {len(radii)} inputs")
    wrong = labels[(labels < 0) | (labels >= radii.classes)]
    if len(wrong):
        raise DataError(f"a label is {int(wrong[0])}; the model has classes 0 to {radii.classes - 1}")
    return CertifiedAccuracy(radii, labels.to("cpu", torch.int64))


def _require_domain(derivation: Derivation) -> None:
    """Refuse a theorem about inputs of which it cannot be said how far away the others are."""
    rules = ("head", "softmax")
    if derivation.theorem.head not in rules:
        raise AssumptionError(
            f"the theorem concludes by the rule {derivation.theorem.head!r}; radii are proved for {' and '.join(rules)}"
        )
    boxed: set[Condition] = set()  # what the evaluation has put numbers to, for all inputs or for a box of them
    for step in derivation.steps:
        if step.rule == "assumption":
            boxed |= set(step.claim.conditions)
    open_ = [condition.statement for condition in derivation.assumptions if condition not in boxed]
    if derivation.token_variance is not None or open_:
        raise AssumptionError(
            "the bound holds only where its assumptions do, and how far an input is from losing them is not known "
            f"({' '.join(open_) or 'a token variance'}); derive it for all inputs, without a token variance"
        )


def _logits(module: nn.Module, x: Tensor) -> Tensor:
    """Return the logits by a float64 copy of the module, in batches."""
    require_tensor(x)
    if not x.is_floating_point():
        raise DataError(f"inputs are {x.dtype}; expected floating-point numbers in the units of the module's input")
    if not isinstance(module, nn.Module):
        raise DataError(f"expected an nn.Module, got {type(module).__name__}")
    reference = double(module)
    inputs = x.detach().double()
    check_arguments(reference, inputs, 1.0)
    return torch.cat(list(_parts(reference, inputs)))


def _parts(module: nn.Module, inputs: Tensor) -> Iterator[Tensor]:
    for part in inputs.split(_BATCH):
        try:
            with torch.no_grad():
                logits = module(part)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise DataError(f"the module rejects inputs of shape {tuple(inputs.shape)}: {reason}") from error
        check_logits(logits, len(part))
        if logits.dtype != torch.float64:
            raise DataError(f"the module returns {logits.dtype} for float64 inputs: remove the casts from its forward")
        yield logits


def _room(x: Tensor, evaluation: Evaluation) -> list[float]:
    """Return how far each input is from leaving the box on which the bound holds, rounded down."""
    side = evaluation.input_bound
    if side is None:
        return [math.inf] * len(x)
    largest = x.detach().double().flatten(1).abs().amax(1).tolist()
    if not max(largest) <= side:
        raise DataError(
            f"an entry of an input is {max(largest)} in absolute value, but the bound holds for entries of at most "
            f"{side}; evaluate with a larger input bound, or give other inputs"
        )
    return [lower_float(ball(float(side)) - ball(entry)) for entry in largest]


def _both(logits: list[float], root: arb, tau: arb) -> tuple[float, float, str]:
    """Return the margin radius, the Fisher-Rao radius and what gives the larger one.

    ``logits`` are exact, ``root`` is ``sqrt(Lam)`` and ``tau`` the temperature.
    """
    top = max(range(len(logits)), key=logits.__getitem__)
    others = logits[:top] + logits[top + 1 :]
    if max(others) == logits[top]:
        return 0.0, 0.0, "tie"
    if root == 0:
        return math.inf, math.inf, "constant"
    gaps = [(ball(logits[top]) - ball(other)) / tau for other in others]
    least = (ball(logits[top]) - ball(max(others))) / tau
    total = sum(((-gap).exp() for gap in gaps), arb(1))  # 1 / p of the top class
    # sqrt(p_c) - sqrt(p_j) = sqrt(p_c) (1 - exp(-gap / 2))
    angle = 2 * (-(-least / 2).expm1() / (2 * total).sqrt()).asin()
    margin, fisher_rao = lower_float(least / (2 * root)), lower_float(angle / root)
    return margin, fisher_rao, "margin" if margin >= fisher_rao else "fisher-rao"


def _round_number(value: float) -> Decimal:
    """Return the least of 1, 2 and 5 times a power of ten that is at least ``value > 0``."""
    power = Decimal(1).scaleb(Decimal(value).adjusted())
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= Decimal(value))


def _log10(value: float) -> float:
    return math.log10(value) if value > 0 else -math.inf
