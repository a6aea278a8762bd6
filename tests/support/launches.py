"""How many kernels a call launches, in a process whose "cuda" is the emulator: prints {call: launches} as JSON, those
of forward with a gradient, of its backward, and of forward alone."""

from __future__ import annotations

import ctypes
import itertools
import json
import os

import torch
from cases import logits, target

import fastloss as fl

TOPK, IOU = fl.TopKLoss("multiclass", k=0.3), fl.IoULoss("multiclass")
ENTROPY, FOCAL = fl.CrossEntropyLoss(), fl.FocalLoss("multiclass")
FEW = (2, 5, 33, 31)
MANY = "multilabel"
CALLS = {
    "pointwise": (ENTROPY + FOCAL, FEW),
    "region": (IOU, FEW),
    "topk": (TOPK, FEW),
    "topk and others": (IOU + ENTROPY + TOPK, FEW),
    "two topk": (TOPK + fl.TopKLoss("multiclass", k=0.7), FEW),
    "region, more than fits": (IOU, (1, 9, 200, 200)),
    "topk, more than fits": (TOPK, (1, 9, 200, 200)),
    "topk of many classes": (TOPK, (2, 20, 33, 31)),
    "multilabel, pointwise": (fl.BCEWithLogitsLoss(MANY), FEW),
    "multilabel, region": (fl.DiceLoss(MANY), FEW),
    "multilabel, any other": (fl.DiceLoss(MANY, squared=True), FEW),
    "multilabel, topk": (fl.DiceLoss(MANY) + fl.TopKLoss(MANY, k=0.3), FEW),
}


def count(loss: fl.CompoundLoss, shape: tuple[int, ...], grads: bool) -> list[int]:
    x, y = logits(shape).requires_grad_(grads), target(MANY if loss.mode == MANY else "multiclass", shape)
    launches = ctypes.CDLL(os.environ["FASTLOSS_EMULATED"]).fastloss_emulator_launches
    at = [launches()]
    with fl.backends.use("cuda"):
        value = loss(x, y)
        at.append(launches())
        if grads:
            value.backward()
            at.append(launches())
    return [then - before for before, then in itertools.pairwise(at)]


if __name__ == "__main__":
    torch.manual_seed(0)
    print(json.dumps({name: count(*call, True) + count(*call, False) for name, call in CALLS.items()}))
