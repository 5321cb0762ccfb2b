"""Random and adversarial weights: each tensor in a style, such as rank one, orthogonal, huge or denormal."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from hypothesis import strategies as st
from torch import Tensor

from fimtheory.claims import Quantity
from fimtheory.ensemble import Initial, Parameter
from fimtheory.graph import LayerGraph
from fimtheory.registry import Site, require_rule
from fimtheory.strategies.products import hidden

__all__ = ["STYLES", "parameters_of", "styled", "tensor_in_style", "weights_for"]

STYLES = (
    "normal",
    "identity",
    "rank one",
    "orthogonal",
    "zero",
    "ones",
    "signs",
    "single",
    "large",
    "tiny",
    "denormal",
    "huge",
)


@st.composite
def weights_for(
    draw: st.DrawFn, graph: LayerGraph, styles: Sequence[str] = STYLES, dtype: torch.dtype = torch.float64
) -> dict[str, Tensor]:
    """A state dict of ``graph``: each tensor in a style of its own, or all in one."""
    seed = draw(st.integers(0, 2**20))
    parameters = list(parameters_of(graph))
    one = st.sampled_from(styles)
    drawn = [draw(one)] if draw(st.booleans()) else [draw(one) for _ in parameters]
    return styled(parameters, drawn, seed, dtype)


def styled(
    parameters: Sequence[tuple[str, Parameter]], styles: Sequence[str], seed: int, dtype: torch.dtype = torch.float64
) -> dict[str, Tensor]:
    """Return a tensor for each of ``parameters`` by its key, in the ``styles`` one after another, again and again."""
    generator = torch.Generator().manual_seed(seed)
    made: dict[str, Tensor] = {}
    used: dict[str, str] = {}
    for number, (key, parameter) in enumerate(parameters):
        used[key] = style = styles[number % len(styles)]
        count = parameter.initial is Initial.COUNT
        made[key] = tensor_in_style(parameter, style, generator).to(torch.int64 if count else dtype)
        if key.endswith("in_proj_bias") and {style, used[key.replace("bias", "weight")]} != {"normal"}:
            # biases of keys and values cancel in exact arithmetic; beside smaller weights all that is left is rounding
            made[key][len(made[key]) // 3 :] = 0.0
    return made


def parameters_of(graph: LayerGraph) -> Iterator[tuple[str, Parameter]]:
    """Yield state-dict keys and parameters, in the order of the nodes."""
    for name in graph.order:
        layer = graph.layer(name)
        site = Site((layer,), (name,), graph.input_shapes(name), graph.shapes[name])
        for parameter in require_rule(layer, Quantity.PARAMETERS, name).function(site):
            yield f"{name}.{parameter.name}" if parameter.name else name, parameter


def tensor_in_style(parameter: Parameter, style: str, generator: torch.Generator) -> Tensor:
    """Return one tensor, in float64 where it is no count."""
    shape = tuple(int(size) for size in parameter.shape)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64)

    if parameter.initial is Initial.COUNT:
        return torch.zeros(shape)
    if parameter.initial is Initial.MASK and style in ("single", "zero"):
        return hidden(normal(*shape))
    if parameter.initial is Initial.VARIANCE:
        scale = {"zero": 0.0, "large": 1e6, "huge": 1e12, "tiny": 1e-8, "denormal": 1e-300}.get(style, 1.0)
        return normal(*shape).abs() * scale
    flat = (shape[0], math.prod(shape[1:])) if len(shape) > 1 else (math.prod(shape), 1)
    scale = int(parameter.fan_in) ** -0.5
    match style:
        case "normal":
            made = normal(*flat) * scale
        case "rank one":
            made = normal(flat[0], 1) * normal(1, flat[1]) * scale
        case "orthogonal":
            made = torch.linalg.qr(normal(max(flat), min(flat))).Q
            made = made if made.shape == flat else made.T
        case "identity":  # where most bounds are attained
            made = torch.zeros(shape)
            if len(shape) == 1:
                made += parameter.initial in (Initial.ONE, Initial.SLOPE)
            elif shape:
                rows = torch.arange(shape[0])
                made[(rows, rows % shape[1], *(k // 2 for k in shape[2:]))] = 1.0
        case "zero":
            made = torch.zeros(flat)
        case "ones":
            made = torch.ones(flat)
        case "signs":
            made = normal(*flat).sign()
        case "single":
            made = torch.zeros(flat)
            made[flat[0] // 2, flat[1] // 2] = 3.0
        case "large":
            made = normal(*flat) * 30
        case "tiny":
            made = normal(*flat) * 1e-12
        case "denormal":
            bits = torch.randint(-(2**45), 2**45, flat, generator=generator)  # a literal could be flushed to zero
            made = bits.abs().view(torch.float64) * bits.sign()
        case "huge":
            made = normal(*flat) * 1e40
        case _:
            raise AssertionError(style)
    return made.reshape(shape).to(torch.float64)
