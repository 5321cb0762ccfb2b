"""ConvNeXt (Liu et al., arXiv:2201.03545) as torchvision writes it, and its symbolic form."""

from __future__ import annotations

from collections.abc import Sequence

from fimtheory import layers
from fimtheory.errors import GraphError
from fimtheory.expressions import size_symbol
from fimtheory.families.blocks import BlockWriter, check_count, check_image, check_sequence, repeat, shape_after
from fimtheory.graph import Builder, LayerGraph
from fimtheory.layers import Shape, Size

__all__ = ["convnext", "convnext_base", "convnext_large", "convnext_small", "convnext_tiny"]

_EPS = 1e-6


def convnext(
    depths: Sequence[Size] = (3, 3, 9, 3),
    *,
    widths: Sequence[Size] | None = None,
    patch: Size | None = 4,
    classes: Size = 1000,
    input_shape: Shape | None = None,
    name: str = "convnext",
) -> LayerGraph:
    """Return a ConvNeXt: a patchify stem, stages of residual blocks, global average pool, norm and a linear head.

    A block adds to its input a 7x7 depthwise convolution, layer norm over channels, a linear layer to four times the
    width, GELU, a linear layer back, and a factor per channel (layer scale).  Between stages there are a layer norm
    over channels and a 2x2 convolution of stride 2.

    Parameters
    ----------
    depths
        Number of blocks of each stage, also symbols; a symbolic stage is written as one node that repeats its block.
    widths
        Channels of each stage, also symbols; by default 96, 192, ...
    patch
        Side of the patches of the stem, a convolution with that stride and a norm; None where the input already has
        the channels of the first stage.
    classes
        Number of logits.
    input_shape
        (channels, height, width), by default (3, 224, 224); without ``patch`` (c, H, W) with c = ``widths[0]``.
    name
        Name of the graph.

    Raises
    ------
    GraphError, ShapeError
        An argument is not as described.

    Notes
    -----
    Stochastic depth is left out: in evaluation it is the identity.  Random networks start with a layer scale of 1, not
    with the 1e-6 of the paper, which would leave all blocks out.

    Examples
    --------
    >>> convnext((1, 1), widths=(8, 16), classes=10, input_shape=(1, 8, 8))
    <LayerGraph convnext: 33 nodes, (1, 8, 8) -> (10,)>
    >>> N, c = size_symbol("N"), size_symbol("c")
    >>> convnext((N,), widths=(c,), patch=None, classes=size_symbol("K"))
    <LayerGraph convnext: 8 nodes, (c, H, W) -> (K,)>
    """
    counts = check_sequence("depths", depths)
    widths = tuple(96 * 2**k for k in range(len(counts))) if widths is None else check_sequence("widths", widths)
    if len(widths) != len(counts):
        raise GraphError(f"{len(widths)} widths {widths} for {len(counts)} stages; expected one width per stage")

    builder = Builder(name)
    x = _stem(builder, patch, widths[0], input_shape)
    for k, (count, width) in enumerate(zip(counts, widths, strict=True)):
        if k > 0:
            x = _downsampling(builder, f"features.{2 * k}", x, widths[k - 1], width)
        x = _stage(builder, f"features.{2 * k + 1}", x, count, width)
    x = builder.add("avgpool", layers.AdaptiveAvgPool2d((1, 1)), x, block="pool")
    x = _channel_norm(builder, "classifier.0", x, widths[-1], "pool")
    x = builder.add("classifier.1", layers.Flatten(), x, block="pool")
    builder.add("classifier.2", layers.Linear(widths[-1], classes), x)
    return builder.graph()


def _stem(builder: Builder, patch: Size | None, width: Size, input_shape: Shape | None) -> str:
    if patch is None:
        shape = (width, size_symbol("H"), size_symbol("W")) if input_shape is None else check_image(input_shape)
        return builder.add("x", layers.Input(shape))
    shape = (3, 224, 224) if input_shape is None else check_image(input_shape)
    side = check_count("patch", patch)
    x = builder.add("x", layers.Input(shape))
    x = builder.add("features.0.0", layers.Conv2d(shape[0], width, (side, side), (side, side)), x, block="stem")
    return _channel_norm(builder, "features.0.1", x, width, "stem")


def _downsampling(builder: Builder, name: str, x: str, taken: Size, produced: Size) -> str:
    x = _channel_norm(builder, f"{name}.0", x, taken, name)
    return builder.add(f"{name}.1", layers.Conv2d(taken, produced, (2, 2), (2, 2)), x, block=name)


def _channel_norm(builder: Builder, name: str, x: str, channels: Size, block: str) -> str:
    """Write a layer norm over the channels of (C, H, W)."""
    x = builder.add(f"{name}.permute", layers.Permute((1, 2, 0)), x, block=block)
    x = builder.add(name, layers.LayerNorm(channels, _EPS), x, block=block)
    return builder.add(f"{name}.permute_2", layers.Permute((2, 0, 1)), x, block=block)


def _stage(builder: Builder, stage: str, x: str, count: Size, width: Size) -> str:
    def write(block: BlockWriter, x: str) -> str:
        return _residual(block, x, width)

    if isinstance(count, int):
        for k in range(count):
            x = write(BlockWriter(builder, f"{stage}.{k}"), x)
        return x
    return repeat(builder, stage, x, shape=shape_after(builder), count=count, write=write)


def _residual(block: BlockWriter, x: str, width: Size) -> str:
    y = block.add("block.0", layers.Conv2d(width, width, (7, 7), padding=(3, 3), groups=width), x)
    y = block.add("block.1", layers.Permute((1, 2, 0)), y)
    y = block.add("block.2", layers.LayerNorm(width, _EPS), y)
    y = block.add("block.4", layers.GELU(), block.add("block.3", layers.Linear(width, 4 * width), y))
    y = block.add("block.5", layers.Linear(4 * width, width), y)
    y = block.add("block.6", layers.Permute((2, 0, 1)), y)
    y = block.add("layer_scale", layers.MultiplyConstant((width, 1, 1)), y)
    return block.add("add", layers.Add(), y, x)


def convnext_tiny(classes: Size = 1000, input_shape: Shape = (3, 224, 224)) -> LayerGraph:
    """Return ConvNeXt-T, as torchvision's ``convnext_tiny``."""
    return convnext((3, 3, 9, 3), classes=classes, input_shape=input_shape, name="convnext_tiny")


def convnext_small(classes: Size = 1000, input_shape: Shape = (3, 224, 224)) -> LayerGraph:
    """Return ConvNeXt-S, as torchvision's ``convnext_small``."""
    return convnext((3, 3, 27, 3), classes=classes, input_shape=input_shape, name="convnext_small")


def convnext_base(classes: Size = 1000, input_shape: Shape = (3, 224, 224)) -> LayerGraph:
    """Return ConvNeXt-B, as torchvision's ``convnext_base``."""
    widths = (128, 256, 512, 1024)
    return convnext((3, 3, 27, 3), widths=widths, classes=classes, input_shape=input_shape, name="convnext_base")


def convnext_large(classes: Size = 1000, input_shape: Shape = (3, 224, 224)) -> LayerGraph:
    """Return ConvNeXt-L, as torchvision's ``convnext_large``."""
    widths = (192, 384, 768, 1536)
    return convnext((3, 3, 27, 3), widths=widths, classes=classes, input_shape=input_shape, name="convnext_large")
