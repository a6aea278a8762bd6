"""nnU-Net with a fused loss, deep supervision included.

Copy this file into a folder of its own (nnU-Net imports every file there), then

    nnUNet_extTrainer=FOLDER nnUNetv2_train DATASET 3d_fullres FOLD -tr nnUNetTrainerFastloss
"""

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import nn

import fastloss


class nnUNetTrainerFastloss(nnUNetTrainer):
    """nnU-Net's own loss, whatever the plans ask for (labels, regions, an ignore label), in one pass for each level."""

    def _build_loss(self) -> nn.Module:
        return fastloss.fuse(super()._build_loss())
