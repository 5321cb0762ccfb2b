"""Verify the zoo and four large networks at random initialisation, and write the table of all verdicts.

Run: python benchmarks/verify_table.py --out docs/verification.md [TARGET ...]
"""

from __future__ import annotations

import argparse
import functools
import json
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

import fimtheory as ft
from fimtheory import zoo
from fimtheory.data import load_data
from fimtheory.decimals import fixed
from fimtheory.targets import resolve

LARGE = {
    "vgg16_bn": ((3, 32, 32), 20),
    "resnet18": ((3, 32, 32), 20),
    "densenet121": ((3, 32, 32), 10),
    "vit_b_16": ((3, 224, 224), 1),
}
"""Input shape and ascent steps of the search, fewer where a step is slow."""
DATA = 64
STARTS = 32


def verdict(name: str) -> dict[str, Any]:
    """Verify one target with 10 classes."""
    shape, steps = LARGE.get(name, (None, 100))
    target = resolve(name, shape, 10 if shape else None)
    model = target.model(None, seed=0, device="auto")
    sizes = tuple(int(size) for size in target.graph.shapes[target.graph.input])
    data = load_data(target.default_data, sizes, DATA, seed=0)
    return ft.verify(model, data, target=name, starts=STARTS, steps=steps, progress=True).to_json()


def markdown(rows: list[dict[str, Any]]) -> str:
    """Return the verdicts as a Markdown table; every number is a decimal logarithm but the last three.

    Bounds are rounded up, what was found is rounded down.
    """
    above, below = (functools.partial(fixed, up=up, places=2) for up in (True, False))
    lines = [
        "| target | bound (certified) | baseline (certified) | E lam (random weights) | data max | worst found |"
        " looseness | violations | seconds: bound | search |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        data_max = torch.tensor(row["estimates"]["max"], dtype=torch.float64).log10().item()
        lines.append(
            f"| {row['target']} | {above(row['bound']['log10'])} | {above(row['baseline']['log10'])} "
            f"| {above(row['expected']['log10'])} ({row['expected']['status']}) "
            f"| {below(data_max)} ({row['estimates']['status']}, n = {row['estimates']['n']}) "
            f"| {below(row['worst_case']['log10'])} (lower, {row['worst_case']['starts']} starts) "
            f"| {above(row['looseness_log10'])} | {row['violations']} "
            f"| {row['seconds']['bound']:.1f} | {row['seconds']['search']:.1f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Verify the targets given, by default all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", default=[f"zoo:{name}" for name in zoo.names()] + list(LARGE))
    parser.add_argument("--out", type=Path, required=True, help="Markdown file; the verdicts go beside it as .json")
    arguments = parser.parse_args()
    torch.set_flush_denormal(True)
    rows = []
    for name in arguments.targets:
        rows.append(verdict(name))
        Console(stderr=True).print(name, rows[-1]["bound"]["log10"], rows[-1]["looseness_log10"])
    arguments.out.write_text(markdown(rows), encoding="utf-8")
    arguments.out.with_suffix(".json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
