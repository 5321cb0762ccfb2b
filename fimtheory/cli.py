"""The command line: ``fimtheory derive | bound | estimate | blackbox | directions | verify | radius | report | ...``.

Exit status: 0 the claim holds, 1 a bound was violated or a check failed, 2 bad input (one line on stderr), 3 a fault
of fimtheory itself (with a traceback), 130 interrupted.  With ``--json`` stdout is exactly one JSON object.  Progress
bars are drawn on stderr where that is a terminal.
"""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import Annotated, Any

import typer

from fimtheory import __version__, tables
from fimtheory.black_box_command import blackbox
from fimtheory.command_options import (
    Arguments,
    AsJson,
    Classes,
    DataName,
    Device,
    FewInputs,
    InputBound,
    InputShape,
    ModelInput,
    ModelOutput,
    Seed,
    Starts,
    Steps,
    TargetName,
    TokenVariance,
    Weights,
)  # fmt: skip
from fimtheory.command_output import ERR, OUT, print_json, tell
from fimtheory.derive import baseline as derive_baseline
from fimtheory.derive import derive as derive_bound
from fimtheory.directions_command import directions
from fimtheory.errors import CheckError, DataError, FimTheoryError
from fimtheory.estimate_command import estimate
from fimtheory.files import require_json_path
from fimtheory.graph import LayerGraph
from fimtheory.kernel import check as check_derivation
from fimtheory.proof_files import derivation_to_json
from fimtheory.proofs import Proof, load_theorem, proof_to_text, replay, theorem_files, try_in_numbers
from fimtheory.targets import Importing, Target, parse_shape, resolve

__all__ = ["app", "main"]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command()(blackbox)
app.command()(directions)
app.command()(estimate)


def _print_version(asked: bool) -> None:
    if asked:
        OUT.print(f"fimtheory {__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Derive, check and verify bounds on the input-space Fisher information of classifiers."""


@app.command()
def derive(
    target: TargetName,
    input_shape: InputShape = None,
    classes: Classes = None,
    arg: Arguments = None,
    model_input: ModelInput = None,
    model_output: ModelOutput = None,
    token_variance: TokenVariance = None,
    save: Annotated[Path | None, typer.Option(help="Write the derivation to this .json file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Print the theorem for an architecture, or of a Python file, with every step of its proof."""
    if save is not None:
        require_json_path(save)
    theorem = load_theorem(target) if target.endswith(".py") else None
    if theorem is not None and any((input_shape, classes, arg, model_input, model_output)):
        raise DataError(f"{target} says itself what its theorem is about; leave the options about the model out")
    if isinstance(theorem, Proof):
        if save is not None or as_json or token_variance is not None:
            raise DataError(f"{target} holds a proof, not an architecture: it takes no options")
        replay(theorem)
        OUT.print(proof_to_text(theorem), markup=False, highlight=False, soft_wrap=True)
        return
    importing = Importing(tuple(arg or ()), model_input, model_output)
    graph = theorem or resolve(target, parse_shape(input_shape), classes, importing).graph
    derivation = derive_bound(graph, token_variance=token_variance)
    check_derivation(derivation)
    if save is not None:
        derivation.save(save)
    if as_json:
        print_json(derivation_to_json(derivation))
    else:
        OUT.print(str(derivation), markup=False, highlight=False, soft_wrap=True)


@app.command()
def bound(
    target: TargetName,
    input_shape: InputShape = None,
    classes: Classes = None,
    arg: Arguments = None,
    model_input: ModelInput = None,
    model_output: ModelOutput = None,
    weights: Weights = None,
    seed: Seed = 0,
    device: Device = "auto",
    token_variance: TokenVariance = None,
    input_bound: InputBound = None,
    ladder: Annotated[bool, typer.Option("--ladder", help="Show the bound after each kind of rule.")] = False,
    sdp: Annotated[
        bool,
        typer.Option("--sdp", help="Bound small networks by a semidefinite programme, too; the smallest bound counts."),
    ] = False,
    around: Annotated[
        str | None,
        typer.Option(help="Bound lam in a ball around each input of this data (named as for --data) instead."),
    ] = None,
    eps: Annotated[float | None, typer.Option(min=0, help="Radius of the balls, in units of the input.")] = None,
    norm: Annotated[str | None, typer.Option(help="Norm of the balls: l2 (by default) or linf.")] = None,
    n: FewInputs = None,
    as_json: AsJson = False,
) -> None:
    """Evaluate the certified bound on a model's weights, step by step; with --around, in balls around inputs."""
    from fimtheory.evaluation import evaluate

    _require_local_options(around, eps, norm, n, ladder, sdp, token_variance, input_bound)
    made = resolve(
        target, parse_shape(input_shape), classes, Importing(tuple(arg or ()), model_input, model_output, weights, seed)
    )
    model = made.model(weights, seed, device)
    if around is not None and eps is not None:
        _bound_around(made, model, around, eps, norm or "l2", n, seed, as_json)
        return
    derivation = derive_bound(made.graph, token_variance=token_variance)
    check_derivation(derivation)
    found = evaluate(derivation, model, input_bound=input_bound, semidefinite=sdp, progress=ERR.is_terminal)
    usual = evaluate(derive_baseline(made.graph), model, input_bound=input_bound, progress=ERR.is_terminal)
    if as_json:
        print_json(tables.bound_json(made.name, derivation, found, usual))
    else:
        OUT.print(tables.step_table(made.name, found))
        if ladder:
            OUT.print(tables.ladder_table(made.name, found, usual))
        OUT.print(tables.bound_table(found, usual, derivation))


def _require_local_options(
    around: str | None, eps: float | None, norm: str | None, n: int | None, *others: Any
) -> None:
    """Refuse options of the two kinds of bound in one command."""
    if around is None and (eps is not None or norm is not None or n is not None):
        raise DataError("--eps, --norm and --n are about balls around inputs; name the inputs with --around DATA")
    if around is not None and eps is None:
        raise DataError("--around needs the radius of the balls: --eps E, in units of the input")
    if around is not None and any(others):
        raise DataError(
            "--ladder, --sdp, --token-variance and --input-bound are about bounds without a ball; leave out --around"
        )


def _bound_around(
    made: Target, model: Any, around: str, eps: float, norm: str, n: int | None, seed: int, as_json: bool
) -> None:
    """Print certified bounds in balls around inputs, beside lam at the inputs."""
    from fimtheory.local import local_bound
    from fimtheory.surveys import placed, survey

    inputs = made.inputs(around, n, seed, at_most=64)
    data = placed(inputs.inputs, model)
    found = local_bound(model, data, eps, norm=norm, progress=ERR.is_terminal)
    at_centre = survey(model, data, seed=seed)
    if as_json:
        print_json(tables.local_json(made.name, inputs.description, seed, found, at_centre))
    else:
        for table in tables.local_tables(made.name, inputs.description, seed, found, at_centre):
            OUT.print(table)


@app.command()
def verify(
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
    n: FewInputs = None,
    starts: Starts = 32,
    steps: Steps = 100,
    token_variance: TokenVariance = None,
    input_bound: InputBound = None,
    as_json: AsJson = False,
) -> None:
    """Derive, replay and evaluate the bound, then try to exceed it on data and by search."""
    from fimtheory.verification import verify as verify_model

    made = resolve(
        target, parse_shape(input_shape), classes, Importing(tuple(arg or ()), model_input, model_output, weights, seed)
    )
    model = made.model(weights, seed, device)
    inputs = made.inputs(data, n, seed, at_most=64)
    verdict = verify_model(
        model, inputs, target=made.name, seed=seed, starts=starts, steps=steps,
        token_variance=token_variance, input_bound=input_bound, progress=ERR.is_terminal,
    )  # fmt: skip
    if as_json:
        print_json(verdict.to_json())
    else:
        OUT.print(tables.verdict_table(verdict))
    if not verdict.holds:
        raise typer.Exit(1)


@app.command()
def radius(
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
    n: FewInputs = None,
    input_bound: InputBound = None,
    local: Annotated[
        bool, typer.Option("--local", help="Bound the network around each input as well: larger radii, more time.")
    ] = False,
    plot: Annotated[Path | None, typer.Option(help="Write the certified accuracy to this .svg or .png file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Certify how far each input may move in l2 before the prediction can change."""
    from fimtheory.evaluation import evaluate
    from fimtheory.local import local_radius, require_model
    from fimtheory.plots import plot_accuracy, require_plot_path
    from fimtheory.radii import certified_accuracy, certified_radius
    from fimtheory.surveys import placed

    if plot is not None:
        require_plot_path(plot)
    made = resolve(
        target, parse_shape(input_shape), classes, Importing(tuple(arg or ()), model_input, model_output, weights, seed)
    )
    model = made.model(weights, seed, device)
    inputs = made.inputs(data, n, seed, at_most=64)
    if plot is not None and inputs.labels is None:
        raise DataError(f"--plot needs labels, and {inputs.description} has none; give labelled data, or leave it out")
    if local:
        require_model(model, inputs.inputs)
    derivation = derive_bound(made.graph)
    check_derivation(derivation)
    found = evaluate(derivation, model, input_bound=input_bound, progress=ERR.is_terminal)
    radii = certified_radius(model, placed(inputs.inputs, model), found)
    if local:
        radii = radii.with_local(local_radius(model, inputs.inputs, progress=ERR.is_terminal))
    accuracy = None if inputs.labels is None else certified_accuracy(radii, inputs.labels)
    if plot is not None and accuracy is not None:
        plot_accuracy({made.name: accuracy}, plot)
    if as_json:
        print_json(tables.radius_json(made.name, inputs.description, seed, found, radii, accuracy))
    else:
        for table in tables.radius_tables(made.name, inputs.description, seed, found, radii, accuracy):
            OUT.print(table)


@app.command()
def report(
    targets: Annotated[
        list[str], typer.Argument(help="Targets, or theorems (.py, or a directory of them; .py files are run).")
    ],
    out: Annotated[Path, typer.Option(help="Directory for the .tex and .pdf files.")] = Path("reports"),
    input_shape: InputShape = None,
    classes: Classes = None,
    arg: Arguments = None,
    model_input: ModelInput = None,
    model_output: ModelOutput = None,
    weights: Weights = None,
    seed: Seed = 0,
    device: Device = "auto",
    data: DataName = None,
    n: FewInputs = None,
    starts: Starts = 32,
    steps: Steps = 100,
    token_variance: TokenVariance = None,
    input_bound: InputBound = None,
    theorem_only: Annotated[bool, typer.Option(help="Leave out weights, estimates and verification.")] = False,
    pdf: Annotated[bool, typer.Option(help="Make PDFs where latexmk is installed, or the .tex alone.")] = True,
) -> None:
    """Write a LaTeX appendix for each target (and its PDF, where latexmk is installed).

    Proofs in .py files go into one appendix, theorems.tex.
    """
    from fimtheory.reporting import report as write_report
    from fimtheory.reporting import require_directory
    from fimtheory.verification import verify as verify_model

    require_directory(out)
    importing = Importing(tuple(arg or ()), model_input, model_output, weights, seed)
    made = [
        load_theorem(target)
        if target.endswith(".py")
        else resolve(target, parse_shape(input_shape), classes, importing)
        for target in _each_file(targets)
    ]
    about_models = any((input_shape, classes, arg, model_input, model_output, weights, data, input_bound))
    if about_models and all(isinstance(each, Proof | LayerGraph) for each in made):
        raise DataError("theorems in .py files say themselves what they are about; leave the options about a model out")
    if token_variance is not None and all(isinstance(each, Proof) for each in made):
        raise DataError("a proof says itself what it assumes; leave --token-variance out")
    chapters: list[Any] = []
    for each in made:
        if isinstance(each, Proof):
            chapters.append(each)
            continue
        if isinstance(each, LayerGraph):
            chapters.append(derive_bound(each, token_variance=token_variance))
            continue
        if theorem_only or not each.graph.is_concrete():
            chapters.append(derive_bound(each.graph, token_variance=token_variance))
            continue
        model = each.model(weights, seed, device)
        inputs = each.inputs(data, n, seed, at_most=64)
        verdict = verify_model(
            model, inputs, target=each.name, seed=seed, starts=starts, steps=steps,
            token_variance=token_variance, input_bound=input_bound, progress=ERR.is_terminal,
        )  # fmt: skip
        chapters.append(verdict)
    for path in write_report(chapters, out, compile=pdf):
        OUT.print(str(path), markup=False, highlight=False, soft_wrap=True)


@app.command()
def check(
    targets: Annotated[
        list[str], typer.Argument(help="Saved derivations (.json), theorems (.py, or a directory of them) or targets.")
    ],
    as_json: AsJson = False,
) -> None:
    """Replay derivations and proofs step by step.

    Theorems in .py files are programs, which are run; they are tried in random numbers as well.
    """
    results = []
    for target in _each_file(targets):
        theorem = load_theorem(target) if target.endswith(".py") else None
        entry: dict[str, Any] = {"target": target, "holds": True}
        try:
            if isinstance(theorem, Proof):
                entry |= {"theorem": theorem.name, "lemmas": 0, "steps": len(theorem.steps)}
                replay(theorem)
                try_in_numbers(theorem)
            else:
                derivation = _saved(target) or derive_bound(theorem or resolve(target, None, None).graph)
                entry |= {"lemmas": len(derivation.lemmas), "steps": len(derivation.steps)}
                check_derivation(derivation)
        except CheckError as error:
            entry |= {"holds": False, "error": str(error)}
        results.append(entry)
    if as_json:
        print_json({"results": results})
    else:
        OUT.print(tables.check_table(results))
    if not all(entry["holds"] for entry in results):
        raise typer.Exit(1)


@app.command()
def rules(as_json: AsJson = False) -> None:
    """List the layer types and what is known about each."""
    import fimtheory.forward  # noqa: F401  registers what each layer computes

    if as_json:
        print_json(tables.rules_json())
    else:
        OUT.print(tables.rules_table())


@app.command()
def families(as_json: AsJson = False) -> None:
    """List the targets that need no file."""
    if as_json:
        print_json(tables.targets_json())
    else:
        OUT.print(tables.targets_table())


def _each_file(targets: list[str]) -> list[str]:
    """Put the theorems of a directory in place of its name."""
    return [name for t in targets for name in (map(str, theorem_files(t)) if Path(t).is_dir() else (t,))]


def _saved(target: str) -> Any:
    """Return a saved derivation, or None where ``target`` is something else."""
    from fimtheory.files import read_json
    from fimtheory.proof_files import derivation_from_json

    if not target.endswith(".json"):
        return None
    value = read_json(target)
    if isinstance(value, dict) and value.get("format") == "fimtheory-derivation":
        return derivation_from_json(value, where=target)
    return None


def main() -> None:
    """Run the command line and exit with its status."""
    try:
        status = app(standalone_mode=False)
    except FimTheoryError as error:
        sys.exit(_fail(str(error)))
    except typer.Abort:
        tell("interrupted")
        sys.exit(130)
    except Exception as error:
        message = getattr(error, "format_message", None)  # of typer's usage errors, whose classes are private
        if message is not None:
            sys.exit(_fail(message()))
        if _out_of_memory(error):
            sys.exit(_fail(f"out of memory; use fewer --starts, a smaller --input or a larger machine: {error}"))
        traceback.print_exc()
        sys.exit(3)
    sys.exit(status if isinstance(status, int) else 0)


def _out_of_memory(error: Exception) -> bool:
    """Whether Python, or torch in one of two ways, could not allocate memory."""
    texts = ("can't allocate memory", "out of memory")
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and any(t in str(error) for t in texts))


def _fail(message: str) -> int:
    """Print one line on stderr and return the exit status of bad input."""
    tell(message, "red")
    return 2
