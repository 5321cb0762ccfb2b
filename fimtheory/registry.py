"""The registry: rules by exact layer type and quantity, and measures by name.

A rule is a function of a ``Site``.  There is no default rule and no lookup through inheritance; built-in rules are
registered with the same decorators users have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar, final

import sympy

from fimtheory.claims import Claim, Measured, Quantity, Reference, Status
from fimtheory.errors import MissingRuleError, RuleError
from fimtheory.expressions import nonnegative, positive
from fimtheory.layers import Layer, Shape

__all__ = [
    "Measure",
    "Need",
    "Rule",
    "Site",
    "find_measure",
    "find_rule",
    "measure",
    "measures",
    "replaced",
    "require_rule",
    "rule",
    "rule_named",
    "rules",
]

LayerTypes = tuple[type[Layer], ...]
_F = TypeVar("_F", bound=Callable[..., Any])


@final
@dataclass(frozen=True, slots=True)
class Measure:
    """A number that can be read off a layer's weights or sizes.

    ``latex`` and ``text`` are format strings with one field ``{at}`` for the layer's name; ``suffix`` tells the
    measure's symbol from the others of the same node (empty for the operator norm).  ``exact`` says its value is known
    exactly and positive, so that an expression may also decrease in it; every other measure is known from above only.
    """

    kind: str
    suffix: str
    latex: str
    meaning: str
    exact: bool


@final
@dataclass(frozen=True, slots=True)
class Need:
    """A bound on the value of input ``slot`` that a rule rests on."""

    quantity: Quantity
    slot: int = 0


@final
@dataclass(frozen=True)
class Rule:
    """A rule and what it applies to: ``types`` is one layer type, or a run of them that is treated as one map."""

    types: LayerTypes
    quantity: Quantity
    function: Callable[..., Any]
    reference: Reference
    needs: tuple[Need, ...]
    status: Status

    def claim(self, site: Site) -> Claim:
        """Return what the rule claims at a site.

        Raises
        ------
        RuleError
            That is no claim, one with a rounded number, or one of another status than the rule is registered with.
        """
        made = self.function(site)
        if not isinstance(made, Claim):
            raise RuleError(f"the rule {self.name} returned a {type(made).__name__}; expected an ft.Claim")
        if not isinstance(made.expression, sympy.Basic) or made.expression.has(sympy.Float):
            raise RuleError(
                f"the rule {self.name} claims {made.expression}, which is rounded or no sympy expression; expected an "
                "exact one: write sympy.Rational(x) for a number x"
            )
        if made.status is not self.status:
            raise RuleError(
                f"the rule {self.name} is registered as {self.status} but claims {made.status}; "
                f"give its claim status=ft.Status.{self.status.name}, or register it with another status="
            )
        return made

    @property
    def joint(self) -> bool:
        """Whether the rule bounds a derivative of a layer with several inputs, from bounds on theirs."""
        return self.types[0].arity != 1 and self.quantity in (Quantity.GAIN, Quantity.JACOBIAN_VARIANCE)

    @property
    def name(self) -> str:
        """Name that a derivation's steps carry."""
        return f"{self.quantity}[{', '.join(t.__name__ for t in self.types)}]"


@final
@dataclass(frozen=True)
class Site:
    """Where a rule is applied: the layers, what flows in, and how symbols are named there.

    Attributes
    ----------
    layers, nodes
        The run of layers (mostly one) and their names inside the block.
    inputs, output
        Shapes before and after, without the batch.
    letter, index
        The lemma's letter, and the index of its instance (None where there is one instance).
    symmetric
        Whether flipping the sign of random weights flips the input of this layer (Jacobian variance).
    premises
        Symbols for what the rule ``needs`` to know of its inputs.
    gains
        For a layer with several inputs: symbols for the same quantity of each input, as a function of one common
        node; the rule bounds that of the output.
    token_variance
        Least variance of a token on the theorem's domain; None means no assumption.
    """

    layers: tuple[Layer, ...]
    nodes: tuple[str, ...]
    inputs: tuple[Shape, ...]
    output: Shape
    letter: str = ""
    index: sympy.Expr | None = None
    symmetric: bool = False
    premises: tuple[sympy.Expr, ...] = ()
    gains: tuple[sympy.Expr, ...] = ()
    token_variance: sympy.Expr | None = None

    @classmethod
    def of(cls, *layers: Layer, inputs: tuple[Shape, ...], node: str = "f", **context: Any) -> Site:
        """Return a site for a run of layers by itself, as examples and tests need it."""
        shapes = inputs
        for each in layers:
            made = require_rule(each, Quantity.SHAPE, node).function(cls((each,), (node,), shapes, ()))
            shapes = (made,)
        nodes = (node,) if len(layers) == 1 else tuple(f"{node}{k}" for k in range(1, len(layers) + 1))
        return cls(layers, nodes, inputs, shapes[0], **context)

    @property
    def layer(self) -> Any:
        """The layer, where the run has one."""
        (only,) = self.layers
        return only

    def measured(self, kind: str) -> Measured:
        """Return the measure ``kind`` of this run with its symbol.

        Raises
        ------
        MissingRuleError
            No measure of that name is registered.
        """
        declared = find_measure(kind)
        name = "_".join(part for part in (self.letter, "∘".join(reversed(self.nodes)), declared.suffix) if part)
        symbol = positive(name, self.index) if declared.exact else nonnegative(name, self.index)
        return Measured(symbol, kind, self.nodes)


_RULES: dict[tuple[LayerTypes, Quantity], Rule] = {}
_BY_NAME: dict[str, Rule] = {}
_MEASURES: dict[str, Measure] = {}


def rule(
    *types: type[Layer],
    quantity: Quantity,
    reference: Reference,
    needs: tuple[Quantity | Need, ...] = (),
    status: Status | None = None,
) -> Callable[[_F], _F]:
    """Register a function of a ``Site`` as the rule for one exact layer type (or a run of types) and a quantity.

    ``needs`` lists the bounds on values that the rule rests on: of the first input, or of the one a ``Need`` says.
    ``status`` is that of its claims: by default
    expected for the Jacobian variance and exact for everything else.

    Raises
    ------
    RuleError
        There is such a rule already, or ``types`` are not layer types.
    """
    if not types or not all(isinstance(t, type) and issubclass(t, Layer) and t is not Layer for t in types):
        raise RuleError(f"a rule is for one or more layer types, got {types!r}; declare yours with @ft.layer")

    def register(function: _F) -> _F:
        usual = Status.EXPECTED if quantity is Quantity.JACOBIAN_VARIANCE else Status.EXACT
        needed = tuple(each if isinstance(each, Need) else Need(Quantity(each)) for each in needs)
        made = Rule(types, Quantity(quantity), function, reference, needed, status or usual)
        if (types, quantity) in _RULES:
            raise RuleError(f"there is a rule {made.name} already; two would make a derivation ambiguous")
        _RULES[types, quantity] = _BY_NAME[made.name] = made
        return function

    return register


@contextmanager
def replaced(rule: Rule, function: Callable[..., Any]) -> Iterator[Rule]:
    """Let ``function`` stand in for that of a registered rule for a while, to see what comes of it.

    >>> from fimtheory.layers import Tanh
    >>> tanh = find_rule((Tanh,), Quantity.GAIN)
    >>> with replaced(tanh, lambda site: None) as other:
    ...     find_rule((Tanh,), Quantity.GAIN) is other
    True
    >>> find_rule((Tanh,), Quantity.GAIN) is tanh
    True
    """
    other = replace(rule, function=function)
    _RULES[rule.types, rule.quantity] = _BY_NAME[rule.name] = other
    try:
        yield other
    finally:
        _RULES[rule.types, rule.quantity] = _BY_NAME[rule.name] = rule


def find_rule(types: LayerTypes, quantity: Quantity) -> Rule | None:
    """Return the rule for a run of exact types, or None."""
    return _RULES.get((types, quantity))


def rule_named(name: str) -> Rule | None:
    """Return the rule whose ``name`` a derivation's step carries, or None."""
    return _BY_NAME.get(name)


def require_rule(layer: Layer, quantity: Quantity, node: str) -> Rule:
    """Return the rule for a layer.

    Raises
    ------
    MissingRuleError
        There is none; the message names the node and how to register one.
    """
    found = find_rule((type(layer),), quantity)
    if found is None:
        name = type(layer).__name__
        raise MissingRuleError(
            f"node {node}: no rule for the {quantity} of layer type {name}; "
            f"register one with @ft.rule({name}, quantity=ft.Quantity.{quantity.name}, reference=...)"
        )
    return found


def rules() -> Iterator[Rule]:
    """Every registered rule, in the order of registration."""
    return iter(_RULES.values())


def measure(kind: str, *, suffix: str, latex: str, meaning: str, exact: bool = False) -> Measure:
    """Declare a measure; how it is evaluated is registered in ``fimtheory.measures``.

    Raises
    ------
    RuleError
        The name or the suffix is taken.
    """
    if any(kind == m.kind or suffix == m.suffix for m in _MEASURES.values()):
        raise RuleError(f"a measure {kind!r} or its suffix {suffix!r} is declared already")
    made = Measure(kind, suffix, latex, meaning, exact)
    _MEASURES[kind] = made
    return made


def find_measure(kind: str) -> Measure:
    """Return the measure of that name.

    Raises
    ------
    MissingRuleError
        There is none.
    """
    if kind not in _MEASURES:
        raise MissingRuleError(f"no measure named {kind!r}; declare it with fimtheory.registry.measure")
    return _MEASURES[kind]


def measures() -> Iterator[Measure]:
    """Every declared measure."""
    return iter(_MEASURES.values())
