"""Plots, by matplotlib where it is installed (``pip install 'fimtheory[plots]'``)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fimtheory.errors import DataError
from fimtheory.radii import CertifiedAccuracy

__all__ = ["plot_accuracy", "require_plot_path"]

_SUFFIXES = (".svg", ".png")
_DPI = 150


def plot_accuracy(curves: Mapping[str, CertifiedAccuracy], path: str | Path) -> None:
    """Draw certified accuracy as a function of the l2 radius, and write it to an .svg or .png file.

    Parameters
    ----------
    curves : mapping of str to CertifiedAccuracy
        By the name in the legend.
    path : str or Path
        The file; the same curves give the same bytes with one version of matplotlib.

    Raises
    ------
    DataError
        There is no curve, matplotlib is missing, or the file cannot be written.
    """
    require_plot_path(path)
    if not curves:
        raise DataError("there is no curve to plot; give at least one")
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    end = max([steps[-1].item() for curve in curves.values() if len(steps := curve.steps()[0])], default=0.0)
    for name, curve in curves.items():
        radii, shares = curve.steps()
        after = curve.at(float("inf"))  # inputs that no change of theirs can move
        last = radii[-1].item() if len(radii) else 0.0
        x = [0.0, *radii.tolist(), last, max(1.05 * end, last) or 1.0]
        y = [curve.at(0), *shares.tolist(), after, after]
        axes.step(x, y, where="pre", label=name)  # between two radii the share is that of the larger one
    axes.set_xlabel("l2 radius, in units of the input")
    axes.set_ylabel("right and certified")
    axes.set_xlim(left=0)
    axes.set_ylim(0, 1.02)
    axes.grid(alpha=0.3)
    axes.legend()
    try:
        with rc_context({"svg.hashsalt": "fimtheory"}):
            figure.savefig(path, dpi=_DPI, metadata={"Date": None} if Path(path).suffix == ".svg" else None)
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror or error}") from None


def require_plot_path(path: str | Path) -> None:
    """Refuse a plot that could not be written, before time is spent on it.

    Raises
    ------
    DataError
        The file is no .svg or .png in a folder that exists, or matplotlib is missing.
    """
    file = Path(path)
    if file.suffix not in _SUFFIXES:
        raise DataError(f"{path}: a plot is written as {' or '.join(_SUFFIXES)}; name such a file")
    if not file.parent.is_dir():
        raise DataError(f"{path}: {file.parent} is no folder; make it first")
    try:
        import matplotlib  # noqa: F401  an optional dependency
    except ImportError:
        raise DataError("plots need matplotlib; install it with: pip install 'fimtheory[plots]'") from None
