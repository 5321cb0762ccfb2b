"""Random mutations of the shipped proofs: which of them the kernel accepts, and whether these are theorems.

    python benchmarks/proof_mutations.py derivations 10000

Changes a number, an exponent, a sign, a side, a symbol, a relation, a rule, a premise or the order, or leaves a step
out; or does the like to a hypothesis.  A mutant that concludes the same from the same needs no reason.  For any other,
the new conclusion must follow from the theorem by arithmetic, and every changed hypothesis must imply the old one;
mutants of hypotheses of which arithmetic cannot tell are listed, for people to read.
"""

from __future__ import annotations

import random
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import sympy
from rich.console import Console
from rich.progress import track
from rich.table import Table

from fimtheory.errors import CheckError
from fimtheory.proofs import Proof, load_theorem, replay, theorem_files
from fimtheory.proofs.arithmetic import require_consequence
from fimtheory.proofs.inference import RULES
from fimtheory.proofs.proof import Relates, Statement

CLAIM_KINDS = ("number", "exponent", "sign", "side", "symbol", "relation")
STEP_KINDS = (*CLAIM_KINDS, "premise", "rule", "order", "drop")


def mutated(proof: Proof, kind: str, rng: random.Random) -> Proof:
    """Change one thing in the steps of a proof, or in its hypotheses."""
    if kind == "condition":
        return _with_other_hypothesis(proof, rng)
    steps = list(proof.steps)
    k = rng.randrange(len(steps))
    step = steps[k]
    if kind == "drop":
        del steps[k]
    elif kind == "order":
        j = rng.randrange(len(steps))
        steps[k], steps[j] = steps[j], steps[k]
    elif kind == "rule":
        steps[k] = replace(step, rule=rng.choice(list(RULES)))
    elif kind == "premise":
        names = [each.name for each in (*proof.hypotheses, *steps)]
        premises = list(step.premises)
        if premises and rng.random() < 0.5:
            del premises[rng.randrange(len(premises))]
        elif premises:
            premises[rng.randrange(len(premises))] = rng.choice(names)
        else:
            premises.append(rng.choice(names))
        steps[k] = replace(step, premises=tuple(premises))
    else:
        steps[k] = replace(step, claim=_changed(step.claim, kind, rng))
    return replace(proof, steps=tuple(steps))


def _with_other_hypothesis(proof: Proof, rng: random.Random) -> Proof:
    hypotheses = list(proof.hypotheses)
    if hypotheses:
        k = rng.randrange(len(hypotheses))
        kind = rng.choice([*CLAIM_KINDS, "drop"])
        if kind == "drop":
            del hypotheses[k]
        else:
            hypotheses[k] = replace(hypotheses[k], statement=_changed(hypotheses[k].statement, kind, rng))
    return replace(proof, hypotheses=tuple(hypotheses))


def _changed(claim: Statement, kind: str, rng: random.Random) -> Statement:
    if kind == "relation":
        return replace(claim, relation=Relates.EQ if claim.relation is Relates.LE else Relates.LE)
    if kind == "side":
        return replace(claim, left=claim.right, right=claim.left)
    which = rng.choice(["left", "right"])
    side = getattr(claim, which)
    parts: list[Any] = list(sympy.preorder_traversal(side))
    if kind == "sign":
        return replace(claim, **{which: -side})
    if kind == "number":
        factor = rng.choice([2, 3, sympy.Rational(1, 2), sympy.Rational(9, 10)])
        new = side * factor if rng.random() < 0.5 else side + factor - 1
    elif kind == "exponent":
        powers = [p for p in parts if isinstance(p, sympy.Pow) and p.is_commutative] or [rng.choice(parts)]
        part = rng.choice(powers)
        if not part.is_commutative or not isinstance(part, sympy.Expr):
            return claim
        new = side.xreplace({part: part ** rng.choice([2, sympy.Rational(1, 2)])})
    else:
        symbols = sorted(claim.left.free_symbols | claim.right.free_symbols, key=str) or [sympy.Symbol("x", real=True)]
        one = rng.choice(symbols)
        other = rng.choice([each for each in symbols if each.is_commutative == one.is_commutative])
        new = side.xreplace({one: other, other: one})
    return replace(claim, **{which: new})


def conclusions(proof: Proof) -> list[Statement]:
    """Return what a proof concludes."""
    found = {step.name: step.claim for step in proof.steps}
    return [found[name] for name in proof.conclusions]


def accepted(proof: Proof, count: int, seed: int, kinds: Sequence[str]) -> Iterator[Proof]:
    """Yield those of ``count`` mutants that the kernel accepts and that conclude, or assume, something else."""
    rng = random.Random(f"{proof.name} {seed}")
    while count:
        mutant = mutated(proof, rng.choice(kinds), rng)
        if (mutant.steps, mutant.hypotheses) == (proof.steps, proof.hypotheses):
            continue
        count -= 1
        try:
            replay(mutant)
        except CheckError:
            continue
        if conclusions(mutant) != conclusions(proof) or mutant.hypotheses != proof.hypotheses:
            yield mutant


def follows(mutant: Proof, proof: Proof) -> bool:
    """Whether each conclusion follows from the theorem, and each hypothesis of it from those of the mutant."""
    theorem, assumed = conclusions(proof), [each.statement for each in mutant.hypotheses]
    numbers = [each for each in assumed if each.left.is_commutative and each.right.is_commutative]
    turned = [Statement(each.right, each.relation, each.left) for each in assumed if each.relation is Relates.EQ]
    try:
        for claim in conclusions(mutant):
            if claim not in theorem:
                require_consequence(claim, theorem)
        for hypothesis in proof.hypotheses:
            if hypothesis.statement not in (*assumed, *turned):
                require_consequence(hypothesis.statement, numbers)
    except CheckError:
        return False
    return True


def main() -> None:
    """Print how many mutants of each proof were accepted, and those that only a reader can judge."""
    proofs = [each for path in theorem_files(sys.argv[1]) if isinstance(each := load_theorem(path), Proof)]
    each, start, told = -(-int(sys.argv[2]) // len(proofs)), time.perf_counter(), Counter[str]()
    console = Console(width=160)
    table = Table("theorem", "mutants", "accepted, other than the theorem", "follow from it", "to be read")
    unclear: list[str] = []
    wrong: list[str] = []
    for proof in track(proofs, console=Console(stderr=True)):
        found = list(accepted(proof, each, 0, (*STEP_KINDS, "condition")))
        rest = [mutant for mutant in found if not follows(mutant, proof)]
        table.add_row(proof.name, *(str(n) for n in (each, len(found), len(found) - len(rest), len(rest))))
        told.update(mutants=each, found=len(found), rest=len(rest))
        for mutant in rest:
            if mutant.hypotheses == proof.hypotheses:
                wrong.append(f"{proof.name}: concludes {'; '.join(map(str, conclusions(mutant)))}")
            else:
                new = [str(h.statement) for h in mutant.hypotheses if h not in proof.hypotheses]
                old = [str(h.statement) for h in proof.hypotheses if h not in mutant.hypotheses]
                unclear.append(f"{proof.name}: {', '.join(old)}  became  {', '.join(new)}")
    table.add_row(
        "in all", *(str(n) for n in (told["mutants"], told["found"], told["found"] - told["rest"], told["rest"]))
    )
    console.print(table)
    for line, times in sorted(Counter(unclear).items()):
        console.print(f"{line}  ({times})", markup=False, highlight=False)
    for line in wrong:
        console.print(f"DOES NOT FOLLOW: {line}", markup=False, highlight=False)
    console.print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
