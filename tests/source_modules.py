"""Small torch modules for the importer's tests: operations in groups, each with the layers that it should become."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn
from torch.export import default_decompositions


class Apply(nn.Module):
    """A function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *inputs):
        return self.function(*inputs)


class Part(NamedTuple):
    """An operation on the group's input, and the types of the layers that it should become."""

    function: Callable[..., Any]
    layers: tuple[str, ...] = ()


class Group(NamedTuple):
    """Operations on one input of ``shape``; ``table`` says which operations the exporter writes out in others."""

    shape: tuple[int, ...]
    parts: tuple[Part, ...]
    table: Callable[[], dict[Any, Any] | None] = dict


class Side(nn.Module):
    """All operations of a group on the same input, their results side by side."""

    def __init__(self, parts):
        super().__init__()
        torch.manual_seed(0)
        functions = [part.function() if isinstance(part.function, type) else part.function for part in parts]
        self.parts = nn.ModuleList([f if isinstance(f, nn.Module) else Apply(f) for f in functions])
        trained(self)

    def forward(self, x):
        return torch.cat([part(x).flatten(1) for part in self.parts], 1)


@torch.no_grad()
def trained(module):
    """Give constant parameters and statistics other numbers, since a dropped bias of zero would not be seen."""
    for parameter in module.parameters():
        parameter += 0.3 * torch.randn(parameter.shape)
    for name, buffer in module.named_buffers():
        if "running" in name:
            buffer += torch.rand(buffer.shape)
    return module.eval()


def parts(*rows):
    return tuple(Part(function, tuple(kinds.split())) for function, kinds in rows)


class Constant(nn.Module):
    """A function of the input and a parameter."""

    def __init__(self, function, *shape):
        super().__init__()
        self.value = nn.Parameter(torch.randn(*shape))
        self.function = function

    def forward(self, x):
        return self.function(x, self.value)


DIAGONAL = torch.eye(4, 3) > 0


def masked_by_shape(x):
    mask = x.new_zeros(x.shape[1:])
    mask[1:, :2] = 1
    return x.masked_fill(mask != 0, -2.0)


def rms_norm(x):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 0.1)


def rms_norm_in_float32(x):
    wide = x.to(torch.float32)
    return (wide * torch.rsqrt((wide * wide).mean(-1, keepdim=True) + 0.1)).to(x.dtype)


def layer_norm(x):
    return (x - x.mean(-1, keepdim=True)) / torch.sqrt((x - x.mean(-1, keepdim=True)).square().mean(-1, True) + 0.1)


def layer_norm_computed_once(x):
    centred = x - x.mean(-1, keepdim=True)
    return centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + 1e-3)


def windows(x):
    """Rows of an image as images of their own."""
    return x.unflatten(2, (-1, 2)).permute(0, 2, 1, 3, 4).flatten(0, 1)


def in_windows(part):
    return nn.Sequential(Apply(windows), part, Apply(lambda x: x.unflatten(0, (-1, 3)).flatten(1)))


def responses(x, dims, channel):
    """Global response normalisation, as timm and transformers write it."""
    norms = x.norm(p=2, dim=dims, keepdim=True)
    return x * (norms / (norms.mean(dim=channel, keepdim=True) + 1e-3))


class Responses(nn.Module):
    """All of ConvNeXt V2's global response normalisation of (N, C, H, W), as timm writes it."""

    def __init__(self, channels):
        super().__init__()
        self.weight, self.bias = (nn.Parameter(torch.zeros(channels)) for _ in range(2))

    def forward(self, x):
        weight, bias = self.weight.view(1, -1, 1, 1), self.bias.view(1, -1, 1, 1)
        return x + torch.addcmul(bias, weight, responses(x, (2, 3), 1))


def squeeze_and_excitation(x):
    return x * torch.sigmoid(x.mean((2, 3), keepdim=True))


WINDOWS = "Reshape Permute"

GROUPS = {
    "activations": Group(
        (4, 3),
        parts(
            (F.relu, "ReLU"),
            (F.relu6, "ReLU6"),
            (torch.sigmoid, "Sigmoid"),
            (F.silu, "SiLU"),
            (F.mish, "Mish"),
            (torch.tanh, "Tanh"),
            (F.hardswish, "Hardswish"),
            (F.hardsigmoid, "Hardsigmoid"),
            (F.selu, "SELU"),
            (F.logsigmoid, "LogSigmoid"),
            (torch.abs, "Abs"),
            (torch.erf, "Erf"),
            (torch.sin, "Sin"),
            (torch.cos, "Cos"),
            (torch.atan, "Atan"),
            (F.gelu, "GELU"),
            (nn.GELU(approximate="tanh"), "GELUTanh"),
            (nn.LeakyReLU(0.1), "LeakyReLU"),
            (nn.ELU(0.5), "ELU"),
            (nn.CELU(0.7), "CELU"),
            (nn.Softplus(beta=2), "Softplus"),
            (nn.Hardtanh(-1, 2), "Hardtanh"),
            (nn.Hardtanh(0, 6), "ReLU6"),
            (lambda x: x.clamp(-1, 0.5), "Hardtanh"),
            (lambda x: x.clamp(min=0), "ReLU"),
            (lambda x: torch.clamp_min(x, -0.5), "Clamp"),
            (lambda x: torch.clamp_max(x, 0.5), "Clamp"),
            (torch.neg, "Scale"),
            (torch.special.erf, "Erf"),
            (nn.PReLU, "PReLU"),
            (nn.PReLU(4), "PReLU"),
            (nn.RReLU(), "LeakyReLU"),
            (nn.Threshold(0, 0), "ReLU"),
            (nn.Threshold(0.5, 0.5), "Threshold"),
            (nn.Softshrink(0.3), "Softshrink"),
            (nn.GLU(1), "Slice Slice Sigmoid Multiply"),
            (lambda x: x.logsumexp(1), "LogSumExp"),
        ),
    ),
    "formulas": Group(
        (4, 3),
        parts(
            (lambda x: x * torch.sigmoid(1.702 * x), "QuickGELU"),
            (lambda x: 0.5 * x * (1 + torch.erf(x / math.sqrt(2))), "GELU"),
            (lambda x: 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))), "GELUTanh"),
            (lambda x: x * F.relu6(x + 3) / 6, "Hardswish"),
            (lambda x: F.relu6(x + 3) / 6, "Hardsigmoid"),
            (F.softsign, "Softsign"),
            (F.tanhshrink, "Tanhshrink"),
            (lambda x: torch.log1p(torch.exp(x)), "Softplus"),
            (lambda x: x * torch.tanh(F.softplus(x)), "Mish"),
            (lambda x: x * torch.sigmoid(x), "SiLU"),
            (lambda x: F.normalize(x, dim=1), "L2Normalize"),
            (lambda x: F.normalize(x, dim=-1), "L2Normalize"),
        ),
    ),
    "arithmetic": Group(
        (4, 3),
        parts(
            (lambda x: x + 2, "Shift"),
            (lambda x: torch.add(x, torch.sin(x), alpha=-0.5), "Sin Scale Add"),
            (lambda x: torch.sub(x, torch.sin(x), alpha=2), "Sin Scale Add"),
            (lambda x: x - 1.5, "Shift"),
            (lambda x: 1 - x, "Scale Shift"),
            (lambda x: torch.rsub(torch.sin(x), x), "Sin Scale Add"),
            (Constant(lambda x, c: x + c, 4, 3), "AddConstant"),
            (Constant(lambda x, c: c - x, 3), "Scale AddConstant"),
            (Constant(lambda x, c: x * c, 4, 1), "MultiplyConstant"),
            (Constant(lambda x, c: x / (1 + c * c), 3), "MultiplyConstant"),
            (lambda x: 3 * x, "Scale"),
            (lambda x: x / 7, "Scale"),
            (lambda x: x * torch.sin(x), "Sin Multiply"),
            (lambda x: x * torch.sigmoid(x.mean(1, keepdim=True)), "Mean Sigmoid Gate"),
            (lambda x: torch.sigmoid(x.mean(2, keepdim=True)) * x, "Mean Sigmoid Gate"),
            (lambda x: x.mean(1, keepdim=True) * x.mean(2, keepdim=True), "Mean Mean Expand Expand Multiply"),
            (lambda x: x + x.mean(1, keepdim=True), "Mean Expand Add"),
            (lambda x: x**2, "Multiply"),
            (lambda x: x**3, "Multiply Multiply"),
            (torch.square, "Multiply"),
            (lambda x: x.masked_fill(DIAGONAL, 7.0), "MultiplyConstant AddConstant"),
            (lambda x: x.masked_fill(DIAGONAL, 0.0), "MultiplyConstant"),
            (lambda x: x.masked_fill(torch.zeros(4, 3, dtype=torch.bool), -1.0), ""),
            (lambda x: torch.where(DIAGONAL, x, torch.sin(x)), "Sin MultiplyConstant MultiplyConstant Add"),
            (lambda x: x + torch.ones_like(x).cumsum(2), "AddConstant"),
            (lambda x: x * torch.tensor([1, 0, 2]) + torch.tensor([3, 0, 1]), "MultiplyConstant AddConstant"),
            (lambda x: x * DIAGONAL, "MultiplyConstant"),
            (masked_by_shape, "MultiplyConstant AddConstant"),
            (lambda x: torch.where(DIAGONAL, 2.0, x), "MultiplyConstant AddConstant"),
            (Constant(lambda x, c: torch.addcmul(x, c, c, value=2), 3), "AddConstant"),
            (Constant(lambda x, c: torch.addcmul(c, c, x, value=-2), 4, 3), "MultiplyConstant Scale AddConstant"),
            (lambda x: torch.addcmul(x, x, torch.sin(x)), "Sin Multiply Add"),
        ),
    ),
    "movement": Group(
        (4, 6),
        parts(
            (lambda x: x.clone().detach().contiguous(), ""),
            (lambda x: F.dropout(x, 0.5, False), ""),
            (lambda x: x.to(torch.float64).to(x.dtype), ""),
            (lambda x: x.reshape(-1, 2, 12), "Reshape"),
            (lambda x: x.unsqueeze(2).squeeze(2).view_as(x), "Reshape Reshape"),
            (lambda x: x.unflatten(1, (2, 2)), "Reshape"),
            (lambda x: x.permute(0, 2, 1), "Permute"),
            (lambda x: x.transpose(-1, 1), "Permute"),
            (lambda x: x.mT, "Permute"),
            (lambda x: x[:, :1].expand(-1, 4, -1), "Slice Expand"),
            (lambda x: x.repeat(1, 2, 3), "Tile"),
            (lambda x: x[:, 1:4:2, -3:], "Slice Slice"),
            (lambda x: x[:, 2], "Select"),
            (lambda x: x.select(2, -1), "Select"),
            (
                lambda x: torch.cat([part * 2 for part in x.chunk(4, 2)], 1),
                "Slice Slice Slice Scale Scale Scale Concat",
            ),
            (lambda x: torch.cat(x.split([1, 5], 2)[::-1], 2), "Slice Slice Concat"),
            (lambda x: x.split(4, 2)[1], "Slice"),
            (lambda x: torch.stack(x.unbind(1)[1:3], 1), "Select Select Reshape Reshape Concat"),
            (lambda x: torch.roll(x, (1, -2), (1, 2)), "Roll"),
            (lambda x: x.flip(1, 2), "Flip"),
            (lambda x: x.index_select(1, torch.tensor([3, 0, 0])), "IndexSelect"),
            (lambda x: x[:, :, [5, 1]], "IndexSelect"),
            (lambda x: x[:, :, torch.tensor([[5, 1], [0, 5]])], "IndexSelect Reshape"),
            (lambda x: x[torch.arange(len(x)), torch.full((len(x),), 3)], "Select"),
            (lambda x: x.unfold(2, 3, 2), "IndexSelect Reshape"),
            (lambda x: x.unfold(1, 2, 1).flatten(1), "IndexSelect Reshape Permute"),
            (lambda x: x.repeat_interleave(2, 2), "RepeatInterleave"),
            (lambda x: x.repeat_interleave(3, 0).unflatten(0, (-1, 3)), "Expand"),
            (lambda x: x.flatten(0, 1).repeat_interleave(2, 0).unflatten(0, (-1, 8)), "RepeatInterleave"),
            (Constant(lambda x, c: torch.cat([c.expand(len(x), -1, -1), x], 1), 1, 1, 6), "ConcatConstant"),
            (Constant(lambda x, c: torch.cat([x, c.expand(len(x), -1, -1)], 1), 1, 2, 6), "ConcatConstant"),
        ),
    ),
    "matrices": Group(
        (4, 6),
        parts(
            (nn.Linear(6, 5), "Linear"),
            (nn.Linear(6, 5, bias=False), "Linear"),
            (Constant(lambda x, c: x @ c, 6, 2), "MatmulConstant"),
            (Constant(lambda x, c: c @ x, 3, 4), "MatmulConstant"),
            (lambda x: x @ torch.sin(x).mT, "Sin Permute MatMul"),
            (lambda x: torch.bmm(x.mT, x), "Permute MatMul"),
            (lambda x: torch.einsum("bij,bkj->bik", x, torch.sin(x)), "Sin Permute MatMul"),
            (lambda x: torch.einsum("bij->bji", x), "Permute"),
            (lambda x: torch.einsum("bij->bj", x), "Sum"),
            (Constant(lambda x, c: torch.einsum("bij,jk->bik", x, c), 6, 2), "MatmulConstant"),
            (Constant(lambda x, c: torch.einsum("ki,bij->bjk", c, x), 3, 4), "Permute MatmulConstant"),
            (Constant(lambda x, c: torch.einsum("bij,kjil->blk", x, c), 2, 6, 4, 3), "MatmulConstant Reshape Permute"),
            (Constant(lambda x, c: torch.addmm(c[0, :2], x.flatten(1), c[:24]), 24, 2), "Linear"),
            (Constant(lambda x, c: torch.mm(x.flatten(1), c), 24, 3), "MatmulConstant"),
            (lambda x: F.softmax(x, -1), "Softmax"),
            (lambda x: F.softmax(x, 1), "SoftmaxOver"),
            (lambda x: F.log_softmax(x, 1), "LogSoftmax"),
            (lambda x: x.mean(1), "Mean"),
            (lambda x: x.sum((1, 2), True), "Sum"),
            (lambda x: x.amax(2), "Amax"),
            (nn.LayerNorm(6), "LayerNorm"),
            (nn.LayerNorm(6, bias=False), "LayerNorm"),
            (nn.LayerNorm(6, elementwise_affine=False, eps=0.1), "LayerNorm"),
            (rms_norm, "RMSNorm"),
            (layer_norm, "LayerNorm"),
            (layer_norm_computed_once, "LayerNorm"),
            (
                lambda x: F.scaled_dot_product_attention(x, torch.sin(x), torch.cos(x)),
                "Sin Cos ScaledDotProductAttention",
            ),
            (
                lambda x: F.scaled_dot_product_attention(x, torch.sin(x), x, is_causal=True, scale=0.7),
                "Sin ScaledDotProductAttention",
            ),
            (
                Constant(lambda x, c: F.scaled_dot_product_attention(x, torch.sin(x), x, attn_mask=c), 4, 4),
                "Sin ScaledDotProductAttention",
            ),
        ),
    ),
    "images": Group(
        (4, 7, 6),
        parts(
            (nn.Conv2d(4, 6, 3), "Conv2d"),
            (nn.Conv2d(4, 4, (3, 1), stride=(2, 1), padding=(1, 0), dilation=(2, 1)), "Conv2d"),
            (nn.Conv2d(4, 8, 3, groups=2, bias=False), "Conv2d"),
            (nn.Conv2d(4, 2, 3, padding="same"), "Conv2d"),
            (nn.ConvTranspose2d(4, 3, 3, (2, 1), 1, (1, 0), groups=1), "ConvTranspose2d"),
            (nn.ConvTranspose2d(4, 4, 2, bias=False, groups=2), "ConvTranspose2d"),
            (nn.BatchNorm2d(4), "BatchNorm2d"),
            (nn.BatchNorm2d(4, affine=False, eps=0.1), "BatchNorm2d"),
            (nn.MaxPool2d(3, 2, 1), "MaxPool2d"),
            (nn.MaxPool2d(2, ceil_mode=True), "MaxPool2d"),
            (nn.AvgPool2d(3, 2, 1, count_include_pad=False), "AvgPool2d"),
            (nn.AvgPool2d(2, ceil_mode=True, divisor_override=3), "AvgPool2d"),
            (nn.LPPool2d(2, 3, 2), "LpPool2d"),
            (nn.LPPool2d(4, (2, 3), ceil_mode=True), "LpPool2d"),
            (nn.LPPool2d(1, 2), "LpPool2d"),
            (nn.AdaptiveAvgPool2d((2, 3)), "AdaptiveAvgPool2d"),
            (nn.AdaptiveAvgPool2d(1), "AdaptiveAvgPool2d"),
            (nn.AdaptiveMaxPool2d((3, 2)), "AdaptiveMaxPool2d"),
            (nn.AdaptiveMaxPool2d((2, 9)), "AdaptiveMaxPool2d"),
            (nn.Unfold((3, 2), (1, 2), (1, 0), (2, 1)), "Unfold"),
            (nn.Sequential(nn.Unfold(2), nn.Fold((5, 4), 2, padding=1)), "Unfold Fold"),
            (lambda x: F.fold(x.flatten(2), (8, 11), (2, 1), stride=(1, 2)), "Reshape Fold"),
            (squeeze_and_excitation, "Mean Sigmoid Gate"),
            (lambda x: x.max(2, keepdim=True)[0], "Amax"),
        ),
    ),
    "norms of images": Group(
        (4, 5, 6),
        parts(
            (nn.GroupNorm(2, 4), "GroupNorm"),
            (nn.GroupNorm(4, 4, eps=0.1, affine=False), "GroupNorm"),
            (nn.InstanceNorm2d(4), "GroupNorm"),
            (nn.InstanceNorm2d(4, affine=True), "GroupNorm"),
            (lambda x: responses(x, (1, 2), -1), "GlobalResponseNorm"),
            (lambda x: responses(x, [-2, -1], 1), "GlobalResponseNorm"),
            (lambda x: responses(torch.sin(x), 3, 2), "Sin GlobalResponseNorm"),
            (Responses(4), "GlobalResponseNorm MultiplyConstant AddConstant Add"),
            (nn.LayerNorm((5, 6)), "LayerNormOver"),
            (nn.LayerNorm((4, 5, 6), elementwise_affine=False), "LayerNormOver"),
            (nn.RMSNorm(6, eps=1e-4), "RMSNorm"),
            (nn.InstanceNorm2d(4, affine=True, track_running_stats=True), "BatchNorm2d"),
            (nn.LocalResponseNorm(3, alpha=0.5), "LocalResponseNorm"),
            (nn.LocalResponseNorm(2, alpha=2.0, beta=1.5, k=0.5), "LocalResponseNorm"),
            (nn.Sequential(nn.Flatten(), nn.BatchNorm1d(120)), "BatchNorm1d"),
        ),
    ),
    "windows": Group(
        (4, 6, 5),
        parts(
            (in_windows(nn.Conv2d(4, 3, 2)), f"{WINDOWS} Permute Conv3d Permute"),
            (
                in_windows(nn.Conv2d(4, 4, (1, 3), (1, 2), (0, 1), groups=2)),
                f"{WINDOWS} Permute Conv3d Permute",
            ),
            (
                in_windows(nn.ConvTranspose2d(4, 2, 2, bias=False)),
                f"{WINDOWS} Permute ConvTranspose3d Permute",
            ),
            (in_windows(nn.BatchNorm2d(4)), f"{WINDOWS} Permute BatchNorm3d Permute"),
            (
                nn.Sequential(
                    Apply(lambda x: x.flatten(0, 2)),
                    nn.BatchNorm1d(5),
                    Apply(lambda x: x.unflatten(0, (-1, 24)).flatten(1)),
                ),
                "Reshape Permute BatchNorm1d Permute",
            ),
        ),
    ),
    "maxima in padded images": Group(
        (2, 7, 6),
        parts(
            (lambda x: F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=-math.inf), 3, 2), "MaxPool2d"),
            (lambda x: F.max_pool2d(F.pad(x, (1, 1, 1, 1), value=-math.inf), 3, 1), "MaxPool2d"),
            (lambda x: F.max_pool2d(F.pad(x, (1, 0, 0, 1), value=-math.inf), (2, 3), (2, 1)), "MaxPool2d Slice"),
            (lambda x: F.max_pool2d(F.pad(x, (0, 1), value=-math.inf), 2, 2), "MaxPool2d"),
        ),
    ),
    "sizes of images": Group(
        (4, 6, 5),
        parts(
            (lambda x: F.pad(x, (1, 2, 0, 3), value=0.7), "ConcatConstant ConcatConstant ConcatConstant"),
            (lambda x: F.pad(x, (-1, 0, 0, 0)), "Slice"),
            (nn.ReflectionPad2d((1, 2, 0, 1)), "IndexSelect IndexSelect"),
            (nn.ReplicationPad2d((0, 0, 2, 1)), "IndexSelect"),
            (nn.CircularPad2d(1), "IndexSelect IndexSelect"),
            (nn.Upsample(scale_factor=2), "IndexSelect IndexSelect"),
            (nn.Upsample((6, 8)), "IndexSelect"),
            (lambda x: F.interpolate(x, (9, 4), mode="nearest-exact"), "IndexSelect IndexSelect"),
            (nn.ChannelShuffle(2), "Reshape Permute Reshape"),
            (nn.PixelShuffle(2), "Reshape Permute Reshape"),
            (
                nn.Sequential(nn.ReplicationPad2d((0, 1, 0, 0)), nn.PixelUnshuffle(2)),
                "IndexSelect Reshape Permute Reshape",
            ),
        ),
    ),
    "interpolation": Group(
        (4, 6, 5),
        parts(
            (nn.Upsample(scale_factor=2, mode="bilinear"), "MatmulConstant MatmulConstant"),
            (nn.Upsample((9, 5), mode="bilinear", align_corners=True), "MatmulConstant"),
            (nn.Upsample((4, 7), mode="bicubic"), "MatmulConstant MatmulConstant"),
            (lambda x: F.interpolate(x, (3, 8), mode="bilinear", antialias=True), "MatmulConstant MatmulConstant"),
            (lambda x: F.interpolate(x, (3, 2), mode="bicubic", antialias=True), "MatmulConstant MatmulConstant"),
        ),
    ),
    "signals": Group(
        (4, 8),
        parts(
            (nn.Conv1d(4, 3, 3, 2, 1), "Conv1d"),
            (nn.Conv1d(4, 4, 2, padding="same", groups=2), "ConcatConstant Conv1d"),
            (nn.ConvTranspose1d(4, 2, 3, 2, 1, 1), "ConvTranspose1d"),
            (nn.BatchNorm1d(4), "BatchNorm1d"),
            (nn.GroupNorm(2, 4), "GroupNorm"),
            (nn.Upsample(11), "IndexSelect"),
            (nn.MaxPool1d(3, 2), "MaxPool1d"),
            (nn.LPPool1d(2, 3, 2), "Reshape LpPool2d Reshape"),
            (nn.LocalResponseNorm(2, alpha=1.0), "LocalResponseNorm"),
            (nn.Upsample(5, mode="linear"), "MatmulConstant"),
            (nn.AvgPool1d(3, 2, 1), "AvgPool1d"),
            (nn.AdaptiveAvgPool1d(3), "AdaptiveAvgPool1d"),
            (nn.AdaptiveMaxPool1d(3), "AdaptiveMaxPool1d"),
        ),
    ),
    "volumes": Group(
        (2, 4, 5, 4),
        parts(
            (nn.Conv3d(2, 3, (1, 3, 2), dilation=(1, 2, 1)), "Conv3d"),
            (nn.Conv3d(2, 2, 3, padding="same"), "Conv3d"),
            (nn.ConvTranspose3d(2, 2, 2, 2), "ConvTranspose3d"),
            (nn.BatchNorm3d(2), "BatchNorm3d"),
            (nn.MaxPool3d(2, 1), "MaxPool3d"),
            (nn.AvgPool3d(2), "AvgPool3d"),
            (nn.AdaptiveAvgPool3d((2, 1, 2)), "AdaptiveAvgPool3d"),
            (nn.AdaptiveMaxPool3d((2, 1, 3)), "AdaptiveMaxPool3d"),
        ),
    ),
    "as traced": Group(
        (4, 6),
        parts(
            (lambda x: x.reshape(-1, 2, 12).contiguous(), "Reshape"),
            (lambda x: x.flatten(1).unflatten(1, (4, 6)), "Reshape"),
            (lambda x: x[:, :1, :1, None].squeeze((1, 2)), "Slice Slice Reshape"),
            (lambda x: x.type_as(x).to(x.dtype).view_as(x), ""),
            (nn.Dropout(), ""),
            (nn.Dropout1d(), ""),
            (nn.AlphaDropout(), ""),
            (lambda x: torch.cat(x.chunk(2, 1), 2), "Slice Slice Concat"),
            (lambda x: x.flatten(1).t().T, ""),
            (nn.BatchNorm1d(4), "BatchNorm1d"),
            (nn.InstanceNorm1d(4), "GroupNorm"),
            (nn.RMSNorm(6, eps=0.1), "RMSNorm"),
            (lambda x: F.interpolate(x, size=9), "IndexSelect"),
            (lambda x: F.max_pool1d(x, 2), "MaxPool1d"),
            (F.softshrink, "Softshrink"),
        ),
        lambda: None,
    ),
    "written out": Group(
        (4, 6, 6),
        parts(
            (nn.Softmax(-1), "Softmax"),
            (nn.LogSoftmax(1), "LogSoftmax"),
            (nn.LayerNorm(6), "LayerNorm"),
            (nn.GroupNorm(2, 4), "GroupNorm"),
            (nn.BatchNorm2d(4), "BatchNorm2d"),
            (nn.MaxPool2d(2), "MaxPool2d"),
            (nn.Sequential(nn.Unflatten(1, (1, 4)), nn.MaxPool3d(2)), "Reshape MaxPool3d"),
            (nn.Conv2d(4, 2, 3), "Conv2d"),
            (nn.ConvTranspose2d(4, 2, 3), "ConvTranspose2d"),
            (nn.Sequential(nn.Flatten(), nn.Linear(144, 3)), "Linear"),
            (lambda x: F.pad(x, (1, 0)), "ConcatConstant"),
            (nn.Linear(6, 2, bias=False), "Reshape MatmulConstant Reshape"),
        ),
        default_decompositions,
    ),
}
"""Operations that the importer reads."""
