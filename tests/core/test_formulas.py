"""The oracle against formulas written here from the papers and from torch.nn.functional, in float64."""

import pytest
import torch
import torch.nn.functional as F
from cases import MANY, MODES, SHAPES, logits, target

import fastloss as fl

MULTI = SHAPES["multiclass"]
WEIGHTS = [0.5, 2.0, 1.25]


@pytest.fixture(autouse=True)
def _reference():
    with fl.backends.use("reference"):
        yield


def agree(loss, formula, x, y, *extra):
    """Value and gradient; each side differentiates its own expression."""
    x = x.double().requires_grad_()
    ours, theirs = loss(x, y, *extra), formula(x, y)
    grads = [torch.autograd.grad(value, x)[0] for value in (ours, theirs)]
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(*grads, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("kind", (torch.int64, "soft"), ids=str)
@pytest.mark.parametrize("mode", MODES[:2])
def test_bce(mode, kind):
    x, y = logits(SHAPES[mode]), target(mode, SHAPES[mode], kind)
    weight = torch.tensor(WEIGHTS, dtype=torch.float64).reshape(1, -1, 1, 1)[:, : x.shape[1]]
    plain = F.binary_cross_entropy_with_logits
    agree(fl.BCEWithLogitsLoss(mode), lambda x, y: plain(x, y.double()), x, y)
    agree(fl.BCEWithLogitsLoss(mode, reduction="sum"), lambda x, y: plain(x, y.double(), reduction="sum"), x, y)
    agree(
        fl.BCEWithLogitsLoss(mode, pos_weight=WEIGHTS[: x.shape[1]]),
        lambda x, y: plain(x, y.double(), pos_weight=weight),
        x, y,
    )  # fmt: skip
    agree(fl.BCEWithLogitsLoss(mode, label_smoothing=0.2), lambda x, y: plain(x, y.double() * 0.8 + 0.1), x, y)
    pixels = torch.rand(x.shape, dtype=torch.float64)
    agree(fl.BCEWithLogitsLoss(mode), lambda x, y: plain(x, y.double(), weight=pixels), x, y, None, pixels)


@pytest.mark.parametrize("kind", (torch.int64, torch.uint8, "probabilities"), ids=str)
@pytest.mark.parametrize("smoothing", (0.0, 0.3))
@pytest.mark.parametrize("weights", (None, WEIGHTS), ids=("plain", "weights"))
@pytest.mark.parametrize("reduction", ("mean", "sum", "none"))
def test_ce(kind, smoothing, weights, reduction):
    x, y = logits(MULTI), target("multiclass", MULTI, kind)
    given = None if weights is None else torch.tensor(weights, dtype=torch.float64)

    def formula(x, y):
        y = y.double() if y.is_floating_point() else y.long()
        return F.cross_entropy(x, y, given, label_smoothing=smoothing, reduction=reduction)

    loss = fl.CrossEntropyLoss(class_weights=weights, label_smoothing=smoothing, reduction=reduction)
    seen = torch.randn(MULTI[0], *MULTI[2:], dtype=torch.float64) if reduction == "none" else 1.0
    agree(lambda *a: (loss(*a) * seen).sum(), lambda x, y: (formula(x, y) * seen).sum(), x, y)


@pytest.mark.parametrize("smoothing", (0.0, 0.3))
@pytest.mark.parametrize("weights", (None, WEIGHTS), ids=("plain", "weights"))
def test_ce_ignore_index(smoothing, weights):
    x, y = logits(MULTI), target("multiclass", MULTI)
    y[torch.rand(y.shape) < 0.4] = -100
    given = None if weights is None else torch.tensor(weights, dtype=torch.float64)
    loss = fl.CrossEntropyLoss(class_weights=weights, label_smoothing=smoothing, ignore_index=-100)
    agree(loss, lambda x, y: F.cross_entropy(x, y, given, label_smoothing=smoothing, ignore_index=-100), x, y)


@pytest.mark.parametrize("gamma", (0.0, 0.5, 1.0, 1.5, 2.0, 5.0))
@pytest.mark.parametrize("alpha", (None, 0.25))
def test_focal(gamma, alpha):
    def binary(x, y):
        p, y = torch.sigmoid(x), y.double()
        pt = p * y + (1 - p) * (1 - y)
        weight = 1.0 if alpha is None else alpha * y + (1 - alpha) * (1 - y)
        return (-weight * (1 - pt) ** gamma * pt.log()).mean()

    def soft(x, y):
        y = y.double()
        b = F.binary_cross_entropy_with_logits(x, y, reduction="none")
        weight = 1.0 if alpha is None else alpha * y + (1 - alpha) * (1 - y)
        return (weight * (1 - torch.exp(-b)) ** gamma * b).mean()

    def multiclass(x, y):
        p = torch.softmax(x, 1).gather(1, y[:, None])
        return (-(1.0 if alpha is None else alpha) * (1 - p) ** gamma * p.log()).mean()

    def probabilities(x, y):
        p = torch.softmax(x, 1)
        return (-(1.0 if alpha is None else alpha) * y * (1 - p) ** gamma * p.log()).sum(1).mean()

    for mode in MODES[:2]:
        x, loss = logits(SHAPES[mode]), fl.FocalLoss(mode, gamma=gamma, alpha=alpha)
        agree(loss, binary, x, target(mode, x.shape))
        agree(loss, soft, x, target(mode, x.shape, "soft"))
    x, loss = logits(MULTI), fl.FocalLoss("multiclass", gamma=gamma, alpha=alpha)
    agree(loss, multiclass, x, target("multiclass", MULTI))
    agree(loss, probabilities, x, target("multiclass", MULTI, "probabilities").double())


def test_focal_alpha_of_each_class():
    alpha = torch.tensor(WEIGHTS, dtype=torch.float64)

    def formula(x, y):
        p = torch.softmax(x, 1).gather(1, y[:, None])
        return (alpha[y][:, None] * (1 - p) ** 2 * -p.log()).mean()

    agree(fl.FocalLoss("multiclass", alpha=WEIGHTS), formula, logits(MULTI), target("multiclass", MULTI))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("k,percent", [(0.1, 10), (0.29, 29), (1.0, 100), (0.001, 0.1)])
def test_topk(mode, k, percent):
    """nnU-Net's form: its k counts percent."""

    def formula(x, y):
        if mode == "multiclass":
            elements = F.cross_entropy(x, y, reduction="none")
        else:
            elements = F.binary_cross_entropy_with_logits(x, y.double(), reduction="none")
        count = max(1, int(elements.numel() * percent // 100))
        return elements.flatten().topk(count).values.mean()

    agree(fl.TopKLoss(mode, k=k), formula, logits(SHAPES[mode]), target(mode, SHAPES[mode]))


def classes_first(x, y, mode):
    """p and y as [C, N * pixels]."""
    p = torch.softmax(x, 1) if mode == "multiclass" else torch.sigmoid(x)
    if mode == "multiclass" and not y.is_floating_point():
        y = F.one_hot(y, x.shape[1]).movedim(-1, 1)
    return p.transpose(0, 1).flatten(1), y.to(x.dtype).transpose(0, 1).flatten(1)


@pytest.mark.parametrize("kind", ("hard", "soft"))
@pytest.mark.parametrize("mode", MODES)
def test_region_losses(mode, kind):
    hard = kind == "hard"
    x = logits(SHAPES[mode])
    y = target(mode, x.shape, torch.int64 if hard else "probabilities" if mode == "multiclass" else "soft").double()
    y = y.long() if hard else y

    def parts(x, y):
        p, t = classes_first(x, y, mode)
        return (p * t).sum(1), p.sum(1), t.sum(1), p, t

    def dice(x, y):
        i, p, t, *_ = parts(x, y)
        return (1 - 2 * i / (p + t)).mean()

    def smooth(x, y):
        i, p, t, *_ = parts(x, y)
        return (1 - (2 * i + 2 * 3.0) / (p + t + 2 * 3.0)).mean()

    def squared(x, y):
        i, _, _, p, t = parts(x, y)
        return (1 - 2 * i / ((p * p).sum(1) + (t * t).sum(1))).mean()

    def jaccard(x, y):
        i, p, t, *_ = parts(x, y)
        return (1 - i / (p + t - i)).mean()

    def tversky(x, y):
        p, t = classes_first(x, y, mode)
        tp, fp, fn = (p * t).sum(1), (p * (1 - t)).sum(1), ((1 - p) * t).sum(1)
        return ((1 - tp / (tp + 0.3 * fp + 0.7 * fn)) ** 0.75).mean()

    def log(x, y):
        i, p, t, *_ = parts(x, y)
        return -(2 * i / (p + t)).log().mean()

    def overlap_l1(x, y):
        _, _, _, p, t = parts(x, y)
        return (1 - 2 * torch.minimum(p, t).sum(1) / (p.sum(1) + t.sum(1))).mean()

    def score(x, y):
        i, p, t, *_ = parts(x, y)
        return 2 * i / (p + t)

    agree(fl.DiceLoss(mode, gamma=2.0), lambda x, y: ((1 - score(x, y)) ** 2).mean(), x, y)
    agree(fl.DiceLoss(mode, curve="log_cosh"), lambda x, y: (1 - score(x, y)).cosh().log().mean(), x, y)
    agree(fl.DiceLoss(mode, curve="root", gamma=0.5), lambda x, y: (1 - score(x, y).sqrt()).mean(), x, y)
    agree(fl.DiceLoss(mode, curve="log", gamma=0.3), lambda x, y: ((-score(x, y).log()) ** 0.3).mean(), x, y)
    agree(fl.DiceLoss(mode), dice, x, y)
    agree(fl.DiceLoss(mode, smooth=3.0), smooth, x, y)
    agree(fl.DiceLoss(mode, squared=True), squared, x, y)
    agree(fl.JaccardLoss(mode), jaccard, x, y)
    agree(fl.TverskyLoss(mode, alpha=0.3, beta=0.7, gamma=0.75), tversky, x, y)
    agree(fl.DiceLoss(mode, log_loss=True), log, x, y)
    agree(fl.DiceLoss(mode, soft="l1"), overlap_l1, x, y)


@pytest.mark.parametrize("mode", MODES)
def test_region_per_sample_is_the_mean_over_samples(mode):
    x, y = logits(SHAPES[mode]), target(mode, SHAPES[mode])
    y[:] = torch.randint(0, 2 if mode != "multiclass" else 3, y.shape)  # every class is in every sample
    pooled = fl.DiceLoss(mode, smooth=1.0)

    def formula(x, y):
        return torch.stack([pooled(x[n : n + 1], y[n : n + 1]) for n in range(len(x))]).mean()

    agree(fl.DiceLoss(mode, smooth=1.0, batch=False, empty="zero"), formula, x, y)


@pytest.mark.parametrize("mode", MANY)
def test_class_weights_and_classes(mode):
    x, y = logits(SHAPES[mode]), target(mode, SHAPES[mode])

    def each(x, y):
        p, t = classes_first(x, y, mode)
        return 1 - 2 * (p * t).sum(1) / (p.sum(1) + t.sum(1))

    w = torch.tensor(WEIGHTS, dtype=torch.float64)
    agree(fl.DiceLoss(mode, class_weights=WEIGHTS), lambda x, y: (w * each(x, y)).sum() / w.sum(), x, y)
    agree(fl.DiceLoss(mode, classes=[2, 0]), lambda x, y: each(x, y)[[0, 2]].mean(), x, y)
    both = fl.DiceLoss(mode, classes=[1, 2], class_weights=WEIGHTS)
    agree(both, lambda x, y: (w * each(x, y))[1:].sum() / w[1:].sum(), x, y)


@pytest.mark.parametrize("mode", MODES)
def test_a_mask_leaves_pixels_out(mode):
    """Equal to the loss of the valid pixels alone."""
    x, y = logits(SHAPES[mode]), target(mode, SHAPES[mode])
    mask = torch.rand(x[:, 0].shape) < 0.5
    weight = torch.rand(x[:, 0].shape, dtype=torch.float64)
    for loss in (fl.DiceLoss(mode), fl.FocalLoss(mode), fl.TopKLoss(mode, k=0.4)):

        def formula(x, y, loss=loss):
            kept = x.movedim(1, -1)[mask].T[None]
            labels = y[mask][None] if mode == "multiclass" else y.movedim(1, -1)[mask].T[None]
            return loss(kept, labels, None, weight[mask][None])

        agree(loss, formula, x, y, mask, weight)
