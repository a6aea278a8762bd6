"""Drop-in namespaces: `fastloss.compat.smp` (segmentation-models-pytorch 0.6.0), `fastloss.compat.monai` (MONAI 1.6.1)
and `fastloss.compat.nnunet` (nnU-Net 2.8.1). Importing one imports none of those libraries.

`fastloss.fuse` makes them from instances of those libraries' own losses; `WeightedSum` adds losses of any of them."""

from ._sum import WeightedSum

__all__ = ["WeightedSum"]
