"""The peers, set to fastloss's formula wherever their options allow it (batch sums, smoothing 0, elementwise mean).

Every builder returns an `Offer` or raises `NotOffered` with the reason. A formula that a peer's options cannot reach is
marked `other` and never compared. Where a library lacks a term, its users' usual one stands in (torch's CE and BCE,
nnU-Net's top-k) and the note says so. Each target has the dtype and shape that the peer handles fastest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from . import plain
from .cases import DTYPES, Case, Term

Loss = Callable[[Tensor, Tensor], Tensor]


class NotOffered(Exception):
    """The library has no such loss; the message says which one is missing."""


@dataclass(frozen=True)
class Offer:
    """A peer's way to compute a case: loss(x, target(y)), the target's dtype in words, what differs or stands in."""

    loss: Loss
    target: Callable[[Tensor], Tensor]
    target_note: str
    other: str = ""
    note: str = ""


def _total(case: Case, make: Callable[[Term], Loss]) -> Loss:
    parts = [(t.weight, make(t)) for t in case.terms]

    def loss(x: Tensor, y: Tensor) -> Tensor:
        values = [f(x, y) if w == 1 else w * f(x, y) for w, f in parts]
        return sum(values[1:], values[0])

    return loss


def _binary_target(case: Case, dtype: torch.dtype | None = None) -> tuple[Callable[[Tensor], Tensor], str]:
    dtype = dtype or DTYPES[case.dtype]
    return (lambda y: y.to(dtype)), str(dtype).removeprefix("torch.")


def _ids(y: Tensor) -> Tensor:
    return y


def _topk(term: Term, mode: str) -> Loss:
    """nnU-Net's TopKLoss: unreduced CE (here also BCE), torch.topk unsorted, mean."""

    def loss(x: Tensor, y: Tensor) -> Tensor:
        losses = plain.elements(x, y, mode).flatten()
        return torch.topk(losses, plain.topk_count(term.k, losses.numel()), sorted=False).values.mean()

    return loss


def _kinds(case: Case) -> set[str]:
    return {t.kind for t in case.terms}


def torch_plain(case: Case) -> Offer:
    target, note = (_ids, "int64") if case.mode == "multiclass" else _binary_target(case)
    return Offer(plain.build(case), target, note)


def smp(case: Case) -> Offer:
    import segmentation_models_pytorch.losses as S

    stand_in = []

    def make(t: Term) -> Loss:
        if t.kind == "dice":
            return S.DiceLoss(case.mode)
        if t.kind == "iou":
            return S.JaccardLoss(case.mode)
        if t.kind == "tversky":
            return S.TverskyLoss(case.mode, alpha=t.alpha, beta=t.beta)
        if t.kind == "focal":
            return S.FocalLoss(case.mode, gamma=t.gamma)
        if len(case.terms) == 1 and t.kind == "bce":
            return S.SoftBCEWithLogitsLoss(ignore_index=None)
        if len(case.terms) == 1:
            raise NotOffered(f"smp has no {t.kind}")
        stand_in.append(t.kind)
        return (
            _topk(t, case.mode)
            if t.kind == "topk"
            else F.cross_entropy
            if t.kind == "ce"
            else F.binary_cross_entropy_with_logits
        )

    loss = _total(case, make)
    multiclass = case.mode == "multiclass"
    other = "smp's multiclass focal is one-vs-rest sigmoid" if multiclass and "focal" in _kinds(case) else ""
    target, note = (_ids, "int64") if multiclass else _binary_target(case)
    return Offer(loss, target, note, other, _stand_in(stand_in))


def _stand_in(kinds: list[str]) -> str:
    names = {"topk": "nnU-Net's top-k", "ce": "torch's CE", "bce": "torch's BCE"}
    return ", ".join(names[k] for k in kinds)


def monai(case: Case) -> Offer:
    import monai.losses as M
    from monai.networks import one_hot

    multiclass, stand_in = case.mode == "multiclass", []
    act = {"softmax": True} if multiclass else {"sigmoid": True}
    plain_sums = {"batch": True, "smooth_nr": 0.0, "smooth_dr": 0.0, **act}
    target, note = _binary_target(case)
    if multiclass:
        target, note = (lambda y: y[:, None]), "int64"
    kinds, classes = _kinds(case), case.shape[1]
    native = {"dice", "ce"} if multiclass else {"dice", "bce"} if classes == 1 else None
    if kinds in (native, {"iou", "bce"}):
        region, pointwise = case.terms
        both = M.DiceCELoss(
            to_onehot_y=multiclass,
            jaccard=region.kind == "iou",
            lambda_dice=region.weight,
            lambda_ce=pointwise.weight,
            **plain_sums,
        )
        return Offer(both, target, note)

    def make(t: Term) -> Loss:
        if t.kind in ("dice", "iou"):
            return M.DiceLoss(jaccard=t.kind == "iou", **plain_sums)
        if t.kind == "tversky":
            return M.TverskyLoss(alpha=t.alpha, beta=t.beta, **plain_sums)
        if t.kind == "focal":
            focal = M.FocalLoss(gamma=t.gamma, use_softmax=multiclass)
            # MONAI's mean divides by the channels too, although softmax focal has one term a pixel.
            return (lambda x, y: classes * focal(x, y)) if multiclass else focal
        if len(case.terms) == 1:
            raise NotOffered(f"MONAI has no {t.kind} of its own")
        stand_in.append(t.kind)
        return _topk(t, case.mode) if t.kind == "topk" else F.binary_cross_entropy_with_logits

    loss = _total(case, make)
    if not multiclass:
        return Offer(loss, target, note, note=_stand_in(stand_in))
    # One encoding for all terms, as MONAI's DiceFocalLoss does it (that class itself has no softmax focal).
    return Offer(lambda x, y: loss(x, one_hot(y, classes)), target, note)


def exacta(case: Case) -> Offer:
    import exacta.losses as X

    multiclass, stand_in = case.mode == "multiclass", []
    form = (
        {"activation": "softmax", "target_format": "index"}
        if multiclass
        else {"activation": "sigmoid", "target_format": "one-hot"}
    )
    sums = {"batch_dice": True, "smooth": 0.0, **form}
    # It computes in float32 whatever comes, so float32 masks spare it the conversion.
    target, note = (_ids, "int64") if multiclass else _binary_target(case, torch.float32)
    kinds = [t.kind for t in case.terms]
    if kinds in (["dice", "focal"], ["dice", "ce"], ["dice", "bce"]):
        dice, pointwise = case.terms
        if kinds[1] == "focal":
            loss = X.DiceFocalLoss(
                lambda_dice=dice.weight, lambda_focal=pointwise.weight, gamma=pointwise.gamma, **sums
            )
        else:
            loss = X.DiceCELoss(lambda_dice=dice.weight, lambda_ce=pointwise.weight, **sums)
        return Offer(loss, target, note)

    def make(t: Term) -> Loss:
        if t.kind == "dice":
            return X.DiceLoss(**sums)
        if t.kind == "iou":  # no Jaccard: Tversky with both weights 1 is the same ratio
            return X.TverskyLoss(alpha=1.0, beta=1.0, **sums)
        if t.kind == "tversky":
            return X.TverskyLoss(alpha=t.alpha, beta=t.beta, **sums)
        if t.kind == "focal":
            return X.FocalLoss(gamma=t.gamma, **form)
        if t.kind in ("bce", "ce"):
            return X.DiceCELoss(lambda_dice=0.0, **sums)
        if len(case.terms) == 1:
            raise NotOffered(f"exacta has no binary {t.kind}")
        stand_in.append(t.kind)
        return lambda x, y: _topk(t, case.mode)(x.float(), y)

    return Offer(_total(case, make), target, note, note=_stand_in(stand_in))


PEERS: dict[str, Callable[[Case], Offer]] = {"torch": torch_plain, "smp": smp, "monai": monai, "exacta": exacta}
MODULES = {"smp": "segmentation_models_pytorch", "monai": "monai", "exacta": "exacta", "torch": "torch"}
PACKAGES = {
    "smp": "segmentation-models-pytorch",
    "monai": "monai",
    "nnunet": "nnunetv2",
    "exacta": "exacta",
    "torch": "torch",
}


def natural(case: Case) -> bool:
    """Plain torch is a peer, not only a baseline, where users call it directly: BCE, CE and nnU-Net's top-k."""
    return _kinds(case) <= {"bce", "ce", "topk"}
