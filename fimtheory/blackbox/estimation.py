"""lam of a black box from queries alone."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from fimtheory.blackbox.answers import understood
from fimtheory.blackbox.checkpoint import Checkpoint
from fimtheory.blackbox.ledger import CallError, Ledger
from fimtheory.blackbox.plan import METHODS, Plan
from fimtheory.blackbox.reading import read
from fimtheory.blackbox.result import BlackBoxEstimate
from fimtheory.blackbox.sampling import Sample, Sampler
from fimtheory.errors import DataError, QueryError

__all__ = ["estimate_black_box"]

_OUTPUTS = ("probabilities", "logits")


def estimate_black_box(
    query: Callable[[Any], Any],
    x: np.ndarray | Tensor,
    *,
    outputs: str = "probabilities",
    queries: int = 200,
    level: float = 0.95,
    method: str = "auto",
    seed: int = 0,
    batch: int = 256,
    step: float | None = None,
    scale: float | None = None,
    timeout: float | None = None,
    checkpoint: str | Path | None = None,
    progress: bool = False,
) -> BlackBoxEstimate:
    r"""Estimate lam(x) = ``||F(x)||_2`` of a classifier that can only be queried, with confidence limits.

    ``2 sqrt(p)`` has the Jacobian ``R J`` whose squared norm is lam.  Central differences along random directions give
    ``Y = R J Omega``, a sketch with m columns; its top eigenvalue, corrected for bias, is the estimate.  The limits are
    the exact ones of normal sketches at finite m, whatever the dimension of the input.  Where the budget covers every
    direction of an orthonormal basis, that is measured instead and nothing is left to chance.

    Differences are no derivatives: truncation, kinks and noise are estimated on a few directions at twice the step, the
    rounding of outputs is bounded by their number format, and the limits are moved outwards by both.  ``level`` covers
    the random directions; that the estimated part is right is supported by experiment (docs/blackbox.md).

    Parameters
    ----------
    query : callable
        Batch of inputs to outputs: ``(B, *input)`` to ``(B, K)``, each input on its own, in evaluation mode.  It gets
        what ``x`` is, a NumPy array or a torch tensor of the same type, and may return either, or lists.
    x : ndarray or Tensor
        ``(B, *input)``, real and finite.  lam is per squared unit of the inputs, so standardise features of different
        units; the black box must take inputs a little outside of the data too, in every direction.
    outputs : str
        ``"probabilities"``; of classes that are left out (zero, or masked) only a lower limit can be given.
        ``"logits"``: or log-probabilities; the better choice where there is one, as nothing is lost to saturation.
    queries : int
        Budget of each input, at least 44.  It is never exceeded, and spent on m pairs, on pilots that choose the step
        (20), on checks of the differences (up to 16) and on the input itself (4).
    level : float
        Probability that the interval of an input holds.
    method : str
        ``"sketch"``, ``"basis"`` (``queries`` of about twice the numbers in an input), or ``"auto"``: a basis if the
        budget covers it.
    seed : int
        Of the directions.
    batch : int
        Most inputs in one call.
    step : float, optional
        l2 length of a displacement; by default found for each input by a pilot that weighs noise against curvature.
    scale : float, optional
        Typical size of a number in an input, around which the pilot looks; by default the root mean square of the
        input, or 1 where that is 0.
    timeout : float, optional
        Seconds that one call may take; the call is abandoned in its thread.
    checkpoint : str or Path, optional
        An .npz file that keeps the answers.  Where it exists the run goes on from there and asks nothing twice.  The
        same inputs and options must be given, and the same black box, which the file cannot check.
    progress : bool
        Show a progress bar on stderr.

    Returns
    -------
    BlackBoxEstimate
        Status ``CONFIDENCE`` where at least half of every interval, on the logarithmic scale, is due to the random
        directions; ``HEURISTIC`` where some interval rests on the estimated error of differences for more than that,
        as one of a basis always does.

    Raises
    ------
    DataError
        Bad options or inputs, or a budget too small for any statement.
    QueryError
        The black box raised or took too long.  It says how much was done, and how to resume.
    AnswerError
        The answers are no distributions, of the wrong shape, labels only, different for the same input, or truncated
        in a way that allows no statement.
    FormatError
        The checkpoint is damaged or of another run.

    References
    ----------
    theory.md, section 7.  J. J. More and S. M. Wild, "Estimating derivatives of noisy simulations", ACM TOMS 38 (2012),
    for the balance of noise and curvature.

    Examples
    --------
    >>> W = np.array([[1.0, 0.0], [-1.0, 0.0]])
    >>> found = estimate_black_box(lambda x: x @ W.T, np.zeros((1, 2)), outputs="logits")
    >>> round(found.lam.item(), 6), found.method  # p = (1/2, 1/2), so lam = |w_1 - w_2|^2 / 4
    (1.0, 'basis')
    """
    began = time.perf_counter()
    points, resolution = _points(x)
    _check_options(query, outputs, queries, level, method, seed, batch, step, scale, timeout)
    plan = Plan.of(queries, points[0].size, method, pilot=step is None)
    entries = [_root_mean_square(point) if scale is None else scale for point in points]
    sizes = [math.sqrt(points[0].size) * entry for entry in entries]
    kept = None
    if checkpoint is not None:
        described = hashlib.sha256(points.tobytes()).hexdigest()[:16]
        run = {"inputs": f"{list(points.shape)} {described}", "outputs": outputs, "method": plan.method}
        kept = Checkpoint(checkpoint, run | {"probes": plan.probes, "seed": seed, "step": step, "scale": scale})
    limit = plan.queries * len(points)
    ledger = Ledger(query, x, outputs, limit=limit, batch=batch, timeout=timeout, checkpoint=kept)
    samples: list[Sample] = []

    def finished() -> BlackBoxEstimate:
        seconds = time.perf_counter() - began
        return read(samples, outputs, plan, level=level, queries=ledger.answered, reused=ledger.reused, seconds=seconds)

    try:
        with ledger:
            first = ledger.ask(points if step is not None else np.concatenate([points, _beside(points, sizes, seed)]))
            understood(first.numpy(), outputs)
            sampler = Sampler(ledger, plan, outputs, first, seed, step, resolution)
            indices = range(len(points))
            if progress:
                doing = f"queries, {ledger.reused} answered before" if ledger.reused else "queries"
                indices = track(indices, doing, console=Console(stderr=True), transient=True)
            for index in indices:
                samples.append(sampler.sample(points[index], index, sizes[index]))
    except CallError as error:
        resume = (
            "to keep the answers of a run, give checkpoint=FILE.npz, or --checkpoint FILE.npz"
            if checkpoint is None
            else f"the answers are kept in {checkpoint}; the same call goes on from there"
        )
        raise QueryError(
            f"the black box failed after {ledger.answered} of {limit} queries, {len(samples)} of {len(points)} inputs "
            f"done: {error}; {resume}",
            inputs_done=len(samples),
            queries_done=ledger.answered,
            partial=finished() if samples else None,
        ) from error
    return finished()


def _points(x: np.ndarray | Tensor) -> tuple[np.ndarray, float]:
    """Return inputs as float64, and the relative precision they have in their own type."""
    if isinstance(x, Tensor):
        if not x.is_floating_point():
            raise DataError(f"inputs are {x.dtype}: Fisher information needs real floating-point inputs")
        points, eps = x.detach().to("cpu", torch.float64).numpy(), torch.finfo(x.dtype).eps
    elif isinstance(x, np.ndarray):
        if x.dtype.kind != "f":
            raise DataError(f"inputs are {x.dtype}: Fisher information needs real floating-point inputs")
        points, eps = x.astype(np.float64), float(np.finfo(x.dtype).eps)
    else:
        raise DataError(f"inputs are a {type(x).__name__}; expected a NumPy array or a torch tensor (B, *input)")
    if points.ndim < 2 or points.size == 0:
        raise DataError(f"inputs have shape {points.shape}: expected a non-empty batch (B, *input)")
    if not np.isfinite(points).all():
        raise DataError("inputs hold NaN or infinite values")
    return points, eps / 2


def _beside(points: np.ndarray, sizes: list[float], seed: int) -> np.ndarray:
    """Return inputs moved a little: at special inputs answers can be special numbers, such as 1/2."""
    moves = np.random.default_rng([seed, len(points)]).uniform(-1, 1, points.shape)
    lengths = 1e-3 * np.array(sizes) / math.sqrt(points[0].size)
    return points + moves * lengths.reshape(-1, *(1,) * (points.ndim - 1))


def _root_mean_square(x: np.ndarray) -> float:
    largest = float(np.abs(x).max())
    return largest * math.sqrt(float(np.mean((x / largest) ** 2))) if largest > 0 else 1.0


def _check_options(
    query: object, outputs: str, queries: int, level: float, method: str, seed: int, batch: int, *positive: float | None
) -> None:
    if not callable(query):
        raise DataError(f"the black box is a {type(query).__name__}; expected a callable from inputs to outputs")
    for name, value, known in (("outputs", outputs, _OUTPUTS), ("method", method, METHODS)):
        if value not in known:
            raise DataError(f"{name} is {value!r}: expected {' or '.join(map(repr, known))}")
    for name, value, least in (("queries", queries, 1), ("batch", batch, 1), ("seed", seed, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise DataError(f"{name} is {value!r}: expected a whole number, at least {least}")
    if not 0 < level < 1:
        raise DataError(f"level is {level}: expected a number between 0 and 1")
    for name, value in zip(("step", "scale", "timeout"), positive, strict=True):
        if value is not None and not 0 < value < math.inf:
            raise DataError(f"{name} is {value}: expected a positive number")
