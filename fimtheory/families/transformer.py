"""Pre-norm transformer encoders: the vision transformer as torchvision writes it, and its symbolic form."""

from __future__ import annotations

from fimtheory import layers
from fimtheory.expressions import size_symbol
from fimtheory.families.blocks import BlockWriter, check_count, check_image, repeat, shape_after
from fimtheory.graph import Builder, LayerGraph
from fimtheory.layers import Shape, Size

__all__ = ["transformer", "vit_b_16", "vit_l_16", "vit_tiny"]

_EPS = 1e-6


def transformer(
    depth: Size = 12,
    *,
    dim: Size = 768,
    heads: int = 12,
    mlp_dim: Size | None = None,
    patch: Size | None = 16,
    classes: Size = 1000,
    input_shape: Shape | None = None,
    name: str = "transformer",
) -> LayerGraph:
    """Return a pre-norm transformer encoder that classifies by its first token.

    Each layer is x + attention(LN(x)), then x + MLP(LN(x)) with one hidden GELU layer.  An image is cut into patches
    that become tokens; a class token comes first, and a position embedding is added.

    Parameters
    ----------
    depth
        Number of encoder layers, also a symbol.
    dim
        Features per token, also a symbol.
    heads
        Number of attention heads; divides ``dim``.
    mlp_dim
        Width of the hidden layer of the MLP; 4 * dim by default.
    patch
        Side of a patch; None where the input already is (tokens, dim), class token included.
    classes
        Number of logits.
    input_shape
        (channels, height, width), by default (3, 224, 224); without ``patch`` (tokens, dim), by default (T, dim).
    name
        Name of the graph.

    Raises
    ------
    GraphError, ShapeError
        An argument is not as described.

    Notes
    -----
    Dropout is left out, as in torchvision's models (probability 0).

    Examples
    --------
    >>> transformer(2, dim=16, heads=2, patch=4, classes=10, input_shape=(1, 8, 8))
    <LayerGraph transformer: 23 nodes, (1, 8, 8) -> (10,)>
    >>> N, d = size_symbol("N"), size_symbol("d")
    >>> transformer(N, dim=d, heads=8, patch=None, classes=size_symbol("K"))
    <LayerGraph transformer: 5 nodes, (T, d) -> (K,)>
    """
    depth, dim = check_count("depth", depth), check_count("dim", dim)
    mlp_dim = 4 * dim if mlp_dim is None else check_count("mlp_dim", mlp_dim)
    builder = Builder(name)
    if patch is None:
        shape = (size_symbol("T"), dim) if input_shape is None else input_shape
        x = builder.add("x", layers.Input(shape))
    else:
        shape = (3, 224, 224) if input_shape is None else check_image(input_shape)
        x = _embedding(builder, shape, dim, check_count("patch", patch))
    if isinstance(depth, int):
        for k in range(depth):
            x = _encoder_layer(BlockWriter(builder, f"encoder.layers.encoder_layer_{k}"), x, dim, heads, mlp_dim)
    else:

        def write(block: BlockWriter, x: str) -> str:
            return _encoder_layer(block, x, dim, heads, mlp_dim)

        x = repeat(builder, "encoder.layers", x, shape=shape_after(builder), count=depth, write=write)
    x = builder.add("encoder.ln", layers.LayerNorm(dim, _EPS), x, block="encoder")
    x = builder.add("select", layers.SelectToken(0), x, block="encoder")
    builder.add("heads.head", layers.Linear(dim, classes), x)
    return builder.graph()


def _embedding(builder: Builder, shape: Shape, dim: Size, patch: Size) -> str:
    x = builder.add("x", layers.Input(shape))
    x = builder.add("conv_proj", layers.PatchEmbedding(shape[0], dim, patch), x, block="embedding")
    x = builder.add("class_token", layers.ClassToken(dim), x, block="embedding")
    tokens = shape_after(builder)[0]
    return builder.add("encoder.pos_embedding", layers.PositionEmbedding(tokens, dim), x, block="embedding")


def _encoder_layer(block: BlockWriter, x: str, dim: Size, heads: int, mlp_dim: Size) -> str:
    y = block.add("ln_1", layers.LayerNorm(dim, _EPS), x)
    y = block.add("self_attention", layers.MultiHeadSelfAttention(dim, heads), y)
    x = block.add("add1", layers.Add(), x, y)
    y = block.add("ln_2", layers.LayerNorm(dim, _EPS), x)
    y = block.add("mlp.0", layers.Linear(dim, mlp_dim), y)
    y = block.add("mlp.3", layers.Linear(mlp_dim, dim), block.add("mlp.1", layers.GELU(), y))
    return block.add("add2", layers.Add(), x, y)


def vit_b_16(classes: Size = 1000, input_shape: Shape = (3, 224, 224)) -> LayerGraph:
    """Return ViT-B/16 (Dosovitskiy et al., arXiv:2010.11929), as torchvision's ``vit_b_16``."""
    return transformer(12, dim=768, heads=12, classes=classes, input_shape=input_shape, name="vit_b_16")


def vit_l_16(classes: Size = 1000, input_shape: Shape = (3, 224, 224)) -> LayerGraph:
    """Return ViT-L/16 (Dosovitskiy et al., arXiv:2010.11929), as torchvision's ``vit_l_16``."""
    return transformer(24, dim=1024, heads=16, classes=classes, input_shape=input_shape, name="vit_l_16")


def vit_tiny(classes: Size = 10, input_shape: Shape = (3, 32, 32)) -> LayerGraph:
    """Return a small ViT for small images: the sizes of DeiT-Ti (arXiv:2012.12877) with patches of 4 pixels."""
    return transformer(12, dim=192, heads=3, patch=4, classes=classes, input_shape=input_shape, name="vit_tiny")
