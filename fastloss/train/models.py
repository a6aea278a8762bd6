"""The networks: logits of the size of the image."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from fastloss.cli import CommandError

from .levit_unet import LeViTUNet
from .weights import not_downloaded, read_weights

SMALL, PAPER = "monai-unet", "smp-unet-efficientnet-b0"
LEVIT = "levit-unet-384"
NAMES = (SMALL, PAPER, "levit-unet-128s", "levit-unet-192", LEVIT)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MULTIPLE = {SMALL: 8, PAPER: 32}  # of which the image side must be


class RepeatChannels(nn.Module):
    """Feeds one grey channel to a network that expects three."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x.expand(-1, 3, -1, -1))


class Normalised(nn.Module):
    """Brings intensities from 0 to 1 to the mean and deviation of the images that the encoder was trained on."""

    def __init__(self, network: nn.Module, inner: int) -> None:
        super().__init__()
        self.network = network
        mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
        if inner == 1:  # the sum of the colours' weights meets one grey image: their average is the nearest
            mean, std = mean.mean(0, keepdim=True), std.mean(0, keepdim=True)
        self.register_buffer("mean", mean.reshape(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", std.reshape(1, -1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.network((x - self.mean) / self.std)


def build_model(
    name: str,
    num_classes: int,
    in_channels: int = 1,
    pretrained: bool = False,
    weights: str | Path = "",
    normalise: bool = False,
) -> nn.Module:
    """Build a network from images [N, in_channels, H, W] to logits [N, num_classes, H, W]; seed torch before for its
    weights.

    Args:
        name: monai-unet: MONAI's residual U-Net with instance norm, 0.41 M parameters, untrained.
            smp-unet-efficientnet-b0: the network of the dynamic alteration paper, 6.25 M; one grey channel is repeated
            to three. levit-unet-384 (also -192, -128s): 52.16 M at three classes, images of 224 x 224 only.
        pretrained: the encoder's ImageNet weights, which no package ships and smp or timm download.
        weights: a file with them instead (.safetensors, .pth), as smp or timm would download it.
        normalise: intensities are normalised as ImageNet's were; else they enter the encoder from 0 to 1.

    Raises:
        ValueError: `name` is none of NAMES, or has no pretrained weights.
        CommandError: the weights cannot be downloaded, or the file does not hold them.
    """
    if name not in NAMES:
        raise ValueError(f"name must be one of {', '.join(NAMES)}, got {name!r}.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of other libraries, about their own dependencies
        if name == SMALL:
            return _monai_unet(num_classes, in_channels, pretrained or bool(weights) or normalise)
        if name == PAPER:
            return _smp_unet(num_classes, in_channels, pretrained, weights, normalise)
        net = LeViTUNet(name.removeprefix("levit-unet-"), num_classes, in_channels, pretrained, weights)
        return Normalised(net, in_channels) if normalise else net


def _monai_unet(num_classes: int, in_channels: int, pretrained: bool) -> nn.Module:
    from monai.networks.nets import UNet

    if pretrained:
        raise ValueError(f"pretrained must be False for {SMALL}, which nobody has trained on ImageNet.")
    # With one output channel MONAI's UNet instance-normalises that channel: BCE then collapses to background.
    body = UNet(2, in_channels, 16, channels=(16, 32, 64, 128), strides=(2, 2, 2), num_res_units=2, norm="instance")
    return nn.Sequential(body, nn.Conv2d(16, num_classes, kernel_size=1))


def _smp_unet(
    num_classes: int, in_channels: int, pretrained: bool, file: str | Path, normalise: bool
) -> nn.Module:  # fmt: skip
    import segmentation_models_pytorch as smp

    inner = 3 if in_channels == 1 else in_channels
    weights = "imagenet" if pretrained and not file else None
    try:
        network = smp.Unet("efficientnet-b0", encoder_weights=weights, in_channels=inner, classes=num_classes)
    except (OSError, RuntimeError) as error:
        if not pretrained:
            raise
        raise not_downloaded("efficientnet-b0", error) from error
    if file:
        found = read_weights(file, network.encoder, "smp's efficientnet-b0")
        try:
            network.encoder.load_state_dict(found)
        except RuntimeError as error:
            raise CommandError(f"the weights {file} are not those of smp's efficientnet-b0: shapes differ") from error
    # smp keeps EfficientNet's classifier stem, whose 412,160 parameters a U-Net never reads: DDP would wait for them.
    for module in (network.encoder._conv_head, network.encoder._bn1):
        module.requires_grad_(False)
    network = Normalised(network, inner) if normalise else network
    return RepeatChannels(network) if in_channels == 1 else network
