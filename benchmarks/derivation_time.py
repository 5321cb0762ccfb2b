"""Time to derive and to replay a theorem: every preset, and residual networks of 250, 500 and 1,000 blocks.

Run: python benchmarks/derivation_time.py
"""

from __future__ import annotations

import time

from rich.console import Console
from rich.table import Table

import fimtheory as ft


def seconds(graph: ft.LayerGraph) -> tuple[float, float, int]:
    """Return the seconds to derive and to replay, and the number of steps."""
    start = time.perf_counter()
    derivation = ft.derive(graph)
    derived = time.perf_counter()
    ft.check(derivation)
    return derived - start, time.perf_counter() - derived, len(derivation.steps)


def main() -> None:
    """Print the table."""
    ft.derive(ft.families.mlp(inputs=4, classes=3))  # sympy warms its caches once
    graphs = {name: preset.build() for name, preset in ft.families.PRESETS.items()}
    for blocks in (250, 500, 1000):
        stages = tuple([blocks // 4 + (k < blocks % 4) for k in range(4)])
        graphs[f"resnet, {blocks} blocks"] = ft.families.resnet(stages)
    table = Table("network", "nodes", "steps", "derive, s", "replay, s")
    for name, graph in graphs.items():
        derive, replay, steps = seconds(graph)
        table.add_row(name, str(len(graph)), str(steps), f"{derive:.2f}", f"{replay:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
