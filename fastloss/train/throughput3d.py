"""The 3D case of `--compare`: MONAI's DynUNet with deep supervision on noise, 14 and 118 classes, Dice + CE."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from fastloss import CrossEntropyLoss, DiceLoss
from fastloss.measure.contenders import Contender

from .contenders import contenders, deep

CLASSES = (14, 118)  # BTCV's, and about those of TotalSegmentator
SIDES = {"paper": 128, "short": 96, "smoke": 16}  # on a GPU; a CPU takes the least
BLOCKS = 8  # of one label each, along a side
WEIGHTS = (1.0, 0.5, 0.25)
FILTERS = (16, 32, 64, 128)


def side(preset: str, fabric: Fabric) -> int:
    return SIDES[preset] if fabric.device.type == "cuda" else SIDES["smoke"]


def title(classes: int, preset: str, fabric: Fabric) -> str:
    return f"3D {side(preset, fabric)}³, {classes} classes, {len(WEIGHTS)} outputs: Dice + CE"


def build(
    classes: int, preset: str, peers: list[str], fabric: Fabric
) -> tuple[nn.Module, Any, tuple[Tensor, Tensor], list[Contender], list[str]]:
    """Return (network, optimiser, batch, contenders, missing peers)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from monai.networks.nets import DynUNet
    torch.manual_seed(0)
    net = DynUNet(
        3, 1, classes, kernel_size=[3] * 4, strides=[1, 2, 2, 2], upsample_kernel_size=[2] * 3, filters=FILTERS,
        deep_supervision=True, deep_supr_num=len(WEIGHTS) - 1,
    )  # fmt: skip
    model, optimizer = fabric.setup(net, torch.optim.Adam(net.parameters(), 1e-3))
    model.train()
    n = side(preset, fabric)
    x = torch.rand(1, 1, n, n, n)
    # Blocks, every class among them: libraries treat an absent class differently.
    coarse = (torch.randperm(BLOCKS**3) % classes).to(torch.uint8).reshape(1, BLOCKS, BLOCKS, BLOCKS)
    y = coarse.repeat_interleave(n // BLOCKS, 1).repeat_interleave(n // BLOCKS, 2).repeat_interleave(n // BLOCKS, 3)
    criterion = DiceLoss("multiclass") + CrossEntropyLoss()
    found, missing = contenders(criterion, (1, classes, n, n, n), peers)
    return model, optimizer, (x.to(fabric.device), y.to(fabric.device)), deep(found, WEIGHTS), missing
