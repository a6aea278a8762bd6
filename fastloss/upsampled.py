"""A loss on low-resolution logits and a full-resolution target."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import interpolate

from . import _arguments as check
from ._band_ops import Made
from ._banded import BandedLoss, wide
from ._interpolation import MODES, NEAREST_EXACT
from ._sources import UPSAMPLED
from ._types import Upsampling

_AXES = {"linear": 1, "bilinear": 2, "trilinear": 3}


class UpsampledLoss(BandedLoss):
    """criterion(interpolate(x, S), y) of low-resolution logits x [N, C, *s] and a target y of full resolution S,
    without the upsampled logits or a gradient of their size.

    Most 2D networks end in a bilinear upsampling by 4 to 16 (SegFormer, DeepLab, UPerNet), after which their logits
    are most of the memory of the loss. Give this loss the logits before that step. Value and gradient are those of
    `torch.nn.functional.interpolate` and the criterion, to rounding; half logits are interpolated in float32, and
    rounded once, as a gradient. Sizes may grow or shrink, by any ratio.

    Beyond the inputs and one gradient of x, a call holds a few bands of logits (`band_bytes` each), whatever S. They
    are computed twice: for the sums of the loss, and for the gradient. (In one walk, where all terms are pointwise.)

    Whole logits are made after all for a criterion that is no loss of fastloss or schedule of them, for one of the
    reference backend if it was asked for by name, for targets that require a gradient, under `torch.func` and
    forward-mode AD.
    """

    full_resolution = True  # for `DeepSupervisionLoss`: labels are not to be sampled
    mode: Upsampling
    align_corners: bool

    def __init__(
        self,
        criterion: nn.Module,
        mode: Upsampling = "bilinear",
        align_corners: bool = False,
        *,
        band_bytes: int | None = None,
    ) -> None:
        """Make the loss.

        Args:
            criterion: the loss of full-resolution logits: one of fastloss, a `LossSchedule`, or any module that is
                called with logits and a target.
            mode: "nearest" or "nearest-exact" for any number of spatial axes, "linear" for one, "bilinear" for two,
                "trilinear" for three.
            align_corners: as `interpolate` has it; only for the linear modes.
            band_bytes: bytes of a band's logits, None for a size that suits the device (1 MiB on the CPU, 4 MiB on
                devices).

        Raises:
            ValueError: another mode, align_corners with a nearest one, reduction="none", or band_bytes below 1.
            TypeError: the criterion is no module, align_corners no bool.
        """
        super().__init__()
        self.criterion = criterion
        self.mode = mode
        self.align_corners = align_corners
        self.band_bytes = band_bytes

    def __setattr__(self, name: str, value: object) -> None:
        if name == "mode":
            value = check.choice("mode", value, MODES)
        elif name == "align_corners":
            value = check.flag("align_corners", value)
        if name in ("mode", "align_corners"):
            mode = value if name == "mode" else self.mode
            corners = value if name == "align_corners" else self.__dict__.get("align_corners", False)
            if corners and mode not in _AXES:
                raise ValueError(f"align_corners=True needs a linear mode (such as 'bilinear'), got {mode!r}.")
        super().__setattr__(name, value)

    def forward(self, x: Tensor, y: Tensor, mask: Tensor | None = None, pixel_weight: Tensor | None = None) -> Tensor:
        """The loss.

        Args:
            x: logits [N, C, *s] with 1 to 3 spatial axes (binary: also [N, h, w]).
            y: target for logits [N, C, *S], see `Criterion.forward`; its spatial axes say what x is interpolated to.
            mask: at full resolution, as for the criterion.
            pixel_weight: the same.

        Returns:
            0-d, as the criterion's.

        Raises:
            ValueError: the mode does not fit the number of spatial axes, an axis of x or y has no pixel, or what the
                criterion raises.
            TypeError: an argument is no tensor of a type that fits.
        """
        return self._scaled(1.0, x, y, mask, pixel_weight)

    def _made(self, x: Tensor, y: Tensor) -> tuple[Tensor, Made]:
        self._checked(x, y, "floating-point logits")
        if x.ndim == 3 and x.shape[1] != 1 and getattr(self.criterion, "mode", None) == "binary":
            x = x.unsqueeze(1)
        axes = x.ndim - 2
        if not 1 <= axes <= 3 or _AXES.get(self.mode, axes) != axes:
            wanted = _AXES.get(self.mode, "1 to 3")
            raise ValueError(f"x must be [N, C, *s] with {wanted} spatial axes for mode {self.mode!r}, got {_list(x)}.")
        if not axes < y.ndim <= axes + 2:
            raise ValueError(f"y must be a target for logits [N, C, *S] with {axes} spatial axes, got {_list(y)}.")
        size = tuple(y.shape[-axes:])
        for name, space in (("x", x.shape[2:]), ("y", size)):
            if 0 in space:
                raise ValueError(f"{name} must have a pixel along each spatial axis, got {list(space)}.")
        how = (UPSAMPLED, MODES.index(self.mode), int(self.align_corners), *size)
        return x, Made((x,), how, (*x.shape[:2], *size), wide(x.dtype))

    def _logits(self, x: Tensor, made: Made) -> Tensor:
        size, corners = made.shape[2:], self.align_corners if MODES.index(self.mode) > NEAREST_EXACT else None
        if size == x.shape[2:]:
            return x
        return interpolate(x.to(made.dtype), size, mode=self.mode, align_corners=corners)

    def extra_repr(self) -> str:
        words = [f"mode={self.mode!r}"]
        if self.align_corners:
            words.append("align_corners=True")
        if self.band_bytes is not None:
            words.append(f"band_bytes={self.band_bytes}")
        return ", ".join(words)


def _list(t: Tensor) -> list[int]:
    return list(t.shape)
