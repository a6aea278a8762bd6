"""The Triton kernels on small inputs, in a process with TRITON_INTERPRET=1 that test_triton.py starts."""

import pytest
import torch
from cases import CORE, DTYPES, LOSSES, SHAPES, build, logits, run, target
from test_parity import SCALES, check

import fastloss as fl

LAYOUTS = ("contiguous", "channels_last", "sliced", "transposed")


@pytest.mark.parametrize("position,name", list(enumerate(LOSSES)), ids=LOSSES)
def test_loss(position, name):
    """Each loss in one type and layout, every second one masked and weighted."""
    mode = LOSSES[name][0]
    x = logits(SHAPES[mode], DTYPES[position % 4], LAYOUTS[position // 4 % 4])
    soft = "probabilities" if mode == "multiclass" else "soft"
    y = target(mode, SHAPES[mode], (torch.uint8, torch.int64, soft)[position % 3])
    extra = (torch.rand(x[:, 0].shape) < 0.6, torch.rand(x[:, 0].shape)) if position % 2 else ()
    check(build(name), x, y, "triton", *extra, scale=SCALES.get(name, 0.0))


@pytest.mark.parametrize("name", [n for n in CORE if "everything" not in n])
def test_upstream_gradients_that_change(name):
    """The guess of forward is mended, and the mended gradient is the bits of a right guess."""
    mode = LOSSES[name][0]
    x, y = logits(SHAPES[mode]), target(mode, SHAPES[mode])
    loss = build(name)
    first = [run(loss, x, y, "triton", upstream=u)[1] for u in (1.0, 3.0, 3.0, 0.5)]
    assert torch.equal(first[1], first[2])
    torch.testing.assert_close(first[1], 3.0 * first[0], rtol=1e-5, atol=1e-9)
    torch.testing.assert_close(first[3], 0.5 * first[0], rtol=1e-5, atol=1e-9)


def test_many_tiles_and_samples():
    """Several programs for each plane, several tiles for each program, samples merged and apart."""
    for mode, shape in (("binary", (3, 1, 5000)), ("multilabel", (2, 2, 3000)), ("multiclass", (2, 5, 1700))):
        for loss in (fl.DiceLoss(mode) + fl.FocalLoss(mode), fl.TverskyLoss(mode, batch=False, empty="skip")):
            check(loss, logits(shape), target(mode, shape, torch.uint8), "triton")


@pytest.mark.parametrize("mode", ("binary", "multiclass"))
def test_an_id_or_label_out_of_range_makes_the_loss_nan(mode):
    x, y = logits(SHAPES[mode]), target(mode, SHAPES[mode])
    y.view(-1)[5] = 77
    losses = [fl.DiceLoss(mode), fl.TopKLoss(mode), build(f"{mode}:tversky+crossentropy")]
    for loss in [*losses, fl.FocalLoss(mode, gamma=1.0)]:
        assert run(loss, x, y, "triton")[0].isnan()
