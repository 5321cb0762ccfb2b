"""The kernel: replays a derivation step by step and refuses the first that does not follow.

It shares with the deriver only what defines correctness: the layer rules, the inference rules, the analysis of signs
and the closed form of a set of lemmas.  It never searches: it takes the steps as written and recomputes each from
its premises.  A derivation it accepts proves its theorem if those parts are right.
"""

from __future__ import annotations

from functools import lru_cache

import sympy

from fimtheory import inference
from fimtheory.centring import branch_at, centred_claim
from fimtheory.chains import chain_at, chain_claim
from fimtheory.claims import VALUE_BOUNDS, Claim, Measured, Quantity, Relation
from fimtheory.closed_form import theorem_of
from fimtheory.derivation import Derivation, Instance, Lemma, Step, body_of
from fimtheory.errors import CheckError, FimTheoryError, RuleError
from fimtheory.graph import LayerGraph, Repeat
from fimtheory.layers import Linear
from fimtheory.monotone import Direction, direction
from fimtheory.names import require_distinct_names
from fimtheory.registry import Rule, Site, find_measure, rule_named
from fimtheory.symmetry import flips

__all__ = ["check"]


def check(derivation: Derivation) -> None:
    """Replay ``derivation``: every step, every instance of every lemma, the order of the blocks and the theorem.

    Raises
    ------
    CheckError
        The first step that does not follow; the message names lemma, step and cause.
    """
    if not isinstance(derivation, Derivation):
        raise CheckError(f"check takes a Derivation, got a {type(derivation).__name__}; make one with ft.derive(graph)")
    for what, value in (("temperature", derivation.temperature), ("token variance", derivation.token_variance)):
        if value is not None and not value.is_positive:
            raise CheckError(f"the {what} must be positive, got {value}")
    letters = [lemma.letter for lemma in derivation.lemmas]
    if len(set(letters)) != len(letters) or not all(letter.isalnum() for letter in letters):
        raise CheckError(f"lemmas must have different letters, got {letters}")
    for lemma in derivation.lemmas:
        try:
            _check_lemma(derivation, lemma)
        except CheckError:
            raise
        except FimTheoryError as error:
            raise CheckError(f"lemma {lemma.letter}: {error}") from None
    _check_theorem(derivation)
    _check_symbols(derivation)
    try:
        require_distinct_names(derivation)
    except FimTheoryError as error:
        raise CheckError(f"theorem: {error}") from None


def _check_lemma(derivation: Derivation, lemma: Lemma) -> None:
    where = f"lemma {lemma.letter}"
    if not lemma.instances or not lemma.steps:
        raise CheckError(f"{where}: has no instance or no step")
    for instance in lemma.instances:
        _check_order(derivation.graph, instance, where)
    body, index, _ = body_of(derivation.graph, lemma)
    if isinstance(derivation.graph.layer(lemma.instances[0].members[0]), Repeat):
        (only,) = lemma.instances if len(lemma.instances) == 1 else (None,)
        if only is None or only.entry != derivation.graph.inputs(only.members[0])[0]:
            raise CheckError(f"{where}: a repeated block is a lemma of its own")
    else:
        for instance in lemma.instances:
            if any(isinstance(derivation.graph.layer(m), Repeat) for m in instance.members):
                raise CheckError(f"{where}: a repeated block is a lemma of its own")
    proof = _Proof(body, lemma, index, derivation.token_variance)
    for position in range(len(lemma.steps)):
        proof.check(position)
    _check_conclusion(lemma, lemma.gain, Quantity.GAIN, body)
    if lemma.variance is not None:
        _check_conclusion(lemma, lemma.variance, Quantity.JACOBIAN_VARIANCE, body)
    replayed = {body.nodes}
    for number, instance in enumerate(lemma.instances[1:], start=2):
        names = body.order[1:]
        if len(names) != len(instance.members):
            raise CheckError(f"{where}: instance {number} has {len(instance.members)} nodes, expected {len(names)}")
        other = derivation.graph.fragment(instance.entry, instance.members, names)
        if other.order != body.order or any(other.inputs(n) != body.inputs(n) for n in names):
            raise CheckError(f"{where}: instance {number} is not wired like the first")
        if other.nodes in replayed:
            continue
        replayed.add(other.nodes)
        again = _Proof(other, lemma, index, derivation.token_variance)
        for position in range(len(lemma.steps)):
            again.check(position, f"instance {number}")


def _check_order(graph: LayerGraph, instance: Instance, where: str) -> None:
    """Members are nodes, each once and after what it reads; so the last one is the block's exit."""
    known = set(graph.order)
    placed = {instance.entry}
    if instance.entry not in known or not instance.members:
        raise CheckError(f"{where}: an instance has no member, or its entry {instance.entry!r} is not a node")
    for member in instance.members:
        if member not in known or member in placed:
            raise CheckError(f"{where}: an instance names {member!r}, which is not a node or named twice")
        if not placed.issuperset(graph.inputs(member)):
            raise CheckError(f"{where}: {member} reads a node that is outside its block or comes after it")
        placed.add(member)


def _check_conclusion(lemma: Lemma, position: int, quantity: Quantity, body: LayerGraph) -> None:
    where = f"lemma {lemma.letter}: conclusion about the {quantity}"
    if not 0 <= position < len(lemma.steps):
        raise CheckError(f"{where} is step {position}, which does not exist")
    step = lemma.steps[position]
    if (step.quantity, step.source, step.target) != (quantity, body.input, body.output):
        raise CheckError(f"{where} is about the {step.quantity} from {step.source} to {step.target} instead")


def _check_symbols(derivation: Derivation) -> None:
    """One symbol must mean one thing in the whole derivation, and not be the name of a step."""
    meaning: dict[str, tuple[str, Measured | Step]] = {}
    for lemma in derivation.lemmas:
        for step in lemma.steps:
            for each in (step, *step.claim.measured):
                _introduce(meaning, f"lemma {lemma.letter}", each)
    for each in derivation.theorem.symbols:
        _introduce(meaning, "theorem", each)


def _introduce(meaning: dict[str, tuple[str, Measured | Step]], where: str, each: Measured | Step) -> None:
    name = str(each.name if isinstance(each, Step) else each.symbol)
    if meaning.setdefault(name, (where, each)) != (where, each):
        raise CheckError(f"{where}: the symbol {name} stands for two things; rename a node")


class _Proof:
    """One lemma's steps, read against one block of the graph."""

    def __init__(
        self, body: LayerGraph, lemma: Lemma, index: sympy.Symbol | None, token_variance: sympy.Expr | None
    ) -> None:
        self._body = body
        self._lemma = lemma
        self._index = index
        self._token_variance = token_variance
        self._flips = flips(body)

    def check(self, position: int, of: str = "") -> None:
        """Recompute the step at ``position`` from its premises and compare."""
        step = self._lemma.steps[position]
        where = " ".join(filter(None, (f"lemma {self._lemma.letter}", of, f"step {position} ({step.name})")))
        for node in (step.source, step.target):
            if node not in self._body.order:
                raise CheckError(f"{where}: {node!r} is not a node of the block")
        if step.quantity not in inference.BOUNDED:
            raise CheckError(f"{where}: a step does not bound the {step.quantity}")
        if not all(0 <= p < position for p in step.premises):
            raise CheckError(f"{where}: premises {step.premises} are not all earlier steps")
        premises = [self._lemma.steps[p] for p in step.premises]
        found = rule_named(step.rule)
        expected = self._by_rule(step, found, premises, where) if found else self._by_inference(step, premises, where)
        _same_claim(step.claim, expected, where)
        by_layer = (found is not None and not found.joint) or step.rule in ("assumption", "chain")
        scope = "layer" if by_layer else self._scope(position)
        name = inference.step_name(step.quantity, scope, self._lemma.letter, step.target, self._index)
        if step.name != name or any(s.name == name for s in self._lemma.steps[:position]):
            raise CheckError(f"{where}: must introduce the new name {name}")
        if not of:
            _check_monotone(step.claim, [p.name for p in premises], where)

    def _scope(self, position: int) -> str:
        """Scope of a step's name: of two bounds on one block, of which a step takes the smaller, each has its own."""
        step = self._lemma.steps[position]
        if step.rule == "centred residual":
            return "centred"
        compared = (s.premises for s in self._lemma.steps if s.rule == "minimum")
        if step.rule == "sum" and any(position in premises for premises in compared):
            return "sum"
        return inference.scope_of(step.source, step.target, self._body.input)

    def _by_rule(self, step: Step, found: Rule, premises: list[Step], where: str) -> Claim:
        if found.joint:
            return self._by_joint_rule(step, found, premises, where)
        run = self._run(step, found, where)
        (source,) = self._body.inputs(run[0])
        start = step.target if step.quantity in VALUE_BOUNDS else source
        if found.quantity is not step.quantity or step.source != start:
            raise CheckError(f"{where}: {found.name} bounds the {found.quantity} from {start} to {step.target}")
        _check_needs(found, premises, (source,), where)
        return _apply(
            found,
            Site(
                layers=tuple(self._body.layer(m) for m in run),
                nodes=run,
                inputs=self._body.input_shapes(run[0]),
                output=self._body.shapes[run[-1]],
                letter=self._lemma.letter,
                index=self._index,
                symmetric=bool(self._flips[source]),
                premises=tuple(p.name for p in premises),
                token_variance=self._token_variance,
            ),
            where,
        )

    def _by_joint_rule(self, step: Step, found: Rule, premises: list[Step], where: str) -> Claim:
        layer, sources = self._body.layer(step.target), self._body.inputs(step.target)
        if (type(layer),) != found.types or found.quantity is not step.quantity:
            raise CheckError(f"{where}: {found.name} does not bound the {step.quantity} of {type(layer).__name__}")
        gains, values = premises[: len(sources)], premises[len(sources) :]
        links = [(p.quantity, p.source, p.target) for p in gains]
        if links != [(step.quantity, step.source, source) for source in sources]:
            raise CheckError(f"{where}: premises do not lead from {step.source} to {', '.join(sources)}: {links}")
        _check_needs(found, values, sources, where)
        return _apply(
            found,
            Site(
                layers=(layer,),
                nodes=(step.target,),
                inputs=self._body.input_shapes(step.target),
                output=self._body.shapes[step.target],
                letter=self._lemma.letter,
                index=self._index,
                premises=tuple(p.name for p in values),
                gains=tuple(p.name for p in gains),
                token_variance=self._token_variance,
            ),
            where,
        )

    def _run(self, step: Step, found: Rule, where: str) -> tuple[str, ...]:
        """Nodes of the run that ends at the step's target, each reading nothing but the one before."""
        run = (step.target,)
        while len(run) < len(found.types):
            sources = self._body.inputs(run[0])
            if len(sources) != 1 or sources[0] == self._body.input:
                raise CheckError(f"{where}: {found.name} needs a run of {len(found.types)} layers")
            run = (sources[0], *run)
        if tuple(type(self._body.layer(m)) for m in run) != found.types or len(self._body.inputs(run[0])) != 1:
            kinds = ", ".join(type(self._body.layer(m)).__name__ for m in run)
            raise CheckError(f"{where}: {found.name} does not apply to {kinds}")
        return run

    def _by_inference(self, step: Step, premises: list[Step], where: str) -> Claim:
        if step.rule == "assumption":
            if step.quantity not in VALUE_BOUNDS or step.source != step.target or premises:
                raise CheckError(f"{where}: only a bound on the values at a node may be assumed")
            return inference.assumed(step.quantity, self._lemma.letter, self._index, step.target)
        combine = inference.COMPOSITIONS.get((step.quantity, step.rule))
        if step.rule == "identity" and step.quantity in (Quantity.GAIN, Quantity.JACOBIAN_VARIANCE):
            if premises or step.source != step.target:
                raise CheckError(f"{where}: the identity is the map from a node to itself")
            return inference.composed(step.quantity, sympy.Integer(1))
        if step.rule == "centred residual" and step.quantity is Quantity.GAIN:
            branch = branch_at(self._body, step.target)
            if branch is None or branch.entry != step.source or premises:
                raise CheckError(f"{where}: {step.target} is no sum of a shortcut and a branch from {step.source}")
            return centred_claim(self._body, step.target, branch, self._lemma.letter, self._index)
        if step.rule == "chain" and step.quantity is Quantity.GAIN:
            chain = chain_at(self._body, step.target)
            if chain is None or self._body.inputs(chain[0]) != (step.source,) or premises:
                raise CheckError(f"{where}: no chain of linear layers leads from {step.source} to {step.target}")
            return chain_claim(self._body, chain, self._lemma.letter, self._index, self._token_variance)
        if combine is None:
            raise CheckError(f"{where}: there is no rule {step.rule!r} for the {step.quantity}")
        if any(p.quantity is not step.quantity for p in premises):
            raise CheckError(f"{where}: {step.rule} composes bounds on the {step.quantity}")
        links = [(p.source, p.target) for p in premises]
        if step.rule == "series":
            if len(links) != 2 or links != [(step.source, links[0][1]), (links[0][1], step.target)]:
                raise CheckError(f"{where}: premises do not lead from {step.source} to {step.target}: {links}")
        elif step.rule == "minimum":
            if not links or set(links) != {(step.source, step.target)}:
                raise CheckError(f"{where}: premises do not all bound the map from {step.source} to {step.target}")
        else:
            expected = inference.join_rule(self._body, self._flips, step.quantity, step.target)
            if step.rule != expected:
                raise CheckError(f"{where}: {expected} applies there, not {step.rule}")
            if links != [(step.source, read) for read in self._body.inputs(step.target)]:
                raise CheckError(f"{where}: premises do not bound what {step.target} reads from {step.source}")
        return inference.composed(step.quantity, combine([p.name for p in premises]))


def _check_theorem(derivation: Derivation) -> None:
    graph, theorem = derivation.graph, derivation.theorem
    output = graph.layer(graph.output)
    if theorem.head not in ("head", "softmax") or (theorem.head == "head" and not isinstance(output, Linear)):
        raise CheckError(f"theorem: the rule {theorem.head!r} does not apply to {type(output).__name__} logits")
    end = graph.inputs(graph.output)[0] if theorem.head == "head" else graph.output
    exits: dict[str, str] = {}
    for lemma in derivation.lemmas:
        for instance in lemma.instances:
            if instance.entry in exits:
                raise CheckError(f"theorem: two blocks start at {instance.entry}")
            exits[instance.entry] = instance.members[-1]
    here = graph.input
    for _ in range(len(exits)):
        if here not in exits:
            break
        here = exits.pop(here)
    if exits or here != end:
        raise CheckError(f"theorem: the blocks do not lead from {graph.input} to {end}; they stop at {here}")
    expected = theorem_of(graph, derivation.lemmas, derivation.temperature, theorem.head)
    for field in (
        "measured", "bound", "expected", "expected_status", "assumptions", "expected_assumptions", "definitions",
        "recursion",
    ):  # fmt: skip
        given, right = getattr(theorem, field), getattr(expected, field)
        if given != right:
            raise CheckError(f"theorem: its {field.replace('_', ' ')} do not follow from the lemmas")


def _check_needs(found: Rule, premises: list[Step], sources: tuple[str, ...], where: str) -> None:
    """The premises bound the values that the rule rests on, each at the input it names."""
    right = [(need.quantity, sources[need.slot]) for need in found.needs]
    if [(p.quantity, p.target) for p in premises] != right:
        needs = ", ".join(f"the {quantity} of {source}" for quantity, source in right) or "nothing"
        raise CheckError(f"{where}: {found.name} needs {needs}, got {[str(p.name) for p in premises]}")


def _apply(found: Rule, site: Site, where: str) -> Claim:
    try:
        return _claimed(found, site)
    except RuleError as error:
        raise CheckError(f"{where}: {error}") from None


@lru_cache(maxsize=65536)
def _claimed(found: Rule, site: Site) -> Claim:
    return found.claim(site)


def _same_claim(given: Claim, right: Claim, where: str) -> None:
    for field in ("relation", "expression", "conditions", "measured", "status", "reference"):
        if getattr(given, field) != getattr(right, field):
            raise CheckError(f"{where}: its {field} is {getattr(given, field)}, but {getattr(right, field)} follows")


def _check_monotone(claim: Claim, premises: list[sympy.Expr], where: str) -> None:
    """A measured symbol or a premise stands for an upper bound, so the claim must not decrease in it."""
    known_from_above = {m.symbol for m in claim.measured if not find_measure(m.kind).exact} | set(premises)
    found = direction(claim.expression, known_from_above)
    if claim.relation not in (Relation.LE, Relation.EQ) or found not in (Direction.UP, Direction.CONSTANT):
        raise CheckError(f"{where}: {claim.expression} may decrease in a symbol that is known from above only")
