"""What can be imported: one member of every family of torchvision, timm and transformers, and the bound on it.

Every model runs in a process of its own, on one thread, with a limit; times are those of the processor.  Results go
beside the table as .json, and a run takes up where the last one stopped.

Run: python benchmarks/model_coverage.py --out docs/coverage.md [--only PATTERN] [--import-only] [--again]
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
from coverage_models import MODELS, build
from rich.console import Console

import fimtheory as ft

Result = dict[str, Any]
INPUT_BOUND = 3.0
"""Largest absolute entry of an input where a theorem assumes bounded values: normalised images stay below 2.7."""


# ---- one model, in a process of its own -------------------------------------------------------------------------


def measure(name: str, import_only: bool, limit: int) -> None:
    """Import a model and bound it; print what is known as each stage begins, and at the end."""
    result: Result = {"model": name, "stage": "start", "seconds": {}}
    print(json.dumps(result), flush=True)
    resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 1))
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    try:
        _measure(result, name, import_only)
    except ft.FimTheoryError as error:
        result |= {"error": type(error).__name__, "reason": str(error)}
    print(json.dumps(result), flush=True)


def _measure(result: Result, name: str, import_only: bool) -> None:
    with _stage(result, "build"):
        module, example, arguments = build(name)
    with _stage(result, "import"):
        graph = ft.from_torch(module, example, **arguments)
    assert graph.difference is not None, "an import measures its difference"
    result |= {"nodes": len(graph), "float64": graph.difference.float64, "float32": graph.difference.float32}
    if import_only:
        return
    with _stage(result, "derive"):
        derivation = ft.derive(graph)
    result |= {"lemmas": len(derivation.lemmas), "steps": len(derivation.steps)}
    with _stage(result, "check"):
        ft.check(derivation)
    with _stage(result, "evaluate"):
        try:
            bound = ft.evaluate(derivation, graph.weights)
        except ft.errors.AssumptionError:
            bound = ft.evaluate(derivation, graph.weights, input_bound=INPUT_BOUND)
    result |= {"log10": bound.log10, "domain": bound.domain}


@contextmanager
def _stage(result: Result, stage: str) -> Iterator[None]:
    result["stage"] = stage
    print(json.dumps(result), flush=True)
    start = time.process_time()
    try:
        yield
    finally:
        result["seconds"][stage] = round(time.process_time() - start, 2)


def run(name: str, import_only: bool, limit: int) -> Result:
    """Return the result of one model from a process of its own; the last that it told where the time runs out."""
    command = [sys.executable, __file__, "--one", name, *(["--import-only"] if import_only else [])]
    done = subprocess.run([*command, "--limit", str(limit)], capture_output=True, text=True, check=False)
    result: Result = json.loads([line for line in done.stdout.splitlines() if line.startswith('{"model"')][-1])
    if done.returncode == -signal.SIGXCPU:
        result |= {"error": "time limit", "reason": f"not done after {limit} s, in stage {result['stage']}"}
    elif done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        result |= {"error": "crash", "reason": last[0], "traceback": done.stderr[-4000:]}
    return result


# ---- the table --------------------------------------------------------------------------------------------------

_OPERATION = re.compile(
    r"(?P<target>\S+) at \S+ \(module .*?\]\)(?: and \d+ more)?: (?P<reason>.*?)(?=; \S+ at \S+ \(module|\. To add one)"
)
"""One of the operations that an import lists."""


def blocking(result: Result) -> list[str]:
    """Return the operations that kept a model from being imported, each with its reason."""
    _, _, listed = result["reason"].partition(" operations cannot be imported: ")
    found = [f"`{each['target']}`: {_general(each['reason'])}" for each in _OPERATION.finditer(listed)]
    return list(dict.fromkeys(found))


def _general(reason: str) -> str:
    """Return a reason without the shapes of one model."""
    return re.sub(r"\([\d, ]+\)", "(...)", reason)


def shortened(result: Result) -> str:
    """Return the reason for which a model stopped, in a few words."""
    if "error" not in result:
        return ""
    text = "; ".join(blocking(result)) or f"{result['error']}: {result['reason']}"
    return (text if len(text) <= 240 else text[:237] + "...").replace("|", "\\|").replace("\n", " ")


def markdown(results: list[Result]) -> str:
    """Return the table, a library at a time, and what its columns mean."""
    parts = [_PREFACE, _share(results)]
    for library in dict.fromkeys(result["model"].partition(":")[0] for result in results):
        rows = [result for result in results if result["model"].startswith(f"{library}:")]
        imported = sum("nodes" in row for row in rows)
        bounded = sum("log10" in row for row in rows)
        parts += [
            f"## {library}: {imported} of {len(rows)} imported, {bounded} with a certified bound\n",
            "| model | imported | difference, float64 | float32 | layers | lemmas | log10 bound | holds for"
            " | seconds: import | derive | evaluate | stopped by |",
            "|---|---|---|---|---|---|---|---|---|---|---|---|",
            *map(_row, rows),
            "",
        ]
    return "\n".join(parts)


_PREFACE = f"""# Coverage: which models can be imported

One member of each family, weights drawn from a seed. `python benchmarks/model_coverage.py --out docs/coverage.md` makes
this table; every model runs in a process of its own on one thread, and seconds are those of the processor. The
differences are those of the logits between the imported graph and the model, relative to their scale. Layers are the
nodes of the graph. Bounds are certified, and replayed by the kernel; those that hold for inputs with entries at most
{INPUT_BOUND:g} rest on gates or attention without a norm before them.
"""


def _share(results: list[Result]) -> str:
    """Say how long deriving takes, at most, beside importing."""
    times = [(r["seconds"]["derive"] / r["seconds"]["import"], r["model"]) for r in results if "log10" in r]
    share, model = max(times, default=(0.0, "no model"))
    return f"Deriving takes at most {100 * share:.0f} % of the time of importing ({model}).\n"


def _row(result: Result) -> str:
    seconds = result["seconds"]
    cells = [
        result["model"].partition(":")[2],
        "yes" if "nodes" in result else "no",
        *(f"{result[key]:.0e}" if key in result else "" for key in ("float64", "float32")),
        *(str(result.get(key, "")) for key in ("nodes", "lemmas")),
        f"{result['log10']:.1f}" if "log10" in result else "",
        result.get("domain", ""),
        *(f"{seconds[stage]:.1f}" if stage in seconds else "" for stage in ("import", "derive", "evaluate")),
        shortened(result),
    ]
    return f"| {' | '.join(cells)} |"


def missing(results: list[Result]) -> str:
    """Return what stops models, ranked by how many it stops."""
    stopped = [result for result in results if "error" in result]
    reasons = {result["model"]: blocking(result) or [shortened(result)] for result in stopped}
    counts = Counter(reason for each in reasons.values() for reason in each)
    lines = [f"{len(stopped)} of {len(results)} models are stopped.\n"]
    for reason, count in counts.most_common():
        models = [name for name, each in reasons.items() if reason in each]
        alone = [name for name in models if len(reasons[name]) == 1]
        lines += [f"- **{count}** {reason}", f"  stops alone: {', '.join(alone) or 'none'}; all: {', '.join(models)}"]
    return "\n".join(lines) + "\n"


# ---- the command line -------------------------------------------------------------------------------------------


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/coverage.md"), help="the table; results go beside it")
    parser.add_argument("--missing", type=Path, help="Markdown file for what stops models, ranked")
    parser.add_argument("--only", default="*", help="models whose name matches, such as 'timm:*'")
    parser.add_argument("--import-only", action="store_true")
    parser.add_argument("--again", action="store_true", help="run those that were stopped once more")
    parser.add_argument("--limit", type=int, default=900, help="processor seconds for each model")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    return parser.parse_args()


def _open(result: Result | None, import_only: bool, again: bool) -> bool:
    """Whether a model still needs a run."""
    if result is None:
        return True
    if "error" in result:
        return again
    return not import_only and "log10" not in result


def main() -> None:
    """Run the models that have no result yet, and write the table after each."""
    given = _arguments()
    if given.one:
        measure(given.one, given.import_only, given.limit)
        return
    store = given.out.with_suffix(".json")
    before = json.loads(store.read_text(encoding="utf-8")) if store.exists() else []
    known: dict[str, Result] = {result["model"]: result for result in before}
    wanted = [n for n in MODELS if fnmatch(n, given.only) and _open(known.get(n), given.import_only, given.again)]
    console = Console(stderr=True)
    with ThreadPoolExecutor(given.jobs) as pool:
        for done in as_completed([pool.submit(run, name, given.import_only, given.limit) for name in wanted]):
            result = done.result()
            known[result["model"]] = result
            told = f"{result['model']} {result['stage']} {result['seconds']} {shortened(result)}"
            console.print(told, highlight=False, markup=False, soft_wrap=True)
            _write([known[name] for name in MODELS if name in known], given)
    _write([known[name] for name in MODELS if name in known], given)


def _write(results: list[Result], given: argparse.Namespace) -> None:
    given.out.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    given.out.write_text(markdown(results), encoding="utf-8")
    if given.missing:
        given.missing.write_text(missing(results), encoding="utf-8")


if __name__ == "__main__":
    main()
