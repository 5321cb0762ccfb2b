"""What all commands write: results on stdout, one line on stderr where something is to be said besides."""

from __future__ import annotations

import json
import sys
from typing import Any

from rich.console import Console

__all__ = ["ERR", "OUT", "SOURCE_INDEX", "print_json", "tell"]

OUT = Console()
ERR = Console(stderr=True)

SOURCE_INDEX = "Source index: place of the input in the whole source of the data, counted from 0."
"""What tables say of the column of that name."""


def print_json(value: Any) -> None:
    """Print one JSON object on stdout."""
    sys.stdout.write(json.dumps(value, indent=2, allow_nan=False) + "\n")


def tell(message: str, style: str = "") -> None:
    """Print one line on stderr."""
    ERR.print("fimtheory: " + " ".join(message.split()), style=style, markup=False, highlight=False, soft_wrap=True)
