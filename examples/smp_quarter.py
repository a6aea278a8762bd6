"""An smp model that ends in an upsampling by 4: its loss on the logits before that step. Three lines differ.

python examples/smp_quarter.py
"""

import segmentation_models_pytorch as smp
import torch

import fastloss


def squares(count: int, size: int, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images [N, 3, H, W] of coloured squares, and class ids [N, H, W]."""
    ids = torch.randint(0, classes, (count, 4, 4)).repeat_interleave(size // 4, 1).repeat_interleave(size // 4, 2)
    colours = torch.linspace(-1, 1, classes)[ids]
    return torch.stack([colours, colours.square(), -colours], 1) + 0.1 * torch.randn(count, 3, size, size), ids


def main(steps: int = 20, size: int = 64, classes: int = 5) -> list[float]:
    network = smp.FPN("resnet18", encoder_weights=None, classes=classes)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    upsample, network.segmentation_head[1] = network.segmentation_head[1], torch.nn.Identity()
    criterion = fastloss.DiceLoss("multiclass") + fastloss.CrossEntropyLoss()
    # Before: loss = criterion(network(images), target), of logits 4 x 4 times as large
    criterion = fastloss.UpsampledLoss(criterion, mode="bilinear", align_corners=upsample.align_corners)
    losses = []
    for _ in range(steps):
        images, target = squares(4, size, classes)
        loss = criterion(network(images), target)  # for predictions: upsample(network(images))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


if __name__ == "__main__":
    print(*[f"{loss:.3f}" for loss in main()])
