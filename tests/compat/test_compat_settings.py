"""Settings of drop-ins and of their parts, changed between calls: they count at once, as in the originals. Every
attribute that an original and its parts keep is changed, in both."""

import copy
import warnings

import pytest
import torch
from originals import outcome

import fastloss as fl
from fastloss.compat._base import REGISTRY
from fastloss.compat._fuse import _known

smp = pytest.importorskip("segmentation_models_pytorch.losses")
monai = pytest.importorskip("monai.losses")
pytest.importorskip("nnunetv2")
from nnunetv2.training.loss import compound_losses, dice, robust_ce_loss
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.utilities.helpers import softmax_helper_dim1

SHAPE = (2, 3, 8, 6)
X = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0)) * 2
IDS = torch.randint(0, 3, (2, 8, 6), generator=torch.Generator().manual_seed(1))
LABELS = IDS[:, None]
MASKS = (torch.rand(SHAPE, generator=torch.Generator().manual_seed(2)) < 0.4).float()
VECTOR = torch.tensor([1.0, 2.0, 0.5])
DICE = {"batch_dice": True, "do_bg": False, "smooth": 1e-5, "ddp": False}
SOFTMAX = {"to_onehot_y": True, "softmax": True}
SIGMOID = {"to_onehot_y": True, "sigmoid": True}
ORIGINALS = {
    "torch.CE": (lambda: torch.nn.CrossEntropyLoss(VECTOR.clone(), ignore_index=1), IDS),
    "torch.BCE": (lambda: torch.nn.BCEWithLogitsLoss(pos_weight=VECTOR[:, None, None].clone()), MASKS),
    "smp.Dice": (lambda: smp.DiceLoss("multiclass", [0, 2], smooth=1.0), IDS),
    "smp.Dice-masks": (lambda: smp.DiceLoss("multilabel", ignore_index=-1), MASKS),
    "smp.Jaccard": (lambda: smp.JaccardLoss("multiclass", classes=[0, 2]), IDS),
    "smp.Tversky": (lambda: smp.TverskyLoss("multiclass", alpha=0.3, gamma=1.5), IDS),
    "smp.Focal": (lambda: smp.FocalLoss("multiclass", alpha=0.3, ignore_index=1), IDS),
    "smp.Focal-masks": (lambda: smp.FocalLoss("multilabel"), MASKS),
    "smp.BCE": (lambda: smp.SoftBCEWithLogitsLoss(pos_weight=VECTOR[:, None, None].clone(), smooth_factor=0.1), MASKS),
    "smp.CE": (lambda: smp.SoftCrossEntropyLoss(smooth_factor=0.1, ignore_index=1), IDS),
    "smp.Lovasz": (lambda: smp.LovaszLoss("multiclass"), IDS),
    "smp.MCC": (lambda: smp.MCCLoss(), MASKS),
    "monai.Dice": (lambda: monai.DiceLoss(**SOFTMAX, weight=VECTOR.clone()), LABELS),
    "monai.Dice-sigmoid": (lambda: monai.DiceLoss(sigmoid=True, smooth_nr=0.5), MASKS),
    "monai.Generalized": (lambda: monai.GeneralizedDiceLoss(**SOFTMAX), LABELS),
    "monai.Tversky": (lambda: monai.TverskyLoss(**SOFTMAX, alpha=0.3), LABELS),
    "monai.Focal": (lambda: monai.FocalLoss(to_onehot_y=True, alpha=VECTOR.tolist(), weight=VECTOR.clone()), LABELS),
    "monai.Focal-softmax": (lambda: monai.FocalLoss(to_onehot_y=True, use_softmax=True, alpha=0.3), LABELS),
    "monai.DiceCE": (lambda: monai.DiceCELoss(**SOFTMAX, weight=VECTOR.clone(), label_smoothing=0.1), LABELS),
    "monai.DiceCE-two": (lambda: monai.DiceCELoss(**SIGMOID), LABELS),
    "monai.DiceCE-one": (lambda: monai.DiceCELoss(sigmoid=True), None),
    "monai.DiceFocal": (lambda: monai.DiceFocalLoss(**SIGMOID), LABELS),
    "monai.DiceFocal-masks": (lambda: monai.DiceFocalLoss(sigmoid=True), MASKS),
    "monai.DiceFocal-two": (lambda: monai.DiceFocalLoss(**SOFTMAX, weight=VECTOR.clone()), LABELS),
    "monai.GeneralizedFocal": (lambda: monai.GeneralizedDiceFocalLoss(**SIGMOID), LABELS),
    "monai.Unified": (lambda: monai.AsymmetricUnifiedFocalLoss(), None),
    "nnunet.Dice": (lambda: dice.SoftDiceLoss(softmax_helper_dim1, ddp=False), LABELS),
    "nnunet.Dice-efficient": (lambda: dice.MemoryEfficientSoftDiceLoss(softmax_helper_dim1, **DICE), LABELS),
    "nnunet.CE": (lambda: robust_ce_loss.RobustCrossEntropyLoss(VECTOR.clone()), LABELS),
    "nnunet.TopK": (lambda: robust_ce_loss.TopKLoss(k=20), LABELS),
    "nnunet.DC_CE": (lambda: compound_losses.DC_and_CE_loss(DICE, {"weight": VECTOR.clone()}), LABELS),
    "nnunet.DC_CE-ignore": (lambda: compound_losses.DC_and_CE_loss(DICE, {}, ignore_label=2), LABELS),
    "nnunet.DC_topk": (lambda: compound_losses.DC_and_topk_loss(DICE, {"k": 20}), LABELS),
    "nnunet.DC_BCE": (lambda: compound_losses.DC_and_BCE_loss({}, DICE), MASKS),
}
ONE = (X[:, :1], MASKS[:, :1])


def inputs(name):
    y = ORIGINALS[name][1]
    x, y = ONE if y is None else (X, y)
    return (x.sigmoid() if name in ("monai.Unified", "smp.MCC") else x), y


def others(name, value):
    """Other values of a setting."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, float):
        return [value * 0.5 + 0.25, 1.0]
    if isinstance(value, int):
        return [value + 1, 0]
    if isinstance(value, torch.Tensor):
        return [value * 2 + 1, value.flip(0)] if value.is_floating_point() else [value[:1]]
    if name == "reduction":
        return ["sum", "none", "mean"]
    if name == "w_type":
        return [type(value)("simple"), type(value)("uniform")]
    if value is None:
        numbers = dict.fromkeys(("alpha", "smooth_factor", "clip_tp"), 0.5)
        numbers |= dict.fromkeys(("ignore_index", "ignore_label"), 1)
        return [VECTOR.clone()] if "weight" in name else [numbers[name]] if name in numbers else []
    return []


def settings(loss):
    """(path of the part, name, value) of everything that could be set."""
    for path, part in loss.named_modules():
        for name, value in [*vars(part).items(), *part._buffers.items()]:
            if name[0] != "_" and name not in ("training", "spatial_weighted"):
                for other in others(name, value):
                    yield path, name, other


# What these originals keep of their arguments is not what they compute with (smp: a `partial`; MONAI: parts made by the
# constructor), so that a change is lost there. Here it counts.
LOST = {("smp.Focal", "reduction"), ("smp.Focal-masks", "reduction")}
LOST |= {("monai.Unified", name) for name in ("gamma", "delta", "reduction", "num_classes")}
# MONAI encodes once for both parts of DiceFocalLoss, ours once in each.
PARTS = {("monai.DiceFocal", "to_onehot_y"), ("monai.DiceFocal-two", "to_onehot_y")}
CHANGES = [
    (name, path, setting, index)
    for name, (make, _) in ORIGINALS.items()
    for index, (path, setting, _) in enumerate(settings(make()))
    if (name, setting) not in LOST and not (path and ((name, setting) in PARTS or name == "monai.Unified"))
]


def change(loss, path, name, value):
    setattr(loss.get_submodule(path) if path else loss, name, copy.deepcopy(value))


@pytest.mark.parametrize("name,path,setting,index", CHANGES, ids=lambda v: str(v) if v != "" else ".")
def test_a_changed_setting_counts(name, path, setting, index):
    make, _ = ORIGINALS[name]
    x, y = inputs(name)
    value = list(settings(make()))[index][2]
    compare(make(), x, y, lambda loss: change(loss, path, setting, value))


def compare(theirs, x, y, alter):
    """The outcome of both after `alter`, which follows a first call."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ours = converted(theirs)
        outcome(lambda: ours, x, [y])  # fills every cache
        alter(ours)
        alter(theirs)
        expected, found = outcome(lambda: theirs, x, [y]), outcome(lambda: ours, x, [y])
    if isinstance(expected, Exception):
        assert isinstance(found, Exception), f"{expected!r} became {found[0]}"
        return
    assert not isinstance(found, Exception), repr(found)
    torch.testing.assert_close(found[0], expected[0], rtol=3e-5, atol=1e-6, equal_nan=True, check_dtype=False)
    if expected[1] is not None:
        torch.testing.assert_close(found[1], expected[1], rtol=1e-4, atol=1e-6, equal_nan=True)


def converted(loss):
    """Ours, with tensors of its own."""
    drop_in = _known(type(loss))
    return copy.deepcopy(drop_in.from_original(loss))


def copied(tensor, value):
    tensor.data.copy_(value)


def pointed(tensor, value):
    tensor.data = value.clone()


def shared(tensor, value):
    tensor.numpy()[...] = value.numpy()


def filled(tensor, value):
    tensor.copy_(value)


TENSORS = [
    (name, path, setting)
    for name, (make, _) in ORIGINALS.items()
    for path, part in make().named_modules()
    for setting, value in [*vars(part).items(), *part._buffers.items()]
    if isinstance(value, torch.Tensor)
]


@pytest.mark.parametrize("write", (copied, pointed, shared, filled))
@pytest.mark.parametrize("name,path,setting", TENSORS, ids=lambda v: str(v) if v != "" else ".")
def test_numbers_written_into_a_tensor_count(name, path, setting, write):
    """Also past its version counter."""
    x, y = inputs(name)

    def alter(loss):
        tensor = getattr(loss.get_submodule(path) if path else loss, setting)
        write(tensor, tensor * 2 + 0.25 if tensor.is_floating_point() else tensor.flip(0) * 0 + 1)

    compare(ORIGINALS[name][0](), x, y, alter)


def test_every_drop_in_with_settings_is_here():
    """But for wrappers and variants of those above."""
    for module in ("smp", "monai", "nnunet", "torch"):
        getattr(fl.compat, module)
    others = {"MaskedDiceLoss", "DeepSupervisionLoss", "DeepSupervisionWrapper"}
    made = {type(converted(make())).original for make, _ in ORIGINALS.values()}
    assert {name for name in REGISTRY if name.rpartition(".")[2] not in others} == made


def test_masked_dice_and_its_settings():
    mask = (LABELS < 2).float()
    for name, value in (("pre_sigmoid", False), ("pre_softmax", True), ("batch", True), ("jaccard", True)):
        theirs = monai.MaskedDiceLoss(sigmoid=True)
        ours = converted(theirs)
        for loss in (theirs, ours):
            loss(X, MASKS, mask)
            setattr(loss, name, value)
        torch.testing.assert_close(ours(X, MASKS, mask), theirs(X, MASKS, mask))


@pytest.mark.parametrize("kind", ("monai", "nnunet"))
def test_deep_supervision_and_its_weights(kind):
    pyramid, targets = [X, X[..., ::2, ::2]], [MASKS, MASKS[..., ::2, ::2]]
    if kind == "monai":
        theirs = monai.DeepSupervisionLoss(monai.DiceLoss(sigmoid=True))
        changes, args = [("weights", [0.2, 0.7]), ("weight_mode", "two"), ("interp_mode", "nearest")], (pyramid, MASKS)
    else:
        theirs = DeepSupervisionWrapper(monai.DiceLoss(sigmoid=True), (0.5, 0.5))
        changes, args = [("weight_factors", (0.2, 0.7))], (pyramid, targets)
    ours = converted(theirs)
    for name, value in changes:
        for loss in (theirs, ours):
            loss(*args)
            setattr(loss, name, value)
            loss.loss.batch = not loss.loss.batch
        torch.testing.assert_close(ours(*args), theirs(*args))


def test_a_changed_setting_is_compiled_anew():
    ours = fl.compat.torch.CrossEntropyLoss(VECTOR.clone(), label_smoothing=0.1)
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    compiled(X, IDS)
    ours.label_smoothing = 0.3
    assert torch.equal(compiled(X, IDS), ours(X, IDS))
    ours.weight = VECTOR * 3 + 1
    assert torch.equal(compiled(X, IDS), ours(X, IDS))
    torch._dynamo.reset()
