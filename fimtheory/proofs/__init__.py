"""Proofs of theorems, step by step, and the kernel that replays them."""

from __future__ import annotations

from fimtheory.proofs.files import load_theorem, theorem_files
from fimtheory.proofs.proof import Hypothesis, Proof, Statement, Step, equal, least
from fimtheory.proofs.replay import replay
from fimtheory.proofs.terms import REALS, Expect, Form, Norm, Stack, Top, Trace, operator
from fimtheory.proofs.text import proof_to_text
from fimtheory.proofs.trials import try_in_numbers

__all__ = [
    "REALS", "Expect", "Form", "Hypothesis", "Norm", "Proof", "Stack", "Statement", "Step", "Top", "Trace", "equal",
    "least", "load_theorem", "operator", "proof_to_text", "replay", "theorem_files", "try_in_numbers",
]  # fmt: skip
