"""Cross-entropies whose class weights are those of the batch itself: balanced, and weighted by recall."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import _arguments as check
from . import distributed
from ._planned import PlannedLoss
from ._types import Backend
from .plan import plan
from .reference.inputs import class_counts, per_pixel, select, signed
from .spec import Spec, Term

TRUE_POSITIVE, FALSE_NEGATIVE = 0, 2  # columns of counts


class _BatchWeighted(PlannedLoss):
    """Cross-entropy on class indices, each pixel weighted by a number of its class that the batch gives.

    The weights are constants to autograd. They are gathered for each pixel, 4 bytes a pixel (8 in float64).
    """

    def __init__(self, ignore_index: int | None, backend: str | None, process_group: Any) -> None:
        spec = Spec("multiclass", (Term("ce"),), check.index("ignore_index", ignore_index))
        super().__init__(plan(spec, check.backend(backend), check.process_group(process_group)))

    def _class_weights(self, x: Tensor, y: Tensor, mask: Tensor | None) -> Tensor:
        """[C] float64: the weight of each class in this batch, from labels and predictions that count."""
        raise NotImplementedError

    def forward(self, x: Tensor, y: Tensor, mask: Tensor | None = None, pixel_weight: Tensor | None = None) -> Tensor:
        """Compute the loss of logits x [N, C, *S] and class indices y [N, *S] or [N, 1, *S].

        Args:
            x: logits.
            y: class indices, of any integer type.
            mask: bool [N, *S] or [N, 1, *S]; only True pixels count, in the weights too.
            pixel_weight: floating, the shapes of mask; multiplies the elements besides the weights of their classes.

        Returns:
            0-d, the mean over the valid pixels.

        Raises:
            TypeError, ValueError, RuntimeError: as `CrossEntropyLoss`; TypeError for probabilities as the target.
        """
        if isinstance(y, Tensor) and y.is_floating_point():
            raise TypeError(f"y must hold integer class ids for this loss, got {str(y.dtype).removeprefix('torch.')}.")
        self._plan.route(x, y, mask, pixel_weight)  # the arguments fit
        with torch.no_grad():
            weights = self._class_weights(x, y, mask)
            indices = signed(per_pixel(y, x)).long().clamp(0, x.shape[1] - 1)
            own = weights.to(torch.float64 if x.dtype == torch.float64 else torch.float32)[indices]
        own = own.reshape(y.shape)
        if pixel_weight is not None:
            own = own * pixel_weight.reshape(y.shape)
        return self._plan.run(x, y, mask, own)[0]

    def _total(self, counts: Tensor) -> Tensor:
        counts = counts.to(torch.float64)
        return counts if self.process_group is None else distributed.total(counts, self.process_group)


class BalancedCrossEntropyLoss(_BatchWeighted):
    """Cross-entropy in which every class of the batch has the same share: the mean over the valid pixels of
    n / (K n_c) (-log p_c), n_c of the n valid pixels having the label c, and K classes being there.

    (Xie and Tu 2015, "Holistically-nested edge detection", for two classes; here for any number.) So it is the mean
    over the classes that are there of the cross-entropy of their pixels.
    """

    def __init__(
        self, *, ignore_index: int | None = None, process_group: Any = None, backend: Backend | None = None
    ) -> None:
        """Make a balanced cross-entropy.

        Args:
            ignore_index: pixels with this class index are left out.
            process_group: True or a torch.distributed group: pixels are counted over its processes.
            backend: "reference", "cpu", "cuda" or "triton"; None chooses by device.

        Raises:
            ValueError, TypeError: an argument that does not fit.
        """
        super().__init__(ignore_index, backend, process_group)

    def _class_weights(self, x: Tensor, y: Tensor, mask: Tensor | None) -> Tensor:
        flat = signed(per_pixel(y, x))
        valid = select(self._plan.spec, flat, mask if mask is None else per_pixel(mask, x))
        counts = self._total(class_counts(flat, valid, x.shape[1]).sum(0))
        share = counts.sum() / (counts > 0).sum().clamp_min(1)
        return torch.where(counts > 0, share / counts.clamp_min(1.0), torch.zeros_like(counts))


class RecallCrossEntropyLoss(_BatchWeighted):
    """Recall loss (Tian et al. 2022, "Striking the right balance: Recall loss for semantic segmentation"): the mean
    over the valid pixels of (1 - recall_c) (-log p_c), the recall of the class c being that of this batch's argmax.

    The published code counts 1 missed pixel where there is none, so that no class is left out; so does this one.
    """

    def __init__(
        self, *, ignore_index: int | None = None, process_group: Any = None, backend: Backend | None = None
    ) -> None:
        """Make a recall-weighted cross-entropy.

        Args:
            ignore_index: pixels with this class index are left out.
            process_group: True or a torch.distributed group: pixels are counted over its processes.
            backend: "reference", "cpu", "cuda" or "triton"; None chooses by device.

        Raises:
            ValueError, TypeError: an argument that does not fit.
        """
        super().__init__(ignore_index, backend, process_group)

    def _class_weights(self, x: Tensor, y: Tensor, mask: Tensor | None) -> Tensor:
        counts = self._total(self._plan.counts(x, y, mask, 0.5).sum(0))
        missed, found = counts[:, FALSE_NEGATIVE], counts[:, TRUE_POSITIVE]
        return missed.clamp_min(1.0) / (missed + found).clamp_min(1.0)
