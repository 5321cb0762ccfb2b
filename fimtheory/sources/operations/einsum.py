"""Einsum of one or two values: a sum and a permutation, a linear map, or a product of matrices."""

from __future__ import annotations

import math
from types import SimpleNamespace as Call
from typing import Any

import torch
from torch import Tensor

from fimtheory import layers
from fimtheory.sources.builder import GraphBuilder
from fimtheory.sources.layout import Traced, UnsupportedError
from fimtheory.sources.operations.normalisation import reduced
from fimtheory.sources.operations.registry import reads

aten: Any = torch.ops.aten


@reads(aten.einsum.default)
def einsum(g: GraphBuilder, call: Call) -> Traced:
    """A sum over products of entries, told by letters for the dimensions."""
    inputs, arrow, output = call.equation.replace(" ", "").partition("->")
    terms = inputs.split(",")
    if not arrow or "." in call.equation or any(len(set(t)) < len(t) for t in (*terms, output)):
        raise UnsupportedError(
            f"einsum {call.equation!r}; write it with an arrow, no dots and no letter twice in a term"
        )
    values: list[Any] = list(call.tensors)
    match values:
        case [Traced() as only]:
            return _summed(g, only, terms[0], output)
        case [Traced() as first, Traced() as second]:
            return _product(g, first, second, terms, output)
        case [Traced() as value, Tensor() as constant]:
            return _linear(g, value, constant, terms, output)
        case [Tensor() as constant, Traced() as value]:
            return _linear(g, value, constant, terms[::-1], output)
    raise UnsupportedError(f"einsum {call.equation!r} of {len(values)} operands; write it as products of two")


def _summed(g: GraphBuilder, value: Traced, letters: str, output: str) -> Traced:
    gone = [letters.index(c) for c in letters if c not in output]
    kept = [c for c in letters if c in output]
    value = reduced(g, value, layers.Sum, gone) if gone else value
    return g.permuted(value, [kept.index(c) for c in output])


def _linear(g: GraphBuilder, value: Traced, constant: Tensor, terms: list[str], output: str) -> Traced:
    """Add ``x W`` with the summed dimensions of x in one, and the new ones of W in one."""
    own, other = terms
    kept, new = [c for c in own if c not in other], [c for c in other if c not in own]
    summed = [c for c in own if c in other]
    if any(c in output for c in summed) or sorted(kept + new) != sorted(output):
        raise UnsupportedError(
            f"einsum of {','.join(terms)} to {output} is not a product with one matrix: a dimension is shared and "
            "kept, or summed on its own"
        )
    moved = g.permuted(value, [own.index(c) for c in (*kept, *summed)])
    sizes = {
        c: n
        for letters, shape in ((own, value.shape), (other, constant.shape))
        for c, n in zip(letters, shape, strict=True)
    }
    rows, columns = (math.prod(sizes[c] for c in letters) for letters in (summed, new))
    flat = g.viewed(moved, (*(sizes[c] for c in kept), rows))
    matrix = constant.permute([other.index(c) for c in (*summed, *new)]).reshape(rows, columns)
    layout = flat.layout.resized((*flat.shape[:-1], columns))
    flat.layout.dim(-1)  # refused where it holds the batch
    product = g.add(layers.MatmulConstant((rows, columns)), flat, layout=layout, value=matrix.contiguous())
    whole = g.viewed(product, tuple(sizes[c] for c in (*kept, *new)))
    here = [*kept, *new]
    return g.permuted(whole, [here.index(c) for c in output])


def _product(g: GraphBuilder, first: Traced, second: Traced, terms: list[str], output: str) -> Traced:
    """Add a product of matrices, one for each of the shared dimensions that are kept."""
    left, right = terms
    shared = [c for c in output if c in left and c in right]
    rows = [c for c in output if c in left and c not in right]
    columns = [c for c in output if c in right and c not in left]
    summed = [c for c in left if c in right and c not in output]
    known = [*shared, *rows, *columns, *summed]
    if len(summed) != 1 or len(rows) != 1 or len(columns) != 1 or set(known) != set(left + right):
        raise UnsupportedError(f"einsum of {','.join(terms)} to {output} is not a matrix product")
    a = g.permuted(first, [left.index(c) for c in (*shared, *rows, *summed)])
    b = g.permuted(second, [right.index(c) for c in (*shared, *summed, *columns)])
    for each in (a, b):
        each.layout.dims((-1, -2))  # refused where one holds the batch
    layout = a.layout.resized((*a.shape[:-1], b.shape[-1]))
    product = g.add(layers.MatMul(), a, b, layout=layout)
    here = [*shared, *rows, *columns]
    return g.permuted(product, [here.index(c) for c in output])
