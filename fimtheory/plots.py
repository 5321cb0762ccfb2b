"""Plots, by matplotlib where it is installed (``pip install 'fimtheory[plots]'``)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fimtheory.decimals import significant
from fimtheory.directions import SpectralAttack
from fimtheory.errors import DataError
from fimtheory.radii import CertifiedAccuracy

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["plot_accuracy", "plot_directions", "require_images", "require_plot_path"]

MOST_IMAGES = 8
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
    _save(figure, path)


def plot_directions(x: Tensor, attack: SpectralAttack, path: str | Path) -> None:
    """Draw up to 8 images, the moves to which they are most sensitive and the moved images below one another.

    A move is drawn channel by channel, as a unit vector, in colours that are symmetric around zero and the same for all
    images: red where the attack raises an entry, blue where it lowers one.  Images stand in one scale of gray or colour
    that holds [0, 1] and all that is drawn; a bar or, of colours, the label says which.

    Parameters
    ----------
    x : Tensor
        ``(B, channels, height, width)``, 1 or 3 channels: the images that were attacked.
    attack : SpectralAttack
        What ``spectral_attack`` returned for them.
    path : str or Path
        An .svg or .png file.

    Raises
    ------
    DataError
        The inputs are no images, or others than those that were attacked; matplotlib is missing, or the file cannot be
        written.
    """
    require_plot_path(path)
    require_images(tuple(x.shape[1:]))
    if x.shape != attack.x.shape:
        raise DataError(f"{tuple(x.shape)} inputs were given, and {tuple(attack.x.shape)} attacked; give the same ones")
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    images, moved = (each[:MOST_IMAGES].detach().double().cpu() for each in (x, attack.x))
    vectors = (attack.directions.vector * attack.sign.view(-1, 1, 1, 1))[:MOST_IMAGES].cpu()
    count, channels, height, width = images.shape
    both = torch.cat([images, moved])
    low, high = min(both.min().item(), 0.0), max(both.max().item(), 1.0)
    largest = vectors.abs().max().item() or 1.0
    names = ["change"] if channels == 1 else [f"change of\n{colour}" for colour in ("red", "green", "blue")]
    side, rows = 1.25, 2 + channels
    figure = Figure(figsize=(side * count + 1.6, (side * height / width + 0.05) * rows + 1.0), layout="constrained")
    axes = figure.subplots(rows, count, squeeze=False)
    colours = ScalarMappable(Normalize(-largest, largest), "RdBu_r")
    grays = ScalarMappable(Normalize(low, high), "gray")
    for k in range(count):
        for row, image in ((0, images[k]), (rows - 1, moved[k])):
            shown = ((image - low) / (high - low)).movedim(0, -1)
            axes[row, k].imshow(shown.squeeze(-1).numpy(), cmap="gray", vmin=0, vmax=1)
        for channel in range(channels):
            axes[1 + channel, k].imshow(vectors[k, channel].numpy(), cmap=colours.cmap, norm=colours.norm)
        lam = significant(attack.directions.lam[k].item(), attack.directions.log10_lam[k].item(), up=False)
        axes[0, k].set_title(f"input {k}\nlam {lam}\npredicted {attack.before[k]}", fontsize="small")
        changed, weight = ("\n(changed)", "bold") if attack.changed[k] else ("", "normal")
        axes[-1, k].set_xlabel(f"predicted {attack.after[k]}{changed}", fontsize="small", fontweight=weight)
    scale = "" if channels == 1 else f"\n(black {low:.2g},\nwhite {high:.2g})"
    for row, name in zip(axes, (f"input{scale}", *names, f"moved by\nup to {attack.eps:g}{scale}"), strict=True):
        row[0].set_ylabel(name, fontsize="small")
        for each in row:
            each.set_xticks([])
            each.set_yticks([])
    bars = [(colours, axes[1:-1], "change in a move\nof length 1")]
    bars += [(grays, axes[row], "value") for row in (0, -1) if channels == 1]
    for scaled, of, label in bars:
        bar = figure.colorbar(scaled, ax=of, pad=0.01)
        bar.set_label(label, fontsize="small")
        bar.ax.tick_params(labelsize="small")
    _save(figure, path)


def require_images(shape: tuple[int, ...]) -> None:
    """Refuse inputs of a shape that cannot be drawn as an image.

    Raises
    ------
    DataError
        It is not (1 or 3, height, width).
    """
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise DataError(f"inputs of shape {shape} cannot be drawn: expected images, (1 or 3, height, width)")


def _save(figure: Figure, path: str | Path) -> None:
    from matplotlib import rc_context

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
