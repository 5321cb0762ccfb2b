"""Every shipped rule on many cases, the cheapest rules first.

    python benchmarks/property_runs.py 5000 runs.txt

The cases are summed over the properties that apply to the rule, each in the proportion in which ``ft.check_rule`` runs
it.  Takes one process for each core, appends a line for each rule as it goes, and passes over what has passed, so
that a run may be interrupted and taken up again.  A failure is written with the program that fails in the same way.
"""

from __future__ import annotations

import math
import sys
import time
from pathlib import Path

import torch
from joblib import Parallel, delayed

from fimtheory.errors import PropertyError
from fimtheory.properties import PROPERTIES, NotApplicableError, check_property, claiming_rules
from fimtheory.properties.covering import covering
from fimtheory.registry import Rule

_TRIAL = 12
"""Cases by which the cost of a rule is guessed, and which of its properties apply."""


def trial(name: str) -> tuple[float, str, tuple[str, ...]]:
    """Return what a few cases of the rule cost in CPU seconds, its name, and the properties that apply to it."""
    rule, start, applies = named(name), time.process_time(), []
    cases = covering(rule, _TRIAL)
    for prop, (check, _) in PROPERTIES.items():
        for case in cases:
            try:
                check(case)
            except NotApplicableError:
                continue
            except PropertyError:  # of which the run tells
                pass
            applies.append(prop)
            break
    return time.process_time() - start, name, tuple(applies)


def named(name: str) -> Rule:
    """Return the rule, in a process that computes on one core."""
    torch.set_num_threads(1)
    (found,) = (rule for rule in claiming_rules() if rule.name == name)
    return found


def run(name: str, props: tuple[str, ...], examples: int, seed: int) -> str:
    """Test the rule in so many cases, and tell of it in one line."""
    rule = named(name)
    start, counts = time.process_time(), dict[str, int]()
    weights = {prop: 1 / PROPERTIES[prop][1] for prop in props}
    try:
        for prop in reversed(props):  # those that leave cases out come first, and the others make up for them
            budget = (examples - sum(counts.values())) / sum(weights.values())
            counts[prop] = check_property(rule, prop, examples=max(1, math.ceil(budget)), seed=seed)[0].examples
            del weights[prop]
    except PropertyError as error:
        return f"{rule.name}: FAILED {error}\n{error.snippet}"
    told = ", ".join(f"{prop} {count}" for prop, count in counts.items())
    return f"{rule.name}: {sum(counts.values())} examples in {time.process_time() - start:.0f} s ({told})"


def main() -> None:
    """Run all rules that the file does not have."""
    examples, file = int(sys.argv[1]), Path(sys.argv[2])
    lines = file.read_text().splitlines() if file.exists() else []
    done = {line.partition(":")[0] for line in lines if f": {examples} examples in " in line}
    left = [rule for rule in claiming_rules() if rule.name not in done]
    workers = Parallel(n_jobs=-1, return_as="generator_unordered", batch_size=1, pre_dispatch="n_jobs")
    trials = sorted(workers(delayed(trial)(rule.name) for rule in left))
    for line in workers(delayed(run)(name, props, examples, seed=1) for _, name, props in trials):
        print(line, flush=True)
        with file.open("a") as sink:
            sink.write(line + "\n")


if __name__ == "__main__":
    main()
