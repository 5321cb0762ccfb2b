"""lam at every input of a dataset, batch by batch, with predictions, a summary and a table on disk."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn
from torch.utils.data import DataLoader, RandomSampler

from fimtheory.claims import Status
from fimtheory.data import Data
from fimtheory.errors import DataError, FimTheoryError, NonFiniteError
from fimtheory.estimators import Estimate, estimate
from fimtheory.estimators.result import told
from fimtheory.intervals import Summary, summarised

__all__ = ["Survey", "placed", "require_table_path", "survey"]

_SUFFIXES = (".csv", ".parquet")
_MOST_INPUTS = 64
"""Inputs of a batch by default: on small networks, 2 to 3 times as fast as 16, and hardly slower than 256."""
_MOST_ENTRIES = 2**21
"""Entries of a batch by default, all inputs together: 13 of 3x224x224."""

Batch = tuple[Tensor, Tensor | None]


@final
@dataclass(frozen=True, slots=True, eq=False)
class Survey:
    """lam(x) on data: one entry per input, in the order of the data; tensors are ``(n,)`` and on the CPU.

    Attributes
    ----------
    labels : Tensor or None
        int64, where the data have them.
    predicted : Tensor
        int64: the most probable class, the first of them in a tie.
    probability : Tensor
        float64: its probability.
    lam, lower, upper : Tensor
        float64, per squared unit of the input, as in ``Estimate``.  Where lam leaves the range of floats they are 0 or
        ``inf``, and the logarithms still hold it.
    log10_lam, log10_lower, log10_upper : Tensor
        float64; ``-inf`` for a zero, ``inf`` for an absent upper bound.
    seconds_each : Tensor
        float64: wall time of the batch an input was in, divided by the inputs in it.
    statuses : tuple of Status
        Of each input: ``EXACT``, ``LOWER`` or ``CONFIDENCE``.
    methods : tuple of str
        What ``"auto"`` took for the batch of each input.
    level : float or None
        Probability that the interval of one input holds, over the randomness of the method, where the status is
        ``CONFIDENCE``.
    rounding : float
        Relative floating-point error that every value carries besides.
    evaluations : int
        Vector-Jacobian and Jacobian-vector products, each of one input.
    note : str
        What the estimates of the batches say besides, each thing once; see ``Estimate.note``.
    source_index : Tensor or None
        int64: where each input stands in the source of data that ``load_data`` drew from; None for other data.
    """

    labels: Tensor | None
    predicted: Tensor
    probability: Tensor
    lam: Tensor
    lower: Tensor
    upper: Tensor
    log10_lam: Tensor
    log10_lower: Tensor
    log10_upper: Tensor
    seconds_each: Tensor
    statuses: tuple[Status, ...]
    methods: tuple[str, ...]
    level: float | None
    rounding: float
    evaluations: int
    note: str
    source_index: Tensor | None

    def __len__(self) -> int:
        return len(self.lam)

    def __repr__(self) -> str:
        return f"<Survey: {told(self.lam, self.log10_lam, self.status)}, by {self.method}>"

    @property
    def status(self) -> Status:
        """What every input's value has at least: an exact value is a lower bound and an interval, too.

        Raises
        ------
        DataError
            Two statuses of which neither implies the other; name one method then.
        """
        weaker = set(self.statuses) - {Status.EXACT}
        if len(weaker) > 1:
            raise DataError(f"the inputs have values of status {' and '.join(sorted(weaker))}; name one method for all")
        return weaker.pop() if weaker else Status.EXACT

    @property
    def method(self) -> str:
        """The methods that ran."""
        return " and ".join(sorted(set(self.methods)))

    @property
    def seconds(self) -> float:
        """Wall time of all inputs."""
        return self.seconds_each.sum().item()

    def summary(self, level: float = 0.95, *, resamples: int = 9999, seed: int = 0) -> Summary:
        """Return quantiles, means and extremes of lam with confidence intervals.

        The intervals are about the distribution that the inputs are drawn from independently: exact ones of quantiles,
        approximate ones of means (bootstrap), none of the extremes.  Of the maximum the summary says at most what
        fraction of inputs exceeds it.  The status is that of the values: a summary of lower bounds is a lower one.

        Parameters
        ----------
        level : float
            Of each interval.
        resamples, seed : int
            Of the bootstrap.

        Raises
        ------
        DataError
            The level, the number of resamples or the seed makes no sense.

        Examples
        --------
        >>> module = nn.Sequential(nn.Linear(3, 2)).eval()
        >>> found = survey(module, torch.zeros(59, 3)).summary()  # 0.95^59 = 0.05
        >>> found.n, str(found.status), round(found.exceeding, 2)
        (59, 'exact', 0.05)
        """
        return summarised(self.lam, self.log10_lam, self.status, level=level, resamples=resamples, seed=seed)

    def columns(self) -> dict[str, Any]:
        """Return the columns of the table that `write` writes: one list of values per name.

        ``index`` counts the inputs of the survey from 0; ``source_index`` is their place in the source of the data.
        """
        n = len(self)
        return {
            "index": list(range(n)),
            "source_index": [None] * n if self.source_index is None else self.source_index.tolist(),
            "label": [None] * n if self.labels is None else self.labels.tolist(),
            "predicted": self.predicted.tolist(),
            "probability": self.probability.tolist(),
            "lam": self.lam.tolist(),
            "log10_lam": self.log10_lam.tolist(),
            "lower": self.lower.tolist(),
            "upper": self.upper.tolist(),
            "log10_lower": self.log10_lower.tolist(),
            "log10_upper": self.log10_upper.tolist(),
            "status": [status.value for status in self.statuses],
            "level": [self.level if status is Status.CONFIDENCE else None for status in self.statuses],
            "method": list(self.methods),
            "seconds": self.seconds_each.tolist(),
        }

    def write(self, path: str | Path) -> None:
        """Write one row per input to a ``.csv`` or ``.parquet`` file, which appears whole or not at all.

        Floats are written so that reading them gives them back; ``inf`` and ``-inf`` stand for themselves.

        Raises
        ------
        DataError
            The file is called otherwise or cannot be written, or polars is missing.
        """
        target = require_table_path(path)
        import polars

        kinds = {"source_index": polars.Int64, "label": polars.Int64, "level": polars.Float64}  # where they are empty
        frame = polars.DataFrame(self.columns(), schema_overrides=kinds)
        partial = target.with_name(f"{target.name}.partial")
        try:
            if target.suffix == ".csv":
                frame.write_csv(partial)
            else:
                frame.write_parquet(partial)
            partial.replace(target)
        except OSError as error:
            raise DataError(f"{path}: cannot be written: {error.strerror or error}") from None
        finally:
            partial.unlink(missing_ok=True)


def survey(
    module: nn.Module,
    data: Tensor | np.ndarray | DataLoader | Data,
    method: str = "auto",
    *,
    batch: int | None = None,
    level: float | None = None,
    temperature: float = 1.0,
    tol: float | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Survey:
    """Estimate lam at every input of a dataset, in batches.

    Inputs are brought to the type and the device of the module's weights, and lam is that of the input so rounded.

    Parameters
    ----------
    module : nn.Module
        Classifier in eval mode, ``(B, *input)`` to logits ``(B, K)``.
    data : Tensor, ndarray, DataLoader or Data
        ``(n, *input)``, real floating-point numbers; or a torch ``DataLoader`` that does not shuffle and yields batches
        ``x`` or ``(x, y)`` with y the labels, ``(B,)`` integers (give one that yields something else, such as mappings,
        a ``collate_fn``); or what ``load_data`` returns.
    method, level, temperature, tol
        As for ``estimate``.
    batch : int, optional
        Inputs of a batch, whatever the batches of a loader; the last two share what is left.  By default 64, or fewer
        where they have more than 2^21 entries together.
    seed : int
        Of random starts: the batch that begins with input i gets ``seed + i``.  Equal seeds and batches give equal
        results; with other batches exact values agree up to rounding and Ritz values up to their tolerance.
    progress : bool
        Show a progress bar on stderr.

    Raises
    ------
    DataError
        There are no inputs, they are of several shapes, of another kind than those above or not what the module takes;
        or the loader fails.
    NonFiniteError, GraphError, ShapeError, MissingRuleError, AdjointTestError
        See ``estimate``; the message says at which input of the data (counted from 0), or in which batch of them.

    Examples
    --------
    >>> head = nn.Linear(2, 2, bias=False).eval()
    >>> _ = head.weight.data.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
    >>> found = survey(head, np.zeros((100, 2)))  # p = (1/2, 1/2), so lam = |w_1 - w_2|^2 / 4
    >>> found
    <Survey: lam of 100 inputs from 1 to 1 (exact), by exact>
    """
    if batch is not None and batch < 1:
        raise DataError(f"batch is {batch}: expected at least 1")
    labels: list[Tensor] = []
    results: list[Estimate] = []
    logarithms: list[Tensor] = []
    seconds: list[Tensor] = []
    first = 0
    with Progress(console=Console(stderr=True), transient=True, disable=not progress) as bar:
        task = bar.add_task("lam on data", total=_count(data))
        for given, y in _regrouped(_pieces(data), batch):
            began = time.perf_counter()
            x = placed(given, module).contiguous()  # torch has no forward mode for rows that share their memory
            try:
                found = estimate(module, x, method, temperature=temperature, tol=tol, level=level, seed=seed + first)
            except FimTheoryError as error:
                raise type(error)(_located(str(error), first, len(x))) from None
            with torch.no_grad():
                logarithms.append((module(x).double() / temperature).log_softmax(1).cpu())
            results.append(found)
            labels += [] if y is None else [y]
            seconds.append(torch.full((len(x),), (time.perf_counter() - began) / len(x), dtype=torch.float64))
            first += len(x)
            bar.advance(task, len(x))

    def joined(name: str) -> Tensor:
        return torch.cat([getattr(found, name).cpu() for found in results])

    log_probs = torch.cat(logarithms)
    return Survey(
        torch.cat(labels) if labels else None,
        log_probs.argmax(1),
        log_probs.amax(1).exp(),
        joined("lam"),
        joined("lower"),
        joined("upper"),
        joined("log10_lam"),
        joined("log10_lower"),
        joined("log10_upper"),
        torch.cat(seconds),
        tuple(found.status for found in results for _ in found.lam),
        tuple(found.method for found in results for _ in found.lam),
        next((found.level for found in results if found.level is not None), None),
        max(found.rounding for found in results),
        sum(found.evaluations for found in results),
        "; ".join(dict.fromkeys(found.note for found in results if found.note)),
        data.indices if isinstance(data, Data) else None,
    )


def placed(x: Tensor, module: nn.Module) -> Tensor:
    """Return inputs in the type and on the device of a module's weights."""
    weight = next((p for p in module.parameters() if p.is_floating_point()), None)
    return x if weight is None else x.to(weight)


def require_table_path(path: str | Path) -> Path:
    """Refuse a table that could not be written, before time is spent on it.

    Raises
    ------
    DataError
        The file is no .csv or .parquet in a folder that exists, or polars is missing.
    """
    file = Path(path)
    if file.suffix not in _SUFFIXES:
        raise DataError(f"{str(path)!r}: a table is written as {' or '.join(_SUFFIXES)}; name such a file")
    if file.is_dir() or not file.parent.is_dir():
        raise DataError(f"{path}: cannot be written: it is a folder, or {file.parent} is none")
    try:
        import polars  # noqa: F401  an optional dependency
    except ImportError:
        raise DataError("tables need polars; install it with: pip install 'fimtheory[tables]'") from None
    return file


# ---- data in batches --------------------------------------------------------------------------------------------


def _count(data: Any) -> int | None:
    """Return how many inputs there are, as far as it is known beforehand."""
    counted: Any = data.dataset if isinstance(data, DataLoader) else data
    try:
        return len(counted)
    except TypeError:
        return None


def _pieces(data: Any) -> Iterator[Batch]:
    """Yield the data in the pieces they come in, checked; none of them is empty."""
    first, shape, labelled = 0, None, None
    for x, y in _raw(data):
        if not x.is_floating_point():
            raise DataError(f"inputs are {x.dtype}: expected floating-point numbers, in the units the module takes")
        if x.ndim < 2:
            raise DataError(f"inputs have shape {tuple(x.shape)}: expected a batch first, (n, *input)")
        if x.numel() == 0:
            continue
        if shape is not None and x.shape[1:] != shape:
            raise DataError(
                f"input {first} of the data has shape {tuple(x.shape[1:])}, those before it {tuple(shape)}; survey the "
                "inputs of each shape on their own"
            )
        bad = (~x.isfinite().flatten(1).all(1)).nonzero()[:, 0].tolist()
        if bad:
            raise NonFiniteError(f"input {first + bad[0]} of the data has NaN or infinite entries; leave it out")
        if labelled is not None and labelled != (y is not None):
            raise DataError(f"the inputs from {first} on have labels and those before have none, or the reverse")
        yield x, None if y is None else _labels(y, len(x), first)
        first, shape, labelled = first + len(x), x.shape[1:], y is not None
    if first == 0:
        raise DataError("the data hold no inputs; give at least one")


def _raw(data: Any) -> Iterator[tuple[Tensor, Any]]:
    if isinstance(data, Data):
        yield data.inputs, data.labels
    elif isinstance(data, Tensor):
        yield data.detach(), None
    elif isinstance(data, np.ndarray):
        if data.dtype.kind != "f":
            raise DataError(f"inputs are {data.dtype}: expected floating-point numbers, in the units the module takes")
        native = np.float32 if data.dtype.itemsize <= 4 else np.float64
        yield torch.from_numpy(np.array(data, dtype=native, order="C")), None
    elif isinstance(data, DataLoader):
        yield from _loaded(data)
    else:
        raise DataError(
            f"data is a {type(data).__name__}: expected a torch.Tensor, a numpy array, a torch DataLoader or what "
            "fimtheory.data.load_data returns"
        )


def _loaded(loader: DataLoader) -> Iterator[tuple[Tensor, Any]]:
    if isinstance(loader.sampler, RandomSampler):
        raise DataError("the loader shuffles, so that no index names an input: make it with shuffle=False")
    count, batches = 0, iter(loader)
    while True:
        try:
            given = next(batches)
        except StopIteration:
            return
        except Exception as error:
            lines = str(error).splitlines() or [""]
            raise DataError(f"the loader fails after {count} inputs: {type(error).__name__}: {lines[0]}") from error
        parts = tuple(given) if isinstance(given, tuple | list) else (given,)
        if len(parts) > 2 or not parts or not isinstance(parts[0], Tensor):
            kinds = ", ".join(type(part).__name__ for part in parts)
            raise DataError(
                f"after {count} inputs the loader yields ({kinds}): expected a tensor x, or (x, y) with y the labels; "
                "give it a collate_fn that returns one of these"
            )
        yield parts[0].detach(), parts[1] if len(parts) == 2 else None
        count += len(parts[0])


def _labels(y: Any, count: int, first: int) -> Tensor:
    if not isinstance(y, Tensor) or y.is_floating_point() or y.is_complex() or tuple(y.shape) != (count,):
        given = f"{y.dtype} of shape {tuple(y.shape)}" if isinstance(y, Tensor) else f"a {type(y).__name__}"
        raise DataError(
            f"the labels of inputs {first} to {first + count - 1} are {given}: expected one integer for each of them"
        )
    return y.detach().to("cpu", torch.int64)


def _regrouped(pieces: Iterator[Batch], size: int | None) -> Iterator[Batch]:
    """Yield the inputs in batches of ``size``, or of the default; the last two are of about half to one size.

    A batch of one comes up only where it is asked for: only in company does it show that inputs influence one another.
    """
    x: Tensor | None = None
    y: Tensor | None = None
    for more, labels in pieces:
        size = size or max(1, min(_MOST_INPUTS, _MOST_ENTRIES // more[0].numel()))
        x = more if x is None else torch.cat([x, more])
        y = labels if labels is None or y is None else torch.cat([y, labels])
        while len(x) >= 2 * size:
            yield x[:size], None if y is None else y[:size]
            x, y = x[size:], None if y is None else y[size:]
    assert x is not None
    assert size is not None
    parts = max(1, math.ceil(len(x) / size))
    xs = x.tensor_split(parts)
    yield from zip(xs, [None] * parts if y is None else y.tensor_split(parts), strict=True)


def _located(text: str, first: int, count: int) -> str:
    """Return what an error says of a batch as said of the data: estimators begin with the position in the batch."""
    position = re.match(r"input (\d+)\b", text)
    if position is not None:
        return f"input {first + int(position[1])} of the data{text[position.end() :]}"
    if first == 0:  # as likely about the module or the options as about the inputs
        return text
    return f"inputs {first} to {first + count - 1} of the data: {text}"
