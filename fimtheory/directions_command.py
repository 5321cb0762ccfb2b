"""``fimtheory directions``: the direction to which each input is most sensitive, and a move along it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from fimtheory.command_options import (
    Arguments,
    AsJson,
    Classes,
    DataName,
    Device,
    InputShape,
    ModelInput,
    ModelOutput,
    Seed,
    TargetName,
    Weights,
)  # fmt: skip
from fimtheory.command_output import OUT, SOURCE_INDEX, print_json
from fimtheory.decimals import finite_or_none, fixed, significant
from fimtheory.errors import DataError
from fimtheory.targets import Importing, parse_shape, resolve

if TYPE_CHECKING:
    from fimtheory.data import Data
    from fimtheory.directions import SpectralAttack

__all__ = ["directions", "parse_box"]

_MOST_INPUTS = 20  # in a table


def directions(
    target: TargetName,
    eps: Annotated[float, typer.Option(help="Length of the moves, in l2 and in units of the input.")],
    input_shape: InputShape = None,
    classes: Classes = None,
    arg: Arguments = None,
    model_input: ModelInput = None,
    model_output: ModelOutput = None,
    weights: Weights = None,
    seed: Seed = 0,
    device: Device = "auto",
    data: DataName = None,
    n: Annotated[
        int | None, typer.Option("--n", min=1, help="Number of inputs, drawn from the data by --seed; by default 8.")
    ] = None,
    box: Annotated[str | None, typer.Option(help="Keep entries between two numbers, such as 0,1.")] = None,
    plot: Annotated[
        Path | None,
        typer.Option(help="Draw the first 8 images, directions and moved images to this .svg or .png file."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Find the direction to which each input is most sensitive, and move the input along it."""
    from fimtheory.directions import spectral_attack
    from fimtheory.plots import plot_directions, require_images, require_plot_path
    from fimtheory.surveys import placed

    ends = parse_box(box)
    if plot is not None:
        require_plot_path(plot)
    made = resolve(
        target, parse_shape(input_shape), classes, Importing(tuple(arg or ()), model_input, model_output, weights, seed)
    )
    model = made.model(weights, seed, device)
    inputs = made.inputs(data, n, seed, at_most=8)
    if plot is not None:
        require_images(tuple(inputs.inputs.shape[1:]))
    x = placed(inputs.inputs, model)
    attack = spectral_attack(model, x, eps, box=ends, seed=seed)
    if plot is not None:
        plot_directions(x, attack, plot)
    if as_json:
        print_json(_json(made.name, inputs, seed, attack))
    else:
        OUT.print(_table(made.name, inputs, seed, attack))


def parse_box(text: str | None) -> tuple[float, float] | None:
    """Return the ends of the interval written as "0,1".

    Raises
    ------
    DataError
        It is not two numbers, the smaller one first.

    >>> parse_box("-0.5,1")
    (-0.5, 1.0)
    """
    if text is None:
        return None
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        low, high = 1.0, 0.0
    if not low < high:
        raise DataError(f"--box {text}: expected two numbers, the smaller one first, such as 0,1")
    return low, high


def _json(name: str, data: Data, seed: int, attack: SpectralAttack) -> dict[str, Any]:
    """Return what ``fimtheory directions --json`` prints; null where a number leaves the range of floats."""
    found = attack.directions
    return {
        "target": name,
        "data": data.description,
        "seed": seed,
        "source_index": None if data.indices is None else data.indices.tolist(),
        "lam": [finite_or_none(v) for v in found.lam.tolist()],
        "log10": [finite_or_none(v) for v in found.log10_lam.tolist()],
        "gap": found.gap.tolist(),
        "residual": found.residual.tolist(),
        "status": found.status.value,
        "eps": attack.eps,
        "attack": {
            "distance": attack.distance.tolist(),
            "kl": [finite_or_none(v) for v in attack.kl.tolist()],
            "quadratic": [finite_or_none(v) for v in attack.quadratic.tolist()],
            "status": attack.status.value,
            "before": attack.before.tolist(),
            "after": attack.after.tolist(),
        },
        "evaluations": found.evaluations,
        "seconds": found.seconds,
    }


def _table(name: str, data: Data, seed: int, attack: SpectralAttack) -> Table:
    """Return lam, how unique its direction is, and what a move along it did to each input."""
    found = attack.directions
    title = f"{name}: moves of length {attack.eps:g} along the most sensitive direction"
    table = Table(title=Text(title), title_justify="left", caption_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for column in ("input", *(["source\nindex"] if data.indices is not None else []), "before", "after",
                   f"lam ({found.status})", "gap", f"KL ({attack.status})", "quadratic"):  # fmt: skip
        table.add_column(column, justify="right", no_wrap=True)
    shown = min(len(attack), _MOST_INPUTS)
    for k in range(shown):
        kl, quadratic = (each[k] for each in (attack.kl, attack.quadratic))
        table.add_row(
            str(k),
            *([str(data.indices[k].item())] if data.indices is not None else []),
            str(attack.before[k].item()),
            Text(str(attack.after[k].item()), "bold" if attack.changed[k] else ""),
            significant(found.lam[k].item(), found.log10_lam[k].item(), up=False),
            fixed(found.gap[k].item(), up=True),
            significant(kl.item(), kl.log10().item(), up=False),
            significant(quadratic.item(), quadratic.log10().item(), up=False),
        )
    rest = len(attack) - shown
    table.caption = Text("\n".join([
        *([f"{rest} more inputs are not shown; --json has all."] if rest else []),
        f"{int(attack.changed.sum())} of {len(attack)} predictions changed.",
        "Before, after: the predicted classes.",
        "Gap: (lam - second eigenvalue) / lam; near 0 other directions are as sensitive.",
        "KL: divergence of the prediction after the move, in nats; quadratic: what F says it is.",
        *([SOURCE_INDEX] if data.indices is not None else []),
        f"Data: {data.description} (seed {seed}). Lengths are in units of the model's input.",
    ]), justify="left")  # fmt: skip
    return table
