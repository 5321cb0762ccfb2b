"""Hypothesis strategies for layers of windows over (C, L), (C, H, W) and (C, D, H, W), and for norms of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from hypothesis import strategies as st

from fimtheory import layers
from fimtheory.layers import Layer
from fimtheory.strategies.drawing import Kinds, Sizes, register

__all__ = [
    "ADAPTIVE_AVERAGES", "ADAPTIVE_MAXIMA", "AVERAGE_POOLS", "BATCH_NORMS", "CONVOLUTIONS", "CONVOLVING", "MAX_POOLS",
    "NORMS", "POOLS", "RESAMPLING", "TRANSPOSED", "convolution", "folding", "normalisation", "pooling", "resampling",
    "unfolding",
]  # fmt: skip

MAX_POOLS: dict[int, Any] = {2: layers.MaxPool1d, 3: layers.MaxPool2d, 4: layers.MaxPool3d}
AVERAGE_POOLS: dict[int, Any] = {2: layers.AvgPool1d, 3: layers.AvgPool2d, 4: layers.AvgPool3d}
ADAPTIVE_AVERAGES: dict[int, Any] = {
    2: layers.AdaptiveAvgPool1d,
    3: layers.AdaptiveAvgPool2d,
    4: layers.AdaptiveAvgPool3d,
}
ADAPTIVE_MAXIMA: dict[int, Any] = {
    2: layers.AdaptiveMaxPool1d,
    3: layers.AdaptiveMaxPool2d,
    4: layers.AdaptiveMaxPool3d,
}
POOLS: Kinds = (
    *(MAX_POOLS.values()),
    *(AVERAGE_POOLS.values()),
    *(ADAPTIVE_AVERAGES.values()),
    *(ADAPTIVE_MAXIMA.values()),
    layers.LpPool2d,
)

BATCH_NORMS: dict[int, Any] = {
    1: layers.BatchNorm1d,
    2: layers.BatchNorm1d,
    3: layers.BatchNorm2d,
    4: layers.BatchNorm3d,
}
NORMS: Kinds = (
    *(BATCH_NORMS.values()),
    layers.LayerNorm,
    layers.LayerNormOver,
    layers.RMSNorm,
    layers.GroupNorm,
    layers.LocalResponseNorm,
    layers.GlobalResponseNorm,
)
CONVOLUTIONS: dict[int, Any] = {2: layers.Conv1d, 3: layers.Conv2d, 4: layers.Conv3d}
TRANSPOSED: dict[int, Any] = {2: layers.ConvTranspose1d, 3: layers.ConvTranspose2d, 4: layers.ConvTranspose3d}
RESAMPLING: Kinds = (
    layers.Pad,
    layers.Upsample,
    layers.PixelShuffle,
    layers.PixelUnshuffle,
    layers.Unfold,
    layers.Fold,
)
CONVOLVING: Kinds = (*CONVOLUTIONS.values(), *TRANSPOSED.values())


def each(draw: st.DrawFn, sizes: Sizes, least: int, most: Callable[[int], int]) -> Any:
    """One whole number for each of ``sizes``, from ``least`` to ``most(size)``."""
    return tuple(draw(st.integers(least, max(least, most(size)))) for size in sizes)


@st.composite
def convolution(draw: st.DrawFn, shape: Sizes, same: bool = False, kinds: Kinds = CONVOLVING) -> Layer:
    """Any convolution of ``shape``, or one that keeps it."""
    channels, *sizes = shape
    if same:
        kernel: Any = tuple(draw(st.sampled_from([1, 3])) for _ in sizes)
        padding = tuple(k // 2 for k in kernel)
        return CONVOLUTIONS[len(shape)](channels, channels, kernel, padding=padding, bias=draw(st.booleans()))
    groups = draw(st.sampled_from([g for g in (1, 1, 2, 3) if channels % g == 0]))
    outputs, bias = groups * draw(st.integers(1, 3)), draw(st.booleans())
    dilation = tuple(draw(st.sampled_from([1, 1, 2, 3])) for _ in sizes)
    stride = each(draw, sizes, 1, lambda n: 3)
    usual, transposed = CONVOLUTIONS[len(shape)] in kinds, TRANSPOSED[len(shape)] in kinds
    if transposed and (not usual or draw(st.integers(0, 3)) == 0):
        kernel = each(draw, sizes, 1, lambda n: 3)
        widths = zip(sizes, stride, dilation, kernel, strict=True)
        padding = tuple(draw(st.integers(0, min(2, ((n - 1) * s + d * (k - 1)) // 2))) for n, s, d, k in widths)
        added = tuple(draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True))
        return TRANSPOSED[len(shape)](channels, outputs, kernel, stride, padding, added, dilation, groups, bias)
    padding = each(draw, sizes, 0, lambda n: 2)
    kernel = tuple(
        draw(st.integers(1, max(1, min(4, (n + 2 * p - 1) // d + 1))))
        for n, p, d in zip(sizes, padding, dilation, strict=True)
    )
    return CONVOLUTIONS[len(shape)](channels, outputs, kernel, stride, padding, dilation, groups, bias)


@st.composite
def pooling(draw: st.DrawFn, shape: Sizes, kinds: Kinds = POOLS) -> Layer:
    """Any pool that takes ``shape``."""
    sizes, dimensions = shape[1:], len(shape)
    tables = [MAX_POOLS, AVERAGE_POOLS, AVERAGE_POOLS, ADAPTIVE_AVERAGES, ADAPTIVE_MAXIMA]
    fitting = [*(table[dimensions] for table in tables), *([layers.LpPool2d] * (dimensions == 3))]
    kind = draw(st.sampled_from([each_kind for each_kind in fitting if each_kind in kinds]))
    if kind in (ADAPTIVE_AVERAGES[dimensions], ADAPTIVE_MAXIMA[dimensions]):
        return kind(each(draw, sizes, 1, lambda n: n + 2))
    kernel = each(draw, sizes, 1, lambda n: min(4, n))
    padding = each(draw, kernel, 0, lambda k: k // 2)
    stride = each(draw, sizes, 1, lambda n: 3)
    ceil_mode = draw(st.booleans())
    if kind is layers.LpPool2d:
        return layers.LpPool2d(draw(st.sampled_from([1, 2, 4])), kernel, stride, ceil_mode)
    if kind is AVERAGE_POOLS[dimensions]:
        return kind(kernel, stride, padding, ceil_mode, draw(st.booleans()), draw(st.sampled_from([None, None, 1, 5])))
    # dilated windows may step over all entries, which is refused
    dilation = tuple(
        draw(st.integers(1, min(3, (n - 1) // (k - 1)) if k > 1 else 3)) for n, k in zip(sizes, kernel, strict=True)
    )
    if any(d > 1 for d in dilation):
        padding = (0,) * len(sizes)
    return kind(kernel, stride, padding, dilation, ceil_mode)


@st.composite
def normalisation(draw: st.DrawFn, shape: Sizes, kinds: Kinds = NORMS) -> Layer:
    """Any norm that takes ``shape``."""
    eps = draw(st.sampled_from([1e-5, 1e-2, 1.0, 4.0]))
    fitting: list[Any] = [layers.LayerNorm, layers.LayerNormOver, layers.RMSNorm, layers.GroupNorm]
    fitting += [BATCH_NORMS[len(shape)]] * 2 if len(shape) in BATCH_NORMS else []
    fitting += [layers.LocalResponseNorm, layers.GlobalResponseNorm] if len(shape) > 1 else []
    kind = draw(st.sampled_from([each_kind for each_kind in fitting if each_kind in kinds]))
    if kind in (layers.LayerNorm, layers.RMSNorm):
        return kind(shape[-1], eps)
    if kind is layers.LayerNormOver:
        return layers.LayerNormOver(tuple(shape[draw(st.integers(0, len(shape) - 1)) :]), eps)
    if kind is layers.GroupNorm:
        groups = draw(st.sampled_from([g for g in range(1, shape[0] + 1) if shape[0] % g == 0]))
        return layers.GroupNorm(groups, shape[0], eps, draw(st.booleans()))
    if kind is layers.GlobalResponseNorm:
        channel, *dims = draw(st.permutations(range(len(shape))))
        return layers.GlobalResponseNorm(tuple(dims[: draw(st.integers(1, len(dims)))]), channel, eps)
    if kind is layers.LocalResponseNorm:
        alpha, beta = draw(st.sampled_from([1e-4, 0.5, 10.0])), draw(st.sampled_from([0.75, 0.5, 1.0, 3.0]))
        return layers.LocalResponseNorm(draw(st.integers(1, 4)), alpha, beta, draw(st.sampled_from([1.0, 0.3, 2.0])))
    return kind(shape[0], eps)


@st.composite
def unfolding(draw: st.DrawFn, shape: Sizes) -> Layer:
    """Windows of an image side by side, some of them perhaps in nothing but padding."""
    padding, dilation = (draw(st.tuples(*[st.integers(least, 3)] * 2)) for least in (0, 1))
    most = [(n + 2 * p - 1) // d + 1 for n, p, d in zip(shape[1:], padding, dilation, strict=True)]
    kernel: Any = tuple(draw(st.integers(1, min(4, k))) for k in most)
    return layers.Unfold(kernel, dilation, padding, draw(st.tuples(*[st.integers(1, 4)] * 2)))


@st.composite
def folding(draw: st.DrawFn, shape: Sizes) -> Layer:
    """A sum of windows of (C, L) that overlap, or leave entries of the image out."""
    entries, count = shape
    tall = draw(st.sampled_from([k for k in range(1, 5) if entries % k == 0]))
    wide = draw(st.sampled_from([k for k in range(1, 5) if entries // tall % k == 0]))
    rows = draw(st.sampled_from([m for m in range(1, count + 1) if count % m == 0]))
    sides, placement = [], []
    for k, m in ((tall, rows), (wide, count // rows)):
        dilation, stride = draw(st.integers(1, 3)), draw(st.integers(1, 4))
        covered = (m - 1) * stride + dilation * (k - 1) + 1 + draw(st.integers(0, stride - 1))
        padding = draw(st.integers(0, min(3, (covered - 1) // 2)))
        sides.append(covered - 2 * padding)
        placement.append((k, dilation, padding, stride))
    return layers.Fold(tuple(sides), *zip(*placement, strict=True))


@st.composite
def resampling(draw: st.DrawFn, shape: Sizes, kinds: Kinds = RESAMPLING) -> Layer:
    """Padding, interpolation, windows or a pixel shuffle of ``shape``, which has two dimensions or more."""
    squares = [r for r in (1, 2) if len(shape) == 3 and shape[0] % r**2 == 0]
    sides = [r for r in (1, 2) if len(shape) == 3 and shape[1] % r == shape[2] % r == 0]
    fitting = [layers.Pad, layers.Upsample, *([layers.PixelShuffle] * bool(squares))]
    fitting += {2: [layers.Fold], 3: [layers.Unfold]}.get(len(shape), [])
    fitting += [layers.PixelUnshuffle] * bool(sides)
    match draw(st.sampled_from([kind for kind in fitting if kind in kinds])):
        case layers.Pad:
            mode = draw(st.sampled_from(["constant", "reflect", "replicate", "circular"]))
            most = {
                "constant": lambda n: 2,
                "reflect": lambda n: n - 1,
                "replicate": lambda n: 3,
                "circular": lambda n: n,
            }
            pads: Any = tuple(tuple(draw(st.integers(0, min(3, most[mode](n)))) for _ in range(2)) for n in shape[1:])
            return layers.Pad(((0, 0), *pads), cast("Any", mode), draw(st.sampled_from([0.0, 0.7, -2.0])))
        case layers.Upsample:
            mode = draw(st.sampled_from(["nearest", "linear", "cubic"]))
            corners = mode != "nearest" and draw(st.booleans())
            return layers.Upsample(each(draw, shape[1:], 1, lambda n: 2 * n + 1), cast("Any", mode), corners)
        case layers.Unfold:
            return draw(unfolding(shape))
        case layers.Fold:
            return draw(folding(shape))
        case layers.PixelShuffle:
            return layers.PixelShuffle(draw(st.sampled_from(squares)))
    return layers.PixelUnshuffle(draw(st.sampled_from(sides)))


# ---- by exact type ----------------------------------------------------------------------------------------------


def _register(kinds: Kinds, family: Any, dimensions: Callable[[Any], tuple[int, ...]]) -> None:
    for kind in kinds:
        taken = dimensions(kind)
        register(
            kind,
            lambda shape, kind=kind, taken=taken: family(shape, kinds=(kind,)) if len(shape) in taken else None,
        )


def _of(*tables: dict[int, Any]) -> Callable[[Any], tuple[int, ...]]:
    return lambda kind: tuple(n for table in tables for n, each_kind in table.items() if each_kind is kind)


_PLANE = {3: layers.LpPool2d}
_TAKEN: dict[type[Layer], tuple[int, ...]] = {
    layers.LocalResponseNorm: (2, 3, 4),
    layers.GlobalResponseNorm: (2, 3, 4),
    layers.Unfold: (3,),
    layers.Fold: (2,),
    layers.Pad: (2, 3, 4),
    layers.Upsample: (2, 3, 4),
}

_register(CONVOLVING, convolution, _of(CONVOLUTIONS, TRANSPOSED))
_register(POOLS, pooling, _of(MAX_POOLS, AVERAGE_POOLS, ADAPTIVE_AVERAGES, ADAPTIVE_MAXIMA, _PLANE))
_register(
    tuple(dict.fromkeys(NORMS)), normalisation, lambda kind: _of(BATCH_NORMS)(kind) or _TAKEN.get(kind, (1, 2, 3, 4))
)
_register((layers.Pad, layers.Upsample, layers.Unfold, layers.Fold), resampling, lambda kind: _TAKEN[kind])


def _shuffled(shape: Sizes) -> Any:
    fits = len(shape) == 3 and shape[0] % 4 == 0
    return resampling(shape, kinds=(layers.PixelShuffle,)) if fits else None


def _unshuffled(shape: Sizes) -> Any:
    fits = len(shape) == 3 and shape[1] % 2 == shape[2] % 2 == 0
    return resampling(shape, kinds=(layers.PixelUnshuffle,)) if fits else None


register(layers.PixelShuffle, _shuffled)
register(layers.PixelUnshuffle, _unshuffled)
