"""MONAI's SupervisedTrainer on volumes; the loss is the one line that differs.

python examples/monai_workflow.py
"""

import torch
from monai.data import DataLoader, Dataset, create_test_image_3d
from monai.engines import SupervisedTrainer
from monai.handlers import StatsHandler
from monai.inferers import SimpleInferer
from monai.losses import DiceCELoss
from monai.networks.nets import UNet
from monai.transforms import Compose, EnsureChannelFirstd, ScaleIntensityd, ToTensord

import fastloss


def main(epochs: int = 2, size: int = 32) -> float:
    volumes = [create_test_image_3d(size, size, size, num_seg_classes=2, rad_max=size // 4) for _ in range(4)]
    keys = ["image", "label"]
    prepare = [EnsureChannelFirstd(keys, channel_dim="no_channel"), ScaleIntensityd("image"), ToTensord(keys)]
    data = Dataset([dict(zip(keys, volume)) for volume in volumes], Compose(prepare))
    network = UNet(3, in_channels=1, out_channels=3, channels=(8, 16, 32), strides=(2, 2))
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=epochs,
        train_data_loader=DataLoader(data, batch_size=2),
        network=network,
        optimizer=torch.optim.Adam(network.parameters(), 1e-3),
        # Before: loss_function=DiceCELoss(to_onehot_y=True, softmax=True)
        loss_function=fastloss.fuse(DiceCELoss(to_onehot_y=True, softmax=True)),
        inferer=SimpleInferer(),
        train_handlers=[StatsHandler(tag_name="loss", output_transform=lambda out: out[0]["loss"])],
    )
    trainer.run()
    return trainer.state.output[0]["loss"]


if __name__ == "__main__":
    print(f"{main():.3f}")
