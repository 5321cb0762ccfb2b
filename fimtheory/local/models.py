"""What local bounds need of a model and its inputs."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fimtheory.errors import DataError, GraphError, NonFiniteError, ShapeError
from fimtheory.fisher import require_tensor
from fimtheory.instantiation import GraphModule
from fimtheory.local.affine import AffineMap
from fimtheory.local.attention import SelfAttention
from fimtheory.local.centre import centres
from fimtheory.local.normalisation import Normalisation
from fimtheory.local.passes import require_local
from fimtheory.local.walk import Pass

__all__ = ["centres_known", "require_model"]


def require_model(module: GraphModule, x: Tensor) -> None:
    """Refuse a module without a graph that can be walked, and inputs that do not fit it.

    Raises
    ------
    GraphError
        The module is no graph model, or its graph does not end in two logits or more.
    MissingRuleError
        A layer has no local form; the message names it.
    DataError, ShapeError, NonFiniteError
        The inputs are not as the graph expects, or not finite.
    """
    require_tensor(x)
    if not isinstance(module, GraphModule):
        raise GraphError(
            f"local bounds need a model with its graph, got {type(module).__name__}; give ft.instantiate(graph), or "
            "ft.from_torch(module, example).model()"
        )
    graph = module.graph
    graph.require_classifier()
    require_local(graph)
    expected = tuple(int(n) for n in graph.shapes[graph.input])
    if tuple(x.shape[1:]) != expected:
        raise ShapeError(f"inputs of shape {tuple(x.shape)}; expected a batch (n, {', '.join(map(str, expected))})")
    if not x.is_floating_point():
        raise DataError(f"inputs of {x.dtype}; expected floating point")
    if not bool(torch.isfinite(x).all()):
        raise NonFiniteError("an input is NaN or infinite; local bounds need finite inputs")


def centres_known(
    module: GraphModule, made: Mapping[str, AffineMap | Pass], x: Tensor
) -> Mapping[str, tuple[Tensor, Tensor]]:
    """Enclosures of values at an input that a walk alone would know too roughly: those of norms and attention."""
    if any(isinstance(each, SelfAttention | Normalisation) for each in made.values()):
        return centres(module.graph, made, x)
    return {}
