"""The networks' weights from files, and what enters an encoder of ImageNet."""

import pytest
import torch

pytest.importorskip("monai")
smp = pytest.importorskip("segmentation_models_pytorch")
timm = pytest.importorskip("timm")

from paper_runs import run

from fastloss.cli import CommandError
from fastloss.train import models

LEVIT = "levit-unet-128s"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Encoders with random weights, as smp and timm would have downloaded them, and the encoders."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(1)
    b0 = smp.Unet("efficientnet-b0", encoder_weights=None).encoder
    levit = timm.create_model("levit_128s", in_chans=3, num_classes=1000)
    torch.save(b0.state_dict(), folder / "b0.pth")
    from safetensors.torch import save_file

    save_file({key: value.contiguous() for key, value in levit.state_dict().items()}, folder / "levit.safetensors")
    (folder / "half.pth").write_bytes((folder / "b0.pth").read_bytes()[:5000])
    return folder, b0, levit


def test_an_encoder_takes_its_weights_from_a_file(files):
    folder, b0, levit = files
    net = models.build_model(models.PAPER, 1, weights=folder / "b0.pth")
    found = net.network.encoder.state_dict()
    assert all([torch.equal(found[key], value) for key, value in b0.state_dict().items()])
    net = models.build_model(LEVIT, 3, weights=folder / "levit.safetensors")
    qkv = "blocks.0.attn.qkv.linear.weight"
    assert torch.equal(net.stages[0].state_dict()[qkv], levit.stages[0].state_dict()[qkv])
    # One channel for three: the sum of the colours' weights, as timm has it.
    assert torch.equal(net.stem.conv1.linear.weight, levit.stem.conv1.linear.weight.sum(1, keepdim=True))


@pytest.mark.parametrize(
    ("name", "file", "words"),
    [
        (models.PAPER, "levit.safetensors", "not those of smp's efficientnet-b0: _conv_stem.weight is missing"),
        (LEVIT, "b0.pth", "not those of timm's levit_128s: stem.conv1.linear.weight is missing"),
        ("levit-unet-192", "levit.safetensors", "not those of timm's levit_192: "),
        (models.PAPER, "half.pth", "half.pth cannot be read"),
        (models.PAPER, "none.pth", "none.pth cannot be read"),
    ],
)
def test_other_files_are_refused(files, name, file, words):
    with pytest.raises(CommandError, match=words) as raised:
        models.build_model(name, 1, weights=files[0] / file)
    assert "\n" not in str(raised.value)


def test_grey_is_normalised_as_imagenet_was():
    torch.manual_seed(0)
    plain = models.build_model(models.PAPER, 1).eval()
    torch.manual_seed(0)
    net = models.build_model(models.PAPER, 1, normalise=True).eval()
    x = torch.rand(2, 1, 32, 32)
    colours = (x.expand(-1, 3, -1, -1) - torch.tensor([0.485, 0.456, 0.406]).reshape(1, 3, 1, 1)) / torch.tensor(
        [0.229, 0.224, 0.225]
    ).reshape(1, 3, 1, 1)
    with torch.no_grad():
        assert torch.allclose(net(x), plain.network(colours), atol=1e-6)
        assert not torch.allclose(net(x), plain(x), atol=1e-3)
    assert sum(p.numel() for p in net.parameters()) == sum(p.numel() for p in plain.parameters())


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--weights", "b0.pth"], "--weights and --normalise are for encoders of ImageNet"),
        (["--normalise", "imagenet"], "--weights and --normalise are for encoders of ImageNet"),
        (["--model", models.PAPER, "--weights", "nowhere.pth"], "--weights must name a file, got nowhere.pth"),
    ],
)
def test_wrong_settings_are_named(words, sentence, tmp_path, capfd):
    assert run("paper2", "--rows", "bce", *words, "--out", str(tmp_path / "run")) == 2
    assert sentence in capfd.readouterr().err
    assert not (tmp_path / "run").exists()
