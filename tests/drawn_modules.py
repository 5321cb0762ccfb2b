"""Hypothesis strategies: small torch classifiers of vectors, tokens and images, as people write them."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import strategies as st
from source_modules import Apply, trained
from torch import nn

ACTIVATIONS = (nn.ReLU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.Hardswish, nn.ELU, nn.Softplus, nn.Mish)


class Residual(nn.Module):
    def __init__(self, branch, scale=1.0):
        super().__init__()
        self.branch, self.scale = branch, scale

    def forward(self, x):
        return x + self.scale * self.branch(x)


class PostNorm(nn.Module):
    def __init__(self, branch, norm):
        super().__init__()
        self.branch, self.norm = branch, norm

    def forward(self, x):
        return self.norm(x + self.branch(x))


class Dense(nn.Module):
    """Every layer sees the channels (or features) of all before it."""

    def __init__(self, *stages):
        super().__init__()
        self.stages = nn.ModuleList(stages)

    def forward(self, x):
        found = [x]
        for stage in self.stages:
            found.append(stage(torch.cat(found, 1)))
        return torch.cat(found, 1)


class Excited(nn.Module):
    """Squeeze-and-excitation."""

    def __init__(self, channels, gate):
        super().__init__()
        self.down, self.up, self.gate = nn.Conv2d(channels, 2, 1), nn.Conv2d(2, channels, 1), gate

    def forward(self, x):
        return x * self.gate(self.up(F.relu(self.down(x.mean((2, 3), keepdim=True)))))


class GatedUnit(nn.Module):
    """One half of the features times a function of the other."""

    def __init__(self, width, gate):
        super().__init__()
        self.project, self.gate, self.out = nn.Linear(width, 2 * width), gate, nn.Linear(width, width)

    def forward(self, x):
        value, gate = self.project(x).chunk(2, -1)
        return self.out(value * self.gate(gate))


class Packed(nn.Module):
    """Attention with one projection to queries, keys and values, and perhaps a bias on the scores."""

    def __init__(self, dim, heads, tokens, biased, norm):
        super().__init__()
        self.heads, self.qkv, self.proj = heads, nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.q_norm, self.k_norm = (nn.LayerNorm(dim // heads) if norm else nn.Identity() for _ in range(2))
        self.bias = nn.Parameter(torch.randn(1, heads, tokens, tokens)) if biased else None

    def forward(self, x):
        batch, tokens, dim = x.shape
        q, k, v = self.qkv(x).reshape(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(self.q_norm(q), self.k_norm(k), v, attn_mask=self.bias)
        return self.proj(mixed.transpose(1, 2).reshape(batch, tokens, dim))


class SelfAttention(nn.Module):
    """torch's attention of a value to itself."""

    def __init__(self, dim, heads):
        super().__init__()
        self.attention = nn.MultiheadAttention(dim, heads, batch_first=True)

    def forward(self, x):
        return self.attention(x, x, x, need_weights=False)[0]


class Mixed(nn.Module):
    """A linear map across tokens."""

    def __init__(self, tokens):
        super().__init__()
        self.mix = nn.Linear(tokens, tokens)

    def forward(self, x):
        return self.mix(x.transpose(1, 2)).transpose(1, 2)


# ---- parts that keep the shape ----------------------------------------------------------------------------------


@st.composite
def activation(draw):
    return draw(st.sampled_from(ACTIVATIONS))()


@st.composite
def over_features(draw, width):
    """A map of the last dimension to as many entries."""
    kind = draw(st.sampled_from(["linear", "mlp", "gated", "layer norm", "rms norm"]))
    match kind:
        case "linear":
            return nn.Sequential(nn.Linear(width, width, draw(st.booleans())), draw(activation()))
        case "mlp":
            hidden = draw(st.integers(2, 6))
            return nn.Sequential(nn.Linear(width, hidden), draw(activation()), nn.Linear(hidden, width))
        case "gated":
            return GatedUnit(width, draw(st.sampled_from([nn.Sigmoid, nn.SiLU, nn.GELU]))())
        case "layer norm":
            return nn.LayerNorm(width, eps=draw(st.sampled_from([1e-5, 0.1])))
    return nn.RMSNorm(width, eps=draw(st.sampled_from([1e-5, 0.1])))


@st.composite
def of_vectors(draw, width):
    kind = draw(st.sampled_from(["plain", "residual", "batch norm"]))
    if kind == "batch norm":
        return nn.Sequential(nn.Linear(width, width), nn.BatchNorm1d(width), draw(activation()))
    part = draw(over_features(width))
    return part if kind == "plain" else Residual(part, draw(st.sampled_from([1.0, 0.5])))


@st.composite
def of_tokens(draw, tokens, width):
    kind = draw(st.sampled_from(["attention", "packed", "mixer", "features"]))
    match kind:
        case "attention":
            part = SelfAttention(width, draw(st.sampled_from([1, 2])))
        case "packed":
            part = Packed(width, draw(st.sampled_from([1, 2])), tokens, draw(st.booleans()), draw(st.booleans()))
        case "mixer":
            part = Mixed(tokens)
        case _:
            part = draw(over_features(width))
    if draw(st.booleans()):
        return PostNorm(part, nn.LayerNorm(width, eps=0.1))
    return Residual(nn.Sequential(nn.LayerNorm(width, eps=0.1), part))


@st.composite
def of_images(draw, channels):
    kind = draw(st.sampled_from(["conv", "residual", "depthwise", "excited", "group norm", "pool"]))
    match kind:
        case "conv":
            return nn.Sequential(
                nn.Conv2d(channels, channels, 3, padding=1, bias=draw(st.booleans())), nn.BatchNorm2d(channels),
                draw(activation()),
            )  # fmt: skip
        case "residual":
            return Residual(draw(of_images(channels)))
        case "depthwise":
            return nn.Sequential(nn.Conv2d(channels, channels, 3, padding="same", groups=channels), draw(activation()))
        case "excited":
            return Excited(channels, draw(st.sampled_from([nn.Sigmoid, nn.Hardsigmoid]))())
        case "group norm":
            return nn.GroupNorm(draw(st.sampled_from([1, channels])), channels, eps=0.1)
    kinds = [nn.MaxPool2d(3, 1, 1), nn.AvgPool2d(3, 1, 1, count_include_pad=draw(st.booleans()))]
    return draw(st.sampled_from(kinds))


# ---- classifiers ------------------------------------------------------------------------------------------------


@st.composite
def classifiers(draw):
    """A module in evaluation mode, and the shape of its inputs."""
    torch.manual_seed(draw(st.integers(0, 2**20), label="weights"))
    classes, depth = draw(st.integers(2, 4)), draw(st.integers(1, 3))
    kind = draw(st.sampled_from(["vectors", "tokens", "images"]))
    match kind:
        case "vectors":
            width = draw(st.integers(2, 6))
            shape: tuple[int, ...] = (width,)
            body = [draw(of_vectors(width)) for _ in range(depth)]
            if draw(st.booleans()):
                body.append(Dense(nn.Linear(width, 2), nn.Linear(width + 2, 1)))
                width += 3
        case "tokens":
            tokens, width = draw(st.integers(2, 4)), draw(st.sampled_from([2, 4]))
            shape = (tokens, width)
            body = [draw(of_tokens(tokens, width)) for _ in range(depth)]
            body.append(Apply(draw(st.sampled_from([lambda x: x.mean(1), lambda x: x[:, 0], lambda x: x.amax(1)]))))
        case _:
            channels, side = draw(st.integers(2, 3)), draw(st.integers(3, 5))
            shape, width = (channels, side, side), channels
            body = [draw(of_images(channels)) for _ in range(depth)]
            if draw(st.booleans()):
                body.append(Dense(nn.Conv2d(channels, 1, 1)))
                width += 1
            if draw(st.booleans()):
                body.append(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()))
            else:
                body.append(nn.Flatten())
                width *= side * side
    return trained(nn.Sequential(*body, nn.Linear(width, classes))), shape
