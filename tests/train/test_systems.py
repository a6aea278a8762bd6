"""What the systems of Table 3 cost, as far as a count can be known beforehand."""

import pytest
import torch
from torch import nn

pytest.importorskip("monai")
pytest.importorskip("einops")
pytest.importorskip("timm")

from fastloss.train import systems


@pytest.mark.parametrize(
    "name, parameters, macs",
    [
        ("levit-unet-384", 52_156_519, 25.520e9),
        ("swin-unetr", 62_187_296, None),
        ("unetr", 92_802_478, None),
        ("dynunet", 31_182_126, None),
    ],
)
def test_parameters_and_multiply_adds_are_counted_without_computing(name, parameters, macs):
    found = systems.count(name)
    assert found[0] == parameters
    assert macs is None or found[1] == pytest.approx(macs, rel=1e-3)
    assert found[1] > 1e10


def test_a_measured_network_reports_its_own_cost(monkeypatch):
    def small():
        return nn.Sequential(nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.Conv2d(8, 1, 3, padding=1, bias=False))

    monkeypatch.setitem(systems.SYSTEMS, "small", systems.System(small, (1, 1, 64, 64), "a test"))
    cost = systems.measure("small", repeats=3)
    assert (cost.parameters, cost.weight_bytes, cost.macs) == (144, 576, 2 * 9 * 8 * 64 * 64)
    # Input, eight channels, and the result: the least that a forward holds; some kernels add a scratch buffer.
    least = 4 * 64 * 64 * (1 + 8 + 1) + 576
    assert least <= cost.peak_bytes <= 4 * least
    assert cost.seconds > 0 and cost.device == "cpu" and cost.threads == torch.get_num_threads()


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="name must be one of .*got 'transunet'"):
        systems.measure("transunet")
    with pytest.raises(ValueError, match="repeats must be at least 1, got 0"):
        systems.measure("unetr", repeats=0)
