"""A Lightning module whose loss changes during training, by a callback: python examples/lightning_schedule.py"""

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, TensorDataset

import fastloss
from fastloss.integrations.lightning import LossScheduleCallback


class Segmenter(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.network = torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3, 1, 1), torch.nn.ReLU(), torch.nn.Conv2d(8, 1, 1))
        stages = [(0, fastloss.FocalLoss("binary")), (2, fastloss.DiceLoss("binary"))]
        self.criterion = fastloss.LossSchedule(stages)  # a submodule: checkpoints continue it

    def training_step(self, batch, index):
        images, target = batch
        return self.criterion(self.network(images), target)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 1e-2)


def main(epochs: int = 4, **settings) -> Segmenter:
    images, module = torch.randn(16, 1, 32, 32), Segmenter()
    settings = {"accelerator": "cpu", "logger": False, **settings}
    data = DataLoader(TensorDataset(images, (images > 0.5).to(torch.uint8)), batch_size=4)
    pl.Trainer(max_epochs=epochs, callbacks=[LossScheduleCallback()], **settings).fit(module, data)
    return module


if __name__ == "__main__":
    main(enable_checkpointing=False)
