"""Region losses that PyTorch finishes: against formulas written out here, at the ends of the numbers, and in every
way that a loss is called."""

import pytest
import torch
from cases import DEVICES, DTYPES, MANY, MODES, SHAPES, logits, run, target
from tolerances import assert_value, assert_vector

import fastloss as fl
from fastloss.reference.boundary import boundary_counts

LOSSES = {
    "mcc": fl.MCCLoss,
    "generalized": fl.GeneralizedDiceLoss,
    "tvmf": fl.TvMFDiceLoss,
    "dou": fl.BoundaryDoULoss,
    "sensitivity": fl.SensitivitySpecificityLoss,
    "weighted": fl.WeightedSoftDiceLoss,
}


def parts(mode, x, y):
    """p and y, [N, C, pixels] each."""
    p = torch.softmax(x, 1) if mode == "multiclass" else torch.sigmoid(x)
    if mode == "multiclass" and not y.is_floating_point():
        y = torch.nn.functional.one_hot(y, x.shape[1]).movedim(-1, 1)
    return p.flatten(2), y.to(p.dtype).flatten(2)


def mcc(p, y, s=1e-5):
    tp, tn, fp, fn = [t.sum() + s for t in (p * y, (1 - p) * (1 - y), p * (1 - y), (1 - p) * y)]
    return 1 - (tp * tn - fp * fn) / ((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)).sqrt()


def tvmf(p, y, kappa=32.0):
    cos = (p * y).sum() / (p.square().sum() * y.square().sum()).sqrt()
    phi = (1 + cos) / (1 + kappa * (1 - cos)) - 1
    return (1 - phi) ** 2


def sensitivity_specificity(p, y, r=0.05):
    """Of a soft label: the mean over the label 1, as likely as y says, and 0."""
    on, off = ((1 - p) ** 2 * y).sum() / y.sum(), (p**2 * (1 - y)).sum() / (1 - y).sum()
    return r * on + (1 - r) * off


def weighted_dice(p, y, v=0.1, s=0.0):
    def sums(label, likely):
        w = (1 - v) * label + v * (1 - label)
        a, b = w * (2 * p - 1), w * torch.full_like(p, 2 * label - 1)
        return [(likely * t).sum() for t in (a * b, a * a, b * b)]

    inter, left, right = [on + off for on, off in zip(sums(1, y), sums(0, 1 - y))]
    return 1 - (2 * inter + 2 * s) / (left + right + 2 * s)


def edge_length(labels):
    """Pixels of a class [*S] of which a neighbour along an axis is of another or outside: a loop over them all."""
    found = 0
    for at in torch.cartesian_prod(*[torch.arange(n) for n in labels.shape]).reshape(-1, labels.ndim).tolist():
        around = []
        for axis, n in enumerate(labels.shape):
            for step in (-1, 1):
                near = [*at]
                near[axis] += step
                around.append(0 <= near[axis] < n and bool(labels[tuple(near)]))
        found += bool(labels[tuple(at)]) and not all(around)
    return found


def boundary_dou(mode, cap=0.8, s=0.0):
    def whole(x, y):
        p, t = parts(mode, x, y)
        labels = t.unflatten(2, x.shape[2:])
        losses = []
        for c in range(p.shape[1]):
            edge = sum(edge_length(sample) for sample in labels[:, c])
            alpha = min(1 - 2 * (edge + s) / (t[:, c].sum().item() + s), cap)
            inter, both = (p[:, c] * t[:, c]).sum(), p[:, c].square().sum() + t[:, c].square().sum()
            losses.append((both - 2 * inter + s) / (both - (1 + alpha) * inter + s))
        return sum(losses) / len(losses)

    return whole


def each_class(formula, mode, **settings):
    """The mean over classes of a formula of p and y of one class."""

    def whole(x, y):
        p, t = parts(mode, x, y)
        return torch.stack([formula(p[:, c], t[:, c], **settings) for c in range(p.shape[1])]).mean()

    return whole


def generalized(mode, power, smooth=0.0, classes=None, infinite=False):
    def whole(x, y):
        p, t = [v if classes is None else v[:, classes] for v in parts(mode, x, y)]
        sizes = t.sum((0, 2))
        largest = max(float(size) ** -power for size in sizes if size > 0)
        weights = [float(size) ** -power if size > 0 else largest * infinite for size in sizes]
        above = sum(w * (p[:, c] * t[:, c]).sum() for c, w in enumerate(weights))
        below = sum(w * (p[:, c] + t[:, c]).sum() for c, w in enumerate(weights))
        return 1 - (2 * above + 2 * smooth) / (below + 2 * smooth)

    return whole


def agree(loss, formula, x, y, backend):
    x = x.double()
    given = x.clone().requires_grad_()
    expected = formula(given, y)
    (expected_grad,) = torch.autograd.grad(expected, given)
    value, grad = run(loss, x, y, backend)
    assert_value(value, expected.detach(), torch.float64)
    assert_vector(grad, expected_grad, torch.float64)


@pytest.mark.parametrize("kind", ("hard", "soft"))
@pytest.mark.parametrize("mode", MODES)
def test_formulas(mode, kind, backend):
    x = logits(SHAPES[mode])
    y = target(mode, x.shape, torch.int64 if kind == "hard" else "probabilities" if mode == "multiclass" else "soft")
    agree(fl.MCCLoss(mode), each_class(mcc, mode), x, y, backend)
    agree(fl.MCCLoss(mode, smooth=2.0), each_class(mcc, mode, s=2.0), x, y, backend)
    for word, power in (("square", 2), ("simple", 1), ("uniform", 0)):
        loss = fl.GeneralizedDiceLoss(mode, weighting=word, smooth=0.1)
        agree(loss, generalized(mode, power, 0.1), x, y, backend)
    agree(fl.TvMFDiceLoss(mode), each_class(tvmf, mode), x, y, backend)
    agree(fl.SensitivitySpecificityLoss(mode), each_class(sensitivity_specificity, mode), x, y, backend)
    loss = fl.SensitivitySpecificityLoss(mode, sensitivity=0.6)
    agree(loss, each_class(sensitivity_specificity, mode, r=0.6), x, y, backend)
    agree(fl.WeightedSoftDiceLoss(mode), each_class(weighted_dice, mode), x, y, backend)
    loss = fl.WeightedSoftDiceLoss(mode, background=0.4, smooth=2.0)
    agree(loss, each_class(weighted_dice, mode, v=0.4, s=2.0), x, y, backend)
    agree(fl.TvMFDiceLoss(mode, kappa=0), each_class(tvmf, mode, kappa=0), x, y, backend)


@pytest.mark.parametrize("mode", MANY)
def test_kappa_of_each_class(mode, backend):
    x, y = logits(SHAPES[mode]), target(mode, SHAPES[mode])

    def formula(x, y):
        p, t = parts(mode, x, y)
        return sum(tvmf(p[:, c], t[:, c], kappa) for c, kappa in enumerate((0.5, 4.0, 64.0))) / 3

    agree(fl.TvMFDiceLoss(mode, kappa=[0.5, 4, 64]), formula, x, y, backend)


@pytest.mark.parametrize("space", ((9,), (9, 7), (4, 7, 6)), ids=len)
@pytest.mark.parametrize("mode", MODES)
def test_boundary_dou(mode, space, backend):
    """Blobs, whose inner pixels count: alpha is above and below 0, and above the cap."""
    shape = (2, SHAPES[mode][1], *space)
    x, y = logits(shape), torch.zeros((2, *space) if mode == "multiclass" else shape, dtype=torch.int64)
    y[1] = 1
    y[..., 3:] = 1
    y[..., 5:] = 2 if mode == "multiclass" else 1
    for cap, s in ((0.8, 0.0), (0.8, 1e-5), (0.1, 0.5)):
        agree(fl.BoundaryDoULoss(mode, cap=cap, smooth=s), boundary_dou(mode, cap, s), x, y, backend)


def published(inputs, target, n_classes):
    """What the authors' code computes (GitHub: sunfan-bvb/BoundaryDoULoss): a convolution with a cross, then counts."""
    score, total = torch.softmax(inputs, 1), 0.0
    cross = torch.tensor([[0.0, 1.0, 0.0], [1.0, 1.0, 1.0], [0.0, 1.0, 0.0]], dtype=inputs.dtype)[None, None]
    for c in range(n_classes):
        p, y = score[:, c], (target == c).to(inputs.dtype)
        near = torch.conv2d(y[:, None], cross, padding=1)[:, 0] * y
        edge, size = ((near != 5) & (near != 0)).sum().item(), y.count_nonzero().item()
        alpha = min(2 * (1 - (edge + 1e-5) / (size + 1e-5)) - 1, 0.8)
        z, t, inter = (p * p).sum(), (y * y).sum(), (p * y).sum()
        total = total + (z + t - 2 * inter + 1e-5) / (z + t - (1 + alpha) * inter + 1e-5)
    return total / n_classes


def test_boundary_dou_is_that_of_its_authors():
    x, y = logits((3, 4, 16, 12)), torch.zeros(3, 16, 12, dtype=torch.int64)
    y[:, 2:14, 1:11], y[0, 5:9, 4:8], y[1, 0, 0] = 1, 2, 2  # class 3 is absent
    loss = fl.BoundaryDoULoss("multiclass", smooth=1e-5, empty="score")
    agree(loss, lambda x, y: published(x, y, 4), x, y, "reference")


@pytest.mark.parametrize("mode", MODES)
def test_boundaries_of_soft_labels_masks_and_wide_types(mode):
    """0.5 belongs to the object, the most probable class to its pixel; what is not valid is of no class."""
    shape = (2, SHAPES[mode][1], 5, 6)
    spec, x = fl.BoundaryDoULoss(mode, ignore_index=9).spec, torch.zeros(shape)
    soft = target(mode, shape, "probabilities" if mode == "multiclass" else "soft")
    hard = soft.argmax(1) if mode == "multiclass" else (soft >= 0.5).long()
    mask = torch.rand(2, 5, 6) < 0.7
    every = torch.arange(3)[:, None, None, None] if mode == "multiclass" else None
    for wide in (hard, hard.to(torch.uint64), soft):
        whole = (hard == every).transpose(0, 1) if mode == "multiclass" else hard
        expected = [[edge_length(whole[n, c] * mask[n]) for c in range(shape[1])] for n in range(2)]
        assert boundary_counts(spec, x, wide, mask).tolist() == expected
    ignored = hard.masked_fill(~mask if mode == "multiclass" else ~mask[:, None], 9)
    assert boundary_counts(spec, x, ignored, None).tolist() == expected


@pytest.mark.parametrize("mode", MANY)
def test_a_class_without_target_in_generalized_dice(mode, backend):
    x, y = logits(SHAPES[mode]), target(mode, SHAPES[mode])
    y[y == 2] = 1
    if mode == "multilabel":
        y[:, 2] = 0
    for empty, infinite in (("zero", False), ("skip", False), ("score", True)):
        agree(fl.GeneralizedDiceLoss(mode, empty=empty), generalized(mode, 2, 0, None, infinite), x, y, backend)
    loss = fl.GeneralizedDiceLoss(mode, classes=[0, 2], empty="score")
    agree(loss, generalized(mode, 2, 0, [0, 2], True), x, y, backend)


@pytest.mark.parametrize(
    "settings", ({}, {"batch": False, "empty": "zero"}, {"batch": False, "empty": "skip"}), ids=str
)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", LOSSES)
def test_no_input_gives_nan(name, mode, dtype, settings, backend):
    """Nothing valid, no target pixel, only target pixels, one pixel, and logits at which p is 0 or 1."""
    loss = LOSSES[name](mode, **settings)
    shape = (2, SHAPES[mode][1], 3, 5)
    x, y = logits(shape, dtype), target(mode, shape)
    far = torch.where(x > 0, 1e4, -1e4).to(dtype)
    for logit in (x, far):
        for label in (y, torch.zeros_like(y), torch.ones_like(y)):
            for mask in (None, torch.zeros(2, 3, 5, dtype=torch.bool)):
                value, grad = run(loss, logit, label, backend, mask)
                assert value.isfinite() and grad.isfinite().all(), (label.float().mean(), mask)
                if mask is not None:
                    assert value == 0 and not grad.any()
        value, grad = run(loss, logit[:1, :, :1, :1], y[:1, ..., :1, :1], backend)
        assert value.isfinite() and grad.isfinite().all()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", LOSSES)
def test_the_best_and_the_worst_prediction(name, mode, backend):
    """A loss is 0 where every pixel is right, and never larger than where every pixel is wrong."""
    y = target(mode, SHAPES[mode])
    y[..., :3] = 1
    right = torch.nn.functional.one_hot(y, 3).movedim(-1, 1) if mode == "multiclass" else y
    wrong = right.roll(1, 1) if mode == "multiclass" else 1 - right
    loss = LOSSES[name](mode)
    best, middle, worst = [run(loss, x, y, backend)[0] for x in (60.0 * right - 30, 0.0 * right, 60.0 * wrong - 30)]
    assert best.abs() < 1e-5 and 0.05 < middle < worst, (best, middle, worst)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", LOSSES)
def test_ignored_elements_are_left_out(name, mode, backend):
    """As if they were not there; what they hold does not matter."""
    x, y = logits(SHAPES[mode], torch.float64), target(mode, SHAPES[mode])
    gone = torch.zeros(y.shape, dtype=torch.bool)
    gone[..., 5:] = True
    ignored = y.masked_fill(gone, 255)
    loss, masked = LOSSES[name](mode, ignore_index=255), LOSSES[name](mode)
    expected = run(masked, x[..., :5], y[..., :5], backend)
    x[..., 5:] = torch.nan
    value, grad = run(loss, x, ignored, backend)
    assert_value(value, expected[0], torch.float64)
    assert_vector(grad[..., :5], expected[1], torch.float64)
    assert not grad[..., 5:].any()


@pytest.mark.parametrize("name", LOSSES)
def test_a_label_out_of_range_is_an_error_or_nan(name, backend):
    x, y = logits(SHAPES["multiclass"]), target("multiclass", SHAPES["multiclass"])
    y[0, 0, 0] = 3
    with pytest.raises((ValueError, RuntimeError), match="3"):
        loss = run(LOSSES[name]("multiclass"), x, y, backend)[0]
        raise ValueError("3 is NaN" if loss.isnan() else f"no word of the class {loss}")


@pytest.mark.parametrize("name", LOSSES)
def test_double_backward_is_refused_in_one_sentence(name, backend):
    if backend == "reference":
        return
    x, y = [t.to(DEVICES[backend]) for t in (logits(SHAPES["binary"]), target("binary", SHAPES["binary"]))]
    x.requires_grad_()
    with fl.backends.use(backend):
        (grad,) = torch.autograd.grad(LOSSES[name]("binary")(x, y), x, create_graph=True)
    with pytest.raises(RuntimeError, match="double backward"):
        grad.sum().backward()


@pytest.mark.parametrize("name", LOSSES)
def test_in_bands_and_in_pyramids(name, backend):
    """UpsampledLoss, HeadLoss and DeepSupervisionLoss, alone and in a sum."""
    mode = "multiclass"
    device = DEVICES[backend]
    low, y = logits((2, 3, 4, 5), torch.float64).to(device), target(mode, (2, 3, 12, 10)).to(device)
    for loss in (LOSSES[name](mode), LOSSES[name](mode) + 0.5 * fl.CrossEntropyLoss() - fl.DiceLoss(mode) / 3):
        x = low.clone().requires_grad_()
        high = torch.nn.functional.interpolate(x, (12, 10), mode="bilinear", align_corners=False)
        with fl.backends.use(backend):
            expected = loss(high, y)
            found = fl.UpsampledLoss(loss, band_bytes=512)(x, y)
            whole, banded = [torch.autograd.grad(value, x)[0] for value in (expected, found)]
            torch.testing.assert_close(found, expected)
            torch.testing.assert_close(banded, whole)
            head = torch.nn.Conv2d(2, 3, 1, device=device).double()
            features = torch.randn(2, 2, 12, 10, dtype=torch.float64, device=device)
            torch.testing.assert_close(fl.HeadLoss(head, loss, band_bytes=512)(features, y), loss(head(features), y))
            pyramid = [high.detach(), high.detach()[..., ::2, ::2].contiguous()]
            deep = fl.DeepSupervisionLoss(loss, weights=[1.0, 0.5])(pyramid, y)
            levels = [loss(pyramid[0], y), loss(pyramid[1], y[:, 1::2, 1::2])]  # nearest-exact
            torch.testing.assert_close(deep, levels[0] + 0.5 * levels[1])


@pytest.mark.parametrize("name", LOSSES)
def test_statistics_weights_and_schedules(name, backend):
    mode = "multilabel"
    device = DEVICES[backend]
    x, y = logits(SHAPES[mode]).to(device).requires_grad_(), target(mode, SHAPES[mode]).to(device)
    with fl.backends.use(backend):
        plain = LOSSES[name](mode)
        value, stats = plain.with_stats(x, y)
        assert torch.equal(value, plain(x, y)) and list(stats.terms) == [plain._parts[0].name]
        torch.testing.assert_close(stats.counts, fl.functional.stats(x, y, mode).counts)
        weight = torch.nn.Parameter(torch.tensor(0.7, device=device))
        total = (weight * plain + fl.DiceLoss(mode))(x, y)
        total.backward()
        torch.testing.assert_close(weight.grad, value.detach())
        schedule = fl.LossSchedule.linear(plain, fl.FocalLoss(mode), 0, 4)
        schedule.step(1)
        torch.testing.assert_close(schedule(x, y), 0.75 * value + 0.25 * fl.FocalLoss(mode)(x, y))


@pytest.mark.parametrize("name", LOSSES)
def test_explain_says_that_pytorch_finishes(name, backend):
    x, y = [t.to(DEVICES[backend]) for t in (logits(SHAPES["binary"]), target("binary", SHAPES["binary"]))]
    with fl.backends.use(backend):
        said = (LOSSES[name]("binary") * torch.tensor(2.0, device=x.device)).explain(x, y)
    if backend != "reference":
        assert said.path == "generic" and "another function of the sums" in str(said)


def test_mcc_is_that_of_smp():
    smp = pytest.importorskip("segmentation_models_pytorch")
    x, y = logits(SHAPES["binary"], torch.float64).requires_grad_(), target("binary", SHAPES["binary"])
    ours, theirs = fl.MCCLoss()(x, y), smp.losses.MCCLoss()(x.sigmoid(), y)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(*[torch.autograd.grad(value, x)[0] for value in (ours, theirs)])


@pytest.mark.parametrize("batch", (True, False), ids=("pooled", "per sample"))
@pytest.mark.parametrize("word", ("square", "simple", "uniform"))
@pytest.mark.parametrize("mode", MANY)
def test_generalized_dice_is_that_of_monai(mode, word, batch):
    """With an absent class, which gets the largest weight of the others."""
    monai = pytest.importorskip("monai.losses")
    x, y = logits(SHAPES[mode], torch.float64).requires_grad_(), target(mode, SHAPES[mode])
    loss = monai.GeneralizedDiceLoss(
        w_type=word, batch=batch, to_onehot_y=mode == "multiclass",
        softmax=mode == "multiclass", sigmoid=mode != "multiclass",
    )  # fmt: skip
    theirs = loss(x, (y[:, None] if mode == "multiclass" else y).double())
    ours = fl.GeneralizedDiceLoss(mode, weighting=word, batch=batch, empty="score", smooth=5e-6)(x, y)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)
    grads = [torch.autograd.grad(value, x)[0] for value in (ours, theirs)]
    torch.testing.assert_close(*grads, rtol=1e-5, atol=1e-8)
