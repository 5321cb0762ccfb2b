"""ResNet (He et al., arXiv:1512.03385) as torchvision writes it, the CIFAR variants, and its symbolic form."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import sympy

from fimtheory import layers
from fimtheory.errors import GraphError
from fimtheory.expressions import size_symbol
from fimtheory.families.blocks import BlockWriter, check_image, check_sequence, repeat, shape_after
from fimtheory.graph import Builder, LayerGraph
from fimtheory.layers import Shape, Size

__all__ = [
    "resnet", "resnet18", "resnet20", "resnet32", "resnet34", "resnet50", "resnet56", "resnet101", "resnet152",
]  # fmt: skip

_STEMS = ("imagenet", "cifar", None)


def resnet(
    depths: Sequence[Size] = (2, 2, 2, 2),
    *,
    block: str = "basic",
    widths: Sequence[Size] | None = None,
    stem: str | None = "imagenet",
    classes: Size = 1000,
    input_shape: Shape | None = None,
    name: str = "resnet",
) -> LayerGraph:
    """Return a residual network: a stem, stages of residual blocks, global average pool and a linear head.

    Parameters
    ----------
    depths
        Number of blocks of each stage, also symbols.  A symbolic stage is written as its first block, if that one
        differs from the others, and one node that repeats the others; the first stage of basic blocks has N equal
        blocks, every other stage one with a projection and N - 1 equal ones.
    block
        "basic" (two 3x3 convolutions) or "bottleneck" (1x1, 3x3, 1x1 with four times the width; stride in the 3x3).
    widths
        Width of each stage; by default 64, 128, ... and with the "cifar" stem 16, 32, ...
    stem
        "imagenet": 7x7 convolution of stride 2 and 3x3 max pool; "cifar": 3x3 convolution; None: the input has
        the channels of the first stage's blocks (basic: ``widths[0]``, bottleneck: four times that).
    classes
        Number of logits.
    input_shape
        (channels, height, width); by default (3, 224, 224), (3, 32, 32) and (c, H, W) with those c for the three stems.
    name
        Name of the graph.

    Raises
    ------
    GraphError, ShapeError
        An argument is not as described.

    Notes
    -----
    Where a block changes its channels or size, the shortcut is a 1x1 convolution with batch norm (the paper's
    option B), also in the CIFAR variants, for which the paper pads with zero channels (option A).

    Examples
    --------
    >>> resnet((1, 1), stem="cifar", classes=10)
    <LayerGraph resnet: 23 nodes, (3, 32, 32) -> (10,)>
    >>> N, c = size_symbol("N"), size_symbol("c")
    >>> resnet((N,), widths=(c,), stem=None, classes=size_symbol("K"))
    <LayerGraph resnet: 5 nodes, (c, H, W) -> (K,)>
    """
    counts = check_sequence("depths", depths)
    if block not in _BLOCKS:
        raise GraphError(f"block is {block!r}; expected 'basic' or 'bottleneck'")
    if stem not in _STEMS:
        raise GraphError(f"stem is {stem!r}; expected 'imagenet', 'cifar' or None")
    if widths is None:
        widths = tuple((16 if stem == "cifar" else 64) * 2**k for k in range(len(counts)))
    if len(check_sequence("widths", widths)) != len(counts):
        raise GraphError(f"{len(widths)} widths {widths} for {len(counts)} stages; expected one width per stage")

    builder = Builder(name)
    write, expansion = _BLOCKS[block]
    x, channels = _stem(builder, stem, widths[0], widths[0] * expansion, input_shape)
    for k, (count, width) in enumerate(zip(counts, widths, strict=True)):
        x = _stage(builder, x, f"layer{k + 1}", count, write, channels, width, width * expansion, 1 if k == 0 else 2)
        channels = width * expansion
    x = builder.add("avgpool", layers.AdaptiveAvgPool2d((1, 1)), x, block="pool")
    x = builder.add("flatten", layers.Flatten(), x, block="pool")
    builder.add("fc", layers.Linear(channels, classes), x)
    return builder.graph()


def _stem(
    builder: Builder, stem: str | None, width: Size, unchanged: Size, input_shape: Shape | None
) -> tuple[str, Size]:
    """Write the stem and return its last node and its channels."""
    if stem is None:
        shape = (unchanged, size_symbol("H"), size_symbol("W")) if input_shape is None else check_image(input_shape)
        return builder.add("x", layers.Input(shape)), shape[0]
    default = (3, 224, 224) if stem == "imagenet" else (3, 32, 32)
    shape = default if input_shape is None else check_image(input_shape)
    kernel, stride, padding = (7, 2, 3) if stem == "imagenet" else (3, 1, 1)
    x = builder.add("x", layers.Input(shape))
    first = layers.Conv2d(shape[0], width, (kernel, kernel), (stride, stride), (padding, padding), bias=False)
    x = builder.add("conv1", first, x, block="stem")
    x = builder.add("bn1", layers.BatchNorm2d(width), x, block="stem")
    x = builder.add("relu", layers.ReLU(), x, block="stem")
    if stem == "imagenet":
        x = builder.add("maxpool", layers.MaxPool2d((3, 3), (2, 2), (1, 1)), x, block="stem")
    return x, width


WriteResidual = Callable[[BlockWriter, str, Size, Size, int], str]


def _stage(
    builder: Builder, x: str, stage: str, count: Size, write: WriteResidual, taken: Size, width: Size, produced: Size,
    stride: int,
) -> str:  # fmt: skip
    """Write ``count`` blocks that take ``taken`` channels and produce ``produced``."""
    if isinstance(count, int):
        for k in range(count):
            before = (taken, stride) if k == 0 else (produced, 1)
            x = write(BlockWriter(builder, f"{stage}.{k}"), x, before[0], width, before[1])
        return x
    if stride != 1 or sympy.expand(taken - produced) != 0:
        x = write(BlockWriter(builder, f"{stage}.0"), x, taken, width, stride)
        count = count - 1

    def write_equal(block: BlockWriter, x: str) -> str:
        return write(block, x, produced, width, 1)

    return repeat(builder, stage, x, shape=shape_after(builder), count=count, write=write_equal)


def _convolution(block: BlockWriter, k: int, x: str, taken: Size, produced: Size, kernel: int, stride: int = 1) -> str:
    half = kernel // 2
    layer = layers.Conv2d(taken, produced, (kernel, kernel), (stride, stride), (half, half), bias=False)
    return block.add(f"bn{k}", layers.BatchNorm2d(produced), block.add(f"conv{k}", layer, x))


def _shortcut(block: BlockWriter, x: str, taken: Size, produced: Size, stride: int) -> str:
    if stride == 1 and sympy.expand(taken - produced) == 0:
        return x
    layer = layers.Conv2d(taken, produced, (1, 1), (stride, stride), bias=False)
    return block.add("downsample.1", layers.BatchNorm2d(produced), block.add("downsample.0", layer, x))


def _basic(block: BlockWriter, x: str, taken: Size, width: Size, stride: int) -> str:
    y = block.add("relu1", layers.ReLU(), _convolution(block, 1, x, taken, width, 3, stride))
    y = _convolution(block, 2, y, width, width, 3)
    shortcut = _shortcut(block, x, taken, width, stride)
    return block.add("relu2", layers.ReLU(), block.add("add", layers.Add(), shortcut, y))


def _bottleneck(block: BlockWriter, x: str, taken: Size, width: Size, stride: int) -> str:
    y = block.add("relu1", layers.ReLU(), _convolution(block, 1, x, taken, width, 1))
    y = block.add("relu2", layers.ReLU(), _convolution(block, 2, y, width, width, 3, stride))
    y = _convolution(block, 3, y, width, 4 * width, 1)
    shortcut = _shortcut(block, x, taken, 4 * width, stride)
    return block.add("relu3", layers.ReLU(), block.add("add", layers.Add(), shortcut, y))


_BLOCKS: dict[str, tuple[WriteResidual, int]] = {"basic": (_basic, 1), "bottleneck": (_bottleneck, 4)}
"""How a block is written, and by how much its output is wider than its width."""


def resnet18(classes: Size = 1000, input_shape: Shape = (3, 224, 224)) -> LayerGraph:
    """Return ResNet-18, as torchvision's ``resnet18``."""
    return resnet((2, 2, 2, 2), classes=classes, input_shape=input_shape, name="resnet18")


def resnet34(classes: Size = 1000, input_shape: Shape = (3, 224, 224)) -> LayerGraph:
    """Return ResNet-34, as torchvision's ``resnet34``."""
    return resnet((3, 4, 6, 3), classes=classes, input_shape=input_shape, name="resnet34")


def resnet50(classes: Size = 1000, input_shape: Shape = (3, 224, 224)) -> LayerGraph:
    """Return ResNet-50, as torchvision's ``resnet50``."""
    return resnet((3, 4, 6, 3), block="bottleneck", classes=classes, input_shape=input_shape, name="resnet50")


def resnet101(classes: Size = 1000, input_shape: Shape = (3, 224, 224)) -> LayerGraph:
    """Return ResNet-101, as torchvision's ``resnet101``."""
    return resnet((3, 4, 23, 3), block="bottleneck", classes=classes, input_shape=input_shape, name="resnet101")


def resnet152(classes: Size = 1000, input_shape: Shape = (3, 224, 224)) -> LayerGraph:
    """Return ResNet-152, as torchvision's ``resnet152``."""
    return resnet((3, 8, 36, 3), block="bottleneck", classes=classes, input_shape=input_shape, name="resnet152")


def resnet20(classes: Size = 10, input_shape: Shape = (3, 32, 32)) -> LayerGraph:
    """Return ResNet-20 for CIFAR (section 4.2 of the paper), with projections as shortcuts."""
    return resnet((3, 3, 3), stem="cifar", classes=classes, input_shape=input_shape, name="resnet20")


def resnet32(classes: Size = 10, input_shape: Shape = (3, 32, 32)) -> LayerGraph:
    """Return ResNet-32 for CIFAR (section 4.2 of the paper), with projections as shortcuts."""
    return resnet((5, 5, 5), stem="cifar", classes=classes, input_shape=input_shape, name="resnet32")


def resnet56(classes: Size = 10, input_shape: Shape = (3, 32, 32)) -> LayerGraph:
    """Return ResNet-56 for CIFAR (section 4.2 of the paper), with projections as shortcuts."""
    return resnet((9, 9, 9), stem="cifar", classes=classes, input_shape=input_shape, name="resnet56")
