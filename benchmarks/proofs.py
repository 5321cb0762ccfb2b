"""Size and work of the kernel of proofs: lines, time to check each theorem, calls of z3 and of ball arithmetic.

python benchmarks/proofs.py derivations
"""

from __future__ import annotations

import ast
import io
import sys
import time
import tokenize
from collections import Counter
from pathlib import Path

import z3
from rich.console import Console
from rich.table import Table

import fimtheory as ft
from fimtheory import proofs
from fimtheory.proofs import calculus, load_theorem, replay, theorem_files, try_in_numbers

KERNEL = ("replay", "inference", "calculus", "arithmetic", "terms")


def code_lines(path: Path) -> int:
    """Count lines that hold code: no blank ones, no comments, no docstrings."""
    text = path.read_text(encoding="utf-8")
    told = set[int]()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            told.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    code = set[int]()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT):
            code.update(range(token.start[0], token.end[0] + 1))
    return len({line for line in code - told if text.splitlines()[line - 1 : line]})


def counted(calls: Counter[str]) -> None:
    """Count the calls from here on."""
    check, evaluated = z3.Solver.check, calculus.evaluated

    def checking(solver: z3.Solver, *assumptions: object) -> object:
        calls["z3"] += 1
        return check(solver, *assumptions)

    def evaluating(*arguments: object) -> object:
        calls["flint"] += 1
        return evaluated(*arguments)  # pyright: ignore

    z3.Solver.check = checking
    calculus.evaluated = evaluating  # pyright: ignore


def main() -> None:
    """Print both tables."""
    folder = Path(proofs.__file__).parent
    files = [folder / f"{name}.py" for name in KERNEL] + [Path(ft.kernel.__file__)]
    console = Console()
    size = Table("kernel", "lines", "of code")
    for path in files:
        size.add_row(path.name, str(len(path.read_text().splitlines())), str(code_lines(path)))
    console.print(size)
    calls = Counter[str]()
    counted(calls)
    work = Table("theorem", "steps", "replay, ms", "20 trials, ms", "z3 calls", "flint calls")
    sums = Counter[str]()
    for path in theorem_files(sys.argv[1]):
        theorem = load_theorem(path)
        before = calls.copy()
        start = time.perf_counter()
        if isinstance(theorem, proofs.Proof):
            replay(theorem)
            middle = time.perf_counter()
            try_in_numbers(theorem)
            steps = len(theorem.steps)
        else:
            derivation = ft.derive(theorem)
            start = time.perf_counter()
            ft.check(derivation)
            middle = time.perf_counter()
            steps = sum(len(lemma.steps) for lemma in derivation.lemmas)
        end = time.perf_counter()
        row = {"steps": steps, "replay": round(1000 * (middle - start)), "trials": round(1000 * (end - middle)),
               "z3": calls["z3"] - before["z3"], "flint": calls["flint"] - before["flint"]}  # fmt: skip
        work.add_row(path.stem, *map(str, row.values()))
        sums.update(row)
    work.add_row("in all", *(str(sums[key]) for key in ("steps", "replay", "trials", "z3", "flint")))
    console.print(work)


if __name__ == "__main__":
    main()
