"""How often black-box intervals hold lam, and how near the estimates are, at 2 x 100 queries; write the table.

Run: python benchmarks/black_box.py --out docs/blackbox.md [--again] [MODEL ...]
Rows that the table between the two marks of the file has already are kept, unless --again.  lam itself is that of the
same weights in float64, by K - 1 backward passes.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from rich.console import Console
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier
from torch import Tensor, nn

import fimtheory as ft
from fimtheory import zoo
from fimtheory.blackbox import BlackBoxEstimate, SklearnQuery
from fimtheory.data import load_data
from fimtheory.fisher import double

START, END = "<!-- table -->", "<!-- end of table -->"
INPUTS, SEEDS, QUERIES, LEVEL, NEAR = 256, 2, 200, 0.95, 0.3
Query = Callable[[Any], Any]


@final
@dataclass(frozen=True, slots=True)
class Subject:
    """A model, ways to query it, its inputs and its lam."""

    queries: dict[str, tuple[Query, str]]
    x: Tensor
    lam: Tensor


def ways(module: nn.Module) -> dict[str, tuple[Query, str]]:
    """Return black boxes around a float32 module: in float64, in float32, and rounded."""
    exact, single = double(module), module.float()

    @torch.no_grad()
    def logits(x: Tensor) -> Tensor:
        return exact(x)

    @torch.no_grad()
    def single_probabilities(x: Tensor) -> Tensor:
        return single(x.float()).softmax(1)

    return {
        "probabilities, float64": (lambda x: logits(x).softmax(1), "probabilities"),
        "logits, float64": (logits, "logits"),
        "probabilities, float32": (single_probabilities, "probabilities"),
        "probabilities, 4 decimals": (lambda x: torch.round(logits(x).softmax(1), decimals=4), "probabilities"),
    }


def digits(shape: tuple[int, ...] = (1, 8, 8)) -> Tensor:
    """Return test digits in float64."""
    return load_data("digits:test", shape, INPUTS, seed=0).inputs.double()


def from_zoo(name: str) -> Subject:
    """Return a trained model of the zoo."""
    module, x = zoo.load(name), digits()
    return Subject(ways(module), x, ft.estimate(double(module), x, "exact").lam)


def pooled_vgg() -> Subject:
    """Return the VGG of the zoo behind a 4 x 4 average, on 32 x 32 digits: 1024 numbers in an input."""
    module, x = nn.Sequential(nn.AvgPool2d(4), zoo.load("digits_vgg")).eval(), digits((1, 32, 32))
    return Subject(ways(module), x, ft.estimate(double(module), x, "exact").lam)


def sklearn_mlp() -> Subject:
    """Return a perceptron that scikit-learn trains on the training digits; lam of the same weights in torch."""
    train = load_data("digits:train", (64,))
    classifier = MLPClassifier((64,), activation="tanh", max_iter=60, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        classifier.fit(train.inputs.double().numpy(), train.labels)
    layers: list[nn.Module] = []
    for weight, bias in zip(classifier.coefs_, classifier.intercepts_, strict=True):
        layer = nn.Linear(*weight.shape).double()
        layer.weight.data, layer.bias.data = torch.from_numpy(weight.T.copy()), torch.from_numpy(bias.copy())
        layers += [layer, nn.Tanh()]
    x, ask = digits((64,)), SklearnQuery(classifier)
    queries: dict[str, tuple[Query, str]] = {
        "probabilities, float64": (ask, "probabilities"),
        "probabilities, 4 decimals": (lambda x: np.round(ask(x), 4), "probabilities"),
    }
    return Subject(queries, x, ft.estimate(nn.Sequential(*layers[:-1]).eval(), x, "exact").lam)


SUBJECTS: dict[str, Callable[[], Subject]] = {
    "zoo:digits_mlp": lambda: from_zoo("digits_mlp"),
    "zoo:digits_resnet": lambda: from_zoo("digits_resnet"),
    "sklearn MLPClassifier": sklearn_mlp,
    "zoo:digits_vgg, d = 1024": pooled_vgg,
}


def beginning(name: str, way: str, method: str) -> str:
    """Return how the row of a setting begins."""
    return f"| {name} | {way} | {method} |"


def row(name: str, way: str, method: str, subject: Subject) -> str:
    """Run all trials of one setting and return its row."""
    query, outputs = subject.queries[way]
    began = time.perf_counter()
    runs: list[BlackBoxEstimate] = [
        ft.estimate_black_box(
            query, subject.x, outputs=outputs, queries=QUERIES, level=LEVEL, method=method, seed=seed
        )
        for seed in range(SEEDS)
    ]  # fmt: skip
    seconds = time.perf_counter() - began
    lam = subject.lam.repeat(SEEDS)
    value, lower, upper, error = (
        torch.cat([getattr(run, field) for run in runs]) for field in ("lam", "lower", "upper", "difference_error")
    )
    held = ((lower <= lam) & (lam <= upper)).double().mean().item()
    near = ((value / lam - 1).abs() <= NEAR).double().mean().item()
    spent = sum(run.queries for run in runs) / len(lam)
    return (
        f"{beginning(name, way, method)} {len(lam)} | {100 * held:.1f} % | {100 * near:.1f} % "
        f"| {(value / lam).median().item():.3f} | {(upper / lower).median().item():.3g} "
        f"| {error.median().item():.1e} | {runs[0].status} | {spent:.0f} | {1000 * seconds / len(lam):.0f} |"
    )


def table(rows: list[str]) -> str:
    """Return the Markdown table."""
    lines = [
        "| model | answers | method | trials | interval holds lam | estimate within 30 % | estimate over lam, median "
        "| upper over lower, median | difference error, median | status | queries each | ms each |",
        "|---|" + "---|" * 11,
    ]
    return "\n".join([*lines, *rows]) + "\n"


def main() -> None:
    """Measure the models given, by default all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=list(SUBJECTS))
    parser.add_argument("--out", type=Path, required=True, help="Markdown file with the two marks")
    parser.add_argument("--again", action="store_true", help="measure rows of the table again")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    before, rest = arguments.out.read_text(encoding="utf-8").split(START)
    old, after = rest.split(END)
    rows = [line for line in old.splitlines() if any(line.startswith(f"| {name} |") for name in SUBJECTS)]
    for name in arguments.models:
        subject = SUBJECTS[name]()
        small = subject.x[0].numel() < QUERIES // 2
        for method in ("sketch", *["basis"] * small):
            for way in subject.queries:
                same = [line for line in rows if line.startswith(beginning(name, way, method))]
                if same and not arguments.again:
                    continue
                rows = [line for line in rows if line not in same] + [row(name, way, method, subject)]
                Console(stderr=True).print(rows[-1], markup=False, soft_wrap=True)
                rows.sort(key=lambda line: list(SUBJECTS).index(line.split(" | ")[0].removeprefix("| ")))
                arguments.out.write_text(f"{before}{START}\n{table(rows)}{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
