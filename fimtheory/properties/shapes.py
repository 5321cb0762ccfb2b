"""The rules of shapes and parameters, against what a layer computes."""

from __future__ import annotations

import torch

from fimtheory.claims import Quantity
from fimtheory.errors import FimTheoryError
from fimtheory.properties.cases import Case, Found, NotApplicableError

__all__ = ["shapes_agree"]


def shapes_agree(case: Case) -> Found:
    """The layer computes with parameters of the shapes that are declared, and its output has the shape that is claimed.

    Raises
    ------
    PropertyError
        It fails on tensors of these shapes, or the output has another shape.
    NotApplicableError
        The rule is not about the gain, with whose rule a layer is tested once.
    """
    if case.registered.quantity is not Quantity.GAIN:
        raise NotApplicableError("the layer is tested with the rule of its gain")
    generator = case.generator()
    inputs = [torch.randn(2, *map(int, shape), generator=generator, dtype=torch.float64) for shape in case.inputs]
    try:
        made = tuple(case.forward(*inputs).shape[1:])
    except FimTheoryError:
        raise
    except (RuntimeError, ValueError, IndexError, KeyError, TypeError) as error:  # what torch raises of shapes
        case.fail("shapes_agree", f"it does not compute with the declared parameters: {error}")
    if made != case.sites[-1].output:
        case.fail("shapes_agree", f"the shape rule says {case.sites[-1].output}, but the output has shape {made}")
    return Found()
