"""Every shipped rule on many cases, summed over the properties that apply to it; the cheapest rules first.

    python benchmarks/property_runs.py 5000 runs.txt

Appends a line for each rule as it goes, and passes over rules that the file has already, so that a run may be
interrupted and taken up again.  A failure is written with the program that fails in the same way.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch

from fimtheory.errors import PropertyError
from fimtheory.properties import PROPERTIES, NotApplicableError, check_property, claiming_rules
from fimtheory.properties.covering import covering
from fimtheory.registry import Rule

_TRIAL = 2
"""Cases by which the cost of a rule is guessed, and which of its properties apply."""


def trial(rule: Rule) -> tuple[float, tuple[str, ...]]:
    """Return what a few cases cost in CPU seconds, and the properties that apply to the rule."""
    start, applies = time.process_time(), []
    cases = covering(rule, _TRIAL)
    for prop, (check, _) in PROPERTIES.items():
        for case in cases:
            try:
                check(case)
            except NotApplicableError:
                continue
            applies.append(prop)
            break
    return time.process_time() - start, tuple(applies)


def run(rule: Rule, props: tuple[str, ...], examples: int, seed: int) -> str:
    """Test the rule in about so many cases, as many of each property that applies, and tell of it in one line."""
    start, counts = time.process_time(), []
    share = -(-examples // max(1, len(props)))
    try:
        for prop in props:
            results = check_property(rule, prop, examples=share * PROPERTIES[prop][1], seed=seed)
            counts.append(f"{prop} {results[0].examples}")
    except PropertyError as error:
        return f"{rule.name}: FAILED {error}\n{error.snippet}"
    total = sum(int(count.split()[1]) for count in counts)
    return f"{rule.name}: {total} examples in {time.process_time() - start:.0f} s ({', '.join(counts)})"


def main() -> None:
    """Run all rules that the file does not have."""
    examples, file = int(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(1)
    done = {line.partition(":")[0] for line in file.read_text().splitlines()} if file.exists() else set()
    left = [(*trial(rule), rule) for rule in claiming_rules() if rule.name not in done]
    for _, props, rule in sorted(left, key=lambda each: each[0]):
        line = run(rule, props, examples, seed=1)
        print(line, flush=True)
        with file.open("a") as sink:
            sink.write(line + "\n")


if __name__ == "__main__":
    main()
