"""fastloss.fuse: instances of other libraries' losses become fused modules, or NotFusable says why not."""

import copy
import importlib
import pickle
import subprocess
import sys
from functools import partial

import pytest
import torch
from tolerances import assert_value, assert_vector

import fastloss as fl
from fastloss.compat import WeightedSum, nnunet
from fastloss.compat import torch as own

pytest.importorskip("monai")
smp = pytest.importorskip("segmentation_models_pytorch").losses
focal = pytest.importorskip("torchvision.ops").sigmoid_focal_loss
compounds = pytest.importorskip("nnunetv2.training.loss.compound_losses")
entropies = pytest.importorskip("nnunetv2.training.loss.robust_ce_loss")
dice = pytest.importorskip("nnunetv2.training.loss.dice")
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.utilities.helpers import softmax_helper_dim1

SHAPE = (2, 3, 12, 10)


def monai(name):
    """MONAI's loss of that name; importing all of MONAI costs seconds, so tests that need none of it do not."""
    return getattr(importlib.import_module("monai.losses"), name)


IDS = torch.randint(0, 3, (2, 12, 10), generator=torch.Generator().manual_seed(1))
LABELS = IDS[:, None]
MASKS = (IDS[:, None] == torch.arange(3).reshape(1, 3, 1, 1)).float()
TRAINER = {"batch_dice": True, "smooth": 1e-5, "do_bg": False, "ddp": False}

FUSABLE = {
    "smp dice": (lambda: smp.DiceLoss("multiclass", classes=[1, 2], smooth=0.1), IDS),
    "smp jaccard": (lambda: smp.JaccardLoss("multilabel", log_loss=True), MASKS),
    "smp tversky": (lambda: smp.TverskyLoss("multilabel", alpha=0.3, beta=0.7), MASKS),
    "smp focal": (lambda: smp.FocalLoss("multiclass", gamma=1.5, alpha=0.3), IDS),
    "smp bce": (lambda: smp.SoftBCEWithLogitsLoss(pos_weight=torch.tensor(2.0)), MASKS),
    "smp ce": (lambda: smp.SoftCrossEntropyLoss(smooth_factor=0.1), IDS),
    "nnunet dice": (lambda: dice.MemoryEfficientSoftDiceLoss(softmax_helper_dim1, **TRAINER), LABELS),
    "nnunet soft dice": (lambda: dice.SoftDiceLoss(torch.sigmoid, clip_tp=3.0), MASKS),
    "nnunet ce": (lambda: entropies.RobustCrossEntropyLoss(label_smoothing=0.1), LABELS),
    "nnunet topk": (lambda: entropies.TopKLoss(k=20), LABELS),
    "nnunet dice+ce": (lambda: compounds.DC_and_CE_loss(dict(TRAINER), {}, 1, 2, ignore_label=2), LABELS),
    "nnunet dice+topk": (lambda: compounds.DC_and_topk_loss(dict(TRAINER), {"k": 20}, 0.5), LABELS),
    "nnunet dice+bce": (lambda: compounds.DC_and_BCE_loss({}, {"ddp": False}), MASKS),
    "monai dice": (lambda: monai("DiceLoss")(softmax=True, to_onehot_y=True, batch=True), LABELS),
    "monai dice+ce": (lambda: monai("DiceCELoss")(False, True, softmax=True, lambda_ce=0.5), LABELS),
    "monai dice+focal": (lambda: monai("DiceFocalLoss")(sigmoid=True, gamma=1.5), MASKS),
    "monai generalized dice": (lambda: monai("GeneralizedDiceLoss")(sigmoid=True), MASKS),
    "monai tversky": (lambda: monai("TverskyLoss")(sigmoid=True, alpha=0.3, beta=0.7), MASKS),
    "monai focal": (lambda: monai("FocalLoss")(gamma=1.5, alpha=0.3), MASKS),
    "torch ce": (lambda: torch.nn.CrossEntropyLoss(torch.tensor([1.0, 2.0, 0.5]), ignore_index=1), IDS),
    "torch bce": (lambda: torch.nn.BCEWithLogitsLoss(pos_weight=torch.rand(3, 1, 1)), MASKS),
    "torchvision focal": (lambda: partial(focal, alpha=0.4, gamma=1.5, reduction="mean"), MASKS),
    "torchvision focal as it is": (lambda: focal, MASKS),
}


def logits(shape=SHAPE):
    return (torch.randn(shape) * 2).requires_grad_()


def agree(ours, theirs, x, y):
    values = [loss(x, y) for loss in (ours, theirs)]
    grads = [torch.autograd.grad(value.sum(), x)[0] for value in values]
    assert_value(*values, torch.float32, scale=1.0, factor=2.0)
    assert_vector(*grads, torch.float32, factor=2.0)


# torch warns about reduce=False of nnU-Net's TopKLoss
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FUSABLE)
def test_the_fused_module_has_the_settings_of_the_original(name):
    make, y = FUSABLE[name]
    loss = make()
    fused = fl.fuse(loss)
    assert fused.fused and type(fused).__module__.startswith("fastloss.compat.")
    agree(fused, loss, logits(), y)
    for other in (pickle.loads(pickle.dumps(fused)), copy.deepcopy(fused), fl.fuse(fused)):
        x = logits()
        assert repr(other) == repr(fused) and torch.equal(other(x, y), fused(x, y))


def test_the_deep_supervision_of_nnunet():
    loss = DeepSupervisionWrapper(compounds.DC_and_CE_loss(dict(TRAINER), {}), [0.7, 0.3])
    fused = fl.fuse(loss)
    assert isinstance(fused, nnunet.DeepSupervisionWrapper) and isinstance(fused.loss, nnunet.DC_and_CE_loss)
    x, y = [logits(), logits((2, 3, 6, 5))], [LABELS, LABELS[..., ::2, ::2]]
    assert_value(fused(x, y), loss(x, y), torch.float32, scale=1.0)


def test_the_deep_supervision_of_monai():
    loss = monai("DeepSupervisionLoss")(monai("DiceCELoss")(softmax=True, to_onehot_y=True), "two")
    fused = fl.fuse(loss)
    assert type(fused).__module__.startswith("fastloss.") and fused.loss.fused
    x, y = [logits(), logits((2, 3, 6, 5))], LABELS.float()
    assert_value(fused(x, y), loss(x, y), torch.float32, scale=1.0)


def test_what_the_trainer_of_nnunet_compiles_is_unwrapped():
    loss = compounds.DC_and_CE_loss(dict(TRAINER), {}, dice_class=dice.MemoryEfficientSoftDiceLoss)
    loss.dc = torch.compile(loss.dc)
    assert type(fl.fuse(loss).dc) is nnunet.MemoryEfficientSoftDiceLoss
    assert isinstance(fl.fuse(torch.compile(loss)), nnunet.DC_and_CE_loss)


def test_an_activation_given_later_is_taken_over():
    loss = compounds.DC_and_CE_loss(dict(TRAINER), {})
    loss.dc.apply_nonlin = torch.sigmoid
    agree(fl.fuse(loss), loss, logits(), LABELS)
    loss.dc.apply_nonlin = torch.tanh
    with pytest.raises(fl.NotFusable, match="apply_nonlin=tanh"):
        fl.fuse(loss)


def test_our_own_losses_come_back_and_deep_supervision_is_fused_inside():
    for loss in (fl.DiceLoss("binary"), fl.LossSchedule([(0, fl.DiceLoss("binary"))]), nnunet.TopKLoss()):
        assert fl.fuse(loss) is loss
    deep = fl.DeepSupervisionLoss(torch.nn.CrossEntropyLoss(), [1.0, 0.5], interpolation="nearest")
    fused = fl.fuse(deep)
    assert isinstance(fused.criterion, own.CrossEntropyLoss) and fused.weights == deep.weights
    assert fused.interpolation == "nearest" and fl.fuse(fused) is fused


def test_a_sum_over_one_activation_is_one_pass():
    pairs = [(0.5, torch.nn.CrossEntropyLoss()), (2.0, nnunet.SoftDiceLoss(torch.nn.Softmax(1), ddp=False))]
    fused = fl.fuse(pairs)
    assert fused.passes(logits(), IDS) == 1
    x = logits()
    value = fused(x, IDS)
    expected = sum(weight * loss(x, IDS) for weight, loss in pairs)
    assert_value(value, expected, torch.float32, scale=1.0)
    assert_vector(torch.autograd.grad(value, x)[0], torch.autograd.grad(expected, x)[0], torch.float32)


@pytest.mark.parametrize("wrap", (list, tuple, WeightedSum), ids=("list", "tuple", "wrapper"))
def test_sums_of_several_libraries(wrap):
    pairs = [(1.0, smp.DiceLoss("multilabel")), (0.25, torch.nn.BCEWithLogitsLoss()), (-0.5, fl.IoULoss("multilabel"))]
    fused = fl.fuse(wrap(pairs))
    assert isinstance(fused, WeightedSum) and fused.passes(logits(), MASKS) <= 2
    agree(fused, WeightedSum(pairs), logits(), MASKS)
    assert "weights=[1.0, 0.25, -0.5]" in repr(fused)


@pytest.mark.parametrize(
    ("pairs", "y", "passes"),
    (
        (lambda: [(0.5, smp.DiceLoss("multiclass")), (0.5, torch.nn.CrossEntropyLoss())], IDS, 1),
        (lambda: [(1.0, smp.JaccardLoss("multilabel")), (2.0, smp.FocalLoss("multilabel", gamma=1.5))], MASKS, 1),
        (lambda: [(1.0, smp.TverskyLoss("multilabel", gamma=1.5)), (1.0, smp.SoftBCEWithLogitsLoss())], MASKS, 2),
        (lambda: [(1.0, smp.DiceLoss("multiclass", classes=[1, 1])), (0.1, smp.JaccardLoss("multiclass"))], IDS, 1),
        (lambda: [(1.0, monai("DiceLoss")(softmax=True, to_onehot_y=True)), (0.3, nnunet.TopKLoss())], LABELS, 1),
        (lambda: [(1.0, monai("DiceCELoss")(sigmoid=True)), (0.3, monai("FocalLoss")())], MASKS, 3),
        (lambda: [(1.0, monai("GeneralizedDiceLoss")(sigmoid=True)), (0.0, monai("FocalLoss")())], MASKS, 2),
    ),
)
def test_how_many_passes_a_sum_takes(pairs, y, passes):
    pairs = pairs()
    fused = fl.fuse(pairs)
    assert fused.passes(logits(), y) <= passes
    agree(fused, WeightedSum(pairs), logits(), y)


def test_errors_of_a_loss_inside_a_sum_are_its_own():
    fused = fl.fuse([(1.0, smp.DiceLoss("multiclass")), (1.0, smp.FocalLoss("multiclass"))])
    for wrong in (IDS[:1], IDS + 5):
        with pytest.raises((AssertionError, ValueError, RuntimeError)) as caught:
            fused(logits(), wrong)
        assert "y_true" in str(caught.value) or "class" in str(caught.value)


def test_terms_that_ignore_different_labels_keep_their_own_pass():
    pairs = [(1.0, own.CrossEntropyLoss(ignore_index=2)), (1.0, own.CrossEntropyLoss())]
    fused = fl.fuse(pairs)
    assert fused.passes(logits(), IDS) == 2
    agree(fused, WeightedSum([(1.0, torch.nn.CrossEntropyLoss(ignore_index=2)), (1.0, torch.nn.CrossEntropyLoss())]),
          logits(), IDS)  # fmt: skip


class Rewritten(torch.nn.CrossEntropyLoss):
    def forward(self, input, target):
        return super().forward(input, target) + 1.0


class Named(torch.nn.CrossEntropyLoss):
    """Another constructor, the same loss."""

    def __init__(self):
        super().__init__(label_smoothing=0.1)


class Rescored(smp.DiceLoss):
    def compute_score(self, output, target, smooth=0.0, eps=1e-7, dims=None):
        return super().compute_score(output, target, smooth, eps, dims) ** 2


class MyDice(torch.nn.Module):
    def __init__(self, apply_nonlin=None):
        super().__init__()
        self.apply_nonlin = apply_nonlin


def hooked():
    loss = torch.nn.CrossEntropyLoss()
    loss.register_forward_hook(lambda *args: None)
    return loss


def patched():
    loss = torch.nn.CrossEntropyLoss()
    loss.forward = lambda x, y: x.sum()
    return loss


REFUSED = {
    "own forward": (Rewritten, "Rewritten has its own forward instead of that of CrossEntropyLoss"),
    "own method": (lambda: Rescored("binary"), "Rescored has its own compute_score instead of that of DiceLoss"),
    "replaced forward": (patched, "CrossEntropyLoss has its own forward"),
    "hooks": (hooked, "CrossEntropyLoss has hooks"),
    "unknown class": (torch.nn.L1Loss, "L1Loss of torch.nn.modules.loss is no loss that fastloss knows"),
    "no module": (lambda: sum, "sum is no loss"),
    "a lambda": (lambda: lambda x, y: x.sum(), "is no loss that fastloss knows"),
    "lovasz sorts": (lambda: smp.LovaszLoss("binary"), "LovaszLoss of smp has no fused form: "),
    "monai activation": (lambda: monai("DiceLoss")(other_act=torch.tanh), "DiceLoss of monai has no fused form: "),
    "monai inside": (lambda: monai("DeepSupervisionLoss")(torch.nn.L1Loss()), "L1Loss of torch"),
    "probabilities": (lambda: smp.DiceLoss("binary", from_logits=False), "has no fused form: from_logits=False"),
    "no activation": (dice.SoftDiceLoss, "SoftDiceLoss of nnunet has no fused form: apply_nonlin=None"),
    "activation": (lambda: dice.SoftDiceLoss(torch.tanh), "apply_nonlin=tanh is neither"),
    "dice class": (lambda: compounds.DC_and_CE_loss({}, {}, dice_class=MyDice), "dc=MyDice"),
    "own dice class": (lambda: nnunet.DC_and_CE_loss({}, {}, dice_class=MyDice), "dc=MyDice"),
    "inside deep supervision": (lambda: DeepSupervisionWrapper(torch.nn.L1Loss(), [1.0]), "L1Loss of torch"),
    "inside ours": (lambda: fl.DeepSupervisionLoss(torch.nn.L1Loss()), "L1Loss of torch"),
    "inside a sum": (lambda: [(1.0, torch.nn.L1Loss())], "L1Loss of torch"),
    "no pairs": (lambda: [torch.nn.CrossEntropyLoss()], "pairs"),
    "bound inputs": (lambda: partial(focal, torch.zeros(1)), "positional arguments"),
    "bound name": (lambda: partial(focal, targets=torch.zeros(1)), "has targets bound"),
    "a setting that does not fit": (lambda: partial(focal, reduction="max"), "reduction must be one of"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", REFUSED)
def test_not_fusable(name):
    make, words = REFUSED[name]
    with pytest.raises(fl.NotFusable) as caught:
        fl.fuse(make())
    assert words in str(caught.value)
    assert str(caught.value).count("\n") == 0


def test_a_subclass_that_changes_nothing_but_its_constructor_is_fused():
    agree(fl.fuse(Named()), Named(), logits(), IDS)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ("smp dice", "nnunet dice+ce", "torch bce", "torchvision focal"))
def test_verify_reports_difference_time_and_memory(name):
    make, _ = FUSABLE[name]
    fused, report = fl.fuse(make(), verify=True, shape=(2, 3, 64, 64))
    assert type(fused) is type(fl.fuse(make()))
    assert report.difference < 1e-5 and report.gradient_difference < 1e-5
    assert report.time_ratio > 0 and report.memory_ratio > 1
    assert report.bytes >= 2 * 3 * 64 * 64 * 4
    assert f"time {report.time_ratio:.2f}x" in str(report)


def test_verify_prints_nothing():
    code = "import torch, fastloss; fastloss.fuse(torch.nn.CrossEntropyLoss(), verify=True, shape=(1, 3, 16, 16))"
    found = subprocess.run([sys.executable, "-W", "always", "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout + found.stderr == ""


def test_verify_of_pyramids_sums_and_given_inputs():
    loss = DeepSupervisionWrapper(compounds.DC_and_CE_loss(dict(TRAINER), {}), [0.6, 0.3, 0.1])
    assert fl.fuse(loss, verify=True, shape=SHAPE)[1].difference < 1e-5
    assert fl.fuse([(0.5, torch.nn.CrossEntropyLoss())], True, inputs=(logits(), IDS))[1].difference < 1e-5
    with pytest.raises(ValueError, match="verify=True needs shape"):
        fl.fuse(torch.nn.CrossEntropyLoss(), verify=True)


@pytest.mark.filterwarnings("ignore:size_average")
def test_verify_sees_a_difference():
    _, report = fl.fuse(entropies.TopKLoss(k=10), verify=True, strict=False, inputs=(logits(), LABELS * 0 - 100))
    assert report.fused_value == 0.0 and report.value == 0.0
    loss = compounds.DC_and_BCE_loss({}, {"ddp": False}, use_ignore_label=True)
    y = torch.cat([MASKS, torch.zeros(2, 1, 12, 10)], 1)
    assert fl.fuse(loss, verify=True, strict=False, inputs=(logits(), y))[1].difference > 0.1


def test_importing_fastloss_imports_no_peer_and_no_drop_in():
    heavy = "'monai', 'segmentation_models_pytorch', 'nnunetv2', 'torchvision', 'triton', 'pytorch_lightning'"
    lazy = "'fastloss.compat.smp', 'fastloss.compat.monai', 'fastloss.compat.nnunet', 'fastloss.compat._verify'"
    code = f"import fastloss, sys; print([m for m in ({heavy}, {lazy}) if m in sys.modules])"
    code += "; fastloss.fuse(fastloss.DiceLoss('binary')); import fastloss.compat.nnunet"
    code += f"; print([m for m in ({heavy}) if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.split("\n")[:2] == ["[]", "[]"]
