"""ddp=True with batch_dice=True: two gloo processes, nnU-Net's loss and ours side by side in each."""

import os
import sys
import warnings

import pytest
import torch
import torch.distributed as dist
from tolerances import assert_value, assert_vector

from fastloss.compat import nnunet

compounds = pytest.importorskip("nnunetv2.training.loss.compound_losses")
dice = pytest.importorskip("nnunetv2.training.loss.dice")

DICE = {"batch_dice": True, "do_bg": False, "smooth": 1e-5, "ddp": True}
CASES = {
    "dice": ("MemoryEfficientSoftDiceLoss", (torch.nn.Softmax(1),), DICE),
    "dice-clip": ("SoftDiceLoss", (torch.nn.Softmax(1),), {**DICE, "clip_tp": 9.0}),
    "dice+ce": ("DC_and_CE_loss", (DICE, {}, 0.5, 2.0), {}),
    "dice+ce-ignore": ("DC_and_CE_loss", (DICE, {"weight": torch.tensor([1.0, 0.5, 2.0])}, 1, 1, 2), {}),
    "dice+topk": ("DC_and_topk_loss", (DICE, {}, 1, 1, 2), {}),
    "dice+bce": ("DC_and_BCE_loss", ({}, DICE), {}),
    "dice+bce-ignore": ("DC_and_BCE_loss", ({}, DICE, 1, 1, True), {}),
}


def pair(name):
    owner, arguments, settings = CASES[name]
    made = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for module in (nnunet, dice if hasattr(dice, owner) else compounds):
            copies = [dict(a) if isinstance(a, dict) else a for a in arguments]
            made.append(getattr(module, owner)(*copies, **settings))
    return made


def inputs(name, rank):
    generator = torch.Generator().manual_seed(rank)
    x = torch.randn(2, 3, 9, 8, generator=generator)
    if "bce" in name:
        y = (torch.rand(2, 4 if "ignore" in name else 3, 9, 8, generator=generator) < 0.4).float()
    else:
        y = torch.randint(0, 3, (2, 1, 9, 8), generator=generator)
    return x.requires_grad_(), y


def worker(rank, folder):
    if sys.platform.startswith("linux"):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    results = {}
    for name in CASES:
        x, y = inputs(name, rank)
        for which, loss in zip(("ours", "theirs"), pair(name)):
            value = loss(x, y)
            results[name, which] = value.detach(), torch.autograd.grad(value, x)[0]
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    if not dist.is_gloo_available():
        pytest.skip("no gloo")
    folder = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(worker, (str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in (0, 1)]


@pytest.mark.parametrize("name", CASES)
def test_dice_over_processes_is_that_of_nnunet(name, ranks):
    """Cross-entropy stays that of each process."""
    for results in ranks:
        (value, grad), (expected, theirs) = results[name, "ours"], results[name, "theirs"]
        assert_value(value, expected, torch.float32, scale=1.0, factor=2.0)
        assert_vector(grad, theirs, torch.float32, factor=2.0)
    if name == "dice":
        assert_value(ranks[0][name, "ours"][0], ranks[1][name, "ours"][0], torch.float32)
