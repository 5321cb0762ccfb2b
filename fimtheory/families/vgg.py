"""VGG (Simonyan and Zisserman, arXiv:1409.1556) as torchvision writes it, and its symbolic form."""

from __future__ import annotations

from collections.abc import Sequence

from fimtheory import layers
from fimtheory.errors import GraphError
from fimtheory.expressions import size_symbol
from fimtheory.families.blocks import (
    INDEX,
    BlockWriter,
    check_count,
    check_image,
    check_sequence,
    repeat,
    shape_after,
    size_at,
)
from fimtheory.graph import Builder, LayerGraph
from fimtheory.layers import Pair, Shape, Size

__all__ = ["vgg", "vgg11", "vgg11_bn", "vgg13", "vgg13_bn", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn"]

Stages = Sequence[Sequence[Size]]

_STAGES: dict[int, Stages] = {
    11: ((64,), (128,), (256,) * 2, (512,) * 2, (512,) * 2),
    13: ((64,) * 2, (128,) * 2, (256,) * 2, (512,) * 2, (512,) * 2),
    16: ((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3),
    19: ((64,) * 2, (128,) * 2, (256,) * 4, (512,) * 4, (512,) * 4),
}


def vgg(
    stages: Stages | None = None,
    *,
    depth: Size | None = None,
    batch_norm: bool = False,
    pool: Pair | None = None,
    hidden: Sequence[Size] | None = None,
    classes: Size = 1000,
    input_shape: Shape | None = None,
    name: str = "vgg",
) -> LayerGraph:
    """Return a plain convolutional network: 3x3 convolutions with ReLU, then linear layers.

    Parameters
    ----------
    stages
        Output channels of the convolutions of each stage; a 2x2 max pool ends each stage.  Default: those of vgg16.
    depth
        Instead of ``stages``: the number of convolutions, also a symbol; convolution l maps n[l - 1] to n[l]
        channels, and nothing is pooled.
    batch_norm
        Whether batch norm follows each convolution.
    pool
        Size (height, width) of the average pool before the linear layers; (7, 7) by default, with ``depth`` none.
    hidden
        Widths of the linear layers before the head, each with ReLU and dropout; (4096, 4096) by default, with
        ``depth`` none.
    classes
        Number of logits.
    input_shape
        (channels, height, width); (3, 224, 224) by default, with ``depth`` (n[0], H, W).
    name
        Name of the graph.

    Raises
    ------
    GraphError, ShapeError
        An argument is not as described, or the input is too small for the pools.

    Examples
    --------
    >>> vgg(((16, 16), (32,)), pool=(1, 1), hidden=(), classes=10, input_shape=(1, 8, 8))
    <LayerGraph vgg: 12 nodes, (1, 8, 8) -> (10,)>
    >>> vgg(depth=size_symbol("N"), classes=size_symbol("K"))
    <LayerGraph vgg: 4 nodes, (n[0], H, W) -> (K,)>
    """
    if stages is not None and depth is not None:
        raise GraphError("vgg takes stages or depth, not both: stages has one entry per convolution")
    builder = Builder(name)
    if depth is None:
        hidden, pool = (4096, 4096) if hidden is None else hidden, (7, 7) if pool is None else pool
        x = _staged(builder, _STAGES[16] if stages is None else stages, batch_norm, input_shape)
    else:
        x = _plain(builder, check_count("depth", depth), batch_norm, input_shape)
    if pool is not None:
        x = builder.add("avgpool", layers.AdaptiveAvgPool2d(pool), x, block="pool")
    x = builder.add("flatten", layers.Flatten(), x, block="pool")
    (taken,) = shape_after(builder)
    widths = check_sequence("hidden", hidden) if hidden else ()
    for k, width in enumerate(widths):
        block = f"classifier.{3 * k}"
        x = builder.add(block, layers.Linear(taken, width), x, block=block)
        x = builder.add(f"classifier.{3 * k + 1}", layers.ReLU(), x, block=block)
        x = builder.add(f"classifier.{3 * k + 2}", layers.Dropout(), x, block=block)
        taken = width
    builder.add(f"classifier.{3 * len(widths)}", layers.Linear(taken, classes), x)
    return builder.graph()


def _staged(builder: Builder, stages: Stages, batch_norm: bool, input_shape: Shape | None) -> str:
    """Write the stages under the names of torchvision's ``features``."""
    if not isinstance(stages, tuple | list) or not stages:
        raise GraphError(f"stages is {stages!r}; expected a tuple of tuples of output channels")
    channels, height, width = (3, 224, 224) if input_shape is None else check_image(input_shape)
    x = builder.add("x", layers.Input((channels, height, width)))
    position = 0
    for k, stage in enumerate(stages):
        for produced in check_sequence(f"stage {k}", stage):
            block = f"features.{position}"
            run = [layers.Conv2d(channels, produced, (3, 3), padding=(1, 1))]
            run += [layers.BatchNorm2d(produced), layers.ReLU()] if batch_norm else [layers.ReLU()]
            for each in run:
                x = builder.add(f"features.{position}", each, x, block=block)
                position += 1
            channels = produced
        pool = f"features.{position}"
        x = builder.add(pool, layers.MaxPool2d((2, 2), (2, 2)), x, block=pool)
        position += 1
    return x


def _plain(builder: Builder, depth: Size, batch_norm: bool, input_shape: Shape | None) -> str:
    """Write ``depth`` convolutions with channels n[0], n[1], ..., and no pool between them."""
    shape = (size_at("n", 0), size_symbol("H"), size_symbol("W")) if input_shape is None else check_image(input_shape)

    def convolution(block: BlockWriter, x: str, taken: Size, produced: Size) -> str:
        x = block.add("conv", layers.Conv2d(taken, produced, (3, 3), padding=(1, 1)), x)
        x = block.add("bn", layers.BatchNorm2d(produced), x) if batch_norm else x
        return block.add("relu", layers.ReLU(), x)

    x = builder.add("x", layers.Input(shape))
    if isinstance(depth, int):
        for k in range(1, depth + 1):
            taken = shape[0] if k == 1 else size_at("n", k - 1)
            x = convolution(BlockWriter(builder, f"features.{k}"), x, taken, size_at("n", k))
    else:
        before, after = size_at("n", INDEX - 1), size_at("n", INDEX)

        def write(block: BlockWriter, x: str) -> str:
            return convolution(block, x, before, after)

        x = repeat(builder, "features", x, shape=(before, *shape[1:]), count=depth, write=write)
    return x


def vgg11(classes: Size = 1000, input_shape: Shape = (3, 224, 224)) -> LayerGraph:
    """Return VGG-11, as torchvision's ``vgg11``."""
    return vgg(_STAGES[11], classes=classes, input_shape=input_shape, name="vgg11")


def vgg11_bn(classes: Size = 1000, input_shape: Shape = (3, 224, 224)) -> LayerGraph:
    """Return VGG-11 with batch norm, as torchvision's ``vgg11_bn``."""
    return vgg(_STAGES[11], batch_norm=True, classes=classes, input_shape=input_shape, name="vgg11_bn")


def vgg13(classes: Size = 1000, input_shape: Shape = (3, 224, 224)) -> LayerGraph:
    """Return VGG-13, as torchvision's ``vgg13``."""
    return vgg(_STAGES[13], classes=classes, input_shape=input_shape, name="vgg13")


def vgg13_bn(classes: Size = 1000, input_shape: Shape = (3, 224, 224)) -> LayerGraph:
    """Return VGG-13 with batch norm, as torchvision's ``vgg13_bn``."""
    return vgg(_STAGES[13], batch_norm=True, classes=classes, input_shape=input_shape, name="vgg13_bn")


def vgg16(classes: Size = 1000, input_shape: Shape = (3, 224, 224)) -> LayerGraph:
    """Return VGG-16, as torchvision's ``vgg16``."""
    return vgg(_STAGES[16], classes=classes, input_shape=input_shape, name="vgg16")


def vgg16_bn(classes: Size = 1000, input_shape: Shape = (3, 224, 224)) -> LayerGraph:
    """Return VGG-16 with batch norm, as torchvision's ``vgg16_bn``."""
    return vgg(_STAGES[16], batch_norm=True, classes=classes, input_shape=input_shape, name="vgg16_bn")


def vgg19(classes: Size = 1000, input_shape: Shape = (3, 224, 224)) -> LayerGraph:
    """Return VGG-19, as torchvision's ``vgg19``."""
    return vgg(_STAGES[19], classes=classes, input_shape=input_shape, name="vgg19")


def vgg19_bn(classes: Size = 1000, input_shape: Shape = (3, 224, 224)) -> LayerGraph:
    """Return VGG-19 with batch norm, as torchvision's ``vgg19_bn``."""
    return vgg(_STAGES[19], batch_norm=True, classes=classes, input_shape=input_shape, name="vgg19_bn")
