"""How good a network is on the slices that choose the epoch, or on those of a test part."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from fastloss import LossSchedule

from .learner import Learner
from .metrics import Scores, group_counts, scores
from .settings import Settings
from .slices import Slices, ValidationBatches


@dataclass(frozen=True)
class Validation:
    """One look at the validation slices: their mean loss, and the scores by slice and by volume."""

    loss: float
    slices: Scores
    cases: Scores

    def chosen(self, settings: Settings) -> float:
        """Return the Dice that decides, as the settings average it."""
        found = self.cases if settings.average == "case" else self.slices
        return found.pooled_dice if settings.average == "pooled" else found.dice

    def cells(self) -> list[float]:
        """Return the columns of epochs.csv from valid_loss on."""
        return [self.loss, *asdict(self.slices).values(), self.cases.dice, self.cases.iou]


@torch.no_grad()
def evaluate(
    learner: Learner, val_criterion: LossSchedule, batches: ValidationBatches, slices: Slices, settings: Settings
) -> Validation:
    """Evaluate the network as it is, by all processes together if they share the batches; loss and counts come from one
    pass."""
    device = learner.fabric.device
    if batches.shared:
        learner.share_buffers()
    learner.net.eval()
    counts = torch.zeros(len(slices.valid), slices.store.num_classes, 4, dtype=torch.int64, device=device)
    losses = torch.zeros(len(batches), dtype=torch.float64, device=device)
    for at, places, x, y in batches:
        with learner.fabric.autocast():
            logits = learner.net(learner.move(x))
        loss, stats = val_criterion.with_stats(logits, slices.target(y.to(device), settings), learner.threshold)
        counts[places.to(device)] = stats.counts
        losses[at] = loss.double() * len(x)
    if batches.shared:
        dist.all_reduce(counts)
        dist.all_reduce(losses)
    of_slices = slices.foreground(counts.cpu())
    of_cases = group_counts(of_slices, slices.volumes)
    loss = float(losses.sum()) / len(slices.valid)
    return Validation(loss, scores(of_slices, settings.empty), scores(of_cases, settings.empty))


@torch.no_grad()
def foreground(x: Tensor, settings: Settings, slices: Slices, learner: Learner) -> Tensor:
    """Return what the network finds on images [N, 1, H, W]: bool [N, K, H, W] of the classes without the background."""
    with learner.fabric.autocast():
        logits = learner.net(learner.move(x)).float().cpu()
    if settings.mode == "multiclass":
        ids = logits.argmax(1, keepdim=True)
        return ids == torch.arange(1, logits.shape[1]).reshape(1, -1, 1, 1)
    return slices.foreground(logits.sigmoid() >= learner.threshold)
