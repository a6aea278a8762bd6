"""LeViT-UNet: the published parameter counts, and its logits against a second construction."""

import pytest
import torch

pytest.importorskip("timm")

import levit_by_hand

from fastloss.cli import CommandError
from fastloss.train.levit_unet import LeViTUNet
from fastloss.train.models import build_model

# Of the authors' code, counted; 52,156,519 is also what the paper of 2025 prints.
COUNTS = {
    ("128s", 1): 15_894_339,
    ("128s", 9): 15_904_715,
    ("192", 1): 19_893_718,
    ("192", 9): 19_904_670,
    ("384", 1): 52_153_349,
    ("384", 3): 52_156_519,
    ("384", 4): 52_158_104,
    ("384", 9): 52_166_029,
    ("384", 14): 52_173_954,
}


@pytest.mark.parametrize("variant, classes", COUNTS)
def test_it_has_the_published_number_of_parameters(variant, classes):
    with torch.device("meta"):
        network = build_model(f"levit-unet-{variant}", classes)
    assert sum(p.numel() for p in network.parameters()) == COUNTS[variant, classes]


def spread(network):
    """Weights, running means and variances that matter: some layers start at zero, which would hide them."""
    generator = torch.Generator().manual_seed(1)
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        if not tensor.is_floating_point():
            continue
        with torch.no_grad():
            if name.endswith("running_var") or (name.endswith("weight") and tensor.ndim == 1):
                tensor.uniform_(0.5, 1.5, generator=generator)
            elif tensor.ndim == 1 or "biases" in name:
                tensor.normal_(0, 0.3, generator=generator)
            else:
                tensor.normal_(0, tensor[0].numel() ** -0.5, generator=generator)


@pytest.mark.parametrize("variant, channels", [("128s", 3), ("384", 1)])
def test_its_logits_are_those_of_the_second_construction(variant, channels):
    network = LeViTUNet(variant, num_classes=3, in_channels=channels).double().eval()
    spread(network)
    x = torch.randn(1, channels, 224, 224, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        logits = network(x)
        expected = levit_by_hand.forward(x, network.state_dict(), variant)
    assert logits.shape == (1, 3, 224, 224) and logits.std() > 0.01
    torch.testing.assert_close(logits, expected, rtol=1e-9, atol=1e-9)


def test_residual_branches_are_dropped_in_training_of_the_384_variant_only():
    rates = {
        variant: {module.drop_prob for module in LeViTUNet(variant, 1).modules() if hasattr(module, "drop_prob")}
        for variant in ("128s", "384")
    }
    assert rates == {"128s": set(), "384": {0.1}}


def test_another_image_size_is_refused():
    network = LeViTUNet("128s", 2).eval()
    with pytest.raises(ValueError, match=r"224.*got \[1, 1, 96, 96\]"):
        network(torch.zeros(1, 1, 96, 96))


def test_pretrained_weights_that_cannot_be_had_are_one_sentence(monkeypatch):
    import timm

    def offline(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(CommandError, match="pretrained: the ImageNet weights of levit_384 could not be downloaded"):
        build_model("levit-unet-384", 3, pretrained=True)


def test_names_and_weights_that_do_not_exist_are_refused():
    with pytest.raises(ValueError, match="name must be one of .*got 'unet'"):
        build_model("unet", 1)
    with pytest.raises(ValueError, match="pretrained must be False for monai-unet"):
        build_model("monai-unet", 1, pretrained=True)
