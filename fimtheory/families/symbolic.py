"""The families with symbolic depth and width: one theorem for every member."""

from __future__ import annotations

from fimtheory.expressions import size_symbol
from fimtheory.families.convnext import convnext
from fimtheory.families.densenet import densenet
from fimtheory.families.mlp import mlp
from fimtheory.families.mlp_mixer import mlp_mixer
from fimtheory.families.resnet import resnet
from fimtheory.families.transformer import transformer
from fimtheory.families.vgg import vgg
from fimtheory.graph import LayerGraph

__all__ = [
    "symbolic_convnext", "symbolic_densenet", "symbolic_mlp", "symbolic_mlp_mixer", "symbolic_resnet",
    "symbolic_transformer", "symbolic_vgg",
]  # fmt: skip


def symbolic_mlp() -> LayerGraph:
    """N hidden layers of widths n[1], ..., n[N]."""
    return mlp(depth=size_symbol("N"), classes=size_symbol("K"), name="MLP")


def symbolic_vgg() -> LayerGraph:
    """N convolutions with ReLU, from n[0] to n[N] channels, and a linear head."""
    return vgg(depth=size_symbol("N"), classes=size_symbol("K"), name="VGG")


def symbolic_resnet() -> LayerGraph:
    """N basic blocks of c channels."""
    return resnet((size_symbol("N"),), widths=(size_symbol("c"),), stem=None, classes=size_symbol("K"), name="ResNet")


def symbolic_densenet() -> LayerGraph:
    """N dense layers of growth k."""
    return densenet((size_symbol("N"),), growth=size_symbol("k"), stem=None, classes=size_symbol("K"), name="DenseNet")


def symbolic_transformer() -> LayerGraph:
    """N pre-norm encoder layers of 12 heads on T tokens of dimension n."""
    return transformer(
        size_symbol("N"), dim=size_symbol("n"), heads=12, patch=None, classes=size_symbol("K"), name="Transformer"
    )


def symbolic_mlp_mixer() -> LayerGraph:
    """N mixer layers on T tokens of dimension n, with s hidden units across tokens."""
    return mlp_mixer(
        size_symbol("N"), dim=size_symbol("n"), token_dim=size_symbol("s"), patch=None, classes=size_symbol("K"),
        name="Mixer",
    )  # fmt: skip


def symbolic_convnext() -> LayerGraph:
    """N ConvNeXt blocks of c channels."""
    return convnext(
        (size_symbol("N"),), widths=(size_symbol("c"),), patch=None, classes=size_symbol("K"), name="ConvNeXt"
    )
