"""HeadLoss on two processes: sums of region losses and largest elements over the group, DDP around a head."""

import os
import sys

import pytest
import torch
import torch.distributed as dist
from cases import COMPILED, crossentropy
from heads import BAND, FEATURES, head, inputs
from tolerances import assert_value, assert_vector
from torch import nn

import fastloss as fl

GROUPED = {
    "dice+crossentropy": lambda g: fl.DiceLoss("multiclass", process_group=g) + 0.5 * crossentropy("multiclass"),
    "topk": lambda g: (
        fl.TopKLoss("multiclass", k=0.3, process_group=g)
        + fl.DiceLoss("multiclass", batch=False, empty="skip", process_group=g)
    ),
    "ce": lambda g: fl.CrossEntropyLoss(),
}


class Network(nn.Module):
    def __init__(self, criterion):
        super().__init__()
        torch.manual_seed(3)
        self.backbone = nn.Conv2d(FEATURES, FEATURES, 3, padding=1)
        self.loss = fl.HeadLoss(head("multiclass"), criterion, band_bytes=BAND)

    def forward(self, x, y=None):
        return self.loss(self.backbone(x), y)


def worker(rank, folder):
    if sys.platform.startswith("linux"):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    x, y = inputs("multiclass")
    mine = slice(0, 2) if rank == 0 else slice(2, 4)  # equal shares, as DDP's mean assumes of a mean over pixels
    found = {}
    for backend in COMPILED:
        with fl.backends.use(backend):
            for name, make in GROUPED.items():
                network = nn.parallel.DistributedDataParallel(Network(make(True)))
                value = network(x.detach()[mine], y[mine])
                value.backward()
                found[backend, name] = value.detach(), [p.grad for p in network.parameters()]
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes(tmp_path):
    if not dist.is_gloo_available():
        pytest.skip("no gloo")
    torch.multiprocessing.spawn(worker, (str(tmp_path),), nprocs=2)
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in (0, 1)]
    x, y = inputs("multiclass")
    for backend in COMPILED:
        for name, make in GROUPED.items():
            network = Network(make(None))
            with fl.backends.use(backend):
                value = network(x.detach(), y)
            value.backward()
            mean = sum(rank[backend, name][0] for rank in ranks) / 2
            assert_value(mean, value, torch.float32, scale=0.1, factor=4)
            for rank in ranks:
                for ours, theirs in zip(rank[backend, name][1], network.parameters()):
                    assert_vector(ours, theirs.grad, torch.float32, factor=8)
