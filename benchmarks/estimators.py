"""Time, memory and accuracy of lam(x) by Lanczos and exactly, against K backward passes per input; write the tables.

Run: python benchmarks/estimators.py --out docs/estimators.md [--device cuda] [MODEL:K:SIDE ...]

Random weights by seed 0, random inputs, batches of 16, the weights of all heads random.  The reference takes one input
at a time, as public code does, and is timed on a few of the inputs.  Both are warmed up; ours is the median of three
runs and the reference is run between them.  Memory is the growth of the peak of a process of its own.
The tables replace what stands between the two marks in the file.
"""

from __future__ import annotations

import argparse
import ctypes
import multiprocessing
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from coverage_models import torchvision_module
from reference_estimator import k_backward_lam, random_quotients
from rich.console import Console
from torch import Tensor, nn

import fimtheory as ft
from fimtheory.fisher.linearisation import Linearisation

START, END = "<!-- tables -->", "<!-- end of tables -->"
CASES = (
    "resnet18:10:64", "resnet18:200:64", "resnet18:1000:64", "densenet121:200:64", "vit_b_16:200:64",
)  # fmt: skip
BATCH = 16
TOLERANCE = 1e-3
PATIENCE = 40.0
"""Seconds of the reference per case, at least one input."""


@final
@dataclass(frozen=True, slots=True)
class Case:
    """An architecture with random weights, a number of classes and a size of images."""

    name: str
    classes: int
    side: int

    @classmethod
    def parse(cls, text: str) -> Case:
        """Read ``MODEL:K:SIDE``."""
        name, classes, side = text.split(":")
        return cls(name, int(classes), int(side))

    def __str__(self) -> str:
        return f"{self.name}, K = {self.classes}, 3x{self.side}x{self.side}"

    def make(self, device: str) -> tuple[nn.Module, Tensor]:
        """Return the model in eval mode and a batch."""
        torch.manual_seed(0)
        options = {"image_size": self.side} if self.name.startswith("vit") else {}
        model = torchvision_module(self.name, num_classes=self.classes, **options).eval()
        if self.name.startswith("vit"):  # its head is zero at the start, and so would be lam
            nn.init.normal_(model.get_parameter("heads.head.weight"), std=0.02)
        return model.to(device), torch.randn(BATCH, 3, self.side, self.side).to(device)


def seconds(work: Callable[[], object], device: str) -> float:
    """Time one call, by events on a GPU."""
    if device == "cpu":
        start = time.perf_counter()
        work()
        return time.perf_counter() - start
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    work()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / 1000


def speed_row(case: Case, device: str) -> str:
    """Return the row of one case: times per input, and the largest deviation from the reference."""
    model, x = case.make(device)
    method = "exact" if case.classes <= 10 else "lanczos"
    tol = None if method == "exact" else TOLERANCE

    def ours() -> None:
        results.append(ft.estimate(model, x, method, tol=tol))

    def reference() -> None:
        i = len(values)
        values.append(k_backward_lam(model, x[i : i + 1]))

    results: list[ft.Estimate] = []
    values: list[float] = []
    first = x[:1].clone().requires_grad_()
    torch.autograd.grad(model(first).sum(), first)  # warm-up of the reference
    ours()
    mine, theirs = [], []
    for run in range(1, 4):
        mine.append(seconds(ours, device) / BATCH)
        while not theirs or (len(theirs) < BATCH and sum(theirs) < PATIENCE * run / 3):
            theirs.append(seconds(reference, device))
    lam = results[-1].lam[: len(values)].tolist()
    deviation = max(abs(a / b - 1) for a, b in zip(lam, values, strict=True))
    quotient = random_quotients(model, x[:1]) / lam[0]
    one, other = statistics.median(mine), statistics.median(theirs)
    products = results[-1].evaluations / BATCH
    return (
        f"| {case} | {method} | {1000 * one:.0f} | {1000 * other:.0f} | {len(theirs)} | **{other / one:.1f}** "
        f"| {products:.1f} | {deviation:.1e} | {quotient:.2g} |"
    )


def cost_row(case: Case, device: str) -> str:
    """Return what products cost in forward passes of the same batch."""
    model, x = case.make(device)
    u, v = torch.randn(BATCH, case.classes, device=device), torch.randn_like(x)
    linear = Linearisation(model, x)
    inputs = torch.arange(BATCH, device=device)

    def forward() -> None:
        with torch.no_grad():
            model(x)

    works = (
        forward, lambda: Linearisation(model, x), lambda: linear.pull_back(u), lambda: linear.push_forward(v),
        lambda: linear.forward_mode(v, inputs),
    )  # fmt: skip
    times = []
    for work in works:
        work()
        times.append(statistics.median(seconds(work, device) for _ in range(5)))
    ratios = " | ".join(f"{t / times[0]:.1f}" for t in times[1:])
    return f"| {case} | {1000 * times[0] / BATCH:.1f} | {ratios} |"


def _grown(case: Case, work: str, queue: multiprocessing.Queue[float]) -> None:
    """Put the growth of this process's peak memory, in MiB, by one piece of work."""
    torch.set_num_threads(1)
    model, x = case.make("cpu")
    ft.estimate(model, x[:1], "lanczos", tol=0.5)
    ctypes.CDLL(None).malloc_trim(0)  # what is free is given back, or the work would find it there
    before = _kib("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak counts from here
    if work == "estimate":
        ft.estimate(model, x, "lanczos", tol=TOLERANCE)
    else:
        x.requires_grad_()
        torch.autograd.grad(model(x).log_softmax(1)[:, 0].sum(), x)
    queue.put((_kib("VmHWM") - before) / 1024)


def _kib(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


def memory_row(case: Case) -> str:
    """Return the peaks of one forward and backward pass to the input, and of an estimate, on the CPU."""
    peaks = []
    context = multiprocessing.get_context("spawn")
    for work in ("backward", "estimate"):
        queue: multiprocessing.Queue[float] = context.Queue()
        process = context.Process(target=_grown, args=(case, work, queue))
        process.start()
        peaks.append(queue.get())
        process.join()
    weights = sum(weight.nbytes for weight in case.make("cpu")[0].state_dict().values()) / 2**20
    ratio = (peaks[1] + weights) / (peaks[0] + weights)
    return f"| {case} | {weights:.0f} | {peaks[0]:.0f} | {peaks[1]:.0f} | **{ratio:.2f}** |"


def tables(cases: list[Case], device: str) -> str:
    """Measure everything."""
    console = Console(stderr=True)

    def rows(row: Callable[[Case], str], cases: list[Case]) -> list[str]:
        found = []
        for case in cases:
            found.append(row(case))
            console.print(found[-1], markup=False, soft_wrap=True)
        return found

    lines = [
        f"{device.upper()}, {torch.get_num_threads()} threads, torch {torch.__version__}, float32.",
        "",
        "| model | method | ms per input | reference, ms | inputs of the reference | ratio | products per input"
        " | largest relative deviation | 100 random quotients, of lam |",
        "|---|---|---|---|---|---|---|---|---|",
        *rows(lambda case: speed_row(case, device), cases),
        "",
        "| model | forward, ms per input | linearise | pull back | push forward | forward mode |",
        "|---|---|---|---|---|---|",
        *rows(lambda case: cost_row(case, device), [case for case in cases if case.classes != 10]),
    ]
    if device == "cpu":
        large = [Case(case.name, 1000, case.side) for case in cases if case.classes >= 200]
        lines += [
            "",
            "| model | weights, MiB | forward and backward, MiB more | estimate, MiB more | ratio of the sums |",
            "|---|---|---|---|---|",
            *rows(memory_row, list(dict.fromkeys(large))),
        ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure the cases given, by default all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", default=CASES, metavar="MODEL:K:SIDE")
    parser.add_argument("--out", type=Path, required=True, help="Markdown file with the two marks")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    arguments = parser.parse_args()
    torch.set_flush_denormal(True)
    found = tables([Case.parse(text) for text in arguments.cases], arguments.device)
    before, rest = arguments.out.read_text(encoding="utf-8").split(START)
    _, after = rest.split(END)
    arguments.out.write_text(f"{before}{START}\n{found}{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
