"""Answers kept in a file, so that a run that was cut short asks nothing twice."""

from __future__ import annotations

import json
import os
import zipfile
import zlib
from pathlib import Path
from tokenize import TokenError
from typing import Any, final

import numpy as np

from fimtheory.errors import FormatError

__all__ = ["Checkpoint"]

_FORMAT = "fimtheory-blackbox"
_VERSION = 1
_MOST_BYTES = 4 * 2**30


@final
class Checkpoint:
    """A file with the answers of a run in the order they were asked, and what the run was.

    The queries of a run follow from its inputs, its options and the answers before, so that answers in order are all
    that resuming needs.  Which black box gave them the file cannot know.

    Parameters
    ----------
    path : str or Path
        An .npz file, which may not exist yet.
    run : dict
        What makes the same queries: compared with that of the file.  Values are JSON values.

    Raises
    ------
    FormatError
        The path does not end in .npz or lies in no directory.
    """

    def __init__(self, path: str | Path, run: dict[str, Any]) -> None:
        self.path = Path(path)
        self._run = run
        if self.path.suffix != ".npz" or self.path.is_dir() or not self.path.parent.is_dir():
            raise FormatError(f"{str(path)!r}: expected the path of a file that ends in .npz, in an existing directory")

    def load(self, limit: int) -> np.ndarray | None:
        """Return the answers kept, ``(N, K)`` float64, or None where there is no file.

        Raises
        ------
        FormatError
            The file is no checkpoint, is damaged, has more than ``limit`` answers, or is of another run.
        """
        if not self.path.exists():
            return None
        try:
            with zipfile.ZipFile(self.path) as archive:
                if sum(entry.file_size for entry in archive.infolist()) > _MOST_BYTES:
                    raise FormatError(f"{self.path}: more than {_MOST_BYTES} bytes unpacked")
            with np.load(self.path, allow_pickle=False) as arrays:
                if set(arrays.files) != {"run", "answers"}:
                    raise FormatError(f"{self.path}: not a checkpoint of a black box")
                header, answers = json.loads(str(arrays["run"])), arrays["answers"]
        except OSError as error:
            raise FormatError(f"{self.path}: cannot be read: {error.strerror or error}") from None
        except (
            zipfile.BadZipFile, zlib.error, ValueError, TypeError, EOFError, RuntimeError, MemoryError, SyntaxError,
            TokenError,
        ) as error:  # fmt: skip
            raise FormatError(f"{self.path}: not a checkpoint of a black box, or damaged: {error}") from None
        if not isinstance(header, dict) or (header.get("format"), header.get("version")) != (_FORMAT, _VERSION):
            raise FormatError(f"{self.path}: not a checkpoint of a black box, or of another version of fimtheory")
        for name, value in self._run.items():
            if header.get(name) != value:
                raise FormatError(
                    f"{self.path}: kept for {name} {header.get(name)}, and this run has {value}; give the same "
                    "options and inputs to resume, or another file to start anew"
                )
        if answers.dtype != np.float64 or answers.ndim != 2 or answers.shape[1] < 2 or len(answers) > limit:
            raise FormatError(
                f"{self.path}: answers are {answers.dtype} of shape {answers.shape}; expected at most {limit} rows of "
                "float64"
            )
        return answers

    def save(self, answers: np.ndarray) -> None:
        """Write all answers so far; the file is replaced whole or not at all.

        Raises
        ------
        FormatError
            It cannot be written.
        """
        partial = self.path.with_name(f"{self.path.name}.{os.getpid()}.partial")
        try:
            with partial.open("wb") as file:
                np.savez(file, run=json.dumps({"format": _FORMAT, "version": _VERSION, **self._run}), answers=answers)
            partial.replace(self.path)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise FormatError(f"{self.path}: cannot be written: {error.strerror}") from None
