"""The networks: one logit per pixel."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

SMALL, PAPER = "monai-unet", "smp-unet-efficientnet-b0"
MULTIPLE = {SMALL: 8, PAPER: 32}  # of which the image side must be


class RepeatChannels(nn.Module):
    """Feeds one grey channel to a network that expects three."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x.expand(-1, 3, -1, -1))


def build(name: str, seed: int) -> nn.Module:
    """The network with weights that are a function of the seed: input [N, 1, H, W], output logits of that shape.

    monai-unet: MONAI's residual U-Net with instance norm, 0.41 M parameters. smp-unet-efficientnet-b0: the network of
    the dynamic alteration paper, 6.25 M, without its ImageNet weights, which no package ships.
    """
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of other libraries, about their own dependencies
        if name == PAPER:
            import segmentation_models_pytorch as smp

            network = RepeatChannels(smp.Unet("efficientnet-b0", encoder_weights=None, in_channels=3, classes=1))
        else:
            from monai.networks.nets import UNet

            # With one output channel MONAI's UNet instance-normalises that channel: BCE then collapses to background.
            body = UNet(2, 1, 16, channels=(16, 32, 64, 128), strides=(2, 2, 2), num_res_units=2, norm="instance")
            network = nn.Sequential(body, nn.Conv2d(16, 1, kernel_size=1))
    return network.to(memory_format=torch.channels_last)
