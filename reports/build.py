"""Write the reports of the shipped theorems: .tex, .pdf, the derivation as .json, and manifest.json.

Run: python reports/build.py            (theorems, verified at random initialisation; takes a while)
     python reports/build.py --theorem-only
"""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

import fimtheory as ft
from fimtheory.data import load_data
from fimtheory.targets import parse_shape, resolve

TARGETS = ("vgg16", "resnet18", "densenet121", "vit_b_16")
HERE = Path(__file__).resolve().parent
PACKAGES = ("torch", "sympy", "numpy", "networkx", "python-flint", "fimtheory")
_err = Console(stderr=True)


def build(name: str, out: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Write the report of one target and return its entry of the manifest."""
    target = resolve(name, parse_shape(options.input), options.classes)
    graph = target.graph
    if options.theorem_only:
        derivation = ft.derive(graph)
        found: Any = derivation
        verdict = None
    else:
        model = target.model(None, options.seed, options.device)
        shape = tuple(int(size) for size in graph.shapes[graph.input])
        inputs = load_data(f"random:{options.n}", shape, options.n, seed=options.seed)
        found = ft.verify(
            model, inputs, target=name, seed=options.seed, starts=options.starts, steps=options.steps, progress=True
        )
        derivation, verdict = found.derivation, found.to_json()
    derivation.save(out / f"{name}.json")
    written = ft.report([found], out)
    for path in written:
        _err.print(str(path), markup=False, highlight=False)
    return {
        "input_shape": [int(size) for size in graph.shapes[graph.input]],
        "classes": options.classes,
        "files": [path.name for path in written] + [f"{name}.json"],
        "verdict": verdict,
    }


def manifest(command: list[str], options: argparse.Namespace, entries: dict[str, Any]) -> dict[str, Any]:
    """Return what is needed to make the same reports again."""
    return {
        "command": shlex.join(["python", *command]),
        "git_commit": _commit(),
        "seed": options.seed,
        "data": None if options.theorem_only else f"random:{options.n}",
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in PACKAGES},
        "reports": entries,
    }


def _commit() -> str | None:
    """Return the commit of the working tree, marked where files differ from it; None outside of git."""
    try:
        made = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude", "*"],
            cwd=HERE,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return made.stdout.strip()


def main() -> None:
    """Build the reports named on the command line, by default all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", default=TARGETS, help=f"by default {', '.join(TARGETS)}")
    parser.add_argument("--out", type=Path, default=HERE, help="directory of the files")
    parser.add_argument("--input", default="3,224,224", help="input shape")
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--n", type=int, default=2, help="random inputs to estimate lam on")
    parser.add_argument("--starts", type=int, default=2, help="starts of the search for the worst input")
    parser.add_argument("--steps", type=int, default=2, help="ascent steps from each start")
    parser.add_argument("--theorem-only", action="store_true", help="no weights, estimates or verification")
    options = parser.parse_args()
    torch.set_flush_denormal(True)
    options.out.mkdir(parents=True, exist_ok=True)
    entries: dict[str, Any] = {}
    for k, name in enumerate(options.targets, start=1):
        _err.print(f"{name} ({k} of {len(options.targets)})")
        entries[name] = build(name, options.out, options)
    made = manifest(["reports/build.py", *sys.argv[1:]], options, entries)
    (options.out / "manifest.json").write_text(json.dumps(made, indent=1, allow_nan=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
