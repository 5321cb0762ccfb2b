"""Rules that are deliberately wrong: which property catches each, after how many examples and in what time.

    python benchmarks/wrong_rules.py 9

Prints a table of all of them, at the given number of examples and at ten times as many.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import sympy
import torch

from fimtheory import inference, layers, norms, registry
from fimtheory.balls import ball
from fimtheory.claims import Claim, Quantity, Relation
from fimtheory.errors import PropertyError
from fimtheory.measures import EVALUATIONS, Place
from fimtheory.measures.operators import _LINEAR_PARTS, _OUTPUT_SCALES
from fimtheory.measures.weights import mean_square_gain
from fimtheory.norms.groups import ungrouped
from fimtheory.properties import check_rule
from fimtheory.registry import Rule, Site
from fimtheory.symmetry import Symmetry

Change = Callable[[Claim, Site], Claim]

GAIN, GROWTH, SLOPES = Quantity.GAIN, Quantity.JACOBIAN_VARIANCE, Quantity.SLOPES
ROOT = sympy.sqrt


def times(factor: Any) -> Change:
    """A claim with another factor."""
    return lambda claim, site: dataclasses.replace(claim, expression=claim.expression * factor)


def instead(expression: Callable[[Site], Any]) -> Change:
    """Another expression, a function of the site."""
    return lambda claim, site: dataclasses.replace(claim, expression=sympy.sympify(expression(site)))


def put(old: str, new: Callable[[Any], Any]) -> Change:
    """The claim with a symbol of one suffix replaced by a function of the site."""

    def change(claim: Claim, site: Site) -> Claim:
        (symbol,) = (m.symbol for m in claim.measured if str(m.symbol).endswith(old))
        return dataclasses.replace(claim, expression=claim.expression.subs(symbol, new(symbol)))

    return change


def equality(claim: Claim, site: Site) -> Claim:
    """Three times the claim, as an equality."""
    return dataclasses.replace(claim, expression=3 * claim.expression, relation=Relation.EQ)


WRONG: dict[str, Any] = {
    "GELU has gain 1": (layers.GELU, GAIN, instead(lambda site: 1)),
    "SiLU has gain 1": (layers.SiLU, GAIN, instead(lambda site: 1)),
    "ELU ignores alpha": (layers.ELU, GAIN, instead(lambda site: 1)),
    "leaky ReLU takes the slope itself, not its magnitude": (
        layers.LeakyReLU, GAIN, instead(lambda site: sympy.Max(1, sympy.Rational(site.layer.negative_slope)))),
    "max pool has gain 1 with overlap": (layers.MaxPool2d, GAIN, instead(lambda site: 1)),
    "average pool has gain 1 / k": (
        layers.AvgPool2d, GAIN, instead(lambda site: sympy.Rational(1, sympy.prod(site.layer.kernel)))),
    "adaptive average pool ignores overlap": (
        layers.AdaptiveAvgPool2d, GAIN,
        instead(lambda site: ROOT(sympy.Rational(sympy.prod(site.output), sympy.prod(site.inputs[0]))))),
    "mean has gain 1 / n": (layers.Mean, GAIN, lambda claim, site: times(claim.expression)(claim, site)),
    "sum has gain 1": (layers.Sum, GAIN, instead(lambda site: 1)),
    "nearest upsampling has gain 1": (layers.Upsample, GAIN, instead(lambda site: 1)),
    "a tile has gain 1": (layers.Tile, GAIN, instead(lambda site: 1)),
    "layer norm adds eps to the deviation": (layers.LayerNorm, GAIN, put("eps", lambda eps: (1 + ROOT(eps)) ** 2)),
    "layer norm divides by the variance": (layers.LayerNorm, GAIN, put("eps", lambda eps: eps**2)),
    "layer norm has no eps": (layers.LayerNorm, GAIN, put("eps", lambda eps: 1)),
    "RMS norm has no scale": (layers.RMSNorm, GAIN, put("_s", lambda s: 1)),
    "layer norm's tokens lack the root of their length": (
        layers.LayerNorm, Quantity.TOKEN_NORM, lambda claim, site: times(1 / ROOT(site.layer.features))(claim, site)),
    "softmax has gain 1/4": (layers.Softmax, GAIN, times(sympy.Rational(1, 2))),
    "softmax multiplies by the temperature": (
        layers.Softmax, GAIN, instead(lambda site: sympy.Rational(site.layer.temperature) / 2)),
    "log-softmax has gain 1": (layers.LogSoftmax, GAIN, instead(lambda site: 1)),
    "sigmoid's interval of slopes is too small": (
        layers.Sigmoid, SLOPES, instead(lambda site: sympy.Tuple(0, sympy.Rational(1, 5)))),
    "GELU never falls": (layers.GELU, SLOPES, instead(lambda site: sympy.Tuple(0, sympy.Rational(113, 100)))),
    "the gain of a linear layer decreases in its norm": (
        layers.Linear, GAIN, lambda claim, site: instead(lambda _: 1 / (1 + claim.expression))(claim, site)),
    "the gain of a linear layer is the square of its norm": (
        layers.Linear, GAIN, lambda claim, site: instead(lambda _: claim.expression**2)(claim, site)),
    "the gain of a linear layer is half its norm": (layers.Linear, GAIN, times(sympy.Rational(1, 2))),
    "an equality that is none": (layers.Tanh, GAIN, equality),
    "a product forgets one of its terms": (
        layers.Multiply, GAIN, instead(lambda site: site.premises[1] * site.gains[0])),
    "a matrix product takes the larger term": (
        layers.MatMul, GAIN, lambda claim, site: instead(lambda _: sympy.Max(*claim.expression.args))(claim, site)),
    "attention forgets queries and keys": (
        layers.ScaledDotProductAttention, GAIN, instead(lambda site: site.gains[2])),
    "self-attention has the gain of its values alone": (
        layers.MultiHeadSelfAttention, GAIN,
        lambda claim, site: instead(lambda _: claim.expression.subs(site.premises[0], 0) / 2)(claim, site)),
    "tanh's values are at most 1/2": (layers.Tanh, Quantity.ENTRY_BOUND, times(sympy.Rational(1, 2))),
    "sigmoid's norm forgets how many entries there are": (layers.Sigmoid, Quantity.NORM_BOUND, instead(lambda site: 1)),
    "ReLU always halves the mean square": (layers.ReLU, GROWTH, instead(lambda site: sympy.Rational(1, 4))),
    "a linear layer's growth lacks the 2 of its variance": (layers.Linear, GROWTH, times(sympy.Rational(1, 2))),
    "the growth through layer norm is its gain, not the square": (
        layers.LayerNorm, GROWTH, lambda claim, site: instead(lambda _: ROOT(claim.expression))(claim, site)),
    "tokens across distributions are shorter for symbolic sizes": (
        layers.SoftmaxOver, Quantity.TOKEN_NORM, instead(lambda site: 1 if any(
            isinstance(n, sympy.Expr) for n in site.inputs[0]) else ROOT(site.inputs[0][-1]))),
}  # fmt: skip


# ---- measures and compositions ----------------------------------------------------------------------------------

_POWER_STEPS = 4
_convolution = _LINEAR_PARTS[layers.Conv2d]


def without_stride(place: Place, scale: Any) -> norms.CertifiedNorm:
    """The norm for another stride."""
    layer: Any = place.layers[0]
    layer = dataclasses.replace(layer, stride=(3,) * len(layer.stride))
    return _convolution(dataclasses.replace(place, layers=(layer,)), scale)


def wrong_fan_in(place: Place) -> Any:
    """The mean square gain over the number of outputs."""
    value, method = mean_square_gain(place)
    layer: Any = place.layers[0]
    return value * int(layer.in_channels) / int(layer.in_channels * layer.out_channels), method


def by_power_iteration(place: Place, scale: Any) -> norms.CertifiedNorm:
    """A lower bound, from a random start."""
    matrix = place.tensors[0]["weight"]
    v = torch.randn(matrix.shape[1], generator=torch.Generator().manual_seed(0), dtype=matrix.dtype)
    for _ in range(_POWER_STEPS):
        v = matrix.T @ (matrix @ v)
        v = v / v.norm().clamp(min=1e-300)
    return norms.CertifiedNorm((matrix @ v).norm().item(), "power iteration")


def on_a_small_torus(place: Place, scale: Any) -> norms.CertifiedNorm:
    """The largest norm of the symbol at two frequencies a side, of a convolution without groups."""
    layer: Any = place.layers[0]
    kernel = ungrouped(place.tensors[0]["weight"], int(layer.groups))
    signs = [(-1.0) ** (d * torch.arange(k)) for d, k in zip(layer.dilation, layer.kernel, strict=True)]
    best = 0.0
    for first in (torch.ones_like(signs[0]), signs[0]):
        for second in (torch.ones_like(signs[1]), signs[1]):
            symbol = (kernel * first.double()[:, None] * second.double()).sum((2, 3))
            best = max(best, torch.linalg.matrix_norm(symbol, 2).item())
    return norms.CertifiedNorm(best, "torus 2x2")


WRONG_PARTS: dict[str, Any] = {
    "a convolution's norm ignores its stride": (
        _LINEAR_PARTS, layers.Conv2d, without_stride, (layers.Conv2d, GAIN)),
    "a convolution's growth has another fan-in": (
        EVALUATIONS, "mean square gain", wrong_fan_in, (layers.Conv2d, GROWTH)),
    "batch norm divides by the variance": (
        _OUTPUT_SCALES, layers.BatchNorm2d,
        lambda layer, tensors: (tensors["weight"] / (tensors["running_var"] + layer.eps), 0.0),
        (layers.BatchNorm2d, GAIN)),
    "the largest scale is the mean": (
        EVALUATIONS, "largest scale", lambda place: (ball(place.tensors[0]["weight"].abs().mean().item()), ""),
        (layers.RMSNorm, GAIN)),
    "power iteration in place of a norm": (
        _LINEAR_PARTS, layers.Linear, by_power_iteration, (layers.Linear, GAIN)),
    "a convolution's torus has two points a side": (
        _LINEAR_PARTS, layers.Conv2d, on_a_small_torus, (layers.Conv2d, GAIN)),
    "a chain takes the larger gain": (
        inference.COMPOSITIONS, (GAIN, "series"), lambda parts: sympy.Max(*parts), (layers.Linear, GAIN)),
    "a residual sum takes the larger gain": (
        inference.COMPOSITIONS, (GAIN, "sum"), lambda parts: sympy.Max(*parts), (layers.LeakyReLU, GAIN)),
    "a concatenation takes the larger gain": (
        inference.COMPOSITIONS, (GAIN, "concat"), lambda parts: sympy.Max(*parts), (layers.LeakyReLU, GAIN)),
}  # fmt: skip

WRONG_FACTS: dict[str, tuple[type[layers.Layer], Quantity, Callable[[Site, Any], Any]]] = {
    "GELU is odd": (layers.GELU, Quantity.SYMMETRY, lambda site, right: Symmetry.ODD),
    "layer norm is fresh": (layers.LayerNorm, Quantity.SYMMETRY, lambda site, right: Symmetry.FRESH),
    "a convolution's shape ignores its stride": (
        layers.Conv2d, Quantity.SHAPE, lambda site, right: (right[0], *site.inputs[0][1:])),
    "a linear layer's weight is transposed": (
        layers.Linear, Quantity.PARAMETERS, lambda site, right: tuple(
            dataclasses.replace(each, shape=each.shape[::-1]) for each in right)),
}  # fmt: skip
"""Rules that claim no bound, and what becomes of what they say; they are tested with the rule of the gain."""


# ---- planting and catching --------------------------------------------------------------------------------------


@contextmanager
def planted(name: str) -> Iterator[Rule]:
    """Let a wrong rule, or the rule that a wrong part makes wrong, stand in for the right one."""
    if name in WRONG:
        kind, quantity, change = WRONG[name]
        right = _rule(kind, quantity)
        with registry.replaced(right, lambda site: change(right.function(site), site)) as wrong:
            yield wrong
    elif name in WRONG_FACTS:
        kind, quantity, turn = WRONG_FACTS[name]
        right = _rule(kind, quantity)
        with registry.replaced(right, lambda site: turn(site, right.function(site))):
            yield _rule(kind, GAIN)
    else:
        table, key, part, (kind, quantity) = WRONG_PARTS[name]
        with mock.patch.dict(table, {key: part}):
            yield _rule(kind, quantity)


def _rule(kind: type[layers.Layer], quantity: Quantity) -> Rule:
    found = registry.find_rule((kind,), quantity)
    assert found is not None
    return found


def caught(name: str, examples: int) -> tuple[str, int, float] | None:
    """Return the property that catches a wrong rule, its example and the CPU seconds; None where it passes."""
    start = time.process_time()
    with planted(name) as rule:
        try:
            check_rule(rule, examples=examples)
        except PropertyError as error:
            return error.prop, error.example, time.process_time() - start
    return None


def main() -> None:
    """Print the table."""
    examples = int(sys.argv[1])
    torch.set_num_threads(1)
    print(f"| wrong rule | caught by | at example | seconds | seconds at {10 * examples} examples |")
    print("|---|---|---|---|---|")
    for name in (*WRONG, *WRONG_PARTS, *WRONG_FACTS):
        usual, longer = caught(name, examples), caught(name, 10 * examples)
        if usual is None or longer is None:
            print(f"| {name} | **missed** | | | |", flush=True)
            continue
        prop, number, seconds = usual
        print(f"| {name} | `{prop}` | {number} | {seconds:.2f} | {longer[2]:.2f} |", flush=True)


if __name__ == "__main__":
    main()
