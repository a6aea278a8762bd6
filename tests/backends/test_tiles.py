"""UpsampledLoss on CUDA: tiles of the low-resolution logits (csrc/cuda/upsampled), on a GPU or in the emulator."""

import pytest
import torch
from cases import COMPILED, LOSSES, SHAPES, build, run
from upsampling import check, inputs

import fastloss as fl

pytestmark = pytest.mark.skipif("cuda" not in COMPILED, reason="the cuda backend does not run here")
BOTH = "multiclass:dice+focal", "multilabel:tversky+crossentropy"
TERMS = (
    "dice-l1-squared",
    "dice-sample-skip",
    "difference",
    "tensors",
    "focal-0.0",
    "focal-0.5",
    "focal-1.0",
    "focal-alpha",
)
NAMES = [f"{mode}:{term}" for mode in ("multilabel", "multiclass") for term in TERMS]
NAMES += ["multilabel:bce-pos_weights", "multilabel:focal-alphas", "multilabel:bce-smoothing"]
NAMES += ["multiclass:ce-weights-smoothing", "multiclass:focal-alphas", "multiclass:dice-weights"]


@pytest.mark.parametrize("name", NAMES)
def test_terms(name):
    mode, criterion = LOSSES[name][0], build(name)
    x, y = inputs(mode)
    soft = inputs(mode, kind="probabilities" if mode == "multiclass" else "soft")[1]
    mask, weight = torch.rand(3, 13, 11) < 0.7, torch.rand(3, 13, 11)
    with fl.backends.use("cuda"):
        assert "the kernels interpolate a tile" in str(fl.UpsampledLoss(criterion).explain(x, y))
    check(criterion, x, y, backend="cuda")
    check(criterion, x, y, mask, weight, backend="cuda")
    check(criterion, x, soft, mask, weight, backend="cuda")


@pytest.mark.parametrize(
    ("low", "size", "how"),
    (
        ((3, 3), (48, 47), {}),
        ((1, 2), (32, 64), {}),
        ((37, 19), (70, 41), {}),
        ((21, 18), (70, 50), {"align_corners": True}),
        ((40, 33), (13, 11), {}),
        ((5, 18), (5, 54), {}),
        ((19, 18), (57, 18), {"mode": "nearest"}),
        ((5, 6, 9), (10, 12, 18), {"mode": "trilinear"}),
        ((5, 6, 9), (10, 6, 4), {"mode": "trilinear", "align_corners": True}),
        ((5, 6, 9), (11, 6, 20), {"mode": "nearest-exact"}),
        ((70,), (300,), {"mode": "linear"}),
    ),
    ids=str,
)
@pytest.mark.parametrize("name", BOTH)
def test_tiles_and_their_edges(name, low, size, how):
    check(build(name), *inputs(LOSSES[name][0], low, size, samples=1), backend="cuda", **how)


@pytest.mark.parametrize("classes", (17, 150, 320))
def test_many_classes(classes):
    x, y = (torch.randn(2, classes, 5, 4) * 3).requires_grad_(), torch.randint(0, classes, (2, 10, 12))
    check(fl.DiceLoss("multiclass") + fl.CrossEntropyLoss(), x, y, backend="cuda")


@pytest.mark.parametrize("name", (*BOTH, "multiclass:ce", "binary:dice-sample-skip"))
def test_the_same_bits_in_any_order_of_threads(name):
    x, y = inputs(LOSSES[name][0], (9, 10), (47, 40))
    found = [
        run(fl.UpsampledLoss(build(name)), x, y, "cuda") for _ in range(4)
    ]  # the emulator draws another order each
    for value, grad in found[1:]:
        assert torch.equal(value, found[0][0]) and torch.equal(grad, found[0][1])


@pytest.mark.parametrize("mode", ("binary", "multilabel", "multiclass"))
def test_a_label_out_of_range_shows(mode):
    x, y = inputs(mode)
    y[0, ..., 3, 4] = 77
    value, grad = run(fl.UpsampledLoss(build(f"{mode}:dice+focal")), x, y, "cuda")
    assert value.isnan() and grad.isnan().any()
    mask = y != 77
    value, grad = run(fl.UpsampledLoss(build(f"{mode}:dice+focal")), x, y, "cuda", mask)
    assert value.isfinite() and grad.isfinite().all()


def test_what_tiles_do_not_take():
    y = torch.randint(0, 3, (2, 12, 12))
    dice, low = fl.DiceLoss("multiclass"), (2, 3, 3, 3)
    for criterion, x, words in (
        (dice, torch.randn(low), "the kernels interpolate a tile"),
        (dice, torch.randn(low, dtype=torch.bfloat16), "the kernels interpolate a tile"),
        (dice, torch.randn(low, dtype=torch.float64), "for float64 logits"),
        (fl.TopKLoss("multiclass", k=0.1), torch.randn(low), "for top-k"),
        (dice, torch.randn(2, 321, 3, 3), "for more than 320 classes"),
    ):
        loss = fl.UpsampledLoss(criterion)
        with fl.backends.use("cuda"):
            assert words in str(loss.explain(x, y))
    x, y = inputs("multiclass", (1, 2), (33, 4))
    with fl.backends.use("cuda"):
        assert "more than 32-fold" in str(fl.UpsampledLoss(dice).explain(x, y))
    check(dice, x, y, backend="cuda")


def test_direct_calls():
    x, y = inputs("multiclass", (3, 2), (5, 4), samples=2)
    x, like = x.detach(), x.detach().new_zeros(()).expand(2, 3, 5, 4)
    rest = (None, None, *build("multiclass:ce").spec.encode(SHAPES["multiclass"][1]), 3, False)
    ops = torch.ops.fastloss_cuda
    sums, aux = ops.upsampled_sums(like, x, y, *rest)
    state = torch.cat([aux.new_zeros(len(aux)), aux.flatten(), torch.ones_like(sums).flatten()])
    assert ops.upsampled_backward(state, like, x, y, *rest).shape == x.shape
    wide = torch.rand(2, 3, 1, 2)
    for given in (
        (like, x[:1], y),
        (like, torch.rand(2, 7, 3, 2), y),
        (like, x[:, :, :0], y),
        (like, x.double(), y),
        (like.double(), x, y),
        (like, x.long(), y),
        (like, x[..., None], y),
        (like, x, y[..., :-1]),
        (like[:0], x[:0], y[:0]),
        (like[:, :, :1].expand(2, 3, 40, 4), wide, y[:, :1].expand(2, 40, 4)),
    ):
        with pytest.raises((ValueError, RuntimeError)):
            ops.upsampled_sums(*given, *rest)
    with pytest.raises((ValueError, RuntimeError)):
        ops.upsampled_backward(state[:-1], like, x, y, *rest)
    topk = build("multiclass:topk").spec.encode(3)
    with pytest.raises((ValueError, RuntimeError), match="top-k"):
        ops.upsampled_sums(like, x, y, None, None, *topk, 3, False)
