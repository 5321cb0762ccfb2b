"""Evaluate a theorem on weights: certified numbers for every step, and their product in ball arithmetic."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import sympy
from flint import arb
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn

from fimtheory import inference
from fimtheory.balls import evaluated, log10_upper, upper_float
from fimtheory.claims import Measured, Quantity, Status
from fimtheory.decimals import significant
from fimtheory.derivation import Derivation, Lemma, Step, body_of, local_nodes
from fimtheory.errors import DataError, GraphError, SymbolicSizeError, WeightsError
from fimtheory.instantiation import GraphModule
from fimtheory.measures import MeasuredGraph
from fimtheory.ranges import Ranges
from fimtheory.semidefinite import SemidefiniteBound, bound_of, require_small

__all__ = ["Evaluation", "Row", "Rung", "evaluate"]


@final
@dataclass(frozen=True, slots=True)
class Row:
    """One step of the worst-case bound, evaluated.

    Attributes
    ----------
    block, target
        The block of the graph, and the node up to which the step bounds.
    symbol, rule
        Name that the step introduces and the rule that gives it.
    log10
        Decimal logarithm of the certified value, rounded up.
    decades
        Contribution to log10 of the bound, for the steps that conclude a block, for the head and for a stack (which
        takes the bound below the product of the others); else None.
    method
        Certificates of the norms that the step measures.
    """

    block: str
    target: str
    symbol: str
    rule: str
    log10: float
    decades: float | None
    method: str


@final
@dataclass(frozen=True, slots=True)
class Rung:
    """The worst-case bound after one more kind of rule: its name, the decimal logarithm, rounded up, and its status."""

    name: str
    log10: float
    status: Status


@final
@dataclass(frozen=True, slots=True)
class Evaluation:
    """A theorem's bounds on given weights.

    Attributes
    ----------
    log10, value, status
        The worst-case bound: at least lam(x) for every x on the theorem's domain; certified.  ``value`` is None
        beyond the range of floats.
    expected_log10, expected_value, expected_status
        The bound on E lam over random weights of the ensemble of ``fimtheory.instantiate`` (not these weights); None
        where the theorem has none.
    domain
        For which inputs the worst-case bound holds, in words.
    rows
        Steps of the worst-case bound, block by block.
    ladder
        The bound as it gets smaller: with layers folded and the head rule, with the centred bound on branches, and
        with the layers at the end bounded jointly; those of the three that apply; last with the semidefinite
        bound, where it was asked for.
    rules
        How often each rule and each certificate was used.
    seconds
        Time taken.
    derivation
        The theorem that was evaluated.
    input_bound
        Largest absolute value of an entry of the inputs for which the worst-case bound holds; None where it does not
        depend on it.
    """

    log10: float
    value: float | None
    status: Status
    expected_log10: float | None
    expected_value: float | None
    expected_status: Status | None
    domain: str
    rows: tuple[Row, ...]
    ladder: tuple[Rung, ...]
    rules: Mapping[str, int]
    seconds: float
    derivation: Derivation
    input_bound: float | None

    def __repr__(self) -> str:
        worst = f"lam <= {significant(self.value, self.log10, up=True)} ({self.status}, {self.domain})"
        if self.expected_log10 is None:
            return f"<Evaluation: {worst}>"
        mean = significant(self.expected_value, self.expected_log10, up=True)
        return f"<Evaluation: {worst}; E lam <= {mean} ({self.expected_status})>"

    def expected_json(self) -> dict[str, float | str | None]:
        """Return the expected bound as a JSON value: null where the theorem has none or the number is infinite."""
        log10, status = self.expected_log10, self.expected_status
        finite = log10 is not None and math.isfinite(log10)
        return {"log10": log10 if finite else None, "status": None if status is None else status.value}


def evaluate(
    derivation: Derivation,
    module: nn.Module | Mapping[str, Tensor],
    *,
    input_bound: float | None = None,
    semidefinite: bool = False,
    progress: bool = False,
) -> Evaluation:
    """Evaluate the bounds of ``derivation`` on the weights of ``module``.

    Parameters
    ----------
    derivation : Derivation
        About a graph with concrete sizes.
    module : nn.Module or mapping of str to Tensor
        A model, or a state dict, with the tensors of the graph under their names.
    input_bound : float, optional
        Largest absolute value of an entry of an input: where the theorem assumes bounds on values that no layer
        provides by itself, they are those of such inputs.
    semidefinite : bool
        Bound lam by one matrix inequality as well (``ft.semidefinite_bound``): seconds to minutes for small networks.
        The bound is the smaller one.
    progress : bool
        Show a progress bar on stderr.

    Raises
    ------
    GraphError
        The model was made from another graph.
    SymbolicSizeError
        Sizes or assumptions are still symbols.
    WeightsError, NonFiniteError
        A tensor is missing, has another shape, or is not finite.
    AssumptionError
        The theorem assumes bounded values, which depend on the input, and no input bound is given.
    DataError
        The input bound is not a finite number of at least 0.
    MissingRuleError, SizeError
        A semidefinite bound is asked for, and the network has other layers or is too large.
    """
    start = time.perf_counter()
    if not isinstance(derivation, Derivation):
        raise GraphError(
            f"evaluate takes a Derivation, got a {type(derivation).__name__}; make one with ft.derive(graph)"
        )
    graph = derivation.graph
    if not graph.is_concrete():
        raise SymbolicSizeError(f"{graph.name} has symbolic sizes; give them numbers with graph.subs before derive")
    if isinstance(module, GraphModule) and module.graph.nodes != graph.nodes:
        raise GraphError(
            f"the model computes another graph ({module.graph!r}) than the derivation is about ({graph!r})"
        )
    if not isinstance(module, nn.Module | Mapping):
        raise WeightsError(f"evaluate takes a torch module or a state dict, got a {type(module).__name__}")
    if input_bound is not None and not 0 <= input_bound < math.inf:
        raise DataError(f"the input bound is {input_bound}; expected a finite number of at least 0")
    if semidefinite:
        require_small(graph)
    tensors = module.state_dict() if isinstance(module, nn.Module) else module
    numbers = _Numbers(derivation, tensors, input_bound, progress)
    position = {name: k for k, name in enumerate(graph.order)}
    blocks = [(lemma, k) for lemma in derivation.lemmas for k in range(len(lemma.instances))]
    rows: list[Row] = []
    gains, usual, factors = dict[str, arb](), list[arb](), list[arb]()
    for lemma, k in sorted(blocks, key=lambda block: position[block[0].instances[block[1]].entry]):
        values = numbers.step_values(lemma, k)
        rows += _rows(numbers, lemma, k, values)
        gains[lemma.instances[k].entry] = values[lemma.gain] ** 2
        usual.append(numbers.usual_gain(lemma, k) ** 2)
        if lemma.variance is not None:
            factors.append(values[lemma.variance])
    bound, expected = numbers.conclude(list(gains.values()), factors)
    ladder = [Rung("layers folded, head rule", log10_upper(numbers.conclude(usual, factors)[0]), Status.CERTIFIED)]
    if any(step.rule == "minimum" for lemma in derivation.lemmas for step in lemma.steps):
        ladder.append(Rung("centred branches", log10_upper(bound), Status.CERTIFIED))
    if derivation.theorem.head == "head":
        rows.append(_head_row(numbers, derivation))
    stack = numbers.stack(gains)
    if stack is not None:
        product, bound = bound, bound.min(stack[0]).abs_upper()
        less = 0.0 if bound == product else log10_upper(bound) - log10_upper(product)
        rows.append(_stack_row(derivation, less, *stack[1:]))
        ladder.append(Rung("joint recursion", log10_upper(bound), Status.CERTIFIED))
    if semidefinite:
        whole = numbers.semidefinite()
        value = (arb(whole.value) / evaluated(derivation.temperature, {}) ** 2).abs_upper()
        before, bound = bound, bound.min(value).abs_upper()
        less = 0.0 if bound == before else log10_upper(bound) - log10_upper(before)
        rows.append(_semidefinite_row(derivation, less, whole))
        ladder.append(Rung("semidefinite programme", log10_upper(bound), Status.CERTIFIED))
    used = Counter(row.rule for row in rows)
    used.update(method for row in rows for method in row.method.split("; ") if method)
    return Evaluation(
        log10_upper(bound),
        upper_float(bound),
        Status.CERTIFIED,
        None if expected is None else log10_upper(expected),
        None if expected is None else upper_float(expected),
        derivation.theorem.expected_status,
        numbers.domain,
        tuple(rows),
        tuple(ladder),
        dict(used),
        time.perf_counter() - start,
        derivation,
        numbers.input_bound,
    )


_ASSUMED = {kind: quantity for quantity, (kind, _) in inference.RADII.items()}
"""The bounds on values that a theorem may assume, by the measure that stands for each."""
_OF_WHAT = {Quantity.ENTRY_BOUND: "entries", Quantity.TOKEN_NORM: "tokens", Quantity.NORM_BOUND: "the whole"}


class _Numbers:
    """Values of the measured symbols and the steps, for one derivation and one set of weights."""

    def __init__(
        self, derivation: Derivation, tensors: Mapping[str, Tensor], input_bound: float | None, progress: bool
    ) -> None:
        self.derivation = derivation
        self._graph = derivation.graph
        self._measures = MeasuredGraph(self._graph, tensors)
        self._ranges = Ranges(self._measures, input_bound)
        self._names = {lemma.letter: self._all_names(lemma) for lemma in derivation.lemmas}
        wanted = dict.fromkeys(
            (measured.kind, tuple(names[n] for n in measured.nodes))
            for lemma in derivation.lemmas
            for names in self._names[lemma.letter]
            for step in lemma.steps
            for measured in step.claim.measured
        ) | dict.fromkeys((m.kind, m.nodes) for m in derivation.theorem.symbols)
        with Progress(console=Console(stderr=True), transient=True, disable=not progress) as bar:
            task = bar.add_task("certified norms", total=len(wanted))
            for kind, nodes in wanted:
                self._value(kind, nodes)
                bar.advance(task)

    def _all_names(self, lemma: Lemma) -> list[Mapping[str, str]]:
        body, _, _ = body_of(self._graph, lemma)
        return [local_nodes(body, instance) for instance in lemma.instances]

    def _value(self, kind: str, nodes: tuple[str, ...]) -> tuple[arb, str]:
        """Value of a measure of a run of nodes, or of a bound on values that is assumed, and its certificate."""
        if kind in _ASSUMED:
            quantity = _ASSUMED[kind]
            return self._ranges.of(nodes[0]).bound(quantity), f"range of {_OF_WHAT[quantity]}"
        return self._measures.value(kind, nodes)

    @property
    def input_bound(self) -> float | None:
        """The bound on the entries of the inputs, where a number rests on it."""
        return self._ranges.bound_used

    @property
    def domain(self) -> str:
        """For which inputs the numbers hold."""
        where = self._ranges.domain
        floor = self.derivation.token_variance
        return where if floor is None else f"{where}, and tokens of variance at least {floor} into every layer norm"

    def semidefinite(self) -> SemidefiniteBound:
        """Bound on lam by one matrix inequality, at temperature 1."""
        return bound_of(self._measures)

    def of(self, measured: Measured, names: Mapping[str, str]) -> tuple[arb, str]:
        """Value of a measured symbol where a lemma's nodes have the given names, and its certificate."""
        return self._value(measured.kind, tuple(names[n] for n in measured.nodes))

    def names(self, lemma: Lemma, k: int) -> Mapping[str, str]:
        """Graph names of the nodes of a lemma's body in instance ``k``."""
        return self._names[lemma.letter][k]

    def step_values(self, lemma: Lemma, k: int) -> list[arb]:
        """Upper values of all steps of a lemma for instance ``k``, each from its premises."""
        names = self.names(lemma, k)
        values: dict[sympy.Expr, arb] = {}
        for step in lemma.steps:
            values |= {m.symbol: self.of(m, names)[0] for m in step.claim.measured}
            values[step.name] = evaluated(step.claim.expression, values).abs_upper()
        return [values[step.name] for step in lemma.steps]

    def usual_gain(self, lemma: Lemma, k: int) -> arb:
        """Upper value of the gain of a lemma for instance ``k`` without the bounds that a minimum adds to the sum."""
        names = self.names(lemma, k)
        values: dict[sympy.Expr, arb] = {}
        for step in lemma.steps:
            values |= {m.symbol: self.of(m, names)[0] for m in step.claim.measured}
            usual = lemma.steps[step.premises[0]].name if step.rule == "minimum" else step.claim.expression
            values[step.name] = evaluated(usual, values).abs_upper()
        return values[lemma.steps[lemma.gain].name]

    def conclude(self, gains: list[arb], factors: list[arb]) -> tuple[arb, arb | None]:
        """Upper values of the worst-case and of the expected bound, where the theorem has one."""
        theorem, tau = self.derivation.theorem, self.derivation.temperature
        dimension, classes = self._graph.require_classifier()
        values = {m.symbol: self._value(m.kind, m.nodes)[0] for m in theorem.measured}
        if theorem.head == "head":
            diameter, *growth = (m.symbol for m in theorem.measured)
            bound = inference.worst_case_head(diameter, (), tau)
            means = [inference.expected_head(v, (), dimension, classes, tau) for v in growth]
        else:
            bound = inference.worst_case_softmax((), tau)
            means = [] if theorem.expected is None else [inference.expected_softmax((), dimension, tau)]
        expected = [_product(evaluated(mean, values), factors) for mean in means]
        return _product(evaluated(bound, values), gains), expected[0] if expected else None

    def stack(self, gains: Mapping[str, arb]) -> tuple[arb, arb, str] | None:
        """Upper value of the bound by the recursion, that of R_W and its certificate, where the theorem has one.

        ``gains`` holds the squared gain of each block by its entry.
        """
        recursion = self.derivation.theorem.recursion
        if recursion is None:
            return None
        value, method = self._value(recursion.kind, recursion.nodes)
        position = {name: k for k, name in enumerate(self._graph.order)}
        entry = self._graph.inputs(recursion.nodes[0])[0]
        before = [gain for name, gain in gains.items() if position[name] < position[entry]]
        tau = self.derivation.temperature
        start = evaluated(inference.worst_case_stack(recursion.symbol, (), tau), {recursion.symbol: value})
        return _product(start, before), value, method


def _semidefinite_row(derivation: Derivation, decades: float, whole: SemidefiniteBound) -> Row:
    """Row of the bound by one matrix inequality, with half the largest gain of a difference of two logits."""
    graph = derivation.graph
    gain = log10_upper(arb(whole.value).sqrt().abs_upper())
    method = f"matrix inequality, {whole.multipliers} multipliers"
    return Row("whole", graph.output, "R/2", "semidefinite programme", gain, decades, method)


def _product(start: arb, parts: list[arb]) -> arb:
    for part in parts:
        start = (start * part).abs_upper()
    return start


def _rows(numbers: _Numbers, lemma: Lemma, k: int, values: list[arb]) -> list[Row]:
    names = numbers.names(lemma, k)
    block = numbers.derivation.graph[lemma.instances[k].members[-1]].block or lemma.title
    needed = _support(lemma)
    rows = []
    for position, step in enumerate(lemma.steps):
        if position in needed:
            log10 = log10_upper(values[position])
            methods = "; ".join(dict.fromkeys(numbers.of(m, names)[1] for m in step.claim.measured))
            decades = 2 * log10 if position == lemma.gain else None
            symbol = str(step.name).replace("[i]", f"[{k + 1}]")
            rows.append(Row(block, names[step.target], symbol, _rule(lemma, step, values), log10, decades, methods))
    return rows


def _rule(lemma: Lemma, step: Step, values: list[arb]) -> str:
    """Return the rule of a step; of a minimum, with the rule that won."""
    if step.rule != "minimum":
        return step.rule
    best = min(step.premises, key=lambda p: log10_upper(values[p]))
    return f"minimum ({lemma.steps[best].rule})"


def _support(lemma: Lemma) -> set[int]:
    """Positions of the steps that the lemma's gain rests on."""
    needed: set[int] = set()
    pending = [lemma.gain]
    while pending:
        position = pending.pop()
        if position not in needed:
            needed.add(position)
            pending += lemma.steps[position].premises
    return needed


def _stack_row(derivation: Derivation, decades: float, value: arb, method: str) -> Row:
    """Row of the recursion: by how many decades it takes the bound below the product."""
    recursion = derivation.theorem.recursion
    assert recursion is not None, "the theorem has a stack"
    name = recursion.nodes[-1]
    return Row("stack", name, str(recursion.symbol), "recursion", log10_upper(value), decades, method)


def _head_row(numbers: _Numbers, derivation: Derivation) -> Row:
    diameter = derivation.theorem.measured[0]
    value, method = numbers.of(diameter, {n: n for n in diameter.nodes})
    share = log10_upper(
        evaluated(inference.worst_case_head(diameter.symbol, (), derivation.temperature), {diameter.symbol: value})
    )
    name = diameter.nodes[0]
    return Row(
        derivation.graph[name].block or "head", name, str(diameter.symbol), "head", log10_upper(value), share, method
    )
