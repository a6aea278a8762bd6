"""MONAI 1.6.1, drop-in: `from fastloss.compat import monai` in place of `import monai.losses`.

Same names, arguments, defaults, values and gradients, errors and warnings included; `strict=False` (keyword only) mends
the defects:

| loss | defect of the original, kept | with strict=False |
|---|---|---|
| FocalLoss | ignore_index makes the mean C times larger (divided by voxels), even if nothing is ignored | a true mean |
| MaskedDiceLoss | with to_onehot_y=True what the mask leaves out counts as target of class 0 | it does not |
| AsymmetricUnifiedFocalLoss | ignored voxels count in the focal mean, and in the sums with 1e-7 | they do not |
| DeepSupervisionLoss | integer targets cannot be resized (but uint8) | any type |

Always mended, since no number of the original is lost: focal gradients stay finite for gamma < 1, logits at ignored
voxels may be NaN, and values are float32 for half logits. Targets of sigmoid losses must lie in [0, 1]. What looks odd
but is a convention stays in both: class weights that are not normalised, the softmax cross-entropy of `DiceCELoss` with
sigmoid=True, the sigmoid focal loss of `DiceFocalLoss` with softmax=True, the mean of the softmax focal loss over all
channels.
"""

from .dice import DiceLoss, MaskedDiceLoss
from .dice_ce import DiceCELoss
from .dice_focal import DiceFocalLoss, GeneralizedDiceFocalLoss
from .focal import FocalLoss
from .supervision import DeepSupervisionLoss
from .tversky import GeneralizedDiceLoss, TverskyLoss
from .unified import AsymmetricUnifiedFocalLoss

__all__ = [
    "AsymmetricUnifiedFocalLoss",
    "DeepSupervisionLoss",
    "DiceCELoss",
    "DiceFocalLoss",
    "DiceLoss",
    "FocalLoss",
    "GeneralizedDiceFocalLoss",
    "GeneralizedDiceLoss",
    "MaskedDiceLoss",
    "TverskyLoss",
]
