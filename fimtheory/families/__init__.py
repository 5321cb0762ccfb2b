"""Families of architectures as layer graphs, with sizes that may be symbols, and presets by name.

Node names are the parameter paths of torchvision's modules, of timm's for MLP-Mixer, so a state dict of theirs loads
into ``fimtheory.instantiate`` as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

from fimtheory.families.convnext import convnext, convnext_base, convnext_large, convnext_small, convnext_tiny
from fimtheory.families.densenet import densenet, densenet121, densenet169, densenet201
from fimtheory.families.mlp import mlp
from fimtheory.families.mlp_mixer import mixer_b_16, mixer_l_16, mixer_s_16, mlp_mixer
from fimtheory.families.resnet import (
    resnet,
    resnet18,
    resnet20,
    resnet32,
    resnet34,
    resnet50,
    resnet56,
    resnet101,
    resnet152,
)
from fimtheory.families.symbolic import (
    symbolic_convnext,
    symbolic_densenet,
    symbolic_mlp,
    symbolic_mlp_mixer,
    symbolic_resnet,
    symbolic_transformer,
    symbolic_vgg,
)
from fimtheory.families.transformer import transformer, vit_b_16, vit_l_16, vit_tiny
from fimtheory.families.vgg import vgg, vgg11, vgg11_bn, vgg13, vgg13_bn, vgg16, vgg16_bn, vgg19, vgg19_bn
from fimtheory.graph import LayerGraph
from fimtheory.layers import Shape

__all__ = [
    "PRESETS", "SYMBOLIC", "Preset", "SymbolicFamily", "convnext", "convnext_base", "convnext_large", "convnext_small",
    "convnext_tiny", "densenet", "densenet121", "densenet169", "densenet201", "mixer_b_16", "mixer_l_16", "mixer_s_16",
    "mlp", "mlp_mixer", "resnet", "resnet18", "resnet20", "resnet32", "resnet34", "resnet50", "resnet56", "resnet101",
    "resnet152", "transformer", "vgg", "vgg11", "vgg11_bn", "vgg13", "vgg13_bn", "vgg16", "vgg16_bn", "vgg19",
    "vgg19_bn", "vit_b_16", "vit_l_16", "vit_tiny",
]  # fmt: skip


@final
@dataclass(frozen=True, slots=True)
class Preset:
    """An architecture: ``build(classes=..., input_shape=...)`` returns its graph, with defaults for both."""

    build: Callable[..., LayerGraph]
    description: str


def _perceptron(classes: int = 10, input_shape: Shape = (1, 28, 28)) -> LayerGraph:
    return mlp(inputs=input_shape, classes=classes)


PRESETS: dict[str, Preset] = {
    "mlp": Preset(_perceptron, "perceptron with two hidden ReLU layers of 512"),
    "vgg11": Preset(vgg11, "VGG-11: 8 convolutions, 3 linear layers"),
    "vgg11_bn": Preset(vgg11_bn, "VGG-11 with batch norm"),
    "vgg13": Preset(vgg13, "VGG-13: 10 convolutions, 3 linear layers"),
    "vgg13_bn": Preset(vgg13_bn, "VGG-13 with batch norm"),
    "vgg16": Preset(vgg16, "VGG-16: 13 convolutions, 3 linear layers"),
    "vgg16_bn": Preset(vgg16_bn, "VGG-16 with batch norm"),
    "vgg19": Preset(vgg19, "VGG-19: 16 convolutions, 3 linear layers"),
    "vgg19_bn": Preset(vgg19_bn, "VGG-19 with batch norm"),
    "resnet18": Preset(resnet18, "ResNet-18: 8 basic blocks"),
    "resnet34": Preset(resnet34, "ResNet-34: 16 basic blocks"),
    "resnet50": Preset(resnet50, "ResNet-50: 16 bottleneck blocks"),
    "resnet101": Preset(resnet101, "ResNet-101: 33 bottleneck blocks"),
    "resnet152": Preset(resnet152, "ResNet-152: 50 bottleneck blocks"),
    "resnet20": Preset(resnet20, "ResNet-20 for CIFAR: 9 basic blocks, projection shortcuts"),
    "resnet32": Preset(resnet32, "ResNet-32 for CIFAR: 15 basic blocks, projection shortcuts"),
    "resnet56": Preset(resnet56, "ResNet-56 for CIFAR: 27 basic blocks, projection shortcuts"),
    "densenet121": Preset(densenet121, "DenseNet-121: growth 32, 58 dense layers"),
    "densenet169": Preset(densenet169, "DenseNet-169: growth 32, 82 dense layers"),
    "densenet201": Preset(densenet201, "DenseNet-201: growth 32, 98 dense layers"),
    "vit_b_16": Preset(vit_b_16, "ViT-B/16: 12 encoder layers of dimension 768"),
    "vit_l_16": Preset(vit_l_16, "ViT-L/16: 24 encoder layers of dimension 1024"),
    "vit_tiny": Preset(vit_tiny, "ViT for small images: 12 encoder layers of dimension 192, patches of 4 pixels"),
    "mixer_s_16": Preset(mixer_s_16, "Mixer-S/16: 8 mixer layers of dimension 512"),
    "mixer_b_16": Preset(mixer_b_16, "Mixer-B/16: 12 mixer layers of dimension 768"),
    "mixer_l_16": Preset(mixer_l_16, "Mixer-L/16: 24 mixer layers of dimension 1024"),
    "convnext_tiny": Preset(convnext_tiny, "ConvNeXt-T: 18 blocks, 96 to 768 channels"),
    "convnext_small": Preset(convnext_small, "ConvNeXt-S: 36 blocks, 96 to 768 channels"),
    "convnext_base": Preset(convnext_base, "ConvNeXt-B: 36 blocks, 128 to 1024 channels"),
    "convnext_large": Preset(convnext_large, "ConvNeXt-L: 36 blocks, 192 to 1536 channels"),
}
"""Every preset by name."""


@final
@dataclass(frozen=True, slots=True)
class SymbolicFamily:
    """A family whose depth and widths are symbols: ``build()`` returns its graph."""

    build: Callable[[], LayerGraph]
    description: str


SYMBOLIC: dict[str, SymbolicFamily] = {
    "MLP": SymbolicFamily(symbolic_mlp, "perceptron with N hidden layers"),
    "VGG": SymbolicFamily(symbolic_vgg, "N convolutions with ReLU"),
    "ResNet": SymbolicFamily(symbolic_resnet, "N residual blocks of c channels"),
    "DenseNet": SymbolicFamily(symbolic_densenet, "N dense layers of growth k"),
    "Transformer": SymbolicFamily(symbolic_transformer, "N pre-norm encoder layers on T tokens"),
    "Mixer": SymbolicFamily(symbolic_mlp_mixer, "N mixer layers on T tokens"),
    "ConvNeXt": SymbolicFamily(symbolic_convnext, "N ConvNeXt blocks of c channels"),
}
"""Every family with symbolic sizes by name."""
