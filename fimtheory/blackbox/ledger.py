"""Queries of a black box: counted, cut into batches, limited in time, kept, and never asked twice."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from fimtheory.blackbox.answers import as_matrix
from fimtheory.blackbox.checkpoint import Checkpoint
from fimtheory.errors import AnswerError, QueryError

__all__ = ["CallError", "Ledger"]

_SAVING_SHARE = 10
"""Answers are saved again after this many times the seconds that saving last took."""


class CallError(Exception):
    """A call of the black box raised or took too long."""


@final
class Ledger:
    """The answers of a run in the order they were asked.

    Those of a checkpoint come first and cost no call.  Leaving the ledger as a context saves it, also on an error.

    Parameters
    ----------
    query : callable
        The black box.
    like : ndarray or Tensor
        Inputs are given to the black box in its kind, type and device.
    outputs : str
        ``"probabilities"`` or ``"logits"``.
    limit : int
        Most queries; never exceeded.
    batch : int
        Most inputs in one call.
    timeout : float or None
        Seconds that one call may take.
    checkpoint : Checkpoint or None
        Where answers are kept.

    Attributes
    ----------
    asked, answered : int
        Queries of this run so far, and answers known; the latter may be ahead by those of a checkpoint.
    reused : int
        Answers of the checkpoint.
    """

    def __init__(
        self,
        query: Callable[[Any], Any],
        like: np.ndarray | Tensor,
        outputs: str,
        *,
        limit: int,
        batch: int,
        timeout: float | None,
        checkpoint: Checkpoint | None,
    ) -> None:
        self._query = query
        self._like = like
        self._outputs = outputs
        self._limit = limit
        self._batch = batch
        self._timeout = timeout
        self._checkpoint = checkpoint
        self._answers: np.ndarray | None = None
        self._next_save = 0.0
        self.asked = self.answered = 0
        if checkpoint is not None and (kept := checkpoint.load(limit)) is not None:
            self._add(kept)
        self.reused = self._saved = self.answered

    def ask(self, points: np.ndarray) -> Tensor:
        """Return the answers to ``(R, *input)`` inputs, ``(R, K)`` float64.

        Raises
        ------
        CallError
            The black box raised or took too long.
        AnswerError
            It answered with something else than a row for each input.
        """
        first = self.asked
        assert first + len(points) <= self._limit
        for start in range(max(self.answered - first, 0), len(points), self._batch):
            part = points[start : start + self._batch]
            classes = None if self._answers is None else self._answers.shape[1]
            self._add(as_matrix(self._call(part), len(part), classes, self._outputs))
            if self._checkpoint is not None and time.monotonic() >= self._next_save:
                self._save(self._checkpoint)
        self.asked += len(points)
        return torch.from_numpy(self._rows(first, self.asked).copy())

    def _add(self, answers: np.ndarray) -> None:
        if self._answers is None:
            self._answers = np.empty((self._limit, answers.shape[1]))
        self._answers[self.answered : self.answered + len(answers)] = answers
        self.answered += len(answers)

    def _rows(self, start: int, stop: int) -> np.ndarray:
        assert self._answers is not None
        return self._answers[start:stop]

    def _call(self, part: np.ndarray) -> Any:
        given: np.ndarray | Tensor
        if isinstance(self._like, Tensor):
            given = torch.from_numpy(part.copy()).to(self._like)  # the black box may write to it
        else:
            given = part.astype(self._like.dtype)
        try:
            return self._query(given) if self._timeout is None else _within(self._timeout, self._query, given)
        except (AnswerError, CallError):
            raise
        except QueryError as error:  # of an adapter, and told already
            raise CallError(str(error)) from error
        except Exception as error:  # the user's code or service may fail in any way
            text = " ".join(str(error).split())
            raise CallError(f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__) from error

    def _save(self, checkpoint: Checkpoint) -> None:
        began = time.monotonic()
        checkpoint.save(self._rows(0, self.answered))
        self._saved = self.answered
        self._next_save = time.monotonic() + _SAVING_SHARE * (time.monotonic() - began)

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._checkpoint is not None and self.answered > self._saved:
            self._save(self._checkpoint)


def _within(seconds: float, query: Callable[[Any], Any], given: Any) -> Any:
    """Return ``query(given)``, computed in a thread that is abandoned if it takes too long."""
    done: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            done.put((query(given), None))
        except BaseException as error:  # also sys.exit, which would end this thread only
            done.put((None, error))

    threading.Thread(target=run, daemon=True).start()
    try:
        answer, error = done.get(timeout=seconds)
    except queue.Empty:
        raise CallError(f"no answer within {seconds:g} s") from None
    if isinstance(error, SystemExit):
        raise CallError(f"it called sys.exit({error.code!r})")
    if error is not None:
        raise error
    return answer
