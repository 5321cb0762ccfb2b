"""``fimtheory blackbox``: lam of a classifier behind an address, in an ONNX file or in a Python function."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from fimtheory.command_options import AsJson, FewInputs, InputShape, ModelOutput, Seed
from fimtheory.command_output import ERR, OUT, SOURCE_INDEX, print_json, tell
from fimtheory.decimals import significant
from fimtheory.errors import DataError
from fimtheory.targets import parse_shape

if TYPE_CHECKING:
    from fimtheory.blackbox import BlackBoxEstimate
    from fimtheory.data import Data

__all__ = ["blackbox"]

_SHAPES = {"digits": (1, 8, 8), "cifar10": (3, 32, 32)}
_MOST_INPUTS = 20  # in a table


def blackbox(
    source: Annotated[
        str, typer.Argument(help="http://HOST:PORT/PATH (JSON), FILE.onnx or package.module:callable (NumPy arrays).")
    ],
    data: Annotated[
        str, typer.Option(help="digits, digits:test, random:N, npz:PATH, imagefolder:PATH or cifar10:PATH.")
    ],
    n: FewInputs = None,
    queries: Annotated[int, typer.Option(min=1, help="Most queries of each input.")] = 200,
    level: Annotated[float, typer.Option(help="Confidence of the limits.")] = 0.95,
    input_shape: InputShape = None,
    logits: Annotated[bool, typer.Option("--logits", help="It answers with logits, not with probabilities.")] = False,
    model_output: ModelOutput = None,
    step: Annotated[float | None, typer.Option(help="l2 length of a displacement; by default found out.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Most inputs in one call.")] = 256,
    timeout: Annotated[float, typer.Option(help="Seconds that one call may take.")] = 60.0,
    checkpoint: Annotated[Path | None, typer.Option(help="Keep answers in this .npz file, and go on from it.")] = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Estimate lam of a classifier that can only be queried."""
    from fimtheory.blackbox import estimate_black_box
    from fimtheory.blackbox.named import named_query
    from fimtheory.data import load_data

    query, own_shape = named_query(source, output=model_output, timeout=timeout)
    shape = parse_shape(input_shape) or own_shape or _SHAPES.get(data.partition(":")[0])
    if shape is None:
        raise DataError(f"{source}: give the shape of its inputs, such as --input 3,32,32")
    inputs = load_data(data, shape, n, seed, at_most=64)
    try:
        found = estimate_black_box(
            query, inputs.inputs.double().numpy(), outputs="logits" if logits else "probabilities", queries=queries,
            level=level, seed=seed, batch=batch, step=step, timeout=timeout, checkpoint=checkpoint,
            progress=ERR.is_terminal,
        )  # fmt: skip
    except KeyboardInterrupt:
        tell(f"interrupted; {_kept(checkpoint)}")
        raise typer.Exit(130) from None
    if found.reused:
        tell(f"{found.reused} of {found.queries} answers were reused from {checkpoint}, the others asked now")
    if as_json:
        print_json(_json(source, inputs, seed, found))
    else:
        OUT.print(_table(source, inputs, found))
        OUT.print("\n".join(_lines(inputs, seed, found)), markup=False, highlight=False)


def _kept(checkpoint: Path | None) -> str:
    """Return what is left of a run that was interrupted."""
    if checkpoint is None:
        return "no answers are kept: give --checkpoint FILE.npz to keep those of a run"
    if not checkpoint.exists():
        return "there was no answer yet"
    return f"the answers so far are kept in {checkpoint}, and the same command goes on from there"


def _json(source: str, data: Data, seed: int, found: BlackBoxEstimate) -> dict[str, Any]:
    """Return what ``--json`` prints; an absent upper limit is null."""

    def numbers(values: Any) -> list[float | None]:
        return [value if math.isfinite(value) else None for value in values.tolist()]

    return {
        "source": source,
        "data": data.description,
        "seed": seed,
        "source_index": None if data.indices is None else data.indices.tolist(),
        "lam": numbers(found.lam),
        "log10": numbers(found.log10_lam),
        "lower": numbers(found.lower),
        "upper": numbers(found.upper),
        "level": found.level,
        "method": found.method,
        "status": found.status.value,
        "queries": found.queries,
        "reused": found.reused,
        "seconds": found.seconds,
        "probes": found.probes,
        "step": numbers(found.step),
        "difference_error": numbers(found.difference_error),
        "number_format": found.number_format,
        "quantum": found.quantum,
        "top_k": found.top_k,
        "note": found.note,
    }


def _table(source: str, data: Data, found: BlackBoxEstimate) -> Table:
    """Return lam of the first inputs with its limits, rounded outwards."""
    table = Table(title=Text(f"{source}: lam"), title_justify="left")
    for name in ("input", *(["source index"] if data.indices is not None else []), "lower", "lam", "upper"):
        table.add_column(name, justify="right", no_wrap=True)
    values = [(found.lower, found.log10_lower), (found.lam, found.log10_lam), (found.upper, found.log10_upper)]
    for index in range(min(len(found.lam), _MOST_INPUTS)):
        cells = [
            significant(value[index].item(), log10[index].item(), up=value is found.upper) for value, log10 in values
        ]
        table.add_row(str(index), *([str(data.indices[index].item())] if data.indices is not None else []), *cells)
    return table


def _lines(data: Data, seed: int, found: BlackBoxEstimate) -> list[str]:
    """Return what to know of the table: below it, as its columns are too narrow for sentences."""
    more = len(found.lam) - _MOST_INPUTS
    return [
        *([f"{more} more inputs with --json."] if more > 0 else []),
        *([SOURCE_INDEX] if data.indices is not None else []),
        f"Data: {data.description} (seed {seed}).",
        f"Method: {found.method}; {found.status} at level {found.level}; {found.queries} queries in "
        f"{found.seconds:.1f} s; answers in {found.number_format}.",
        found.note,
    ]
