"""The losses of nnU-Net 2.8.1 by their names, with their arguments and numbers, without importing nnU-Net.

    from fastloss.compat.nnunet import DC_and_CE_loss  # in place of nnunetv2.training.loss.compound_losses

What runs fused and what `strict=False` mends: docs/migrate-nnunet.md.
"""

from .activation import softmax_helper_dim1
from .compound import DC_and_CE_loss, DC_and_topk_loss
from .cross_entropy import RobustCrossEntropyLoss, TopKLoss
from .deep import DeepSupervisionWrapper
from .dice import MemoryEfficientSoftDiceLoss, SoftDiceLoss
from .regions import DC_and_BCE_loss

__all__ = [
    "DC_and_BCE_loss",
    "DC_and_CE_loss",
    "DC_and_topk_loss",
    "DeepSupervisionWrapper",
    "MemoryEfficientSoftDiceLoss",
    "RobustCrossEntropyLoss",
    "SoftDiceLoss",
    "TopKLoss",
    "softmax_helper_dim1",
]
