"""The unified focal losses: their published form, written here, and what MONAI makes of it."""

import pytest
import torch
import torch.nn.functional as F
from monai.losses import AsymmetricUnifiedFocalLoss
from test_formulas import agree

import fastloss as fl

SETTINGS = {"weight": 0.3, "delta": 0.7, "gamma": 0.4}


def inputs(channels, shape=(3, 9, 7)):
    x = torch.randn(shape[0], channels, *shape[1:], dtype=torch.float64) * 2
    y = torch.randint(0, channels, shape)
    y[0][y[0] == channels - 1] = 0  # the last class is absent from sample 0
    return x, y


def published(x, y, weight, delta, gamma, asymmetric, clip=1e-7):
    """https://github.com/mlyg/unified-focal-loss, for any number of classes: class 0 is the background. There `weight`
    is that of the Tversky part; in the paper and here it is that of the focal one."""
    p = torch.softmax(x, 1).clamp(clip, 1 - clip)
    t = F.one_hot(y, x.shape[1]).movedim(-1, 1).double()
    ce = -t * p.log()
    back = (1 - delta) * (1 - p[:, 0]) ** gamma * ce[:, 0]
    front = delta * (1 if asymmetric else (1 - p[:, 1:]) ** gamma) * ce[:, 1:]
    focal = (back + front.sum(1)).mean()
    tp, fp, fn = [s.flatten(2).sum(2) for s in (t * p, (1 - t) * p, t * (1 - p))]
    missed = 1 - (tp + 1e-7) / (tp + delta * fn + (1 - delta) * fp + 1e-7)
    first = missed[:, :1] if asymmetric else missed[:, :1] ** (1 - gamma)
    return weight * focal + (1 - weight) * torch.cat([first, missed[:, 1:] ** (1 - gamma)], 1).mean()


@pytest.mark.parametrize("asymmetric", (True, False))
@pytest.mark.parametrize("channels", (2, 4))
def test_it_is_the_published_formula(channels, asymmetric):
    x, y = inputs(channels)
    loss = fl.UnifiedFocalLoss(num_classes=channels, asymmetric=asymmetric, **SETTINGS)
    with fl.backends.use("reference"):
        agree(loss, lambda x, y: published(x, y, asymmetric=asymmetric, **SETTINGS), x, y)


def test_of_monai_it_differs_by_half_the_focal_part():
    """MONAI takes probabilities and averages F over both channels, of which the target's alone is not 0."""
    x, y = inputs(2)
    theirs = AsymmetricUnifiedFocalLoss(to_onehot_y=True, **SETTINGS)

    def monai(x, y):
        return theirs(torch.softmax(x, 1), y[:, None])

    focal, score = [fl.UnifiedFocalLoss(**{**SETTINGS, "weight": weight}) for weight in (1.0, 0.0)]
    with fl.backends.use("reference"):
        agree(0.15 * focal + 0.7 * score, monai, x, y)


def test_without_gamma_it_is_weighted_cross_entropy_and_tversky():
    x, y = inputs(3)
    loss = fl.UnifiedFocalLoss(num_classes=3, delta=0.6, gamma=0.0)
    focal = fl.CrossEntropyLoss(class_weights=[0.4, 0.6, 0.6], reduction="sum") / y.numel()
    score = fl.TverskyLoss("multiclass", alpha=0.4, beta=0.6, smooth=1e-7, batch=False, empty="score")
    torch.testing.assert_close(loss(x, y), (0.5 * focal + 0.5 * score)(x, y))


@pytest.mark.parametrize("name,value", [("weight", 1.5), ("delta", -0.1), ("gamma", 1.0), ("num_classes", 1)])
def test_a_number_out_of_range_is_named(name, value):
    with pytest.raises(ValueError, match=f"{name} must be"):
        fl.UnifiedFocalLoss(**{name: value})


def test_it_adds_up():
    x, y = inputs(2)
    both = fl.UnifiedFocalLoss() + 0.5 * fl.DiceLoss("multiclass")
    assert len(both.spec.terms) == 5
    torch.testing.assert_close(both(x, y), fl.UnifiedFocalLoss()(x, y) + 0.5 * fl.DiceLoss("multiclass")(x, y))
    with pytest.raises(ValueError, match="mode must be 'multiclass' for this loss"):
        fl.UnifiedFocalLoss("binary")


def test_another_number_of_channels_is_told_by_the_arguments_name():
    with pytest.raises(ValueError, match=r"^num_classes is 2, but x has 3 channels\.$"):
        fl.UnifiedFocalLoss()(torch.zeros(1, 3, 2, 2), torch.zeros(1, 2, 2, dtype=torch.long))
