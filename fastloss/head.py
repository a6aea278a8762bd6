"""The last layer of a network and its loss by bands."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ._band_ops import DTYPES, Made
from ._banded import BandedLoss
from ._sources import HEAD
from .deep import HOOKS

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class HeadLoss(BandedLoss):
    """criterion(head(features), y) without the logits or their gradient as a whole.

    A network with many classes ends in a 1x1 convolution whose output can be several times as large as the features
    (118 classes of 128^3 voxels: 1 GB, from 32 features of a quarter of that). Here the head runs band by band, twice:
    for the sums of the loss, and for the gradients of features, weight and bias. (Once, where all terms are pointwise.)

    The head stays a module of the network: its parameters, state_dict and hooks on gradients (DistributedDataParallel)
    are as before. In training a call does not run the head's own forward, so hooks on that would not run; a head that
    has some gets whole logits. So do criterions that are no losses of fastloss or schedules of them, and the reference
    backend if it was asked for by name.

    In eval mode, or called without y, it returns logits: head(features).
    """

    _input = "features"
    head: nn.Module

    def __init__(self, head: nn.Module, criterion: nn.Module, *, band_bytes: int | None = None) -> None:
        """Make the loss.

        Args:
            head: Conv1d, Conv2d or Conv3d with kernel size 1, stride 1, no padding and one group, or Linear, which is
                applied to the channel axis.
            criterion: the loss of the logits: one of fastloss, a `LossSchedule`, or any module that is called with
                logits and a target.
            band_bytes: bytes of a band's logits; None: 2 MiB for each thread on the CPU, at most 32 MiB; 32 MiB on
                devices.

        Raises:
            ValueError: the head is another convolution, reduction="none", or band_bytes below 1.
            TypeError: the head is no such module, or the criterion none at all.
        """
        super().__init__()
        self.head = head
        self.criterion = criterion
        self.band_bytes = band_bytes

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "head":
            _check_head(value)
        super().__setattr__(name, value)

    def forward(
        self,
        features: Tensor,
        y: Tensor | None = None,
        mask: Tensor | None = None,
        pixel_weight: Tensor | None = None,
    ) -> Tensor:
        """The loss of features [N, F, *S] and a target y for logits [N, C, *S], or the logits (in eval, without y).

        y, mask and pixel_weight are those of `Criterion.forward`. Raises ValueError and TypeError for what does not
        fit: another number of features than the head has, another dtype without autocast, and what the criterion
        raises.
        """
        if y is None or not self.training:
            return self._logits(features, None)
        return self._scaled(1.0, features, y, mask, pixel_weight)

    def _made(self, x: Tensor, y: Tensor) -> tuple[Tensor, Made]:
        self._checked(x, y, "floating-point features")
        head: Any = self.head
        axes = _axes(head)
        if not (3 <= x.ndim <= 5 if axes is None else x.ndim == axes + 2):
            wanted = "1 to 3" if axes is None else axes
            raise ValueError(f"features must be [N, F, *S] with {wanted} spatial axes, got {list(x.shape)}.")
        weight, bias = head.weight, head.bias
        if x.shape[1] != weight.shape[1]:
            raise ValueError(f"features must have the {weight.shape[1]} channels of the head, got {x.shape[1]}.")
        if weight.device != x.device:
            raise ValueError(f"features must be on the device of the head ({weight.device}), got {x.device}.")
        dtype = _dtype(x, weight)
        parts = (x, weight) if bias is None else (x, weight, bias)
        return x, Made(parts, (HEAD, DTYPES.index(dtype)), (x.shape[0], weight.shape[0], *x.shape[2:]), dtype)

    def _in_bands(self, *args: Any, **kwargs: Any) -> Any:
        if any([getattr(self.head, hook) for hook in HOOKS]):
            return None
        return super()._in_bands(*args, **kwargs)

    def _default_band_bytes(self, device: torch.device) -> int:
        return min(2**21 * torch.get_num_threads(), 2**25) if device.type == "cpu" else 2**25

    def _logits(self, x: Tensor, made: Made | None) -> Tensor:
        if isinstance(self.head, nn.Linear):
            return self.head(x.movedim(1, -1)).movedim(-1, 1)
        return self.head(x)

    def extra_repr(self) -> str:
        return "" if self.band_bytes is None else f"band_bytes={self.band_bytes}"


def _dtype(features: Tensor, weight: Tensor) -> torch.dtype:
    """What the head would compute in."""
    device = features.device.type
    if torch.is_autocast_enabled(device) and torch.float64 not in (features.dtype, weight.dtype):
        return torch.get_autocast_dtype(device)
    if features.dtype != weight.dtype:
        names = [str(t.dtype).removeprefix("torch.") for t in (weight, features)]
        raise TypeError(f"features must have the dtype of the head ({names[0]}) outside autocast, got {names[1]}.")
    return features.dtype


def _axes(head: nn.Module) -> int | None:
    return None if isinstance(head, nn.Linear) else 1 + [isinstance(head, kind) for kind in _CONVOLUTIONS].index(True)


def _check_head(head: object) -> None:
    if isinstance(head, nn.Linear):
        return
    if not isinstance(head, _CONVOLUTIONS):
        raise TypeError(f"head must be a Conv1d, Conv2d, Conv3d or Linear, got {type(head).__name__}.")
    for name, good, wanted in (
        ("kernel_size", all([size == 1 for size in head.kernel_size]), "1"),
        ("stride", all([step == 1 for step in head.stride]), "1"),
        ("padding", head.padding in ("valid", "same") or not any(head.padding), "0"),
        ("groups", head.groups == 1, "1"),
    ):
        if not good:
            raise ValueError(f"head must be a convolution with {name}={wanted}, got {getattr(head, name)}.")
