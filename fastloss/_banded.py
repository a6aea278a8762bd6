"""What the losses of logits that never exist share: the criterion, and the choice between bands and whole logits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from . import _arguments as check
from ._band_ops import Made, run
from .compound import Criterion
from .deep import scaled
from .explanation import Explained
from .plan import scaled_plan
from .schedule import LossSchedule
from .stats import Stats
from .validate import LOGITS, _check_tensor


class BandedLoss(Explained, nn.Module):
    """Base of `HeadLoss` and `UpsampledLoss`.

    Where the criterion is a loss of fastloss (or a schedule of them), logits and their gradient exist one band at a
    time. Any other criterion (drop-ins, modules of your own) gets whole logits.
    """

    criterion: nn.Module
    band_bytes: int | None

    def __setattr__(self, name: str, value: Any) -> None:
        """Settings can be changed at any time, and are checked as those of the constructor."""
        if name == "criterion":
            if not isinstance(value, nn.Module):
                raise TypeError(f"criterion must be a loss module, got {type(value).__name__}.")
            _refuse_elements(value)
        if name == "band_bytes" and value is not None:
            value = check.count("band_bytes", value, 1)
        found: Any = value
        super().__setattr__(name, found)

    def with_stats(
        self,
        x: Tensor,
        y: Tensor,
        threshold: float = 0.5,
        mask: Tensor | None = None,
        pixel_weight: Tensor | None = None,
    ) -> tuple[Tensor, Stats]:
        """(loss, `Stats`), also in eval mode; the counts take one more walk over the bands. See `Criterion.with_stats`.

        Raises what the plain call raises, TypeError for a criterion that is no loss of fastloss, and ValueError for a
        threshold outside [0, 1].
        """
        loss = _active(self.criterion)
        if not isinstance(loss, Criterion):
            raise TypeError(f"with_stats needs a loss of fastloss as criterion, got {type(loss).__name__}.")
        check.threshold(threshold)
        x, made = self._made(x, y)
        found = self._in_bands(loss, made, y, mask, pixel_weight, want_stats=True, threshold=threshold)
        if found is None:
            return loss.with_stats(self._logits(x, made), y, threshold, mask, pixel_weight)
        value, values, counts = found
        assert values is not None and counts is not None
        return value, loss._named(values, counts)

    def _scaled(
        self, scale: float, x: Tensor, y: Tensor, mask: Tensor | None = None, pixel_weight: Tensor | None = None
    ) -> Tensor:
        """scale times the loss: what `DeepSupervisionLoss` calls."""
        loss = _active(self.criterion)
        x, made = self._made(x, y)
        found = None
        if isinstance(loss, Criterion):
            found = self._in_bands(loss, made, y, mask, pixel_weight, scale)
        if found is not None:
            return found[0]
        given = {name: t for name, t in (("mask", mask), ("pixel_weight", pixel_weight)) if t is not None}
        return scaled(loss, scale, self._logits(x, made), y, **given)

    def _in_bands(self, loss: Criterion, made: Made, y: Any, mask: Any, pixel_weight: Any, scale=1.0, **stats) -> Any:
        _refuse_elements(loss)
        if made.shape == made.parts[0].shape and len(made.parts) == 1:  # the logits are there
            return None
        size = self._default_band_bytes(made.parts[0].device) if self.band_bytes is None else self.band_bytes
        weights = loss._weights() if loss._factors else []
        return run(scaled_plan(loss._plan, scale), weights, made, y, mask, pixel_weight, size, **stats)

    def _default_band_bytes(self, device: torch.device) -> int:
        """What stays in a core's cache, or is worth a launch."""
        return 2**20 if device.type == "cpu" else 2**22

    def _made(self, x: Tensor, y: Tensor) -> tuple[Tensor, Made]:
        """(x with a channel axis, how the logits come about)."""
        raise NotImplementedError

    def _logits(self, x: Tensor, made: Made) -> Tensor:
        """The whole logits, differentiable."""
        raise NotImplementedError

    def _checked(self, x: Any, y: Any, what: str) -> None:
        _check_tensor(self._input, x, LOGITS, what)
        if not isinstance(y, Tensor):
            raise TypeError(f"y must be a tensor (a target), got {type(y).__name__}.")

    _input = "x"


def _active(criterion: nn.Module) -> nn.Module:
    return criterion.active if isinstance(criterion, LossSchedule) else criterion


def _refuse_elements(criterion: nn.Module) -> None:
    losses: Any = criterion.losses if isinstance(criterion, LossSchedule) else [criterion]
    for loss in losses:
        if isinstance(loss, Criterion) and loss.spec.elementwise:
            raise ValueError("reduction='none' would need as many numbers as the logits; use 'mean' or 'sum'.")


def wide(dtype: torch.dtype) -> torch.dtype:
    """What is computed in for this dtype: float32, but float64 for float64."""
    return torch.float64 if dtype == torch.float64 else torch.float32
