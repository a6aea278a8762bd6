"""More than 2^31 elements, most of them the same memory: indices and counts need 64 bits."""

import os

import pytest
import torch
from cases import MODES
from tolerances import assert_value

import fastloss as fl
from fastloss import functional

pytestmark = pytest.mark.slow
HEIGHT, WIDTH = 32_768, 32_800


def repeated(mode, copies):
    """Views of one row: x [copies, C, HEIGHT, WIDTH] and y, with more than 2^31 pixels; and the row."""
    channels = 1 if mode == "binary" else 2
    row = (torch.randn(1, channels, 1, WIDTH) * 3).to(torch.bfloat16)
    y = torch.randint(0, 2, (1, 1 if mode == "multiclass" else channels, 1, WIDTH), dtype=torch.uint8)
    size = (copies, -1, HEIGHT, WIDTH)
    return row.expand(size), y.expand(size), row, y


@pytest.mark.parametrize("mode", MODES)
def test_value_and_counts(mode, compiled):
    """A mean over copies of a row is that of the row; the counts are so many times larger."""
    x, y, row, label = repeated(mode, 2)
    assert x[:, 0].numel() > 2**31
    entropy = fl.CrossEntropyLoss() if mode == "multiclass" else fl.BCEWithLogitsLoss(mode)
    criterion = fl.DiceLoss(mode) + fl.FocalLoss(mode) + entropy
    if mode == "binary":
        criterion = criterion + fl.TopKLoss(mode, k=0.3)
    with fl.backends.use(compiled):
        value, stats = criterion.with_stats(x, y)
        expected, few = criterion.with_stats(row, label)
        assert torch.equal(stats.counts, (few.counts * HEIGHT).expand(2, -1, -1))
        assert stats.counts.sum() == x.numel()
        assert_value(value, expected, torch.bfloat16, factor=50)  # the row's top-k ends in the middle of an element
        mask = torch.zeros(1, 1, 1, 1, dtype=torch.bool).expand(2, 1, HEIGHT, WIDTH)
        if mode == "binary":
            assert criterion(x, y, mask) == 0
            assert torch.equal(functional.stats(x, y, mode).counts, stats.counts)


@pytest.mark.parametrize("mode", ("binary", "multiclass"))
def test_gradient(mode, compiled):
    """Beyond element 2^31 too: the last row's gradient is the first's."""
    x, y, *_ = repeated(mode, 2 if mode == "binary" else 1)
    if os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") < 3 * x.numel() * x.element_size():
        pytest.skip("needs more memory")
    assert x.numel() > 2**31
    with fl.backends.use(compiled):
        loss = fl.DiceLoss(mode, smooth=1.0) + fl.FocalLoss(mode)
        x = x.detach().requires_grad_()
        (grad,) = torch.autograd.grad(loss(x, y) * 1e9, x)
    first = grad[0, :, 0].clone()
    assert first.isfinite().all() and first.any()
    for sample in range(grad.shape[0]):
        for line in range(0, HEIGHT, 4096):
            assert torch.equal(grad[sample, :, line], first)
        assert torch.equal(grad[sample, :, -1], first)
