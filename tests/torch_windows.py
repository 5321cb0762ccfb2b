"""Layers of windows beside the torch modules that compute the same, with an input shape."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from fimtheory import layers


class Padded(nn.Module):
    """Padding of the last dimensions, as ``torch.nn.functional.pad`` takes it."""

    def __init__(self, pads: tuple[int, ...], mode: str, value: float | None = None) -> None:
        super().__init__()
        self.pads, self.mode, self.value = pads, mode, value

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x, self.pads, self.mode, self.value)


class Responses(nn.Module):
    """Global response normalisation without its scale, shift and residual sum, over all but the channels."""

    def __init__(self, channel: int, eps: float) -> None:
        super().__init__()
        self.channel, self.eps = channel, eps

    def forward(self, x: Tensor) -> Tensor:
        apart = x.movedim(self.channel, 1)
        norms = apart.flatten(2).square().sum(2).sqrt()
        factors = norms / (norms.mean(1, keepdim=True) + self.eps)
        return (apart * factors.reshape(*norms.shape, *[1] * (x.dim() - 2))).movedim(1, self.channel)


LINE, IMAGE, VOLUME = (3, 11), (4, 6, 7), (2, 5, 4, 6)

WINDOWS = [
    (layers.MaxPool1d((3,), (2,), (1,), (2,), True), nn.MaxPool1d(3, 2, 1, 2, ceil_mode=True), LINE),
    (layers.MaxPool2d((3, 2), (3, 2), ceil_mode=True), nn.MaxPool2d((3, 2), (3, 2), ceil_mode=True), IMAGE),
    (
        layers.MaxPool3d((3, 2, 3), (2, 1, 2), (1, 0, 1), (1, 2, 1), True),
        nn.MaxPool3d((3, 2, 3), (2, 1, 2), (1, 0, 1), (1, 2, 1), ceil_mode=True),
        VOLUME,
    ),
    (layers.AvgPool1d((4,), (3,), (2,), True, False), nn.AvgPool1d(4, 3, 2, True, False), LINE),
    (
        layers.AvgPool2d((3, 2), (2, 3), (1, 1), True, False),
        nn.AvgPool2d((3, 2), (2, 3), (1, 1), True, False),
        IMAGE,
    ),
    (layers.AvgPool2d((3, 3), (2, 2), (1, 1), divisor=5), nn.AvgPool2d(3, 2, 1, divisor_override=5), IMAGE),
    (
        layers.AvgPool3d((2, 3, 2), (2, 2, 1), (1, 1, 0), True),
        nn.AvgPool3d((2, 3, 2), (2, 2, 1), (1, 1, 0), True),
        VOLUME,
    ),
    (layers.LpPool2d(2, (3, 2), (2, 2)), nn.LPPool2d(2, (3, 2), 2), IMAGE),
    (layers.LpPool2d(4, (3, 2), (2, 3), True), nn.LPPool2d(4, (3, 2), (2, 3), ceil_mode=True), IMAGE),
    (layers.LpPool2d(1, (3, 2), (2, 2), True), nn.LPPool2d(1, (3, 2), 2, ceil_mode=True), IMAGE),
    (layers.AdaptiveAvgPool1d((4,)), nn.AdaptiveAvgPool1d(4), LINE),
    (layers.AdaptiveAvgPool3d((3, 1, 7)), nn.AdaptiveAvgPool3d((3, 1, 7)), VOLUME),
    (layers.AdaptiveMaxPool1d((4,)), nn.AdaptiveMaxPool1d(4), LINE),
    (layers.AdaptiveMaxPool2d((4, 9)), nn.AdaptiveMaxPool2d((4, 9)), IMAGE),
    (layers.AdaptiveMaxPool3d((3, 1, 7)), nn.AdaptiveMaxPool3d((3, 1, 7)), VOLUME),
    (layers.BatchNorm1d(3, 1e-3), nn.BatchNorm1d(3, 1e-3), LINE),
    (layers.BatchNorm1d(11, 1e-3), nn.BatchNorm1d(11, 1e-3), (11,)),
    (layers.BatchNorm3d(2, 1e-3), nn.BatchNorm3d(2, 1e-3), VOLUME),
    (layers.LayerNormOver((6, 7), 1e-4), nn.LayerNorm((6, 7), 1e-4), IMAGE),
    (layers.RMSNorm(7, 1e-4), nn.RMSNorm(7, 1e-4), IMAGE),
    (layers.GroupNorm(2, 4, 1e-4), nn.GroupNorm(2, 4, 1e-4), IMAGE),
    (layers.GroupNorm(4, 4, 1e-4, False), nn.InstanceNorm2d(4, 1e-4), IMAGE),
    (layers.GroupNorm(3, 12, 1e-4, False), nn.GroupNorm(3, 12, 1e-4, False), (12,)),
    (layers.LocalResponseNorm(3, 0.7, 0.6, 1.5), nn.LocalResponseNorm(3, 0.7, 0.6, 1.5), IMAGE),
    (layers.LocalResponseNorm(4), nn.LocalResponseNorm(4), LINE),
    (layers.LocalResponseNorm(2, 2.0, 1.0), nn.LocalResponseNorm(2, 2.0, 1.0), VOLUME),
    (layers.GlobalResponseNorm((1, 2), 0, 0.3), Responses(1, 0.3), IMAGE),
    (layers.GlobalResponseNorm((0, 1), 2), Responses(3, 1e-6), IMAGE),
    (layers.GlobalResponseNorm((0,), 1, 1e-2), Responses(2, 1e-2), LINE),
    (layers.Conv1d(3, 4, (3,), (2,), (1,), (2,)), nn.Conv1d(3, 4, 3, 2, 1, 2), LINE),
    (
        layers.Conv3d(2, 4, (2, 3, 1), (1, 2, 1), (1, 1, 0), (2, 1, 1), 2, False),
        nn.Conv3d(2, 4, (2, 3, 1), (1, 2, 1), (1, 1, 0), (2, 1, 1), 2, False),
        VOLUME,
    ),
    (layers.ConvTranspose1d(3, 4, (3,), (2,), (1,), (1,)), nn.ConvTranspose1d(3, 4, 3, 2, 1, 1), LINE),
    (
        layers.ConvTranspose2d(4, 6, (3, 2), (2, 3), (1, 0), (1, 2), (1, 2), 2, False),
        nn.ConvTranspose2d(4, 6, (3, 2), (2, 3), (1, 0), (1, 2), 2, False, (1, 2)),
        IMAGE,
    ),
    (
        layers.ConvTranspose3d(2, 2, (2, 3, 1), (1, 2, 1), (1, 1, 0), dilation=(2, 1, 1)),
        nn.ConvTranspose3d(2, 2, (2, 3, 1), (1, 2, 1), (1, 1, 0), dilation=(2, 1, 1)),
        VOLUME,
    ),
    (layers.Pad(((1, 0), (2, 3)), value=1.5), Padded((2, 3, 1, 0), "constant", 1.5), LINE),
    (layers.Pad(((0, 0), (5, 2), (0, 6)), "reflect"), Padded((0, 6, 5, 2), "reflect"), IMAGE),
    (layers.Pad(((0, 0), (5, 2), (0, 9)), "replicate"), Padded((0, 9, 5, 2), "replicate"), IMAGE),
    (layers.Pad(((0, 0), (5, 2), (0, 7)), "circular"), Padded((0, 7, 5, 2), "circular"), IMAGE),
    (layers.Upsample((7, 20)), nn.Upsample((7, 20)), IMAGE),
    (layers.Upsample((12, 14), "linear"), nn.Upsample((12, 14), mode="bilinear"), IMAGE),
    (layers.Upsample((11, 4), "linear", True), nn.Upsample((11, 4), mode="bilinear", align_corners=True), IMAGE),
    (layers.Upsample((12, 5), "cubic"), nn.Upsample((12, 5), mode="bicubic"), IMAGE),
    (layers.Upsample((13, 1), "cubic", True), nn.Upsample((13, 1), mode="bicubic", align_corners=True), IMAGE),
    (layers.Upsample((5, 9, 6), "linear"), nn.Upsample((5, 9, 6), mode="trilinear"), VOLUME),
    (layers.Upsample((25,), "linear"), nn.Upsample(25, mode="linear"), LINE),
    (layers.PixelShuffle(2), nn.PixelShuffle(2), IMAGE),
    (layers.PixelUnshuffle(2), nn.PixelUnshuffle(2), (3, 6, 4)),
    (layers.Unfold((3, 2), (1, 2), (1, 0), (2, 1)), nn.Unfold((3, 2), (1, 2), (1, 0), (2, 1)), IMAGE),
    (layers.Fold((6, 5), (3, 2), (1, 2), (1, 0), (2, 1)), nn.Fold((6, 5), (3, 2), (1, 2), (1, 0), (2, 1)), (24, 9)),
]
