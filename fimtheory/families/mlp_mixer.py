"""MLP-Mixer (Tolstikhin et al., arXiv:2105.01601): an MLP across tokens, one across channels; and its symbolic form."""

from __future__ import annotations

from fimtheory import layers
from fimtheory.expressions import size_symbol
from fimtheory.families.blocks import BlockWriter, check_count, check_image, repeat, shape_after
from fimtheory.graph import Builder, LayerGraph
from fimtheory.layers import Shape, Size

__all__ = ["mixer_b_16", "mixer_l_16", "mixer_s_16", "mlp_mixer"]

_EPS = 1e-6


def mlp_mixer(
    depth: Size = 12,
    *,
    dim: Size = 768,
    token_dim: Size = 384,
    channel_dim: Size | None = None,
    patch: Size | None = 16,
    classes: Size = 1000,
    input_shape: Shape | None = None,
    name: str = "mlp_mixer",
) -> LayerGraph:
    """Return an MLP-Mixer that classifies by the mean of its tokens.

    Each layer is x + MLP(LN(x)^T)^T, then x + MLP(LN(x)): the first MLP acts on every channel across the tokens, the
    second on every token across the channels; both have one hidden GELU layer.  An image is cut into patches that
    become tokens.

    Parameters
    ----------
    depth
        Number of layers, also a symbol.
    dim
        Features per token, also a symbol.
    token_dim
        Width of the hidden layer of the MLP across tokens, also a symbol.
    channel_dim
        Width of the hidden layer of the MLP across channels; 4 * dim by default.
    patch
        Side of a patch; None where the input already is (tokens, dim).
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
    Node names are the parameter paths of timm's ``MlpMixer``.

    Examples
    --------
    >>> mlp_mixer(2, dim=16, token_dim=8, patch=4, classes=10, input_shape=(1, 8, 8))
    <LayerGraph mlp_mixer: 29 nodes, (1, 8, 8) -> (10,)>
    >>> N, n, s = size_symbol("N"), size_symbol("n"), size_symbol("s")
    >>> mlp_mixer(N, dim=n, token_dim=s, patch=None, classes=size_symbol("K"))
    <LayerGraph mlp_mixer: 5 nodes, (T, n) -> (K,)>
    """
    depth, dim, token_dim = check_count("depth", depth), check_count("dim", dim), check_count("token_dim", token_dim)
    channel_dim = 4 * dim if channel_dim is None else check_count("channel_dim", channel_dim)
    builder = Builder(name)
    if patch is None:
        shape = (size_symbol("T"), dim) if input_shape is None else input_shape
        x = builder.add("x", layers.Input(shape))
    else:
        shape = (3, 224, 224) if input_shape is None else check_image(input_shape)
        x = builder.add("x", layers.Input(shape))
        x = builder.add("stem.proj", layers.PatchEmbedding(shape[0], dim, check_count("patch", patch)), x, block="stem")
    shape = shape_after(builder)

    def write(block: BlockWriter, x: str) -> str:
        return _mixer_layer(block, x, shape[0], dim, token_dim, channel_dim)

    if isinstance(depth, int):
        for k in range(depth):
            x = write(BlockWriter(builder, f"blocks.{k}"), x)
    else:
        x = repeat(builder, "blocks", x, shape=shape, count=depth, write=write)
    x = builder.add("norm", layers.LayerNorm(dim, _EPS), x, block="pool")
    x = builder.add("mean", layers.Mean((0,)), x, block="pool")
    builder.add("head", layers.Linear(dim, classes), x)
    return builder.graph()


def _mixer_layer(block: BlockWriter, x: str, tokens: Size, dim: Size, token_dim: Size, channel_dim: Size) -> str:
    y = block.add("norm1", layers.LayerNorm(dim, _EPS), x)
    y = block.add("permute", layers.Permute((1, 0)), y)
    y = block.add("permute_2", layers.Permute((1, 0)), _mlp(block, "mlp_tokens", y, tokens, token_dim))
    x = block.add("add", layers.Add(), x, y)
    y = block.add("norm2", layers.LayerNorm(dim, _EPS), x)
    return block.add("add_2", layers.Add(), x, _mlp(block, "mlp_channels", y, dim, channel_dim))


def _mlp(block: BlockWriter, name: str, x: str, size: Size, hidden: Size) -> str:
    y = block.add(f"{name}.act", layers.GELU(), block.add(f"{name}.fc1", layers.Linear(size, hidden), x))
    return block.add(f"{name}.fc2", layers.Linear(hidden, size), y)


def mixer_s_16(classes: Size = 1000, input_shape: Shape = (3, 224, 224)) -> LayerGraph:
    """Return Mixer-S/16 (table 1 of the paper), as timm's ``mixer_s16_224``."""
    return mlp_mixer(8, dim=512, token_dim=256, classes=classes, input_shape=input_shape, name="mixer_s_16")


def mixer_b_16(classes: Size = 1000, input_shape: Shape = (3, 224, 224)) -> LayerGraph:
    """Return Mixer-B/16 (table 1 of the paper), as timm's ``mixer_b16_224``."""
    return mlp_mixer(12, dim=768, token_dim=384, classes=classes, input_shape=input_shape, name="mixer_b_16")


def mixer_l_16(classes: Size = 1000, input_shape: Shape = (3, 224, 224)) -> LayerGraph:
    """Return Mixer-L/16 (table 1 of the paper), as timm's ``mixer_l16_224``."""
    return mlp_mixer(24, dim=1024, token_dim=512, classes=classes, input_shape=input_shape, name="mixer_l_16")
