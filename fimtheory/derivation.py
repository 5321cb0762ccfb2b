"""Derivation: a theorem with its lemmas and steps, as data.

Every step names a symbol and bounds it by an expression in symbols named before (let-form).  A lemma is about one
block; blocks that agree up to weights and sizes are instances of one lemma, told apart by an index.  The theorem is
the product of the lemmas' conclusions and the head.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, final

import sympy

from fimtheory.claims import Claim, Condition, Measured, Quantity, Status
from fimtheory.expressions import index_symbol
from fimtheory.graph import LayerGraph, Repeat
from fimtheory.regions import without_variance

if TYPE_CHECKING:
    from fimtheory.layers import Size

__all__ = ["INDEX", "Derivation", "Instance", "Lemma", "Step", "Theorem", "body_of", "local_nodes"]

INDEX = index_symbol("i")
"""The index of a lemma's instances."""
_SHOWN = 80
"""Characters of a bound that ``repr`` shows."""


@final
@dataclass(frozen=True, slots=True)
class Step:
    """``name`` bounds ``quantity`` of the map from node ``source`` to node ``target`` of a block.

    ``rule`` is the name of a layer rule, or of an inference rule: identity, series, sum, concat, orthogonal sum,
    assumption.  ``premises`` are positions of earlier steps of the same lemma.
    """

    name: sympy.Expr
    quantity: Quantity
    source: str
    target: str
    rule: str
    premises: tuple[int, ...]
    claim: Claim


@final
@dataclass(frozen=True, slots=True)
class Instance:
    """A block of the graph that a lemma is about: its entry and its members, in the order of the lemma's body."""

    entry: str
    members: tuple[str, ...]


@final
@dataclass(frozen=True, slots=True)
class Lemma:
    """Bounds on the gain and on the Jacobian's growth of a block.

    ``gain`` and ``variance`` are the positions of the two concluding steps; the second is None where the theorem has
    no expected bound.  With several instances, names carry
    the index ``i`` = 1, ..., count.  A lemma about a ``Repeat`` node has that node as its one instance.
    """

    letter: str
    title: str
    steps: tuple[Step, ...]
    gain: int
    variance: int | None
    instances: tuple[Instance, ...]

    def named(self, name: sympy.Expr) -> Step:
        """Return the step that introduces ``name``."""
        return next(step for step in self.steps if step.name == name)


@final
@dataclass(frozen=True, slots=True)
class Theorem:
    """The conclusion: lam <= bound for every input, and E lam <= expected over random weights.

    ``expected`` and its status are None where a layer has no rule for the growth of the Jacobian.
    ``head`` is the inference rule used for the logits, "head" or "softmax"; ``measured`` the symbols it introduces.
    ``definitions`` holds the names that the two closed forms keep instead of writing them out.  ``recursion`` is R_W,
    the gain of the differences of logits over the stack that ends in the head (see ``stacks``), where there is one; the
    bound is then the smaller of the product and the one with R_W.
    """

    head: str
    measured: tuple[Measured, ...]
    bound: sympy.Expr
    expected: sympy.Expr | None
    expected_status: Status | None
    assumptions: tuple[Condition, ...]
    expected_assumptions: tuple[Condition, ...]
    definitions: tuple[tuple[sympy.Expr, sympy.Expr], ...] = ()
    recursion: Measured | None = None

    @property
    def symbols(self) -> tuple[Measured, ...]:
        """All measured symbols that the theorem introduces."""
        return self.measured if self.recursion is None else (*self.measured, self.recursion)


@final
@dataclass(frozen=True)
class Derivation:
    """A theorem about ``graph`` with its proof.

    Attributes
    ----------
    graph : LayerGraph
    temperature, token_variance : sympy.Expr
        Softmax temperature tau; least token variance assumed where tokens enter a layer norm (None: no assumption).
    lemmas : tuple of Lemma
    theorem : Theorem
    """

    graph: LayerGraph
    temperature: sympy.Expr
    token_variance: sympy.Expr | None
    lemmas: tuple[Lemma, ...]
    theorem: Theorem
    _cache: dict[str, object] = field(default_factory=dict, compare=False, repr=False)

    @property
    def bound(self) -> sympy.Expr:
        """The worst-case bound on lam as a closed form; nothing exceeds it on the domain of ``assumptions``."""
        return self.theorem.bound

    @property
    def expected_bound(self) -> sympy.Expr | None:
        """The bound on E lam over random weights as a closed form; None where ``without_variance`` names a layer."""
        return self.theorem.expected

    @property
    def without_variance(self) -> tuple[str, ...]:
        """Layer types of the graph without a rule for the growth of the Jacobian over random weights."""
        return without_variance(self.graph)

    @property
    def assumptions(self) -> tuple[Condition, ...]:
        """What the worst-case bound assumes; empty when it holds for every input and all weights."""
        return self.theorem.assumptions

    @property
    def steps(self) -> tuple[Step, ...]:
        """The steps of all lemmas in order."""
        return tuple(step for lemma in self.lemmas for step in lemma.steps)

    def measured(self) -> Iterator[Measured]:
        """Every measured symbol, once, in order of appearance."""
        seen: set[sympy.Expr] = set()
        for claim in (*(step.claim for step in self.steps),):
            for each in claim.measured:
                if each.symbol not in seen:
                    seen.add(each.symbol)
                    yield each
        yield from self.theorem.symbols

    def save(self, path: str | Path) -> None:
        """Write the derivation as JSON; the file appears whole or not at all."""
        from fimtheory.proof_files import save_derivation

        save_derivation(self, path)

    def __repr__(self) -> str:
        lemmas, steps, bound = len(self.lemmas), len(self.steps), str(self.bound)
        shown = bound if len(bound) <= _SHOWN else f"{bound[:_SHOWN]}..."
        return f"<Derivation of {self.graph.name}: {lemmas} lemmas, {steps} steps, lam(x) <= {shown}>"

    def __str__(self) -> str:
        from fimtheory.text import derivation_to_text

        return derivation_to_text(self)


def body_of(graph: LayerGraph, lemma: Lemma) -> tuple[LayerGraph, sympy.Symbol | None, Size]:
    """Return the body a lemma is about, its index (None where there is one instance) and the number of instances."""
    first = lemma.instances[0]
    if len(first.members) == 1:
        layer = graph.layer(first.members[0])
        if isinstance(layer, Repeat):
            return layer.body, layer.index, layer.count
    count = len(lemma.instances)
    return graph.fragment(first.entry, first.members), INDEX if count > 1 else None, count


def local_nodes(body: LayerGraph, instance: Instance) -> Mapping[str, str]:
    """Return the graph's name of each node of a lemma's body, for one instance."""
    return dict(zip(body.order, (instance.entry, *instance.members), strict=True))
