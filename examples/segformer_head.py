"""A decode head as SegFormer's, whose logits have a quarter of the resolution: the loss takes them as they are.

With transformers: criterion(SegformerForSemanticSegmentation(config)(pixel_values=images).logits, target)
"""

import torch
from torch import nn

import fastloss


class DecodeHead(nn.Module):
    """Features of four levels, projected to one width, brought to a quarter of the image, fused and classified."""

    def __init__(self, widths: list[int], width: int, classes: int) -> None:
        super().__init__()
        self.project = nn.ModuleList([nn.Conv2d(own, width, 1) for own in widths])
        self.fuse = nn.Sequential(nn.Conv2d(4 * width, width, 1), nn.BatchNorm2d(width), nn.ReLU())
        self.classify = nn.Conv2d(width, classes, 1)

    def forward(self, levels: list[torch.Tensor]) -> torch.Tensor:
        same = [nn.functional.interpolate(p(x), levels[0].shape[2:]) for p, x in zip(self.project, levels)]
        return self.classify(self.fuse(torch.cat(same, 1)))


def main(steps: int = 10, size: int = 64, classes: int = 19) -> list[float]:
    head, losses = DecodeHead([8, 16, 24, 32], 32, classes), []
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-2)
    # Before: logits = nn.functional.interpolate(logits, target.shape[1:], mode="bilinear"), and then the loss
    criterion = fastloss.UpsampledLoss(fastloss.DiceLoss("multiclass") + fastloss.CrossEntropyLoss())
    levels = [torch.randn(2, 8 * (i + 1), size >> (2 + i), size >> (2 + i)) for i in range(4)]
    target = torch.randint(0, classes, (2, size, size))
    for _ in range(steps):
        loss = criterion(head(levels), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses
