"""Certified radii of the zoo against the distance of the nearest adversarial example found; write the table.

Run: python benchmarks/radius.py --out docs/radius.md [MODEL ...]
Local radii take long for networks with convolutions and are certified for the first few inputs there.
The table replaces what stands between the two marks in the file; the curves go to a plot beside it.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from adversarial_distance import adversarial_distance
from rich.console import Console
from torch import Tensor

import fimtheory as ft
from fimtheory import zoo
from fimtheory.data import load_data
from fimtheory.decimals import fixed, significant
from fimtheory.fisher import double
from fimtheory.plots import plot_accuracy
from fimtheory.radii import CertifiedAccuracy, Radii

START, END = "<!-- table -->", "<!-- end of table -->"
INPUTS = 200
LOCAL = {
    "digits_mlp": 200, "digits_mlp_adv": 200, "digits_vgg": 3, "digits_vgg_adv": 3,
    "digits_resnet": 2, "digits_resnet_adv": 2,
}  # fmt: skip
"""Inputs of which local radii are certified as well."""
STARTS, STEPS = 2, 15


@final
@dataclass(frozen=True, slots=True)
class Found:
    """What one model gave."""

    name: str
    log10: float
    accuracy: CertifiedAccuracy
    distance: Tensor
    local: Tensor
    seconds: tuple[float, float, float]

    @property
    def radii(self) -> Radii:
        """Certified radii."""
        return self.accuracy.radii

    @property
    def violations(self) -> int:
        """Inputs with an adversarial example nearer than the radius."""
        nearer = self.distance < self.radii.radius
        nearer[: len(self.local)] |= self.distance[: len(self.local)] < self.local
        return int(nearer.sum())

    def row(self) -> str:
        """Return the row of the table: certified numbers rounded down, distances up."""
        half = lambda values: values.quantile(0.5, interpolation="lower").item()  # noqa: E731
        won = ", ".join(f"{by} {count}" for by, count in Counter(self.radii.by).most_common())
        radius, angle, distance = half(self.radii.radius), half(self.radii.fisher_rao), half(self.distance)
        ratio = half(self.radii.radius / self.distance)
        around = ["-"] * 4
        if (n := len(self.local)) > 0:
            shares = (half(self.local), half(self.local / self.distance[:n]))
            around = [*(significant(share, 0, up=False) for share in shares), str(n), f"{self.seconds[2] / n:.2g}"]
        return (
            f"| zoo:{self.name} | {fixed(self.log10, up=True, places=2)} | {self.accuracy.count(0)} of {INPUTS} "
            f"| {significant(radius, 0, up=False)} | {significant(angle, 0, up=False)} | {won} "
            f"| {significant(distance, 0, up=True)} | {significant(ratio, 0, up=False)} | {' | '.join(around)} "
            f"| {self.violations} | {self.seconds[0]:.1f} | {self.seconds[1]:.0f} |"
        )


def found(name: str) -> Found:
    """Certify one model of the zoo and attack it."""
    start = time.perf_counter()
    model = zoo.load(name)
    data = load_data("digits:test", (1, 8, 8), n=INPUTS, seed=0)
    assert data.labels is not None
    derivation = ft.derive(model.graph)
    ft.check(derivation)
    evaluation = ft.evaluate(derivation, model)
    radii = ft.certified_radius(model, data.inputs, evaluation)
    middle = time.perf_counter()
    distance, _ = adversarial_distance(double(model), data.inputs.double(), starts=STARTS, steps=STEPS)
    last = time.perf_counter()
    local = torch.zeros(0, dtype=torch.float64)
    if name in LOCAL:
        local = ft.local_radius(model, data.inputs[: LOCAL[name]], progress=True).radius
    seconds = (middle - start, last - middle, time.perf_counter() - last)
    return Found(name, evaluation.log10, ft.certified_accuracy(radii, data.labels), distance, local, seconds)


def table(rows: list[Found]) -> str:
    """Return the Markdown table."""
    lines = [
        "| model | log10 of the bound on lam | right | median radius | Fisher-Rao alone | larger certificate |"
        " adversarial distance, median | radius over distance, median | local radius, median"
        " | local over distance, median | local inputs | seconds each | violations | seconds: radii | attack |",
        "|---|" + "---|" * 14,
    ]
    return "\n".join([*lines, *(row.row() for row in rows)]) + "\n"


def main() -> None:
    """Certify and attack the models given, by default all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=list(zoo.names()))
    parser.add_argument("--out", type=Path, required=True, help="Markdown file with the two marks")
    arguments = parser.parse_args()
    torch.set_flush_denormal(True)
    rows = []
    for name in arguments.models:
        rows.append(found(name))
        Console(stderr=True).print(rows[-1].row(), markup=False, soft_wrap=True)
    before, rest = arguments.out.read_text(encoding="utf-8").split(START)
    _, after = rest.split(END)
    arguments.out.write_text(f"{before}{START}\n{table(rows)}{END}{after}", encoding="utf-8")
    curves = {row.name: row.accuracy for row in rows if row.name.startswith("digits_mlp")}
    if curves:
        plot_accuracy(curves, arguments.out.with_suffix(".svg"))
    if any(row.violations for row in rows):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
