"""One case of a rule: layers, shapes, styles of weights and a seed, from which everything else follows.

So a failure is told in one line that reproduces it, and hypothesis can shrink it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property, partial
from typing import Any, NoReturn, final

import sympy
import torch
from flint import arb
from hypothesis import assume
from hypothesis import strategies as st
from torch import Tensor

import fimtheory.forward  # noqa: F401  registers how built-in layers compute
from fimtheory.balls import evaluated
from fimtheory.claims import Claim, Quantity, Relation
from fimtheory.errors import FimTheoryError, MissingRuleError, NonFiniteError, PropertyError
from fimtheory.layers import Layer, Shape
from fimtheory.measures import Place, measured_value
from fimtheory.registry import Rule, Site, find_measure, require_rule, rule_named
from fimtheory.strategies import STYLES, runs, styled

__all__ = ["Case", "Found", "NotApplicableError", "cases", "layers_of", "upper"]

_LEAST = 1e-290
"""Certified norms below it are rounded up to a normal number, and may be larger than the weights."""
_MOST_OUTPUTS = 128
"""Most entries of an output: a dense Jacobian costs one pass for each."""


class NotApplicableError(FimTheoryError):
    """A property says nothing about a rule, or about one case of it; the message is the reason."""


@final
@dataclass(frozen=True, slots=True)
class Found:
    """What one case of a property gave: estimate over claim (None where no number is compared), and its relation."""

    ratio: float | None = None
    relation: Relation = Relation.LE


@final
@dataclass(frozen=True)
class Case:
    """A rule, the layers it is applied to, the shapes that flow in, and where weights and inputs come from.

    Attributes
    ----------
    rule
        Name of a registered rule, such as ``"gain[Linear]"``.
    layers, inputs
        The run of layers, and the shapes of its inputs.
    styles
        Styles of the tensors, one after another, again and again; see ``strategies.STYLES``.
    seed
        Of weights and inputs.
    token_variance
        The least variance of a token that the rule may assume, or None.
    """

    rule: str
    layers: tuple[Layer, ...]
    inputs: tuple[Shape, ...]
    styles: tuple[str, ...] = ("normal",)
    seed: int = 0
    token_variance: float | None = None

    @property
    def registered(self) -> Rule:
        """The rule itself.

        Raises
        ------
        MissingRuleError
            There is none of that name.
        """
        found = rule_named(self.rule)
        if found is None:
            raise MissingRuleError(f"no rule is named {self.rule!r}; expected a name such as 'gain[Linear]'")
        return found

    @property
    def joint(self) -> bool:
        """Whether the layer has several inputs."""
        return self.layers[0].arity != 1

    @cached_property
    def nodes(self) -> tuple[str, ...]:
        """Names of the layers, those of ``Site.of``."""
        return ("f",) if len(self.layers) == 1 else tuple(f"f{k}" for k in range(1, len(self.layers) + 1))

    @cached_property
    def sites(self) -> tuple[Site, ...]:
        """Each layer by itself."""
        made: list[Site] = []
        shapes = self.inputs
        for layer, node in zip(self.layers, self.nodes, strict=True):
            made.append(Site.of(layer, inputs=shapes, node=node))
            shapes = (made[-1].output,)
        return tuple(made)

    @cached_property
    def tensors(self) -> tuple[Mapping[str, Tensor], ...]:
        """Tensors of each layer by name, in float64."""
        asked = [
            (f"{k}:{parameter.name}", parameter)
            for k, site in enumerate(self.sites)
            for parameter in require_rule(site.layer, Quantity.PARAMETERS, site.nodes[0]).function(site)
        ]
        made = styled(asked, self.styles, self.seed)
        return tuple(
            {key.partition(":")[2]: tensor for key, tensor in made.items() if key.partition(":")[0] == str(k)}
            for k in range(len(self.layers))
        )

    def generator(self) -> torch.Generator:
        """Return the source of random inputs."""
        return torch.Generator().manual_seed(self.seed + 1)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Compute the run on a batch of each input."""
        return self.computed(self.tensors, *inputs)

    def computed(self, tensors: tuple[Mapping[str, Tensor], ...], *inputs: Tensor) -> Tensor:
        """Compute the run with other tensors."""
        values = inputs
        for function in self.functions(tensors):
            values = (function(*values),)
        return values[0]

    def functions(self, tensors: tuple[Mapping[str, Tensor], ...]) -> list[Callable[..., Tensor]]:
        """Return what each layer computes with its tensors."""
        return [
            partial(require_rule(site.layer, Quantity.FORWARD, site.nodes[0]).function(site), own)
            for site, own in zip(self.sites, tensors, strict=True)
        ]

    def site(self, **context: Any) -> Site:
        """Return the site of the whole run."""
        floor = None if self.token_variance is None else sympy.Rational(self.token_variance)
        return Site.of(*self.layers, inputs=self.inputs, token_variance=floor, **context)

    def measured(self, claim: Claim, tensors: tuple[Mapping[str, Tensor], ...] | None = None) -> dict[sympy.Expr, arb]:
        """Return the certified values of the claim's measured symbols, of these tensors or of others."""
        found, held = {}, self.tensors if tensors is None else tensors
        for each in claim.measured:
            places = [self.nodes.index(node) for node in each.nodes]
            layers, read = tuple(self.layers[p] for p in places), tuple(held[p] for p in places)
            place = Place(layers, read, self.sites[places[0]].inputs[0], each.nodes)
            try:
                value, _ = measured_value(each.kind, place)
            except NonFiniteError as error:
                raise NotApplicableError(f"a measure is beyond float64: {error}") from None
            found[each.symbol] = value if find_measure(each.kind).exact else value.abs_upper()
        return found

    def is_tiny(self, claim: Claim) -> bool:
        """Whether a measured norm is so small that it may have been rounded up to a normal number."""
        return any(0 < value < _LEAST for value in self.measured(claim).values())

    def fail(self, prop: str, cause: str, bound: float = float("nan"), estimate: float = float("nan")) -> NoReturn:
        """Raise the error of a property that does not hold."""
        what = " then ".join(map(repr, self.layers)) + f" on {', '.join(map(str, self.inputs))}"
        own = {
            type(layer) for layer in self.layers if not type(layer).__module__.startswith(("fimtheory.", "__main__"))
        }
        imports = sorted(f"from {kind.__module__} import {kind.__name__}\n" for kind in own)
        snippet = f"from fimtheory import layers, properties\n{''.join(imports)}properties.{prop}({self.program()})"
        raise PropertyError(
            cause,
            rule=self.rule,
            prop=prop,
            layer=what,
            seed=self.seed,
            snippet=snippet,
            bound=bound,
            estimate=estimate,
        )

    def program(self) -> str:
        """Return the case as an expression of Python; layers of one's own are named as they are."""
        run = ", ".join(_written(layer) for layer in self.layers)
        parts = [repr(self.rule), f"({run},)", repr(self.inputs), repr(self.styles), repr(self.seed)]
        parts += [] if self.token_variance is None else [repr(self.token_variance)]
        return f"properties.Case({', '.join(parts)})"


def _written(layer: Any) -> str:
    kind = type(layer)
    values = ", ".join(f"{field.name}={getattr(layer, field.name)!r}" for field in fields(layer))
    prefix = "layers." if kind.__module__.startswith("fimtheory.") else ""
    return f"{prefix}{kind.__name__}({values})"


def upper(expression: Any, values: Mapping[sympy.Expr, arb]) -> float:
    """Return a float of the upper end of a closed form; inf beyond floats."""
    return float(evaluated(expression, values).abs_upper())


_STYLE = st.sampled_from(STYLES)
_SEVERAL = _STYLE.map(lambda style: (style,)) | st.tuples(_STYLE, _STYLE, _STYLE)
_SEEDS = st.integers(0, 2**20)
_FLOORS = st.sampled_from([None, None, 0.5])


@st.composite
def cases(draw: st.DrawFn, rule: Rule) -> Case:
    """Cases of a rule: layers of its types on small shapes, with random and adversarial weights."""
    case = draw(layers_of(rule))
    return replace(case, styles=draw(_SEVERAL), seed=draw(_SEEDS))


@st.composite
def layers_of(draw: st.DrawFn, rule: Rule) -> Case:
    """Cases of a rule with normal weights of one seed."""
    layers, drawn = draw(runs(rule.types))
    inputs = tuple(tuple(shape) for shape in drawn)
    assume(math.prod(Site.of(*layers, inputs=inputs).output) <= _MOST_OUTPUTS)
    floor = draw(_FLOORS) if _assumes_variance(rule, layers, inputs) else None
    return Case(rule.name, layers, inputs, token_variance=floor)


def _assumes_variance(rule: Rule, layers: tuple[Layer, ...], inputs: tuple[Shape, ...]) -> bool:
    """Whether the claim is another where tokens may be assumed to vary."""
    if rule.needs or rule.quantity not in (Quantity.GAIN, Quantity.JACOBIAN_VARIANCE) or layers[0].arity != 1:
        return False
    bare, floored = (Site.of(*layers, inputs=inputs, token_variance=v) for v in (None, sympy.Rational(1, 2)))
    return rule.claim(bare) != rule.claim(floored)
