"""``fimtheory estimate``: lam at every input of a dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fimtheory import survey_tables
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
from fimtheory.command_output import ERR, OUT, print_json
from fimtheory.errors import DataError
from fimtheory.targets import Importing, parse_shape, resolve

__all__ = ["estimate"]


def estimate(
    target: TargetName,
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
        int | None, typer.Option("--n", min=1, help="Number of inputs, drawn from the data by --seed; by default all.")
    ] = None,
    method: Annotated[
        str, typer.Option(help="auto, exact, lanczos, truncated, sketch, power, or the paper's (docs/estimators.md).")
    ] = "auto",
    level: Annotated[
        float | None,
        typer.Option(help="Confidence of the upper limit of each value, for methods whose values are not exact."),
    ] = None,
    summary_level: Annotated[
        float, typer.Option(help="Confidence of each interval of the summary, which is about the source of the data.")
    ] = 0.95,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Inputs of a batch; by default up to 64, fewer of large ones.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write a table with one row per input to this .csv or .parquet file.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Estimate lam at every input of a dataset."""
    from fimtheory.surveys import require_table_path, survey

    if not 0 < summary_level < 1:
        raise DataError(f"--summary-level {summary_level}: expected a number between 0 and 1")
    if out is not None:
        require_table_path(out)
    made = resolve(
        target, parse_shape(input_shape), classes, Importing(tuple(arg or ()), model_input, model_output, weights, seed)
    )
    model = made.model(weights, seed, device)
    inputs = made.inputs(data, n, seed)
    found = survey(model, inputs, method, batch=batch, level=level, seed=seed, progress=ERR.is_terminal)
    summary = found.summary(summary_level, seed=seed)
    if out is not None:
        found.write(out)
    if as_json:
        print_json(survey_tables.estimates_json(made.name, inputs.description, seed, found, summary))
    else:
        OUT.print(survey_tables.estimates_table(made.name, inputs.description, seed, found, summary, level))
