"""nnU-Net whose every level of deep supervision is compared with the labels of full resolution.

Put this file into nnunetv2/training/nnUNetTrainer/, then train with -tr nnUNetTrainerFullResolution.
"""

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import Tensor, nn

import fastloss


class FirstTarget(fastloss.DeepSupervisionLoss):
    """nnU-Net's data loader gives a target for each level, the one of full resolution first."""

    def forward(self, x: list[Tensor], y: list[Tensor]) -> Tensor:
        return super().forward(x, y[0])


class nnUNetTrainerFullResolution(nnUNetTrainer):
    """Dice + cross-entropy of labels (no regions), each level interpolated to full resolution, band by band."""

    def _build_loss(self) -> nn.Module:
        common = {"ignore_index": self.label_manager.ignore_label}
        foreground = range(1, self.label_manager.num_segmentation_heads)
        criterion = fastloss.DiceLoss("multiclass", classes=foreground, smooth=1e-5, **common)
        criterion = criterion + fastloss.CrossEntropyLoss(**common)
        if not self.enable_deep_supervision:
            return criterion
        mode = "trilinear" if len(self.configuration_manager.patch_size) == 3 else "bilinear"
        levels = len(self._get_deep_supervision_scales())
        weights = [0.0 if level and level == levels - 1 else 0.5**level for level in range(levels)]
        return FirstTarget(fastloss.UpsampledLoss(criterion, mode), [w / sum(weights) for w in weights])
