"""What local bounds need of a model and its inputs."""

from __future__ import annotations

import torch
from torch import Tensor

from fimtheory.errors import DataError, GraphError, NonFiniteError, ShapeError
from fimtheory.fisher import require_tensor
from fimtheory.instantiation import GraphModule
from fimtheory.local.affine import AffineMap, is_affine
from fimtheory.local.walk import require_local
from fimtheory.measures import MeasuredGraph

__all__ = ["affine_maps", "require_model"]


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
            f"local bounds need the layers of a model, and a {type(module).__name__} does not tell them; import it "
            "with ft.from_torch(module, example) and give its .model()"
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


def affine_maps(module: GraphModule) -> dict[str, AffineMap]:
    """Affine maps of a model by node, with their weights in float64."""
    graph = module.graph
    weights = MeasuredGraph(graph, {name: t.detach().cpu() for name, t in module.state_dict().items()})
    return {
        node: AffineMap.at(graph.layer(node), node, weights.tensors(node), graph.input_shapes(node), graph.shapes[node])
        for node in graph.order
        if node != graph.input and is_affine(graph.layer(node))
    }
