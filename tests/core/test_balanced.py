"""Cross-entropies weighted by what the batch holds: formulas, constants to autograd, processes."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from cases import SHAPES, logits, target
from test_formulas import agree

import fastloss as fl

MULTI = SHAPES["multiclass"]
BOTH = (fl.BalancedCrossEntropyLoss, fl.RecallCrossEntropyLoss)


def balanced(x, y):
    ce = F.cross_entropy(x, y, reduction="none")
    return torch.stack([ce[y == c].mean() for c in y.unique()]).mean()


def recall(x, y):
    """RecallCrossEntropy of https://github.com/PotatoTian/recall-semseg, without its label to ignore."""
    wrong = x.argmax(1) != y
    counts = [torch.bincount(labels, minlength=x.shape[1]).clamp_min(1).double() for labels in (y[wrong], y.flatten())]
    return ((counts[0] / counts[1])[y] * F.cross_entropy(x, y, reduction="none")).mean()


@pytest.mark.parametrize("owner,formula", [(BOTH[0], balanced), (BOTH[1], recall)], ids=("balanced", "recall"))
@pytest.mark.parametrize("classes", (3, 2))
def test_formula(owner, formula, classes, backend):
    x, y = logits(MULTI), target("multiclass", MULTI).clamp_max(classes - 1)  # with 2 one class is absent
    agree(owner(backend=backend), formula, x, y)
    torch.testing.assert_close(owner(backend=backend)(x, y), formula(x.double(), y).float())
    torch.testing.assert_close(owner(backend=backend)(x.half(), y), formula(x.half().double(), y).float())


@pytest.mark.parametrize("owner,formula", [(BOTH[0], balanced), (BOTH[1], recall)], ids=("balanced", "recall"))
def test_what_is_left_out_has_no_part_in_the_weights(owner, formula, backend):
    x, y = logits(MULTI), target("multiclass", MULTI)
    mask = torch.rand(y.shape) < 0.6
    kept = x.movedim(1, -1)[mask].T[None]
    expected = formula(kept.double(), y[mask][None]).float()
    torch.testing.assert_close(owner(backend=backend)(x, y, mask), expected)
    ignored = torch.where(mask, y, torch.full_like(y, 255))
    torch.testing.assert_close(owner(ignore_index=255, backend=backend)(x, ignored[:, None].to(torch.uint8)), expected)
    nothing = owner(ignore_index=255, backend=backend)(x.requires_grad_(), torch.full_like(y, 255))
    assert nothing == 0 and not torch.autograd.grad(nothing, x)[0].any()


@pytest.mark.parametrize("owner", BOTH)
def test_pixel_weights_multiply(owner):
    x, y = logits(MULTI), target("multiclass", MULTI)
    weight = torch.rand(y.shape)
    torch.testing.assert_close(owner()(x, y, pixel_weight=2 * weight), 2 * owner()(x, y, pixel_weight=weight[:, None]))
    torch.testing.assert_close(owner()(x, y, pixel_weight=torch.ones(y.shape)), owner()(x, y))


@pytest.mark.parametrize("owner", BOTH)
def test_compiled(owner, backend):
    x, y = logits(MULTI), target("multiclass", MULTI)
    loss = owner(backend=backend)
    torch.testing.assert_close(torch.compile(loss, fullgraph=True, backend="aot_eager")(x, y), loss(x, y))


@pytest.mark.parametrize("owner", BOTH)
def test_bad_input(owner):
    x, y = logits(MULTI), target("multiclass", MULTI)
    with pytest.raises(TypeError, match="y must hold integer class ids for this loss, got float32"):
        owner()(x, torch.softmax(x, 1))
    with pytest.raises(ValueError, match="y must hold class ids from 0 to 2, got 7"):
        owner()(x, y + 5 * (y == 2))
    with pytest.raises(ValueError, match="mask must have the shape"):
        owner()(x, y, torch.ones(1, 1, 1, dtype=torch.bool))
    with pytest.raises(TypeError, match="ignore_index must be an integer"):
        owner(ignore_index=0.5)


def _train(rank, store, x, y, results):
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    torch.set_num_threads(1)
    for owner in BOTH:
        part = x[rank::2].clone().requires_grad_()
        loss = owner(process_group=True)(part, y[rank::2])
        loss.backward()
        results[owner.__name__, rank] = (loss.item(), part.grad / 2)  # as DDP's mean over processes
    dist.destroy_process_group()


def test_two_processes_see_the_batch_of_both(tmp_path):
    x, y = logits(MULTI, torch.float64), target("multiclass", MULTI)
    y[::2][y[::2] == 2] = 0  # the first process lacks a class
    with mp.Manager() as manager:
        results = manager.dict()
        mp.spawn(_train, (tmp_path / "store", x, y, results), nprocs=2)
        for owner in BOTH:
            whole = x.clone().requires_grad_()
            expected = owner()(whole, y)
            expected.backward()
            for rank in range(2):
                value, grad = results[owner.__name__, rank]
                assert value == pytest.approx(expected.item(), rel=1e-12)
                torch.testing.assert_close(grad, whole.grad[rank::2])


def test_recall_counts_one_missed_pixel_where_there_is_none(backend):
    y = target("multiclass", MULTI)
    x = 2.0 * F.one_hot(y, 3).movedim(-1, 1)  # all is right: each class has the weight 1 / its pixels
    value = fl.RecallCrossEntropyLoss(backend=backend)(x, y)
    torch.testing.assert_close(value, 3 * F.cross_entropy(x, y) / y.numel(), rtol=1e-5, atol=0.0)
