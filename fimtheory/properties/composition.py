"""A layer inside a small network: derived, checked, evaluated, and held against what is found."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fimtheory import layers
from fimtheory.claims import Quantity
from fimtheory.derive import baseline, derive
from fimtheory.errors import CheckError, NonFiniteError
from fimtheory.evaluation import evaluate
from fimtheory.graph import Builder, LayerGraph
from fimtheory.instantiation import instantiate
from fimtheory.kernel import check
from fimtheory.properties.cases import Case, Found, NotApplicableError
from fimtheory.properties.steps import exceeded_steps, exceeds
from fimtheory.properties.truths import ascend, jacobian, log10_lam, single
from fimtheory.strategies import input_in_style, parameters_of, styled

__all__ = ["composes"]

_CLASSES = 3
_BOX = 2.0
"""Largest entry of an input, where the theorem needs one."""
_ASCENT = 2
_FACTOR = 3.0
"""By which the output is scaled: a gain that is neither 1 nor, as the head's, apart from the others."""


def composes(case: Case) -> Found:
    """In a small network with the layer, the theorem passes the kernel, and lam and every step stay below the bound.

    By the seed the layer stands by itself, or its output is added to its input, and that joined with the input, where
    shapes agree; a scale and a head follow.

    Raises
    ------
    PropertyError
        The kernel refuses the theorem, or a value that is found exceeds it.
    NotApplicableError
        The claim is not about a gain, a norm is beyond float64, or every input overflows.
    """
    if case.registered.quantity is not Quantity.GAIN:
        raise NotApplicableError("the theorem rests on gains; other claims enter it as their premises")
    graph = _network(case)
    weights = styled(list(parameters_of(graph)), case.styles, case.seed)
    module = instantiate(graph, weights=weights, dtype=torch.float64)
    derivation = derive(graph)
    try:
        check(derivation)
    except CheckError as error:
        case.fail("composes", f"the kernel refuses the theorem: {error}")
    try:
        bound = evaluate(derivation, module, input_bound=_BOX)
        scale = evaluate(baseline(graph), module, input_bound=_BOX).log10
    except NonFiniteError as error:
        raise NotApplicableError(f"a norm is beyond float64: {error}") from None
    box = math.inf if bound.domain == "all inputs" else _BOX
    best, generator = -math.inf, case.generator()
    tried = 0
    for style in ("normal", "small", "constant", "peak"):
        x = input_in_style(tuple(int(n) for n in graph.shapes[graph.input]), style, generator).clamp(-box, box)
        if not _usable(module, x):
            continue
        tried += 1
        found = ascend(module, x, _ASCENT, generator, box)[0] if tried == 1 else log10_lam(module, x)
        if exceeds(found, bound.log10, scale):
            case.fail("composes", "lam exceeds the bound of a network with the layer", 10**bound.log10, 10**found)
        best = max(best, found)
        if tried == 1:
            for row, truth in exceeded_steps(graph, weights, derivation, bound, x):
                case.fail("composes", f"the step {row.symbol} = {row.rule} is exceeded", 10**row.log10, 10**truth)
    if not tried:
        raise NotApplicableError("every input overflows")
    finite = math.isfinite(best) and math.isfinite(bound.log10)
    return Found(10 ** (best - bound.log10) if finite else None)


def _usable(module: torch.nn.Module, x: Tensor) -> bool:
    logits = module(x[None])
    return bool(logits.isfinite().all()) and bool(jacobian(single(module), x).isfinite().all())


def _network(case: Case) -> LayerGraph:
    builder = Builder("composed")
    shapes = [tuple(int(n) for n in shape) for shape in case.inputs]
    if case.joint:
        entries = max(math.prod(shape) for shape in shapes)
        x = builder.add("x", layers.Input((entries,)))
        sources = []
        for k, shape in enumerate(shapes):
            source = builder.add(f"branch{k}", layers.Linear(entries, math.prod(shape)), x)
            sources.append(builder.add(f"shaped{k}", layers.Reshape(shape), source))
        here = builder.add("f", case.layers[0], *sources)
    else:
        x = here = builder.add("x", layers.Input(shapes[0]))
        for layer, node in zip(case.layers, case.nodes, strict=True):
            here = builder.add(node, layer, here)
    output = tuple(int(n) for n in case.sites[-1].output)
    before = (math.prod(shapes[0]),) if case.joint else shapes[0]
    beside = not case.joint and case.seed % 2 == 1
    if beside and output == before:
        here = builder.add("sum", layers.Add(), here, x)
    if beside and output[1:] == before[1:]:
        here = builder.add("joined", layers.Concat(0), x, here)
        output = (before[0] + output[0], *output[1:])
    here = builder.add("larger", layers.Scale(_FACTOR), here)
    if len(output) > 1:
        here = builder.add("flat", layers.Flatten(), here)
    builder.add("head", layers.Linear(math.prod(output), _CLASSES), here)
    return builder.graph()
