"""What a drop-in says of itself: the one call of the kernels that it is, which sums of losses join. It is the loss."""

import inspect

import pytest
import torch
from dropins import DROPINS, TRAINER, hot, ids, labels, logits, vector

import fastloss as fl
from fastloss.compat import WeightedSum, monai, nnunet, smp
from fastloss.compat import torch as own
from fastloss.compat._base import CompatLoss
from fastloss.compat._sum import call_of

for name in ("smp", "monai", "nnunet", "torch"):
    getattr(fl.compat, name)

# The losses of tests/support/dropins.py that are one call, with all its settings.
ONE_CALL = {
    "torch.CrossEntropyLoss",
    "torch.CrossEntropyLoss-none",
    "torch.BCEWithLogitsLoss",
    "torch.BCEWithLogitsLoss-weight",
    "torch.SigmoidFocalLoss",
    "smp.DiceLoss",
    "smp.DiceLoss-soft",
    "smp.JaccardLoss",
    "smp.FocalLoss",
    "monai.DiceLoss",
    "monai.TverskyLoss-soft",
    "monai.FocalLoss-softmax",
    "monai.DiceCELoss",
    "monai.DiceFocalLoss",
    "nnunet.SoftDiceLoss",
    "nnunet.MemoryEfficientSoftDiceLoss",
    "nnunet.RobustCrossEntropyLoss",
    "nnunet.TopKLoss",
    "nnunet.DC_and_CE_loss",
    "nnunet.DC_and_topk_loss",
    "nnunet.DC_and_BCE_loss",
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", DROPINS)
def test_a_call_is_the_loss(name):
    make, target = DROPINS[name]
    loss, x, y = make(), logits(), target()
    call = loss.as_call(x, y) if isinstance(loss, CompatLoss) else None
    assert (call is not None) == (name in ONE_CALL)
    if call is not None and not any(term.reduction == "none" for term in call.loss.terms):
        torch.testing.assert_close(call.run(1.0), loss(x, y), rtol=1e-6, atol=0)
        torch.testing.assert_close(call.scaled(0.5).run(3.0), 1.5 * loss(x, y), rtol=1e-6, atol=0)


PAIRS = {
    "compounds of nnU-Net": (lambda: [nnunet.DC_and_CE_loss(TRAINER, {}), nnunet.RobustCrossEntropyLoss()], labels),
    "compounds of MONAI": (
        lambda: [monai.DiceCELoss(to_onehot_y=True, softmax=True), nnunet.SoftDiceLoss(torch.nn.Softmax(1), ddp=False)],
        labels,
    ),
    "smp and torch": (lambda: [smp.DiceLoss("multilabel"), own.BCEWithLogitsLoss(pos_weight=torch.tensor(2.0))], hot),
    "smp's classes twice": (lambda: [smp.DiceLoss("multiclass", [1, 1]), smp.JaccardLoss("multiclass")], ids),
    "a sum of smp": (lambda: [smp.FocalLoss("multilabel", reduction="sum"), smp.TverskyLoss("multilabel")], hot),
}


@pytest.mark.parametrize("name", PAIRS)
def test_what_is_joined_in_one_pass(name):
    make, target = PAIRS[name]
    losses, x, y = make(), logits().requires_grad_(), target()
    both = WeightedSum(list(zip((0.5, -2.0), losses)))
    assert both.passes(x, y) == 1
    value, expected = both(x, y), 0.5 * losses[0](x, y) - 2.0 * losses[1](x, y)
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)
    grads = [torch.autograd.grad(v, x)[0] for v in (value, expected)]
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-7)


class Twice(own.CrossEntropyLoss):
    def forward(self, input, target):
        return 2 * super().forward(input, target)


class TwiceDice(smp.DiceLoss):
    def forward(self, y_pred, y_true):
        return 2 * super().forward(y_pred, y_true)


class TwiceCompound(nnunet.DC_and_CE_loss):
    def forward(self, net_output, target):
        return 2 * super().forward(net_output, target)


class TwiceNative(fl.CrossEntropyLoss):
    def forward(self, x, y, mask=None, pixel_weight=None):
        return 2 * super().forward(x, y, mask, pixel_weight)


def patched():
    loss = own.CrossEntropyLoss()
    plain = loss.forward
    loss.forward = lambda x, y: 2 * plain(x, y)
    return loss


def hooked():
    loss = own.CrossEntropyLoss()
    loss.register_forward_hook(lambda module, inputs, value: 2 * value)
    return loss


ALTERED = {
    "a forward of torch's": (Twice, own.CrossEntropyLoss, ids),
    "a forward of smp's": (lambda: TwiceDice("multiclass"), lambda: smp.DiceLoss("multiclass"), ids),
    "a forward of nnU-Net's": (
        lambda: TwiceCompound(TRAINER, {}), lambda: nnunet.DC_and_CE_loss(TRAINER, {}), labels),
    "a forward of fastloss's": (TwiceNative, fl.CrossEntropyLoss, ids),
    "an instance's forward": (patched, own.CrossEntropyLoss, ids),
    "a hook": (hooked, own.CrossEntropyLoss, ids),
}  # fmt: skip


@pytest.mark.parametrize("name", ALTERED)
def test_what_runs_around_a_loss_runs_in_sums_and_pyramids(name):
    make, plain, target = ALTERED[name]
    x, y, loss = logits(), target(), make()
    twice = 2 * plain()(x, y)
    torch.testing.assert_close(loss(x, y), twice)
    assert call_of(loss, x, y) is None and call_of(plain(), x, y) is not None
    torch.testing.assert_close(WeightedSum([(0.5, loss)])(x, y), 0.5 * twice)
    torch.testing.assert_close(fl.DeepSupervisionLoss(loss, [1.0])([x], y), twice)


def test_every_own_forward_says_its_call_or_has_none():
    """So that no class is joined by the call of a class above it."""
    for owner in {*CompatLoss.__subclasses__(), *map(type, [make() for make, _ in DROPINS.values()])}:
        if issubclass(owner, CompatLoss) and owner._replaced:
            assert owner.as_call is CompatLoss.as_call, owner


def test_torchs_losses_have_the_constructors_of_torch():
    focal = pytest.importorskip("torchvision.ops").sigmoid_focal_loss
    peers = ((own.CrossEntropyLoss, torch.nn.CrossEntropyLoss), (own.BCEWithLogitsLoss, torch.nn.BCEWithLogitsLoss))
    for ours, theirs in (*peers, (own.sigmoid_focal_loss, focal)):
        ours, theirs = (inspect.signature(f).parameters.values() for f in (ours, theirs))
        found = [(p.name, p.default, p.kind) for p in ours if p.name != "strict"]
        assert found == [(p.name, p.default, p.kind) for p in theirs]


def test_class_weights_are_read_anew_for_each_call():
    loss = own.CrossEntropyLoss(vector())
    both = WeightedSum([(1.0, loss), (1.0, own.CrossEntropyLoss())])
    x, y = logits(), ids()
    before = both(x, y)
    loss.weight.mul_(torch.tensor([1.0, 5.0, 1.0]))
    assert both(x, y) != before


def test_a_wrong_argument_names_the_drop_in():
    for owner in (monai.DiceLoss, monai.MaskedDiceLoss, monai.TverskyLoss, monai.DiceCELoss, smp.DiceLoss):
        with pytest.raises(TypeError, match=rf"^{owner.__name__}\S*\(\) got an unexpected keyword argument 'bogus'"):
            owner(bogus=1)
    with pytest.raises(TypeError, match=r"^MaskedDiceLoss\(\) got an unexpected keyword argument 'ignore_index'"):
        monai.MaskedDiceLoss(ignore_index=1)
    with pytest.raises(TypeError, match=r"^GeneralizedDiceLoss\(\) too many positional arguments"):
        monai.GeneralizedDiceLoss(*range(12))
