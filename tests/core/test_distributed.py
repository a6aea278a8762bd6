"""process_group=: two gloo processes that share a batch unequally, against one process with all of it."""

import os
import sys
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from cases import COMPILED, MODES, SHAPES, crossentropy, logits, oracle, target
from tolerances import assert_value, assert_vector

import fastloss as fl

BACKENDS = [*COMPILED, "reference"]
# Samples of the four that rank 0 gets; the rest goes to rank 1.
SPLITS = (3, 1, 4)
LOSSES = {
    "dice": lambda m, g, **k: fl.DiceLoss(m, process_group=g, **k),
    "dice-log": lambda m, g, **k: fl.DiceLoss(m, log_loss=True, smooth=0.5, process_group=g, **k),
    "dice-skip": lambda m, g, **k: fl.DiceLoss(m, empty="skip", process_group=g, **k),
    "dice-sample": lambda m, g, **k: fl.DiceLoss(m, batch=False, empty="skip", process_group=g, **k),
    "dice-sample-zero": lambda m, g, **k: fl.DiceLoss(m, batch=False, empty="zero", process_group=g, **k),
    "jaccard": lambda m, g, **k: fl.JaccardLoss(m, squared=True, soft="l1", process_group=g, **k),
    "tversky": lambda m, g, **k: fl.TverskyLoss(m, alpha=0.3, beta=0.7, gamma=0.75, process_group=g, **k),
    "mcc+generalized": lambda m, g, **k: (
        fl.MCCLoss(m, process_group=g, **k)
        + fl.GeneralizedDiceLoss(m, batch=False, empty="skip", process_group=g, **k)
        + 0.5 * fl.DiceLoss(m, process_group=g, **k)
        + 0.5 * fl.BoundaryDoULoss(m, process_group=g, **k)
        + 0.1 * fl.TvMFDiceLoss(m, batch=False, empty="zero", process_group=g, **k)
    ),
    "dice+crossentropy": lambda m, g, **k: fl.DiceLoss(m, process_group=g, **k) + 0.5 * crossentropy(m, **k),
    "everything": lambda m, g, **k: (
        torch.tensor(0.5) * fl.TverskyLoss(m, alpha=0.3, beta=0.7, gamma=1.5, process_group=g, **k)
        + fl.FocalLoss(m, alpha=0.25, gamma=1.5, **k)
        - 0.2 * fl.DiceLoss(m, batch=False, empty="skip", process_group=g, **k)
        + crossentropy(m, reduction="sum", **k) / 100
    ),
    "topk": lambda m, g, **k: fl.TopKLoss(m, k=0.3, process_group=g, **k),
    "topk-sum": lambda m, g, **k: fl.TopKLoss(m, k=0.01, reduction="sum", process_group=g, **k),
    "dice+topk": lambda m, g, **k: (
        fl.TopKLoss(m, k=0.05, process_group=g, **k)
        + 0.5 * fl.DiceLoss(m, batch=False, empty="skip", process_group=g, **k)
        + fl.FocalLoss(m, gamma=1.5, **k)
        - 0.3 * fl.TopKLoss(m, k=0.6, process_group=g, **k)
    ),
    "weights": lambda m, g, **k: (
        fl.DiceLoss(m, process_group=g, **k)
        + (fl.CrossEntropyLoss(class_weights=[0.5, 2.0, 1.25], **k) if m == "multiclass" else crossentropy(m, **k))
    ),
}
# "ignored": labels that do not count, most of them on one side; "nothing": no valid pixel in the samples of rank 1
MASKS = ("all", "ignored", "nothing")
CASES = [(m, name, mask, split) for m in MODES for name in LOSSES for mask in MASKS for split in SPLITS]


def whole(mode, mask, dtype=torch.float64):
    """The batch that both processes make from the same seed."""
    torch.manual_seed(3)
    x, y = logits(SHAPES[mode], dtype), target(mode, SHAPES[mode])
    if mask == "ignored":
        y[torch.rand(y.shape) < 0.2] = 9
        y[0][torch.rand(y[0].shape) < 0.8] = 9
    elif mask == "nothing":
        y[3] = 9
    return x, y, {} if mask == "all" else {"ignore_index": 9}


def worker(rank, folder):
    """Everything in one pair of processes, since starting them is what takes the time."""
    if sys.platform.startswith("linux"):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    mine = {split: slice(0, split) if rank == 0 else slice(split, 4) for split in SPLITS}
    results = {}
    for backend in BACKENDS:
        with fl.backends.use(backend):
            for mode, name, mask, split in CASES:
                x, y, settings = whole(mode, mask)
                x = x[mine[split]].clone().requires_grad_()
                value = LOSSES[name](mode, True, **settings)(x, y[mine[split]])
                (grad,) = torch.autograd.grad(value * 3, x)
                results[backend, mode, name, mask, split] = value.detach(), grad
            results[backend, "ddp"] = network(mine)
            results[backend, "bfloat16"] = half(mine)
            results[backend, "ties"] = ties(mine)
            results[backend, "group"] = LOSSES["dice"]("binary", dist.group.WORLD)(*part("binary", mine))
            criterion = LOSSES["dice+crossentropy"]("binary", True)
            value, stats = criterion.with_stats(*part("binary", mine))
            results[backend, "stats"] = value, stats.counts, stats.terms
            try:
                x = part("binary", mine)[0].requires_grad_()
                (grad,) = torch.autograd.grad(criterion(x, part("binary", mine)[1]) + x.sum(), x, create_graph=True)
                grad.sum().backward()
            except RuntimeError as error:
                results[backend, "twice"] = str(error)
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def part(mode, mine, split=1):
    x, y, _ = whole(mode, "all")
    return x[mine[split]].clone(), y[mine[split]]


def model():
    torch.manual_seed(5)
    return torch.nn.Conv2d(1, 3, 3, padding=1, dtype=torch.float64)


def network(mine):
    net = torch.nn.parallel.DistributedDataParallel(model())
    x, y = whole("binary", "all")[0], whole("multiclass", "all")[1]
    LOSSES["dice+crossentropy"]("multiclass", True)(net(x[mine[1]]), y[mine[1]]).backward()
    return net.module.weight.grad


def half(mine):
    x, y, _ = whole("multiclass", "all", torch.bfloat16)
    x = x[mine[3]].clone().requires_grad_()
    value = LOSSES["everything"]("multiclass", True)(x, y[mine[3]])
    return value.detach(), torch.autograd.grad(value * 1000, x)[0]


TIES = {"levels": lambda x: x.round(), "flat": torch.zeros_like, "zeros": lambda x: x.round() * -0.0}


def ties(mine):
    """{name: (value, gradient, messages)} of float32 logits with many equal elements."""
    found = {}
    for name, change in TIES.items():
        for mode in MODES:
            x, y = part(mode, mine)
            x = change(x.float()).requires_grad_()
            with mock.patch.object(dist, "all_reduce", wraps=dist.all_reduce) as messages:
                value = fl.TopKLoss(mode, k=0.2, process_group=True)(x, y)
            found[name, mode] = value.detach(), torch.autograd.grad(value, x)[0], messages.call_count
    return found


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    if not dist.is_gloo_available():
        pytest.skip("no gloo")
    folder = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(worker, (str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in (0, 1)]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", LOSSES)
def test_value_and_gradient_are_those_of_the_whole_batch(name, mode, backend, ranks):
    """The value on both ranks; the gradient after the mean over ranks that DDP takes."""
    for mask in MASKS:
        for split in SPLITS:
            x, y, settings = whole(mode, mask)
            expected, expected_grad = oracle(LOSSES[name](mode, None, **settings), x, y, upstream=3.0)
            (v0, g0), (v1, g1) = [rank[backend, mode, name, mask, split] for rank in ranks]
            assert torch.equal(v0, v1)
            assert_value(v0, expected, torch.float64, scale=0.1)
            assert_vector(torch.cat([g0, g1]) / 2, expected_grad, torch.float64)


@pytest.mark.parametrize("backend", BACKENDS)
def test_ddp(backend, ranks):
    net = model()
    x, y = whole("binary", "all")[0], whole("multiclass", "all")[1]
    LOSSES["dice+crossentropy"]("multiclass", None)(net(x), y).backward()
    for rank in ranks:
        assert_vector(rank[backend, "ddp"], net.weight.grad, torch.float64)


@pytest.mark.parametrize("backend", BACKENDS)
def test_half_logits(backend, ranks):
    x, y, _ = whole("multiclass", "all", torch.bfloat16)
    expected, expected_grad = oracle(LOSSES["everything"]("multiclass", None), x, y, upstream=1000.0)
    (v0, g0), (_, g1) = [rank[backend, "bfloat16"] for rank in ranks]
    assert v0.dtype == torch.float32
    assert_value(v0, expected, torch.bfloat16)
    assert_vector(torch.cat([g0, g1]).double() / 2, expected_grad, torch.bfloat16)


@pytest.mark.parametrize("backend", BACKENDS)
def test_group_statistics_and_double_backward(backend, ranks):
    x, y, _ = whole("binary", "all")
    expected, _ = oracle(LOSSES["dice"]("binary", None), x, y)
    local = fl.functional.stats(x, y).counts
    total, _ = oracle(LOSSES["dice+crossentropy"]("binary", None), x, y)
    for rank, samples in zip(ranks, (slice(0, 1), slice(1, 4))):
        assert_value(rank[backend, "group"], expected, torch.float64)
        value, counts, terms = rank[backend, "stats"]
        assert_value(value, total, torch.float64)
        assert torch.equal(counts, local[samples])  # of this process
        assert_value(terms["dice"], expected, torch.float64)
        if backend != "reference":
            assert "double backward" in rank[backend, "twice"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_ties_are_shared_by_all_processes(backend, ranks):
    """Three messages find the threshold of float32, one more the sums."""
    for name, change in TIES.items():
        for mode in MODES:
            x, y, _ = whole(mode, "all")
            expected, expected_grad = oracle(fl.TopKLoss(mode, k=0.2), change(x.float()), y)
            (v0, g0, messages), (v1, g1, _) = [rank[backend, "ties"][name, mode] for rank in ranks]
            assert messages == 4 and torch.equal(v0, v1)
            assert_value(v0, expected, torch.float32)
            assert_vector(torch.cat([g0, g1]) / 2, expected_grad, torch.float32)


def test_topk_shares_the_group_of_the_losses_beside_it():
    dice = fl.DiceLoss("binary", process_group=True)
    assert (dice + fl.TopKLoss("binary", process_group=True)).process_group is True
    with pytest.raises(ValueError, match="must share their process_group, got True and None"):
        dice + fl.TopKLoss("binary")
