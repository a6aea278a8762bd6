"""The peers, set to fastloss's formula wherever their options allow it (batch sums, smoothing 0, elementwise mean).

Every builder returns an `Offer` or raises `NotOffered` with the reason. A formula that a peer's options cannot reach is
marked `other` and never compared. Where a library lacks a term of a sum, its users' usual one stands in (torch's CE and
BCE, nnU-Net's top-k) and the note says so. Each target has the dtype and shape that the peer handles fastest.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastloss.spec import Term

from . import plain
from .cases import DTYPES, TARGETS, Case, kind

Loss = Callable[[Any, Any], Tensor]
STAND_INS = {"topk": "nnU-Net's top-k", "ce": "torch's CE", "bce": "torch's BCE"}


class NotOffered(Exception):
    """The library has no such loss; the message says which one is missing."""


@dataclass(frozen=True)
class Offer:
    """A peer's way to compute a case: loss(x, target(y)), the target's dtype in words, what differs or stands in.

    `compiled`: the loss under torch.compile with that backend, where the library compiles a part of it only.
    """

    loss: Loss
    target: Callable[[Tensor], Any]
    dtype: str
    other: str = ""
    note: str = ""
    compiled: Callable[[str], Loss] | None = None


def _target(case: Case, dtype: torch.dtype | None = None) -> tuple[Callable[[Tensor], Tensor], str]:
    """Return how a truth becomes a target, and its dtype: class indices, or floats (by default as the logits)."""
    if case.mode == "multiclass":
        return Tensor.long, "int64"
    dtype = dtype or DTYPES[case.dtype]
    return (lambda y: y.to(dtype)), str(dtype).removeprefix("torch.")


def own_target(case: Case, y: Tensor) -> Tensor | tuple[Tensor, Tensor | None]:
    """Make what fastloss is given: labels in the case's dtype, with the mask if the case has one."""
    if case.ignored != "mask":
        return y.to(TARGETS[case.target])
    labels, mask = plain.split(case, y)
    return labels.to(TARGETS[case.target]), mask


def _topk(term: Term, mode: str) -> Loss:
    """Make nnU-Net's TopKLoss: unreduced CE (here also BCE), torch.topk unsorted, mean; in float32 if y is."""

    def loss(x: Tensor, y: Tensor) -> Tensor:
        losses = plain.elements(x.to(y.dtype) if y.dtype == torch.float32 else x, y, mode).flatten()
        return torch.topk(losses, plain.topk_count(term.k, losses.numel()), sorted=False).values.mean()

    return loss


def _sum(case: Case, library: str, own: dict[str, Callable[[Term], Loss]]) -> tuple[Loss, str]:
    """Return the weighted sum of a case's terms by the library's `own` losses, and in words what stands in."""
    parts, notes = [], []
    for term in case.terms:
        name = kind(term)
        if name in own:
            part = own[name](term)
        elif len(case.terms) == 1 or name not in STAND_INS:
            raise NotOffered(f"{library} has no {name}")
        else:
            usual = {"topk": _topk(term, case.mode), "ce": F.cross_entropy, "bce": F.binary_cross_entropy_with_logits}
            part = usual[name]
            notes.append(STAND_INS[name])
        parts.append((term.weight, part))

    def loss(x: Tensor, y: Tensor) -> Tensor:
        values = [part(x, y) if weight == 1 else weight * part(x, y) for weight, part in parts]
        return sum(values[1:], values[0])

    return loss, ", ".join(notes)


def torch_plain(case: Case) -> Offer:
    if usual(case):
        return Offer(plain.build(case), *_target(case))
    return Offer(plain.build(case), lambda y: own_target(case, y), case.target)


def smp(case: Case) -> Offer:
    import segmentation_models_pytorch.losses as S

    own: dict[str, Callable[[Term], Loss]] = {
        "dice": lambda t: S.DiceLoss(case.mode),
        "iou": lambda t: S.JaccardLoss(case.mode),
        "tversky": lambda t: S.TverskyLoss(case.mode, alpha=t.alpha, beta=t.beta),
        "focal": lambda t: S.FocalLoss(case.mode, gamma=t.gamma),
    }
    if len(case.terms) == 1:
        own["bce"] = lambda t: S.SoftBCEWithLogitsLoss(ignore_index=None)
    loss, note = _sum(case, "smp", own)
    other = case.mode == "multiclass" and "focal" in case.kinds
    return Offer(loss, *_target(case), "smp's multiclass focal is one-vs-rest sigmoid" if other else "", note)


def monai(case: Case) -> Offer:
    import monai.losses as M
    from monai.networks import one_hot

    multiclass, classes = case.mode == "multiclass", case.shape[1]
    sums = {"batch": True, "smooth_nr": 0.0, "smooth_dr": 0.0, "softmax" if multiclass else "sigmoid": True}
    target, dtype = ((lambda y: y.long()[:, None]), "int64") if multiclass else _target(case)
    native = {"dice", "ce"} if multiclass else {"dice", "bce"} if classes == 1 else None
    if set(case.kinds) in (native, {"iou", "bce"}):
        (region, pointwise), jaccard = case.terms, case.kinds[0] == "iou"
        weights = {"lambda_dice": region.weight, "lambda_ce": pointwise.weight}
        return Offer(M.DiceCELoss(to_onehot_y=multiclass, jaccard=jaccard, **weights, **sums), target, dtype)

    def focal(t: Term) -> Loss:
        loss = M.FocalLoss(gamma=t.gamma, use_softmax=multiclass)
        # MONAI's mean divides by the channels too, although softmax focal has one term a pixel.
        return (lambda x, y: classes * loss(x, y)) if multiclass else loss

    own: dict[str, Callable[[Term], Loss]] = {
        "dice": lambda t: M.DiceLoss(**sums),
        "iou": lambda t: M.DiceLoss(jaccard=True, **sums),
        "tversky": lambda t: M.TverskyLoss(alpha=t.alpha, beta=t.beta, **sums),
        "focal": focal,
    }
    loss, note = _sum(case, "MONAI", own)
    if not multiclass:
        return Offer(loss, target, dtype, note=note)
    # One encoding for all terms, as MONAI's DiceFocalLoss does it (that class itself has no softmax focal).
    return Offer(lambda x, y: loss(x, one_hot(y, classes)), target, dtype, note=note)


def exacta(case: Case) -> Offer:
    import exacta.losses as X

    form = {"activation": "sigmoid", "target_format": "one-hot"}
    if case.mode == "multiclass":
        form = {"activation": "softmax", "target_format": "index"}
    sums = {"batch_dice": True, "smooth": 0.0, **form}
    # It computes in float32 whatever comes, so float32 masks spare it the conversion.
    target, dtype = _target(case, torch.float32)
    if case.kinds in (["dice", "focal"], ["dice", "ce"], ["dice", "bce"]):
        dice, other = case.terms
        if other.kind == "focal":
            loss = X.DiceFocalLoss(lambda_dice=dice.weight, lambda_focal=other.weight, gamma=other.gamma, **sums)
        else:
            loss = X.DiceCELoss(lambda_dice=dice.weight, lambda_ce=other.weight, **sums)
        return Offer(loss, target, dtype)
    own: dict[str, Callable[[Term], Loss]] = {
        "dice": lambda t: X.DiceLoss(**sums),
        "iou": lambda t: X.TverskyLoss(alpha=1.0, beta=1.0, **sums),  # no Jaccard: this is the same ratio
        "tversky": lambda t: X.TverskyLoss(alpha=t.alpha, beta=t.beta, **sums),
        "focal": lambda t: X.FocalLoss(gamma=t.gamma, **form),
        "bce": lambda t: X.DiceCELoss(lambda_dice=0.0, **sums),
        "ce": lambda t: X.DiceCELoss(lambda_dice=0.0, **sums),
    }
    loss, note = _sum(case, "exacta", own)
    return Offer(loss, target, dtype, note=note)


def nnunet(case: Case) -> Offer:
    """Offer its softmax Dice, alone or with CE. It is -Dice, so 1 is added. Its trainer compiles the Dice only."""
    from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
    from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
    from nnunetv2.utilities.helpers import softmax_helper_dim1

    if case.mode != "multiclass" or case.kinds not in (["dice"], ["dice", "ce"]):
        raise NotOffered("nnU-Net's compiled Dice is softmax Dice, alone or with CE")
    sums = {"batch_dice": True, "smooth": 0.0, "do_bg": True, "ddp": False}
    weights = [term.weight for term in case.terms]

    def make(compiler: str = "") -> Loss:
        loss: Any = MemoryEfficientSoftDiceLoss(softmax_helper_dim1, **sums)
        if len(weights) == 2:
            loss = DC_and_CE_loss(sums, {}, weights[1], weights[0], dice_class=MemoryEfficientSoftDiceLoss)
        if compiler:
            loss.dc = torch.compile(loss.dc, dynamic=False, backend=compiler)
        return lambda x, y: loss(x, y) + weights[0]

    return Offer(make(), lambda y: y.long()[:, None], "int64", compiled=make if len(weights) == 2 else None)


def torchvision(case: Case) -> Offer:
    from torchvision.ops import sigmoid_focal_loss

    if case.mode == "multiclass" or case.kinds != ["focal"]:
        raise NotOffered("torchvision has sigmoid focal loss only")
    gamma = case.terms[0].gamma
    return Offer(lambda x, y: sigmoid_focal_loss(x, y, alpha=-1, gamma=gamma, reduction="mean"), *_target(case))


PEERS: dict[str, Callable[[Case], Offer]] = {
    "torch": torch_plain,
    "smp": smp,
    "monai": monai,
    "exacta": exacta,
    "nnunet": nnunet,
    "torchvision": torchvision,
}
MODULES = {"smp": "segmentation_models_pytorch", "nnunet": "nnunetv2"}  # where it is not the name
PACKAGES = {"smp": "segmentation-models-pytorch", "nnunet": "nnunetv2"}


def installed(names: list[str]) -> tuple[list[str], list[str]]:
    """Split peers into those that can be imported and those that cannot."""
    there = [name for name in names if find_spec(MODULES.get(name, name)) is not None]
    return there, [name for name in names if name not in there]


def usual(case: Case) -> bool:
    """Tell whether libraries can be set to it: hard labels, every pixel counts, no smoothing."""
    return not case.ignored and not case.target.startswith("float") and not any(t.label_smoothing for t in case.terms)


def offer(case: Case, library: str) -> Offer:
    """Return the library's loss for a case; NotOffered where it has none, or cannot be set to a term's settings."""
    if library != "torch" and not usual(case):
        raise NotOffered("compared with plain torch only")
    for t in case.terms:
        read = {name: getattr(t, name) for name in ("gamma", "alpha", "beta", "k", "label_smoothing")}
        if t != Term(t.kind, t.weight, **read):
            raise NotOffered(f"no peer is set to the settings of {t}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return PEERS[library](case)
