"""What learns: network, optimiser and learning rate, and where they run."""

from __future__ import annotations

import logging
import math
import os
import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy
from torch import Tensor, nn

from fastloss.cli import CommandError

from . import models
from .parallel import SharedDraws, shared_batch_norm
from .settings import Settings


def launch(settings: Settings, device: str) -> Fabric:
    """Start the process, or under torchrun one of the processes, that trains on `device` ("auto", "cpu" or "cuda").

    Raises CommandError if there is no such device, or the batch cannot be shared evenly by the processes.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise CommandError("--device cuda: torch sees no CUDA device here")
    cuda = torch.cuda.is_available() if device == "auto" else device == "cuda"
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    here = int(os.environ.get("LOCAL_WORLD_SIZE", processes))
    if settings.batch % processes:
        raise CommandError(f"--batch must be a multiple of the {processes} processes, got {settings.batch}")
    if settings.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = cuda and not settings.deterministic
    strategy = DDPStrategy(process_group_backend="nccl" if cuda else "gloo") if processes > 1 else "auto"
    fabric = Fabric(
        accelerator="cuda" if cuda else "cpu",
        devices=here,
        num_nodes=processes // here,
        strategy=strategy,
        # Fabric's float64 rounds the logits to float32.
        precision="32-true" if settings.precision == "64-true" else settings.precision,
    )
    fabric.launch()
    return fabric


class Learner:
    """A network in training.

    Args:
        steps: of the whole training, for a cosine rate.
    """

    def __init__(self, settings: Settings, channels: int, seed: int, steps: int, fabric: Fabric) -> None:
        self.settings, self.steps, self.fabric, self.seed = settings, steps, fabric, seed
        self.threshold = 1 / (1 + math.exp(-0.5)) if settings.double_sigmoid else 0.5
        self.net = self._build(channels)
        memory_format = torch.channels_last if settings.channels_last else torch.contiguous_format
        self.dtype = torch.float64 if settings.precision == "64-true" else torch.float32
        self.net.to(dtype=self.dtype, memory_format=memory_format)
        self.memory_format = memory_format
        adam = torch.optim.Adam(
            [p for p in self.net.parameters() if p.requires_grad], settings.rate, weight_decay=settings.weight_decay
        )
        if settings.compile:
            torch.compiler.reset()  # programs of earlier trainings would count against the recompile limit
        wrapped = torch.compile(self.net) if settings.compile else self.net
        self.model, self.optimizer = fabric.setup(wrapped, adam)
        self.adam = adam
        self._new_plateau()

    def _build(self, channels: int) -> nn.Module:
        torch.manual_seed(self.seed)
        s = self.settings
        how = {"pretrained": s.pretrained, "weights": s.weights, "normalise": s.normalise == "imagenet"}
        net = models.build_model(s.model, channels, **how)
        if self.settings.double_sigmoid:
            net = nn.Sequential(net, nn.Sigmoid())
        return shared_batch_norm(net, self.fabric.device) if self.fabric.world_size > 1 else net

    def _new_plateau(self) -> None:
        self.plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
            self.adam, mode="max", factor=self.settings.plateau_factor, patience=self.settings.plateau_patience
        )

    @property
    def rate(self) -> float:
        return self.adam.param_groups[0]["lr"]

    @rate.setter
    def rate(self, value: float) -> None:
        for group in self.adam.param_groups:
            group["lr"] = value

    def begin(self, step: int) -> None:
        """Prepare a step: what is random in the network, and a cosine rate, are functions of the step."""
        apart = self.fabric.global_rank if self.settings.compile else 0  # else see `draws`
        torch.manual_seed((self.seed * 1_000_003 + step) * 1_009 + apart)
        if self.settings.rate_schedule == "cosine":
            self.rate = self.settings.rate * 0.5 * (1 + math.cos(math.pi * step / self.steps))

    def draws(self, images: int) -> AbstractContextManager:
        """Draw for the forward of a step with as many images on this process: what is random, as one process draws
        it."""
        if self.fabric.world_size == 1 or self.settings.compile:
            return nullcontext()
        return SharedDraws(self.fabric.global_rank, self.fabric.world_size, images)

    def end_epoch(self, score: float) -> None:
        if self.settings.rate_schedule == "plateau":
            self.plateau.step(score)

    def alter(self) -> None:
        """Forget what the settings say, as the loss changed."""
        if self.settings.reset_optimizer:
            self.adam.state.clear()
        if self.settings.reset_rate:
            self.rate = self.settings.rate
            self._new_plateau()

    def move(self, x: Tensor) -> Tensor:
        """Bring to the device, in the network's memory format and type."""
        return x.to(self.fabric.device, self.dtype, non_blocking=True, memory_format=self.memory_format)

    def share_buffers(self) -> None:
        """Give every process the running statistics of the first (DDP shares them at the next step only)."""
        if self.fabric.world_size > 1:
            for buffer in self.net.buffers():
                dist.broadcast(buffer, 0)

    def state_dict(self) -> dict[str, Any]:
        return {"net": self.net.state_dict(), "adam": self.adam.state_dict(), "plateau": self.plateau.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.net.load_state_dict(state["net"])
        self.adam.load_state_dict(state["adam"])
        self.plateau.load_state_dict(state["plateau"])


def quiet() -> None:
    """Silence libraries that warn about their own dependencies, and Fabric about settings that are ours on purpose."""
    logging.getLogger("timm").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"lightning_fabric.*|monai.*|segmentation_models_pytorch.*|timm.*")
    warnings.filterwarnings("ignore", message=".*multiple workers.*")
