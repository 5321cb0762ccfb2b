"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "Arguments",
    "AsJson",
    "Classes",
    "DataName",
    "Device",
    "FewInputs",
    "InputBound",
    "InputShape",
    "ModelInput",
    "ModelOutput",
    "Seed",
    "Starts",
    "Steps",
    "TargetName",
    "TokenVariance",
    "Weights",
]

TargetName = Annotated[
    str,
    typer.Argument(
        help="Family (resnet18), zoo:NAME, saved graph (.json), or a model: .onnx, .pt2, package.module:callable."
    ),
]
Arguments = Annotated[
    list[str] | None, typer.Option("--arg", help="name=value for the callable that makes the model; may be repeated.")
]
ModelInput = Annotated[str | None, typer.Option(help="Argument of the model that is its input, if it has several.")]
ModelOutput = Annotated[str | None, typer.Option(help="Output of the model that holds the logits, if it has several.")]
InputShape = Annotated[str | None, typer.Option("--input", help="Input shape, such as 3,32,32.")]
Classes = Annotated[int | None, typer.Option(help="Number of classes.")]
Weights = Annotated[Path | None, typer.Option(help="State dict: .safetensors, or .pt (loaded weights-only).")]
Seed = Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed of random weights, data and searches.")]
Device = Annotated[str, typer.Option(help="cpu, cuda or auto.")]
DataName = Annotated[
    str | None,
    typer.Option(
        help="digits, digits:test, digits:train, random:N, npz:PATH, imagefolder:PATH or cifar10:PATH; by default "
        "digits:test for zoo models and random:64 for others. Images are brought to the shape of the input."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
TokenVariance = Annotated[
    str | None, typer.Option(help="Assume that tokens entering a layer norm have at least this variance.")
]
FewInputs = Annotated[
    int | None,
    typer.Option("--n", min=1, help="Number of inputs, drawn from the data by --seed; by default 64, or all if fewer."),
]
Starts = Annotated[int, typer.Option(min=1, max=100_000, help="Starts of the search for the worst input.")]
Steps = Annotated[int, typer.Option(min=0, help="Ascent steps from each start.")]
InputBound = Annotated[
    float | None,
    typer.Option(min=0, help="Largest entry of an input, where a theorem assumes bounds on values."),
]
