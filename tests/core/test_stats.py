"""Statistics of the same pass: counts against brute force, scores, and the value of each term."""

import math

import pytest
import torch
from cases import DTYPES, MODES, SHAPES, build, crossentropy, logits, target
from tolerances import assert_value

import fastloss as fl
from fastloss import functional

nan = float("nan")


def brute_force(mode, x, y, valid, threshold=0.5):
    """One element at a time."""
    device = x.device
    x, y, valid = x.cpu(), y.cpu(), valid.cpu()
    n, c = x.shape[:2]
    counts = torch.zeros(n, c, 4, dtype=torch.int64, device="cpu")
    cut = math.log(threshold / (1 - threshold)) if 0 < threshold < 1 else math.copysign(math.inf, threshold - 0.5)
    x = x.double().flatten(2)
    for i in range(n):
        for s in range(x.shape[2]):
            for k in range(c):
                if mode == "multiclass":
                    if not valid[i].flatten()[s]:
                        continue
                    said = max(range(c), key=lambda j, i=i, s=s: (x[i, j, s].item(), -j)) == k
                    labels = y.flatten(2)[i, :, s] if y.is_floating_point() else y[i].flatten()[s]
                    true = (int(labels.argmax()) if y.is_floating_point() else int(labels)) == k
                else:
                    if not valid.flatten(2)[i, k, s]:
                        continue
                    said = x[i, k, s].item() >= cut
                    true = y.flatten(2)[i, k, s].item() >= 0.5
                counts[i, k, (0 if true else 1) if said else (2 if true else 3)] += 1
    return counts.to(device)


def inputs(mode, dtype=torch.float32, kind=torch.uint8):
    shape = (2, SHAPES[mode][1], 6, 7)
    x = logits(shape, dtype)
    x[0, :, 0] = 0.0  # ties: on the threshold, and between all classes
    return x, target(mode, shape, kind)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("mode", MODES)
def test_counts(mode, dtype, backend):
    kinds = (torch.uint8, torch.int64, "probabilities" if mode == "multiclass" else "soft")
    for kind in kinds:
        x, y = inputs(mode, dtype, kind)
        mask = torch.rand(x[:, 0].shape) < 0.6
        for m in (None, mask):
            valid = torch.ones_like(mask) if m is None else m
            valid = valid if mode == "multiclass" else valid[:, None].expand(x.shape)
            expected = brute_force(mode, x, y, valid)
            with fl.backends.use(backend):
                for terms in (fl.DiceLoss(mode), crossentropy(mode) + fl.TopKLoss(mode)):
                    loss, stats = terms.with_stats(x, y, mask=m)
                    assert stats.counts.dtype == torch.int64 and torch.equal(stats.counts, expected)
                    assert_value(loss, terms(x, y, m), torch.float32)
                assert torch.equal(functional.stats(x, y, mode, mask=m).counts, expected)


@pytest.mark.parametrize("mode", MODES)
def test_counts_leave_out_ignored_labels(mode, backend):
    x, y = inputs(mode)
    y[torch.rand(y.shape) < 0.3] = 255
    expected = brute_force(mode, x, torch.where(y == 255, 0, y), y != 255)
    with fl.backends.use(backend):
        _, stats = fl.DiceLoss(mode, ignore_index=255).with_stats(x, y)
        assert torch.equal(stats.counts, expected)
        assert torch.equal(functional.stats(x, y, mode, ignore_index=255).counts, expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("threshold", (0.0, 0.1, 0.3, 0.5, 0.731058578, 0.9, 1.0))
def test_threshold(threshold, dtype, backend):
    """x >= logit(threshold), decided exactly: also where the cut lies between two logits of that dtype."""
    cut = math.log(threshold / (1 - threshold)) if 0 < threshold < 1 else 0.0
    unit = 2 * torch.finfo(dtype).eps * abs(cut)
    near = torch.tensor([cut - unit, cut + unit, cut if dtype != torch.float64 else 9.0], dtype=dtype)
    x = torch.cat([near, torch.randn(9).to(dtype)]).reshape(1, 1, 12)
    y = torch.tensor([0, 1] * 6).reshape(1, 1, 12)
    expected = brute_force("binary", x, y, torch.ones(1, 1, 12), threshold)
    assert torch.equal(functional.stats(x, y, threshold=threshold, backend=backend).counts, expected)
    _, stats = fl.DiceLoss("binary", backend=backend).with_stats(x, y, threshold)
    assert torch.equal(stats.counts, expected)


def test_binary_without_channel_axis(backend):
    x, y = logits((3, 9, 8)), target("binary", (3, 9, 8))
    with fl.backends.use(backend):
        short, long = [fl.DiceLoss("binary").with_stats(*t)[1].counts for t in ((x, y), (x[:, None], y[:, None]))]
    assert short.shape == (3, 1, 4) and torch.equal(short, long)


def test_scores():
    stats = fl.Stats(torch.tensor([[[4, 1, 3, 9], [0, 0, 0, 17]], [[2, 2, 0, 13], [0, 5, 0, 12]]]))
    close = torch.testing.assert_close
    close(stats.dice(), torch.tensor([[8 / 12, 1.0], [4 / 6, 0.0]], dtype=torch.float64))
    close(stats.iou(), torch.tensor([[4 / 8, 1.0], [2 / 4, 0.0]], dtype=torch.float64))
    close(stats.dice(pooled=True), torch.tensor([12 / 18, 0.0], dtype=torch.float64))
    close(stats.iou(pooled=True), torch.tensor([6 / 12, 0.0], dtype=torch.float64))
    assert stats.dice(empty=nan)[0, 1].isnan() and stats.iou(empty=0.5)[0, 1] == 0.5
    assert stats.terms == {}


@pytest.mark.parametrize("mode", MODES)
def test_terms_are_the_single_losses(mode, backend):
    """Before their weights, by name, in the order of the sum."""
    x, y = logits(SHAPES[mode]), target(mode, SHAPES[mode])
    parts = [crossentropy(mode), fl.FocalLoss(mode), fl.TopKLoss(mode, k=0.3), fl.DiceLoss(mode), fl.IoULoss(mode)]
    parts += [fl.TverskyLoss(mode, alpha=0.1, beta=0.9), fl.DiceLoss(mode, smooth=1.0)]
    names = ["ce" if mode == "multiclass" else "bce", "focal", "topk", "dice", "jaccard", "tversky", "dice_2"]
    weights = [0.5, 2.0, -1.0, 0.25, 3.0, 1.0, 0.125]
    with fl.backends.use(backend):
        loss, stats = sum(w * part for w, part in zip(weights, parts)).with_stats(x.requires_grad_(), y)
        assert list(stats.terms) == names
        for part, value in zip(parts, stats.terms.values()):
            assert value.dtype == torch.float64 and value.ndim == 0 and not value.requires_grad
            assert_value(value, part(x, y), torch.float32)
    assert_value(loss, sum(w * v for w, v in zip(weights, stats.terms.values())), torch.float32, scale=1.0)
    assert all(f"{name}=" in repr(stats) for name in names)


def test_a_term_of_weight_zero_is_not_computed(backend):
    """So that its NaN does not spread; a weight tensor of 0 does the same."""
    x = torch.full((1, 1, 4, 4), -float("inf"))
    y = torch.ones(1, 1, 4, 4)
    for weight in (0.0, torch.tensor(0.0)):
        criterion = fl.DiceLoss("binary", smooth=1.0) + weight * fl.BCEWithLogitsLoss()
        with fl.backends.use(backend):
            loss, stats = criterion.with_stats(x.requires_grad_(), y)
            loss.backward()
        assert loss.isfinite() and x.grad.isfinite().all()
        assert not stats.terms["bce"].isfinite()


def test_counts_of_a_reduction_none_loss_are_refused_but_stats_are_there(backend):
    x, y = inputs("binary")
    assert functional.stats(x, y, backend=backend).counts.sum() == x.numel()
    assert build("binary:bce", backend=backend).with_stats(x, y)[1].counts.sum() == x.numel()
