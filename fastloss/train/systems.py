"""What the systems of the LeViT-UNet paper's Table 3 cost: parameters, FLOPs, inference time and peak memory.

Those that a kept library implements are measured, each with the input of its own publication; the paper quotes most of
them from there. Time and memory are of this machine. The paper prints FLOPs and multiply-adds without saying which, so
that both are given.
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

MACS = 2  # operations of a multiply-add


@dataclass(frozen=True)
class System:
    """A network and what it is given.

    Attributes:
        network: makes it, with random weights.
        shape: of the input, one sample: [1, C, *S].
        source: whose code it is, and with which settings.
    """

    network: Callable[[], nn.Module]
    shape: tuple[int, ...]
    source: str


@dataclass(frozen=True)
class Cost:
    """What `measure` found for one sample.

    Attributes:
        parameters, weight_bytes: of the network in float32.
        macs: multiply-adds of a forward, counted by torch's FLOP counter; FLOPs are twice that.
        seconds: median of the timed forwards, without gradient.
        peak_bytes: the most that torch's allocator held at once during a forward, weights and input included.
        device: where; `threads` on a CPU, else 0.
        repeats: timed forwards.
    """

    name: str
    source: str
    shape: tuple[int, ...]
    parameters: int
    weight_bytes: int
    macs: int
    seconds: float
    peak_bytes: int
    device: str
    threads: int
    repeats: int


def _levit() -> nn.Module:
    from .models import LEVIT, build_model

    return build_model(LEVIT, 3)


def _unetr() -> nn.Module:
    from monai.networks.nets import UNETR

    return UNETR(1, 14, (96, 96, 96), feature_size=16, hidden_size=768, mlp_dim=3072, num_heads=12)


def _swin_unetr() -> nn.Module:
    from monai.networks.nets import SwinUNETR

    return SwinUNETR(1, 14, feature_size=48)


def _dynunet() -> nn.Module:
    from monai.networks.nets import DynUNet

    kernels, strides = [[3, 3, 3]] * 6, [[1, 1, 1]] + [[2, 2, 2]] * 5
    widths = [32, 64, 128, 256, 320, 320]
    return DynUNet(3, 1, 14, kernels, strides, strides[1:], filters=widths, norm_name="instance")


SYSTEMS = {
    "levit-unet-384": System(_levit, (1, 1, 224, 224), "ours on timm, 3 classes, 224x224"),
    "unetr": System(_unetr, (1, 1, 96, 96, 96), "MONAI UNETR, ViT-B, 14 classes, 96x96x96"),
    "swin-unetr": System(_swin_unetr, (1, 1, 96, 96, 96), "MONAI SwinUNETR, feature size 48, 14 classes, 96x96x96"),
    "dynunet": System(_dynunet, (1, 1, 96, 96, 96), "MONAI DynUNet as nnU-Net plans it, 14 classes, 96x96x96"),
}


def build(name: str) -> nn.Module:
    """Build the network; ValueError for a name that is not in SYSTEMS."""
    if name not in SYSTEMS:
        raise ValueError(f"name must be one of {', '.join(SYSTEMS)}, got {name!r}.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of other libraries, about their own dependencies
        return SYSTEMS[name].network()


def count(name: str) -> tuple[int, int]:
    """Count (parameters, multiply-adds of a forward) from shapes alone: nothing is computed."""
    from torch.utils.flop_counter import FlopCounterMode

    network = build(name).eval().to("meta")
    x = torch.empty(SYSTEMS[name].shape, device="meta")
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        network(x)
    return sum(p.numel() for p in network.parameters()), counter.get_total_flops() // MACS


def measure(name: str, device: torch.device | str = "cpu", repeats: int = 5) -> Cost:
    """Build a system with random weights and run it on one sample, in float32 without gradient.

    One warm-up before the timed forwards, and one forward more under the profiler, which sees every allocation on a
    CPU. Swin-UNETR takes half a minute a forward on two cores and needs 3 GB.

    Args:
        name: one of SYSTEMS.
        device: where to run.
        repeats: timed forwards; the median counts.
    """
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, got {repeats}.")
    device = torch.device(device)
    parameters, macs = count(name)
    network = build(name).eval().to(device)
    x = torch.zeros(SYSTEMS[name].shape, device=device)
    weights = sum(t.numel() * t.element_size() for t in (*network.parameters(), *network.buffers()))
    with torch.inference_mode():
        network(x)
        seconds = statistics.median(_seconds(network, x) for _ in range(repeats))
        peak = _peak(network, x) if device.type == "cuda" else _peak_cpu(network, x) + weights + x.nbytes
    return Cost(
        name=name,
        source=SYSTEMS[name].source,
        shape=SYSTEMS[name].shape,
        parameters=parameters,
        weight_bytes=4 * parameters,
        macs=macs,
        seconds=seconds,
        peak_bytes=peak,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        threads=torch.get_num_threads() if device.type == "cpu" else 0,
        repeats=repeats,
    )


def _seconds(network: nn.Module, x: Tensor) -> float:
    _wait(x)
    start = time.perf_counter()
    network(x)
    _wait(x)
    return time.perf_counter() - start


def _wait(x: Tensor) -> None:
    if x.is_cuda:
        torch.cuda.synchronize(x.device)


def _peak(network: nn.Module, x: Tensor) -> int:
    """Measure the peak on a device, without other tensors there."""
    torch.cuda.reset_peak_memory_stats(x.device)
    others = torch.cuda.memory_allocated(x.device)
    network(x)
    own = sum(t.numel() * t.element_size() for t in (*network.parameters(), *network.buffers(), x))
    return torch.cuda.max_memory_allocated(x.device) - others + own


def _peak_cpu(network: nn.Module, x: Tensor) -> int:
    """Measure the peak of what a forward allocates."""
    from fastloss.measure import memory

    result, changes = memory.allocations(lambda: network(x))
    del result
    return memory.live_and_peak(changes)[1]
