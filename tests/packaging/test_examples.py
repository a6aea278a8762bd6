"""The examples run, on small data, and train."""

import importlib.util
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from tolerances import assert_value

import fastloss as fl

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
NAMES = sorted([path.stem for path in EXAMPLES.glob("*.py")])
pytestmark = [
    pytest.mark.skipif(not EXAMPLES.exists(), reason="not in a source tree"),
    pytest.mark.filterwarnings("ignore"),
]


def example(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_example_is_short_and_tested():
    tests = Path(__file__).read_text(encoding="utf-8")
    for name in NAMES:
        assert len((EXAMPLES / f"{name}.py").read_text(encoding="utf-8").splitlines()) <= 40, name
        assert f'example("{name}")' in tests, name
    assert len(NAMES) >= 4


def test_smp_loop():
    pytest.importorskip("segmentation_models_pytorch")
    losses = example("smp_loop").main(steps=6, size=32)
    assert losses[-1] < losses[0]


def test_smp_quarter():
    pytest.importorskip("segmentation_models_pytorch")
    losses = example("smp_quarter").main(steps=12)
    assert losses[-1] < losses[0]


def test_segformer_head():
    losses = example("segformer_head").main(size=32)
    assert losses[-1] < losses[0]


def test_monai_workflow():
    pytest.importorskip("monai")
    assert 0 < example("monai_workflow").main(epochs=1, size=24) < 3


def test_lightning_schedule(tmp_path):
    pl = pytest.importorskip("pytorch_lightning")
    module = example("lightning_schedule")
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "default_root_dir": tmp_path}
    trained = module.main(epochs=3, **quiet)
    assert isinstance(trained.criterion.active, fl.DiceLoss)  # from epoch 2 on
    (checkpoint,) = tmp_path.rglob("*.ckpt")
    again = module.Segmenter.load_from_checkpoint(checkpoint)
    assert isinstance(again, pl.LightningModule) and isinstance(again.criterion.active, fl.DiceLoss)


def test_nnunet_finds_the_trainer_in_a_folder_of_its_own(tmp_path, monkeypatch):
    pytest.importorskip("nnunetv2")
    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

    shutil.copy(EXAMPLES / "nnunet_trainer.py", tmp_path)
    monkeypatch.setenv("nnUNet_extTrainer", str(tmp_path))
    found = recursive_find_trainer_class_by_name("nnUNetTrainerFastloss")
    assert found.__name__ == "nnUNetTrainerFastloss"


PLANS = {
    "dataset_name": "Dataset001_Discs",
    "plans_name": "plans",
    "image_reader_writer": "NibabelIO",
    "transpose_forward": [0, 1, 2],
    "transpose_backward": [0, 1, 2],
    "foreground_intensity_properties_per_channel": {},
    "label_manager": "LabelManager",
    "continue_training": False,
    "configurations": {
        "2d": {
            "data_identifier": "plans_2d",
            "batch_size": 2,
            "patch_size": [32, 32],
            "spacing": [1.0, 1.0],
            "normalization_schemes": ["ZScoreNormalization"],
            "use_mask_for_norm": [False],
            "batch_dice": True,
            "architecture": {
                "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
                "arch_kwargs": {
                    "n_stages": 3,
                    "features_per_stage": [4, 8, 8],
                    "conv_op": "torch.nn.modules.conv.Conv2d",
                    "kernel_sizes": [[3, 3]] * 3,
                    "strides": [[1, 1], [2, 2], [2, 2]],
                    "n_conv_per_stage": [1, 1, 1],
                    "n_conv_per_stage_decoder": [1, 1],
                    "conv_bias": True,
                    "norm_op": "torch.nn.modules.instancenorm.InstanceNorm2d",
                    "norm_op_kwargs": {"eps": 1e-05, "affine": True},
                    "nonlin": "torch.nn.LeakyReLU",
                    "nonlin_kwargs": {"inplace": True},
                },
                "_kw_requires_import": ["conv_op", "norm_op", "nonlin"],
            },
        }
    },
}
NAMED = {"background": 0, "a": 1, "b": 2}
REGIONS = {"background": 0, "whole": [1, 2], "core": [2]}


def nnunet(owner, labels, folder, monkeypatch):
    """A trainer of this class, on a dataset with these labels."""
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(name, str(folder / name))
    data = folder / "nnUNet_preprocessed" / "Dataset001_Discs" / "plans_2d"
    data.mkdir(parents=True, exist_ok=True)
    (data / "case.b2nd").touch()
    dataset = {"channel_names": {"0": "CT"}, "labels": labels, "numTraining": 1, "file_ending": ".nii.gz"}
    if labels is REGIONS:
        dataset["regions_class_order"] = [1, 2]
    torch.manual_seed(0)
    trainer = owner(json.loads(json.dumps(PLANS)), "2d", 0, dataset, torch.device("cpu"))
    trainer.initialize()
    assert trainer.enable_deep_supervision
    return trainer


@pytest.mark.parametrize("labels", (NAMED, {**NAMED, "ignore": 3}, REGIONS), ids=str)
def test_nnunet_trainer(labels, tmp_path, monkeypatch):
    """nnU-Net's own train_step, with the loss that the subclass builds; the plain trainer's loss is the same."""
    pytest.importorskip("nnunetv2")
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    made = {}
    for owner in (nnUNetTrainer, example("nnunet_trainer").nnUNetTrainerFastloss):
        trainer = nnunet(owner, labels, tmp_path, monkeypatch)
        outputs = trainer.network(torch.zeros(2, 1, 32, 32))
        targets = [target(labels, x.shape) for x in outputs]
        made[owner] = torch.tensor(trainer.train_step({"data": torch.randn(2, 1, 32, 32), "target": targets})["loss"])
    assert trainer.loss.fused and type(trainer.loss).__module__.startswith("fastloss.")
    assert_value(*made.values(), torch.float32, scale=1.0, factor=2.0)
    sys.modules.pop("nnunet_trainer", None)


def test_nnunet_full_resolution(tmp_path, monkeypatch):
    """nnU-Net's own train_step; the loss is that of interpolated outputs and the first target."""
    pytest.importorskip("nnunetv2")
    trainer = nnunet(example("nnunet_full_resolution").nnUNetTrainerFullResolution, NAMED, tmp_path, monkeypatch)
    outputs = trainer.network(torch.zeros(2, 1, 32, 32))
    targets = [target(NAMED, x.shape) for x in outputs]
    assert torch.tensor(trainer.train_step({"data": torch.randn(2, 1, 32, 32), "target": targets})["loss"]).isfinite()
    full = [torch.nn.functional.interpolate(x, (32, 32), mode="bilinear") for x in outputs]
    expected = sum(w * trainer.loss.criterion.criterion(x, targets[0]) for w, x in zip(trainer.loss.weights, full))
    assert_value(trainer.loss(outputs, targets), expected, torch.float32, factor=2)
    sys.modules.pop("nnunet_full_resolution", None)


def target(labels, shape):
    generator = torch.Generator().manual_seed(0)
    if labels is REGIONS:
        return torch.rand(shape, generator=generator) < 0.4
    return torch.randint(0, len(labels), (shape[0], 1, *shape[2:]), generator=generator).to(torch.int16)
