"""The bound after each rung of the ladder, against the largest lam that ascent finds, for trained and large networks.

    python benchmarks/ladder.py --out docs/ladder.md [TARGET ...]

A target is a model of the zoo, perhaps with #SEED to train it anew with another seed, or one of the large networks at
random initialisation.
"""

from __future__ import annotations

import argparse
import functools
import time
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from rich.console import Console
from rich.progress import Progress

import fimtheory as ft
from fimtheory import zoo
from fimtheory.data import load_data
from fimtheory.decimals import fixed
from fimtheory.evaluation import Evaluation
from fimtheory.instantiation import GraphModule
from fimtheory.zoo.train import EPOCHS, train

LARGE = {
    "vgg16_bn": ((3, 32, 32), 4, 10),
    "resnet18": ((3, 32, 32), 4, 10),
    "densenet121": ((3, 32, 32), 4, 10),
    "vit_b_16": ((3, 224, 224), 2, 0),
}
"""Input shape, random inputs to start the search from, and its steps; without steps, lam at those inputs."""
SEEDS = [f"{name}#{seed}" for name in ("digits_vgg", "digits_resnet") for seed in (1, 2)]
RUNGS = ("layers folded, head rule", "centred branches", "joint recursion")
STARTS, STEPS = 32, 100


@final
@dataclass(frozen=True, slots=True)
class Climbed:
    """A target, its product of layer norms, its evaluation, the largest lam found, and the seconds of the evaluation.

    Numbers are decimal logarithms.
    """

    name: str
    product: float
    evaluation: Evaluation
    found: float
    seconds: float

    def row(self) -> str:
        """Row of the table: bounds rounded up, what was found rounded down."""
        above, below = (functools.partial(fixed, up=up, places=2) for up in (True, False))
        rungs = {rung.name: rung.log10 for rung in self.evaluation.ladder}
        if unknown := set(rungs) - set(RUNGS):
            raise SystemExit(f"{self.name}: the table has no column for the rung {', '.join(sorted(unknown))}")
        cells = [above(self.product), *(above(rungs[name]) if name in rungs else "-" for name in RUNGS)]
        left = [above(bound - self.found) for bound in (self.product, self.evaluation.log10)]
        return f"| {' | '.join([self.name, *cells, below(self.found), *left, f'{self.seconds:.0f}'])} |"


def trained(name: str, seed: int) -> GraphModule:
    """Return a model of the zoo, trained with another seed."""
    data = load_data("digits:train", (1, 8, 8))
    with Progress(console=Console(stderr=True), transient=True) as progress:
        adversarial = name.endswith("_adv")
        return train(zoo.graph(name), data, adversarial=adversarial, seed=seed, epochs=EPOCHS, progress=progress)


def searched(name: str, model: GraphModule) -> float:
    """Decimal logarithm of the largest lam found."""
    if name not in LARGE:
        inputs = load_data("digits:test", (1, 8, 8), 64, 0).inputs
        return ft.worst_case(model, inputs, starts=STARTS, steps=STEPS, seed=0).log10_value
    shape, count, steps = LARGE[name]
    inputs = load_data(f"random:{count}", shape, None, 0).inputs
    if steps == 0:
        return ft.estimate(model, inputs).log10_lam.max().item()
    return ft.worst_case(model, inputs, starts=2 * count, steps=steps, seed=0).log10_value


def climbed(target: str) -> Climbed:
    """Evaluate a target and search for large lam."""
    name, _, seed = target.partition("#")
    if name in LARGE:
        graph = getattr(ft.families, name)(classes=10, input_shape=LARGE[name][0])
        model = ft.instantiate(graph, seed=0)
    else:
        model = trained(name, int(seed)) if seed else zoo.load(name)
    start = time.perf_counter()
    evaluation = ft.evaluate(ft.derive(model.graph), model)
    seconds = time.perf_counter() - start
    found = searched(name, model)
    if found > evaluation.log10:
        raise SystemExit(f"{target}: found 10^{found}, above its certified bound 10^{evaluation.log10}")
    product = ft.evaluate(ft.baseline(model.graph), model).log10
    return Climbed(target, product, evaluation, found, seconds)


def main() -> None:
    """Print the rows, and write them between the marks of the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", default=[*zoo.names(), *SEEDS, *LARGE])
    parser.add_argument("--out", type=Path, required=True, help="Markdown file")
    options = parser.parse_args()
    torch.set_flush_denormal(True)
    lines = [
        f"| target | product of layer norms | {' | '.join(RUNGS)} | worst found"
        " | left: product | left: best | seconds |",
        "|---|" + "---:|" * (len(RUNGS) + 5),
    ]
    for target in options.targets:
        lines.append(climbed(target).row())
        print(lines[-1], flush=True)
    options.out.write_text(HEADER + "\n".join(lines) + "\n", encoding="utf-8")


HEADER = """# The bound after each rung of the ladder

Decimal logarithms of certified bounds on lam: the product of layer norms, as it is usually reported; after runs of
linear maps are folded and the head's rows are taken in pairs; after residual branches are centred; by one matrix
inequality over the end of the network (joint recursion). A rung that changes nothing for an architecture is left out.
`worst found` is the largest lam that ascent from 32 starts found (8 short ones for the large networks, and two inputs
for ViT-B/16), `left` what lies between it and a bound: the bound's looseness and the weakness of the search together.
`#1` and `#2` are the same recipe trained with other seeds; the large networks have random weights (seed 0) and 10
classes. Seconds are of deriving and evaluating on one thread of a busy machine.

Made by `python benchmarks/ladder.py --out docs/ladder.md`; bounds are rounded up, what was found is rounded down.

"""


if __name__ == "__main__":
    main()
