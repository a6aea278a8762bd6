"""LeViT-UNet (Xu et al. 2021, arXiv 2107.08623): a LeViT encoder and a convolutional decoder, on timm's LeViT.

With one input channel and three classes the 384 variant has the 52,156,519 parameters that the LeViT-UNet paper of 2025
reports. What timm brings in place of the authors' encoder is the same to the bit, but for pretrained weights: timm sums
the RGB weights of the first convolution for one channel, the authors leave that layer random.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from fastloss.cli import CommandError

from .weights import not_downloaded, read_weights

VARIANTS = {"128s": 0.0, "192": 0.0, "384": 0.1}  # and the share of residual branches dropped in training
SIZE = 224  # the attention biases are tables for this image


class UpBlock(nn.Sequential):
    """Twice [3x3 convolution without bias, batch norm, ReLU]; the caller upsamples before and concatenates after."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(*_conv(inputs, outputs), *_conv(outputs, outputs))


def _conv(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)


class LeViTUNet(nn.Module):
    """Images [N, in_channels, 224, 224] to logits [N, num_classes, 224, 224].

    Args:
        variant: one of VARIANTS.
        pretrained: ImageNet weights for the encoder, which timm downloads.
        weights: a file with them, as timm would download it.

    Raises:
        CommandError: the weights cannot be had, or the file does not hold them.
    """

    def __init__(
        self, variant: str, num_classes: int, in_channels: int = 1, pretrained: bool = False, weights: str | Path = ""
    ) -> None:
        import timm

        super().__init__()
        name = f"levit_{variant}"
        drop, file = VARIANTS[variant], None
        if weights:
            fresh = timm.create_model(name, in_chans=in_channels, num_classes=0)
            file = read_weights(weights, fresh, f"timm's {name}")
        try:
            levit = timm.create_model(
                name, pretrained or bool(weights), in_chans=in_channels, num_classes=0, drop_path_rate=drop,
                pretrained_cfg_overlay={"state_dict": file} if file else None,
            )  # fmt: skip
        except (OSError, RuntimeError) as error:
            if weights:
                raise CommandError(f"the weights {weights} are not those of timm's {name}: shapes differ") from error
            if not pretrained:
                raise
            raise not_downloaded(name, error) from error
        self.stem, self.stages = levit.stem, levit.stages
        depths = [info["num_chs"] for info in levit.feature_info]
        c1, c2, c3, c4 = depths[0] // 8, depths[0] // 4, depths[0] // 2, depths[0]
        deep = c4 + sum(depths)
        self.up1, self.up2, self.up3 = UpBlock(deep, 512), UpBlock(512 + c3, 256), UpBlock(256 + c2, 128)
        self.head = nn.Conv2d(128 + c1, num_classes, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-2:] != (SIZE, SIZE):
            raise ValueError(f"x must be [N, C, {SIZE}, {SIZE}], as LeViT's attention biases are, got {list(x.shape)}.")
        stem = self.stem
        c1 = stem.act1(stem.conv1(x))  # 112
        c2 = stem.act2(stem.conv2(c1))  # 56
        c3 = stem.act3(stem.conv3(c2))  # 28
        c4 = stem.conv4(c3)  # 14, without activation
        tokens, maps = c4.flatten(2).transpose(1, 2), []
        for stage, side in zip(self.stages, (14, 7, 4)):
            tokens = stage(tokens)
            maps.append(tokens.transpose(1, 2).unflatten(2, (side, side)))
        s1, s2, s3 = maps
        s3 = _resize(_double(_double(s3)), s1.shape[-2:])  # 4, 8, 16, then 14
        x = self.up1(_double(torch.cat([c4, s1, _double(s2), s3], 1)))
        x = self.up2(_double(torch.cat([x, c3], 1)))
        x = self.up3(_double(torch.cat([x, c2], 1)))
        return _double(self.head(torch.cat([x, c1], 1)))


def _resize(x: Tensor, size: torch.Size | tuple[int, int]) -> Tensor:
    return nn.functional.interpolate(x, size, mode="bilinear", align_corners=True)


def _double(x: Tensor) -> Tensor:
    return _resize(x, (2 * x.shape[-2], 2 * x.shape[-1]))
