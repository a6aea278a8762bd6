"""Drop-in namespaces: `fastloss.compat.smp` (segmentation-models-pytorch 0.6.0), `fastloss.compat.monai` (MONAI 1.6.1),
`fastloss.compat.nnunet` (nnU-Net 2.8.1) and `fastloss.compat.torch` (PyTorch and torchvision). They are imported when
they are first asked for, and import none of those libraries but torch.

`fastloss.fuse` makes them from instances of those libraries' own losses; `WeightedSum` adds losses of any of them."""

import importlib
from typing import TYPE_CHECKING, Any

from ._base import CompatLoss
from ._sum import WeightedSum

if TYPE_CHECKING:
    from ._verify import Report

__all__ = ["CompatLoss", "Report", "WeightedSum"]
_NAMESPACES = ("monai", "nnunet", "smp", "torch")


def __getattr__(name: str) -> Any:
    if name == "Report":
        return importlib.import_module(f"{__name__}._verify").Report
    if name in _NAMESPACES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_NAMESPACES})
