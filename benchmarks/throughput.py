"""Inputs per second at which lam is found over a dataset, for each model of the zoo and by the size of a batch.

Run: python benchmarks/throughput.py --out docs/throughput.md [MODEL ...]
Seconds are of processor time on one thread, after one batch to warm up; the best of a few runs counts.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, final

import torch
from rich.console import Console
from torch import Tensor

import fimtheory as ft
from fimtheory import zoo
from fimtheory.data import load_data
from fimtheory.errors import FimTheoryError
from fimtheory.instantiation import GraphModule
from fimtheory.surveys import Survey

T = TypeVar("T")
BATCHES = (1, 4, 16, 64, 256)
FEWEST = 64
"""Inputs that a small batch is timed on; a large one on eight batches."""

TEXT = """# Inputs per second

How many inputs a second `ft.survey` finds lam at, over {inputs} inputs: the 1,797 digits of scikit-learn, and the first
of them again up to that number, in batches of 64. Seconds are of processor time on one thread, after a batch to warm
up; the best run counts of {repeats} ({machine}). Predictions are part of the time, and the test of the derivatives is
part of the products. `forward` is the number of inputs a second that the model alone classifies, and `forward passes`
how many of these the lam of one input costs.

Made by `python benchmarks/throughput.py --out docs/throughput.md`.

| model | inputs a second | seconds | method | status | products an input | forward | forward passes |
|---|---:|---:|---|---|---:|---:|---:|
{models}

Inputs a second by the size of a batch, on as many inputs as eight batches hold, at least {fewest} and at most {inputs}.
`difference` is the largest relative one between the lam of an input in batches of two sizes. A cell that says `refused`
stands for an error where others have a number.

| model |{sizes} difference |
|---|{rules}---:|
{batches}
"""


@final
@dataclass(frozen=True, slots=True)
class Timed:
    """What one model gave; ``rates`` and ``lam`` are by the size of a batch, and lack one that was refused."""

    name: str
    survey: Survey
    seconds: float
    forward: float
    rates: dict[int, float]
    lam: dict[int, Tensor]

    @property
    def rate(self) -> float:
        """Inputs per second over all inputs, in batches of the default size."""
        return len(self.survey) / self.seconds

    @property
    def difference(self) -> float:
        """Largest relative difference of one input's lam between batches of two sizes."""
        compared = [found / self.survey.lam[: len(found)] - 1 for found in self.lam.values()]
        return max((each.abs().max().item() for each in compared), default=0.0)

    def row(self) -> str:
        """Return the row of the table of models."""
        found = self.survey
        return (
            f"| {self.name} | {self.rate:.0f} | {self.seconds:.2f} | {found.method} | {found.status} "
            f"| {found.evaluations / len(found):.1f} | {self.forward:.0f} | {self.forward / self.rate:.0f} |"
        )

    def batch_row(self) -> str:
        """Return the row of the table of batches."""
        cells = [f"{self.rates[size]:.0f}" if size in self.rates else "refused" for size in BATCHES]
        return f"| {self.name} | {' | '.join(cells)} | {self.difference:.1e} |"


def timed(name: str, x: Tensor, repeats: int) -> Timed:
    """Time one model of the zoo."""
    model = zoo.load(name)
    ft.survey(model, x[:64])
    seconds, survey = best(lambda: ft.survey(model, x), repeats)
    rates, lam = {}, {}
    for size in BATCHES:
        some = x[: max(FEWEST, 8 * size)]
        try:
            spent, found = best(lambda some=some, size=size: ft.survey(model, some, batch=size), repeats)
        except FimTheoryError as error:
            Console(stderr=True).print(f"{name}, batches of {size}: {error}", markup=False, soft_wrap=True)
            continue
        rates[size], lam[size] = len(some) / spent, found.lam
    forward = len(x) / best(lambda: classified(model, x), repeats)[0]
    return Timed(f"zoo:{name}", survey, seconds, forward, rates, lam)


def best(run: Callable[[], T], repeats: int) -> tuple[float, T]:
    """Return the least processor time of a few runs, and what that run returned."""
    runs = []
    for _ in range(repeats):
        start = time.process_time()
        made = run()
        runs.append((time.process_time() - start, made))
    return min(runs, key=lambda run: run[0])


def classified(model: GraphModule, x: Tensor) -> Tensor:
    """Return the predicted classes, in batches of 64."""
    with torch.no_grad():
        return torch.cat([model(part).argmax(1) for part in x.split(64)])


def markdown(rows: list[Timed], inputs: int, repeats: int) -> str:
    """Return the text with both tables."""
    return TEXT.format(
        inputs=f"{inputs:,}",
        machine=f"{torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}",
        repeats=repeats,
        fewest=FEWEST,
        models="\n".join(row.row() for row in rows),
        sizes="".join(f" {size} |" for size in BATCHES),
        rules="---:|" * len(BATCHES),
        batches="\n".join(row.batch_row() for row in rows),
    )


def main() -> None:
    """Time the models given, by default all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=list(zoo.names()))
    parser.add_argument("--inputs", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, required=True, help="Markdown file to write")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    digits = load_data("digits", (1, 8, 8)).inputs
    x = digits[torch.arange(arguments.inputs) % len(digits)]
    rows = []
    for name in arguments.models:
        rows.append(timed(name, x, arguments.repeats))
        Console(stderr=True).print(rows[-1].batch_row(), markup=False, soft_wrap=True)
    arguments.out.write_text(markdown(rows, len(x), arguments.repeats), encoding="utf-8")


if __name__ == "__main__":
    main()
