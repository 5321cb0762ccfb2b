"""Small trained classifiers of scikit-learn's 8x8 digits: five architectures, each trained normally and adversarially.

Inputs are (1, 8, 8) with pixels in [0, 1]; every fifth image, starting with the first, is for testing.  Beside the
weights ``NAME.safetensors`` lies a card ``NAME.json`` with seed, epochs and measured accuracies.
``python -m fimtheory.zoo.train`` makes both again.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fimtheory import families
from fimtheory.errors import TargetError
from fimtheory.files import read_json
from fimtheory.graph import LayerGraph

if TYPE_CHECKING:
    from fimtheory.instantiation import GraphModule

__all__ = ["card", "graph", "load", "names"]

_FOLDER = Path(__file__).parent
_SIZES: dict[str, Any] = {"classes": 10, "input_shape": (1, 8, 8)}
_ADVERSARIAL = "_adv"

_ARCHITECTURES: dict[str, Callable[[str], LayerGraph]] = {
    "digits_mlp": lambda name: families.mlp((64, 64), inputs=(1, 8, 8), classes=10, name=name),
    "digits_vgg": lambda name: families.vgg(((16, 16), (32, 32), (64,)), pool=(1, 1), hidden=(), name=name, **_SIZES),
    "digits_resnet": lambda name: families.resnet((2, 1), widths=(16, 32), stem="cifar", name=name, **_SIZES),
    "digits_densenet": lambda name: families.densenet((3, 3), growth=8, channels=16, stem="cifar", name=name, **_SIZES),
    "digits_vit": lambda name: families.transformer(3, dim=32, heads=4, mlp_dim=64, patch=4, name=name, **_SIZES),
}


def names() -> tuple[str, ...]:
    """Names of the models; those that end in ``_adv`` were trained adversarially.

    >>> names()[:2]
    ('digits_mlp', 'digits_mlp_adv')
    """
    return tuple(name + suffix for name in _ARCHITECTURES for suffix in ("", _ADVERSARIAL))


def graph(name: str) -> LayerGraph:
    """Return the graph of a model.

    Raises
    ------
    TargetError
        There is no model of that name.
    """
    return _ARCHITECTURES[_checked(name).removesuffix(_ADVERSARIAL)](name)


def load(name: str) -> GraphModule:
    """Return a trained model.

    Raises
    ------
    TargetError
        There is no model of that name.
    WeightsError
        Its file is missing or damaged.

    Examples
    --------
    >>> import torch
    >>> load("digits_mlp")(torch.zeros(3, 1, 8, 8)).shape
    torch.Size([3, 10])
    """
    from fimtheory.instantiation import instantiate

    return instantiate(graph(name), weights=_FOLDER / f"{name}.safetensors")


def card(name: str) -> dict[str, Any]:
    """Return how a model was trained and what was measured on it.

    Raises
    ------
    TargetError
        There is no model of that name.
    FormatError
        Its card is missing or damaged.

    Examples
    --------
    >>> card("digits_mlp")["test_accuracy"] > 0.95
    True
    """
    return read_json(_FOLDER / f"{_checked(name)}.json")


def _checked(name: str) -> str:
    if name not in names():
        raise TargetError(f"no zoo model {name!r}; there are {', '.join(names())}")
    return name
