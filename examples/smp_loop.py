"""A network of segmentation-models-pytorch in a plain PyTorch loop; the loss is the one line that differs.

python examples/smp_loop.py
"""

import segmentation_models_pytorch as smp
import torch

import fastloss


def discs(count: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Noisy images [N, 1, H, W] of a disc, and its mask as class ids [N, H, W]."""
    centre = torch.rand(count, 2, 1, 1) * size / 2 + size / 4
    grid = torch.stack(torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij"))
    mask = ((grid - centre) ** 2).sum(1) < (size / 5) ** 2
    return mask[:, None] + 0.5 * torch.randn(count, 1, size, size), mask.long()


def main(steps: int = 20, size: int = 64) -> list[float]:
    network = smp.Unet("resnet18", encoder_weights=None, in_channels=1, classes=2)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    # Before: criterion = smp.losses.DiceLoss("multiclass")
    criterion = fastloss.fuse([(0.5, smp.losses.DiceLoss("multiclass")), (0.5, torch.nn.CrossEntropyLoss())])
    losses = []
    for _ in range(steps):
        images, target = discs(4, size)
        loss = criterion(network(images), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


if __name__ == "__main__":
    print(*[f"{loss:.3f}" for loss in main()])
