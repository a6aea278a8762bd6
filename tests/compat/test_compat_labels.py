"""Labels of 16, 32 and 64 unsigned bits (PNGs, NIfTI) in the drop-ins: read wherever 8 bits are."""

import pytest
import torch
from cases import UNSIGNED
from dropins import DROPINS, logits

from fastloss.compat import monai, nnunet, smp
from fastloss.compat import torch as own


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", UNSIGNED, ids=str)
@pytest.mark.parametrize("name", DROPINS)
def test_unsigned_labels_are_read(name, kind):
    make, target = DROPINS[name]
    x, y = logits(), target()
    try:
        expected = make()(x, y.to(torch.uint8))
    except (RuntimeError, TypeError):
        return  # the original refuses whatever is not int64 or floating-point
    if any(plain in name for plain in ("Masked", "AsymmetricUnified", "DeepSupervisionLoss")):
        return  # their arithmetic on the target is PyTorch's, which has none for these types
    torch.testing.assert_close(make()(x, y.to(kind)), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("kind", UNSIGNED, ids=str)
@pytest.mark.parametrize("value", (255, 2))
def test_an_ignored_label_is_ignored(kind, value):
    x, y = logits(), torch.randint(0, 2, (2, 8, 6), generator=torch.Generator().manual_seed(1))
    y[0, :3] = value
    losses = [
        own.CrossEntropyLoss(ignore_index=value),
        smp.FocalLoss("multiclass", ignore_index=value),
        smp.DiceLoss("multiclass", ignore_index=value, strict=False),
        smp.SoftCrossEntropyLoss(smooth_factor=0.1, ignore_index=value, strict=False),
        lambda x, y: monai.DiceLoss(to_onehot_y=True, softmax=True, ignore_index=value)(x, y[:, None]),
        lambda x, y: monai.FocalLoss(to_onehot_y=True, ignore_index=value)(x, y[:, None]),
        lambda x, y: nnunet.DC_and_CE_loss({"ddp": False}, {}, ignore_label=value)(x, y[:, None]),
    ]
    for loss in losses:
        torch.testing.assert_close(loss(x, y.to(kind)), loss(x, y), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("kind", UNSIGNED, ids=str)
def test_a_label_that_is_no_class_is_an_error(kind):
    x, y = logits(), torch.zeros(2, 8, 6).to(kind)
    y[0, 0, 0] = torch.tensor(torch.iinfo(kind).max, dtype=kind)
    losses = [
        own.CrossEntropyLoss(),
        lambda x, y: monai.DiceLoss(to_onehot_y=True, softmax=True)(x, y[:, None]),
        lambda x, y: monai.DiceLoss(to_onehot_y=True, sigmoid=True)(x, y[:, None]),
        lambda x, y: nnunet.DC_and_CE_loss({"ddp": False}, {})(x, y[:, None]),
    ]
    for loss in losses:
        with pytest.raises(ValueError, match="class ids from 0 to 2"):
            loss(x, y)
