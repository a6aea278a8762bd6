"""The cases of `fastloss bench --compat`: every drop-in class at a small and a large size, as users call it."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

ORIGINALS = {
    "smp": "segmentation_models_pytorch.losses",
    "monai": "monai.losses",
    "nnunet": "nnunetv2.training.loss.compound_losses",  # which imports its other losses
}
SIZES = {"small": 64, "large": 384}
VOLUMES = {"small": 16, "large": 64}
CLASSES = 4


@dataclass(frozen=True)
class CompatCase:
    """A class, its settings, and its target: "mask" (binary), "ids" (class ids) or "onehot" (of floats)."""

    library: str
    name: str
    target: str
    settings: dict[str, Any] = field(default_factory=dict)
    volume: bool = False
    probabilities: bool = False

    @property
    def label(self) -> str:
        words = [f"{k}={v}" for k, v in self.settings.items() if k != "mode"]
        shape = "3d " if self.volume else ""
        return f"{self.library}.{self.name} {shape}{self.target}" + (f" ({', '.join(words)})" if words else "")

    def make(self, original: bool) -> nn.Module:
        module = ORIGINALS[self.library] if original else f"fastloss.compat.{self.library}"
        space = importlib.import_module(module)
        if self.settings.get("apply_nonlin") == "softmax":
            softmax = space.softmax_helper_dim1
            return getattr(space, self.name)(**self.settings | {"apply_nonlin": softmax})
        if self.name != "DeepSupervisionLoss":
            return getattr(space, self.name)(**self.settings)
        return _Pyramid(space.DeepSupervisionLoss(space.DiceCELoss(to_onehot_y=True, softmax=True)))

    def inputs(self, size: str) -> tuple[Tensor, Tensor]:
        torch.manual_seed(0)
        space = (VOLUMES[size],) * 3 if self.volume else (SIZES[size],) * 2
        x = torch.randn(2, 1 if self.target == "mask" else CLASSES, *space)
        coarse = torch.rand(2, CLASSES, *[max(1, s // 8) for s in space])
        ids = nn.functional.interpolate(coarse, size=space).argmax(1)
        if self.target == "ids":
            y = ids if self.library == "smp" else ids[:, None].float()
        elif self.target == "mask":
            y = (ids[:, None] > 1).float()
        else:
            y = nn.functional.one_hot(ids, CLASSES).movedim(-1, 1).float().contiguous()
        return (x.sigmoid() if self.probabilities else x), y


def _case(library: str, name: str, target: str, **settings: Any) -> CompatCase:
    return CompatCase(library, name, target, settings)


class _Pyramid(nn.Module):
    """Deep supervision on views of one output: the full size, half and a quarter of it."""

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        axes = x.ndim - 2
        levels = [x[(..., *[slice(None, None, step)] * axes)] for step in (1, 2, 4)]
        return self.loss(levels, y)


def _smp() -> list[CompatCase]:
    cases = []
    for name in ("DiceLoss", "JaccardLoss", "TverskyLoss", "FocalLoss", "LovaszLoss"):
        cases += [_case("smp", name, "mask", mode="binary"), _case("smp", name, "ids", mode="multiclass")]
    return [
        *cases,
        _case("smp", "DiceLoss", "onehot", mode="multilabel"),
        _case("smp", "DiceLoss", "ids", mode="multiclass", log_loss=True),
        _case("smp", "TverskyLoss", "ids", mode="multiclass", alpha=0.3, beta=0.7, gamma=1.5),
        _case("smp", "FocalLoss", "ids", mode="multiclass", class_weights=[1.0, 2.0, 0.5, 1.0]),
        _case("smp", "FocalLoss", "mask", mode="binary", normalized=True),
        _case("smp", "SoftBCEWithLogitsLoss", "mask"),
        _case("smp", "SoftBCEWithLogitsLoss", "onehot", smooth_factor=0.1),
        _case("smp", "SoftCrossEntropyLoss", "ids", smooth_factor=0.1),
        CompatCase("smp", "MCCLoss", "mask", probabilities=True),
        CompatCase("smp", "DiceLoss", "mask", {"mode": "binary", "from_logits": False}, probabilities=True),
    ]


def _monai() -> list[CompatCase]:
    softmax, sigmoid = {"to_onehot_y": True, "softmax": True}, {"sigmoid": True}
    cases = []
    for name in ("DiceLoss", "GeneralizedDiceLoss", "TverskyLoss", "DiceCELoss", "DiceFocalLoss"):
        cases += [_case("monai", name, "ids", **softmax), _case("monai", name, "mask", **sigmoid)]
        cases.append(CompatCase("monai", name, "ids", softmax, volume=True))
    return [
        *cases,
        _case("monai", "GeneralizedDiceFocalLoss", "ids", **softmax),
        _case("monai", "GeneralizedDiceFocalLoss", "onehot", **sigmoid),
        _case("monai", "MaskedDiceLoss", "ids", **softmax),
        _case("monai", "DiceLoss", "ids", **softmax, reduction="none", include_background=False),
        CompatCase("monai", "DiceLoss", "mask", {"squared_pred": True}, probabilities=True),
        *[_case("monai", "FocalLoss", "ids", to_onehot_y=True, use_softmax=s) for s in (False, True)],
        _case("monai", "FocalLoss", "mask"),
        _case("monai", "FocalLoss", "onehot", alpha=[0.5, 1.0, 2.0, 1.0]),
        CompatCase("monai", "AsymmetricUnifiedFocalLoss", "mask", probabilities=True),
        _case("monai", "DeepSupervisionLoss", "ids"),
    ]


def _nnunet() -> list[CompatCase]:
    """Make the cases as its trainers build the losses: batch Dice, no background, smooth 1e-5."""
    dice = {"batch_dice": True, "do_bg": False, "smooth": 1e-5, "ddp": False}
    names = ("SoftDiceLoss", "MemoryEfficientSoftDiceLoss")
    cases = [_case("nnunet", name, "ids", apply_nonlin="softmax", **dice) for name in names]
    cases += [_case("nnunet", name, "ids") for name in ("RobustCrossEntropyLoss", "TopKLoss")]
    for volume in (False, True):
        both = {"soft_dice_kwargs": dice, "ce_kwargs": {}}
        cases += [CompatCase("nnunet", n, "ids", both, volume=volume) for n in ("DC_and_CE_loss", "DC_and_topk_loss")]
    regions = {"bce_kwargs": {}, "soft_dice_kwargs": dice | {"do_bg": True}}
    return [*cases, CompatCase("nnunet", "DC_and_BCE_loss", "onehot", regions)]


CASES = {"smp": _smp(), "monai": _monai(), "nnunet": _nnunet()}
