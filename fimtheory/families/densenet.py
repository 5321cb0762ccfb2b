"""DenseNet (Huang et al., arXiv:1608.06993) as torchvision writes it, and its symbolic form."""

from __future__ import annotations

from collections.abc import Sequence

from fimtheory import layers
from fimtheory.errors import GraphError
from fimtheory.expressions import size_symbol
from fimtheory.families.blocks import INDEX, BlockWriter, check_count, check_image, check_sequence, repeat, shape_after
from fimtheory.graph import Builder, LayerGraph
from fimtheory.layers import Shape, Size

__all__ = ["densenet", "densenet121", "densenet169", "densenet201"]

_STEMS = ("imagenet", "cifar", None)


def densenet(
    depths: Sequence[Size] = (6, 12, 24, 16),
    *,
    growth: Size = 32,
    channels: Size | None = None,
    bottleneck: Size = 4,
    stem: str | None = "imagenet",
    classes: Size = 1000,
    input_shape: Shape | None = None,
    name: str = "densenet",
) -> LayerGraph:
    """Return a densely connected network: a stem, dense blocks with transitions between them, and a linear head.

    Dense layer l appends ``growth`` channels to all it reads: x becomes [x, h(x)] with h = BN, ReLU, 1x1
    convolution to ``bottleneck * growth`` channels, BN, ReLU, 3x3 convolution.  A transition is BN, ReLU, 1x1
    convolution to half the channels and a 2x2 average pool.

    Parameters
    ----------
    depths
        Number of dense layers of each dense block, also symbols; a symbolic block is one node that repeats.
    growth
        Channels that each dense layer adds.
    channels
        Channels after the stem; 2 * growth by default, without a stem c0.
    bottleneck
        Width of the 1x1 convolution over ``growth``.
    stem
        "imagenet": 7x7 convolution of stride 2, BN, ReLU and 3x3 max pool; "cifar": 3x3 convolution; None: the input
        already has ``channels`` channels.
    classes
        Number of logits.
    input_shape
        (channels, height, width); by default (3, 224, 224), (3, 32, 32) and (channels, H, W) for the three stems.
    name
        Name of the graph.

    Raises
    ------
    GraphError, ShapeError
        An argument is not as described.

    Examples
    --------
    >>> densenet((2, 2), growth=8, stem="cifar", classes=10)
    <LayerGraph densenet: 39 nodes, (3, 32, 32) -> (10,)>
    >>> L, k = size_symbol("L"), size_symbol("k")
    >>> densenet((L,), growth=k, stem=None, classes=size_symbol("K"))
    <LayerGraph densenet: 7 nodes, (c0, H, W) -> (K,)>
    """
    counts = check_sequence("depths", depths)
    growth, bottleneck = check_count("growth", growth), check_count("bottleneck", bottleneck)
    if stem not in _STEMS:
        raise GraphError(f"stem is {stem!r}; expected 'imagenet', 'cifar' or None")
    if channels is None:
        channels = size_symbol("c0") if stem is None else 2 * growth
    channels = check_count("channels", channels)

    builder = Builder(name)
    x = _stem(builder, stem, channels, input_shape)
    for k, count in enumerate(counts, start=1):
        x = _dense_block(builder, x, f"features.denseblock{k}", count, channels, growth, bottleneck)
        channels = channels + count * growth
        if k < len(counts):
            x = _transition(BlockWriter(builder, f"features.transition{k}"), x, channels)
            channels = channels // 2
    x = builder.add("features.norm5", layers.BatchNorm2d(channels), x, block="head norm")
    x = builder.add("relu", layers.ReLU(), x, block="head norm")
    x = builder.add("avgpool", layers.AdaptiveAvgPool2d((1, 1)), x, block="pool")
    x = builder.add("flatten", layers.Flatten(), x, block="pool")
    builder.add("classifier", layers.Linear(channels, classes), x)
    return builder.graph()


def _stem(builder: Builder, stem: str | None, channels: Size, input_shape: Shape | None) -> str:
    if stem is None:
        shape = (channels, size_symbol("H"), size_symbol("W")) if input_shape is None else check_image(input_shape)
        return builder.add("x", layers.Input(shape))
    default = (3, 224, 224) if stem == "imagenet" else (3, 32, 32)
    shape = default if input_shape is None else check_image(input_shape)
    x = builder.add("x", layers.Input(shape))
    kernel, stride, padding = (7, 2, 3) if stem == "imagenet" else (3, 1, 1)
    first = layers.Conv2d(shape[0], channels, (kernel, kernel), (stride, stride), (padding, padding), bias=False)
    x = builder.add("features.conv0", first, x, block="stem")
    if stem == "imagenet":
        x = builder.add("features.norm0", layers.BatchNorm2d(channels), x, block="stem")
        x = builder.add("features.relu0", layers.ReLU(), x, block="stem")
        x = builder.add("features.pool0", layers.MaxPool2d((3, 3), (2, 2), (1, 1)), x, block="stem")
    return x


def _dense_block(
    builder: Builder, x: str, name: str, count: Size, channels: Size, growth: Size, bottleneck: Size
) -> str:
    if isinstance(count, int):
        for k in range(1, count + 1):
            block = BlockWriter(builder, f"{name}.denselayer{k}")
            x = _dense_layer(block, x, channels + (k - 1) * growth, growth, bottleneck)
        return x
    taken = channels + (INDEX - 1) * growth

    def write(block: BlockWriter, x: str) -> str:
        return _dense_layer(block, x, taken, growth, bottleneck)

    shape = (taken, *shape_after(builder)[1:])
    return repeat(builder, name, x, shape=shape, count=count, write=write)


def _dense_layer(block: BlockWriter, x: str, taken: Size, growth: Size, bottleneck: Size) -> str:
    width = bottleneck * growth
    y = block.add("relu1", layers.ReLU(), block.add("norm1", layers.BatchNorm2d(taken), x))
    y = block.add("conv1", layers.Conv2d(taken, width, (1, 1), bias=False), y)
    y = block.add("relu2", layers.ReLU(), block.add("norm2", layers.BatchNorm2d(width), y))
    y = block.add("conv2", layers.Conv2d(width, growth, (3, 3), padding=(1, 1), bias=False), y)
    return block.add("concat", layers.Concat(0), x, y)


def _transition(block: BlockWriter, x: str, taken: Size) -> str:
    x = block.add("relu", layers.ReLU(), block.add("norm", layers.BatchNorm2d(taken), x))
    x = block.add("conv", layers.Conv2d(taken, taken // 2, (1, 1), bias=False), x)
    return block.add("pool", layers.AvgPool2d((2, 2), (2, 2)), x)


def densenet121(classes: Size = 1000, input_shape: Shape = (3, 224, 224)) -> LayerGraph:
    """Return DenseNet-121, as torchvision's ``densenet121``."""
    return densenet((6, 12, 24, 16), classes=classes, input_shape=input_shape, name="densenet121")


def densenet169(classes: Size = 1000, input_shape: Shape = (3, 224, 224)) -> LayerGraph:
    """Return DenseNet-169, as torchvision's ``densenet169``."""
    return densenet((6, 12, 32, 32), classes=classes, input_shape=input_shape, name="densenet169")


def densenet201(classes: Size = 1000, input_shape: Shape = (3, 224, 224)) -> LayerGraph:
    """Return DenseNet-201, as torchvision's ``densenet201``."""
    return densenet((6, 12, 48, 32), classes=classes, input_shape=input_shape, name="densenet201")
