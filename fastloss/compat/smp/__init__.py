"""segmentation-models-pytorch 0.6.0, drop-in: `from fastloss.compat import smp` in place of
`import segmentation_models_pytorch.losses as smp`.

Same names, arguments, defaults, values and gradients, errors included; `strict=False` (keyword only) mends the defects:

| loss | defect of the original, kept | with strict=False |
|---|---|---|
| TverskyLoss | gamma < 1 has a NaN gradient where the mean over classes is 0 (no target pixels) | the gradient is 0 |
| FocalLoss | multilabel with ignore_index raises IndexError | ignored elements are left out |
| SoftBCEWithLogitsLoss | the mean divides by ignored elements too | it divides by the valid ones |
| SoftCrossEntropyLoss | the mean divides by ignored pixels too | it divides by the valid ones |
| SoftCrossEntropyLoss | the default smooth_factor=None raises TypeError in the call | it means 0 |
| LovaszLoss | multiclass with every pixel ignored gives an empty tensor | it gives 0 |
| DiceLoss, JaccardLoss, TverskyLoss, SoftCrossEntropyLoss | class indices must be int64 | any integer type |
| SoftBCEWithLogitsLoss, MCCLoss | integer or bool targets raise | they are read |
| DiceLoss, JaccardLoss, TverskyLoss, FocalLoss | classes, class_weights in a set or dict are left out | TypeError |

Always mended, since no number of the original is lost: values are float32 for half logits (the original sums in half,
which overflows at 512 x 512), focal gradients stay finite for gamma < 1, logits at ignored places may be NaN, and
`FocalLoss` and the mean of `strict=False` are 0 where every pixel is ignored, not NaN. Targets of binary and multilabel
losses must lie in [0, 1].
"""

from .entropy import SoftBCEWithLogitsLoss, SoftCrossEntropyLoss
from .focal import FocalLoss
from .region import DiceLoss, JaccardLoss, TverskyLoss
from .unfused import LovaszLoss, MCCLoss

BINARY_MODE, MULTICLASS_MODE, MULTILABEL_MODE = "binary", "multiclass", "multilabel"

__all__ = [
    "BINARY_MODE",
    "MULTICLASS_MODE",
    "MULTILABEL_MODE",
    "DiceLoss",
    "FocalLoss",
    "JaccardLoss",
    "LovaszLoss",
    "MCCLoss",
    "SoftBCEWithLogitsLoss",
    "SoftCrossEntropyLoss",
    "TverskyLoss",
]
