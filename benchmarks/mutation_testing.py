"""Mutation testing: small changes of norms, searches or kernels, and whether a test that runs the line fails.

    python benchmarks/mutation_testing.py norms 240 build/norms.jsonl
    python benchmarks/mutation_testing.py again build/norms.jsonl tests/test_norms*.py

The first draws mutants, the second tries those that survived again, on all of the given tests.  The changes are those
of cosmic-ray, drawn with a fixed seed from all that touch a line that tests run.  Changes of annotations, docstrings
and messages of errors are left out, and operators on bits and powers as replacements.  A first run of the tests records
which of them run which line, and how long each takes; a mutant is tried on those of its line, the quickest first, until
one fails, or the next would exceed SECONDS.  Each mutant runs in a fork of a process that has imported what the tests
need except fimtheory, so that no file is changed.  Results are appended to the file, one a line; mutants that are in it
are not tried again, those that were stopped for time excepted.  Needs `pip install cosmic-ray` beside `dev`.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import json
import multiprocessing
import os
import random
import resource
import signal
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import coverage
import pytest
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

SEED = 2026
SECONDS = 4.0
"""Time of the tests of one mutant, as recorded; with three times that, and 20 s, of work it counts as endless."""
BUILD = Path("build")
FORK = multiprocessing.get_context("fork")

SEARCHES = ["interconnection_diameter", "interconnection_multipliers", "lanczos", "multipliers", "trial"]
"""Files that choose multipliers or levels, of which a certificate is made or refused elsewhere."""
MODULES = {
    "norms": [str(p) for p in sorted(Path("fimtheory/norms").glob("*.py")) if p.stem not in SEARCHES],
    "searches": [f"fimtheory/norms/{name}.py" for name in SEARCHES],
    "kernel": ["fimtheory/proofs", "fimtheory/kernel.py", "fimtheory/inference.py"],
}
_NORMS = ["tests/test_norms*.py", "tests/test_packed_convolution.py", "tests/test_spectrum.py"]
TESTS = {
    "norms": _NORMS,
    "searches": _NORMS,
    "kernel": [
        "tests/test_kernel*.py", "tests/test_proofs*.py", "tests/test_mutations.py", "tests/test_derive.py",
        "tests/test_expected.py", "tests/test_chains.py", "tests/test_centring.py", "tests/test_stacks.py",
    ],
}  # fmt: skip
IMPORTED = ("hypothesis", "numpy", "scipy.optimize", "scipy.stats", "sympy", "flint", "z3", "torch", "torchvision")


@dataclass(frozen=True)
class Mutant:
    """One change: the file, the line, and the whole new text."""

    path: str
    line: int
    source: str
    before: str
    after: str

    @property
    def name(self) -> str:
        """The same in every run, as long as the file is."""
        return hashlib.sha256((self.path + self.source).encode()).hexdigest()[:16]


def files(area: str) -> list[str]:
    """Return the modules of an area."""
    return [str(p) for each in MODULES[area] for p in (sorted(Path(each).glob("*.py")) or [Path(each)])]


class _Recorder:
    """Tells coverage which test runs, and keeps its time."""

    def __init__(self, measured: coverage.Coverage | None) -> None:
        self.measured = measured
        self.seconds: dict[str, float] = {}
        self.failed = ""

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: Any) -> Any:
        """Switch the context for the time of one test."""
        if self.measured:
            self.measured.switch_context(item.nodeid)
        start = time.perf_counter()
        try:
            return (yield)
        finally:
            self.seconds[item.nodeid] = time.perf_counter() - start
            if self.measured:
                self.measured.switch_context("")

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Keep the first test that fails."""
        if report.failed and not self.failed:
            self.failed = report.nodeid


def _run_tests(tests: Sequence[str], measured: coverage.Coverage | None = None) -> tuple[int, _Recorder]:
    import hypothesis

    phases = (hypothesis.Phase.explicit, hypothesis.Phase.generate)
    hypothesis.settings.register_profile("mutants", phases=phases, derandomize=True, database=None)
    hypothesis.settings.load_profile("mutants")
    recorder = _Recorder(measured)
    options = ["-q", "-x", "--assert=plain", "-p", "no:logging", "-p", "no:cacheprovider", "-p", "no:xdist"]
    return int(pytest.main([*options, *tests], plugins=[recorder])), recorder


def _record(area: str) -> None:
    measured = coverage.Coverage(
        data_file=str(BUILD / f"{area}.coverage"), include=[*map(os.path.abspath, files(area))]
    )
    measured.start()
    tests = [str(p) for pattern in TESTS[area] for p in sorted(Path().glob(pattern))]
    status, recorder = _run_tests([*tests, *files(area)], measured)
    measured.stop()
    measured.save()
    if status != 0:
        raise SystemExit(f"the tests fail before anything is changed: {recorder.failed}")
    (BUILD / f"{area}.times.json").write_text(json.dumps(recorder.seconds))


def record(area: str) -> tuple[coverage.CoverageData, dict[str, float]]:
    """Return which test runs which line, and how long each test takes; from an earlier run where there is one."""
    times = BUILD / f"{area}.times.json"
    if not times.exists():
        BUILD.mkdir(exist_ok=True)
        child = FORK.Process(target=_record, args=(area,))
        child.start()
        child.join()
    found = coverage.CoverageData(str(BUILD / f"{area}.coverage"))
    found.read()
    return found, json.loads(times.read_text())


def _essence(source: str) -> str:
    """What is left of a program without annotations, docstrings and messages."""

    class Strip(ast.NodeTransformer):
        def visit_Raise(self, node: ast.Raise) -> ast.AST:
            if isinstance(node.exc, ast.Call):
                node.exc.args = []
            return self.generic_visit(node)

        def visit_Assert(self, node: ast.Assert) -> ast.AST:
            node.msg = None
            return self.generic_visit(node)

        def visit_arg(self, node: ast.arg) -> ast.AST:
            node.annotation = None
            return node

        def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
            node.annotation = ast.Constant(None)
            return self.generic_visit(node)

        def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
            node.returns = None
            return self.generic_visit(node)

        def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
            return None if isinstance(node.value, ast.Constant) else self.generic_visit(node)

    return ast.dump(Strip().visit(ast.parse(source)))


def _is_telling(name: str) -> bool:
    """Whether an operator gives more than errors of types: bits, remainders and matrix products of floats do not."""
    bits = ("BitOr", "BitAnd", "BitXor", "LShift", "RShift", "Mod", "Pow", "Invert")
    return not get_operator(name).arguments() and not name.endswith(bits)


def _positions(paths: Sequence[str]) -> Iterator[tuple[str, str, int, int]]:
    """File, operator, occurrence and line of every change that cosmic-ray knows."""
    operators = [(name, get_operator(name)) for name in operator_names() if _is_telling(name)]
    for path in paths:
        nodes = list(ast_nodes(get_ast(Path(path).read_text())))
        for name, kind in sorted(operators):
            operator = kind()
            places = [start for node in nodes for start, _ in operator.mutation_positions(node)]
            yield from ((path, name, k, line) for k, (line, _) in enumerate(places))


class Coverage:
    """The tests of every line."""

    def __init__(self, data: coverage.CoverageData, seconds: Mapping[str, float]) -> None:
        self._data = data
        self._seconds = seconds
        self._found: dict[str, tuple[dict[int, range], dict[int, set[str]]]] = {}

    def tests(self, path: str, line: int) -> list[str]:
        """Return the tests that run a statement, the quickest first; of one outside of functions, all of the file."""
        if path not in self._found:
            lines = self._data.contexts_by_lineno(str(Path(path).resolve()))
            self._found[path] = _statements(path), {n: set(names) - {""} for n, names in lines.items()}
        statements, contexts = self._found[path]
        if line in statements:
            names = {name for n in statements[line] for name in contexts.get(n, ())}
        else:
            names = {name for each in contexts.values() for name in each}
        return sorted(names, key=lambda name: (self._seconds.get(name, 0.0), name))


def _statements(path: str) -> dict[int, range]:
    """For every line inside a function, the lines of its innermost statement, of a compound one those of its head."""
    found: dict[int, range] = {}
    for function in ast.walk(ast.parse(Path(path).read_text())):
        if isinstance(function, ast.FunctionDef):
            for node in function.body:
                for each in ast.walk(node):
                    if isinstance(each, ast.stmt):
                        body = getattr(each, "body", None)
                        last = body[0].lineno - 1 if body else each.end_lineno
                        found.update(dict.fromkeys(range(each.lineno, last + 1), range(each.lineno, last + 1)))
    return found


def sample(area: str, count: int, covered: Coverage) -> tuple[list[Mutant], int]:
    """Draw mutants of lines that tests run; also return how many places and operators there are in all."""
    places = list(_positions(files(area)))
    random.Random(SEED).shuffle(places)
    essences = {path: _essence(Path(path).read_text()) for path in files(area)}
    chosen: list[Mutant] = []
    for path, name, occurrence, line in places:
        if len(chosen) == count:
            break
        if not covered.tests(path, line):
            continue
        old = Path(path).read_text()
        new = mutate_code(old, get_operator(name)(), occurrence)
        try:
            same = new is None or _essence(new) == essences[path]
        except SyntaxError:
            continue
        if not same:
            changed = [k for k, (a, b) in enumerate(zip(old.split("\n"), new.split("\n"), strict=False)) if a != b]
            k = changed[0]
            chosen.append(Mutant(path, k + 1, new, old.split("\n")[k].strip(), new.split("\n")[k].strip()))
    return chosen, len(places)


class _Finder(importlib.abc.MetaPathFinder):
    """Imports one module from the text of a mutant."""

    def __init__(self, mutant: Mutant) -> None:
        self._name = mutant.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        self._mutant = mutant

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:
        if fullname != self._name:
            return None
        mutant = self._mutant

        class Loader(importlib.machinery.SourceFileLoader):
            def get_code(self, fullname: str) -> Any:
                return compile(mutant.source, self.path, "exec")

        place = str(Path(mutant.path).resolve())
        return importlib.util.spec_from_file_location(fullname, place, loader=Loader(fullname, place))


def _preload() -> Any:
    """Import what the tests need, and forget fimtheory again."""
    from fimtheory.sources.callables import torchvision_operators

    kept = torchvision_operators()
    for name in IMPORTED:
        importlib.import_module(name)
    for name in [name for name in sys.modules if name.partition(".")[0] == "fimtheory"]:
        del sys.modules[name]
    return kept


def _try(mutant: Mutant, tests: Sequence[str], limit: int, verdict: Connection) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 5))
    with open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), 1)
        os.dup2(nothing.fileno(), 2)
    sys.meta_path.insert(0, _Finder(mutant))
    status, recorder = _run_tests(tests)
    verdict.send("" if status == 0 else recorder.failed or "collection")


def attempt(mutant: Mutant, tests: Sequence[str], limit: int) -> tuple[str, str]:
    """Return "killed", "survived" or "timed out" after ``limit`` seconds of work, and the test that failed."""
    reading, writing = FORK.Pipe(duplex=False)
    child = FORK.Process(target=_try, args=(mutant, tests, limit, writing))
    child.start()
    writing.close()
    child.join()
    if child.exitcode == -signal.SIGXCPU:
        return "timed out", ""
    try:
        failed = reading.recv()
    except EOFError:
        failed = "outside of a test"
    return ("killed" if failed else "survived"), failed


def read(out: Path) -> dict[str, dict[str, Any]]:
    """Return the last result of every mutant of a file."""
    return {each["name"]: each for each in map(json.loads, out.read_text().splitlines())} if out.exists() else {}


def keep(out: Path, row: Mapping[str, Any]) -> None:
    """Append a result to the file, and print it."""
    with out.open("a") as file:
        file.write(json.dumps(row) + "\n")
    print(f"{row['outcome']} {row['path']}:{row['line']} {row['after']} {row['by']}", flush=True)


def draw(area: str, count: int, out: Path) -> None:
    """Try the mutants of a sample that the file does not hold yet."""
    data, seconds = record(area)
    covered = Coverage(data, seconds)
    mutants, total = sample(area, count, covered)
    print(f"{total} changes known to cosmic-ray, {len(mutants)} drawn")
    out.parent.mkdir(exist_ok=True)
    known = read(out)
    kept = _preload()
    for mutant in mutants:
        if known.get(mutant.name, {"outcome": "timed out"})["outcome"] != "timed out":
            continue
        tests = covered.tests(mutant.path, mutant.line)
        spent, few = 0.0, list[str]()
        for test in tests:
            spent += seconds.get(test, 0.0)
            if few and spent > SECONDS:
                break
            few.append(test)
        outcome, by = attempt(mutant, few, int(3 * SECONDS + 20))
        row = {
            "name": mutant.name, "path": mutant.path, "line": mutant.line, "outcome": outcome, "by": by,
            "before": mutant.before, "after": mutant.after, "tests": len(few), "left out": len(tests) - len(few),
        }  # fmt: skip
        keep(out, row)
    del kept


def again(out: Path, tests: Sequence[str]) -> None:
    """Try the survivors of a file on the given tests, wherever their lines are now."""
    kept = _preload()
    rows = list(read(out).values())
    unchanged = Mutant(rows[0]["path"], 1, Path(rows[0]["path"]).read_text(), "", "")
    outcome, by = attempt(unchanged, tests, 600)
    if outcome != "survived":
        raise SystemExit(f"the tests fail before anything is changed: {by}")
    for row in rows:
        lines = Path(row["path"]).read_text().split("\n")
        places = [k for k, line in enumerate(lines) if line.strip() == row["before"]]
        if row["outcome"] == "killed" or not places:
            continue
        k = min(places, key=lambda k, row=row: abs(k + 1 - row["line"]))
        lines[k] = lines[k].replace(row["before"], row["after"])
        mutant = Mutant(row["path"], k + 1, "\n".join(lines), row["before"], row["after"])
        outcome, by = attempt(mutant, tests, 600)
        keep(out, {**row, "outcome": outcome, "by": by})
    del kept


def tell(out: Path) -> None:
    """Print how many mutants of each file were killed, and the survivors."""
    rows = sorted(read(out).values(), key=lambda row: (row["path"], row["line"]))
    print(f"{len(rows)} mutants: {dict(Counter(row['outcome'] for row in rows))}")
    groups: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        groups[row["path"]][row["outcome"]] += 1
    for path, counts in groups.items():
        print(f"{path} {dict(counts)}")
    for row in rows:
        if row["outcome"] == "survived":
            print(f"{row['path']}:{row['line']} ({row['left out']} tests left out)")
            print(f"  - {row['before']}\n  + {row['after']}")


def main() -> None:
    """Draw mutants, or try survivors again, and tell the results."""
    if sys.argv[1] == "again":
        out = Path(sys.argv[2])
        again(out, sys.argv[3:])
    else:
        out = Path(sys.argv[3])
        draw(sys.argv[1], int(sys.argv[2]), out)
    tell(out)


if __name__ == "__main__":
    main()
