"""Laws that hold for every input, searched for counter-examples by hypothesis."""

import pytest
import torch
from cases import COMPILED, MANY, MODES, SIGMOID, crossentropy, run

import fastloss as fl

pytest.importorskip("hypothesis")
from hypothesis import given
from hypothesis import strategies as st

pytestmark = pytest.mark.skipif(not COMPILED, reason="no backend with kernels")
backends = st.sampled_from(COMPILED or ["reference"])
seeds = st.integers(0, 2**31)
weights = st.floats(-4, 4).filter(lambda w: w == 0 or abs(w) > 1e-3)
sizes = st.integers(1, 700)


def losses(mode):
    return {
        "crossentropy": crossentropy(mode),
        "focal": fl.FocalLoss(mode, gamma=1.5),
        "topk": fl.TopKLoss(mode, k=0.37),
        "dice": fl.DiceLoss(mode, smooth=0.5, empty="score"),
        "jaccard": fl.JaccardLoss(mode, squared=True),
        "sample": fl.TverskyLoss(mode, alpha=0.3, beta=0.7, batch=False, empty="skip"),
    }


names = st.sampled_from(sorted(losses("binary")))
pointwise = st.sampled_from(("crossentropy", "focal", "topk"))


def draw(mode, seed, size, samples=3, scale=4.0):
    """x [samples, C, size] in float64, y, and a mask; the values come from the seed."""
    g = torch.Generator().manual_seed(seed)
    channels = 1 if mode == "binary" else 3
    x = torch.randn((samples, channels, size), generator=g, dtype=torch.float64) * scale
    if mode == "multiclass":
        y = torch.randint(0, channels, (samples, size), generator=g)
    else:
        y = (torch.rand(x.shape, generator=g) < 0.4).long()
    return x, y, torch.rand((samples, size), generator=g) < 0.7, g


def same(a, b, rtol=1e-10):
    torch.testing.assert_close(a, b, rtol=rtol, atol=1e-12)


@pytest.mark.parametrize("mode", MODES)
@given(backend=backends, seed=seeds, size=sizes, a=names, b=names, v=weights, w=weights)
def test_linear_in_the_weights(mode, backend, seed, size, a, b, v, w):
    x, y, mask, _ = draw(mode, seed, size)
    parts = losses(mode)
    value, grad = run(v * parts[a] + w * parts[b], x, y, backend, mask)
    (va, ga), (vb, gb) = [run(parts[name], x, y, backend, mask) for name in (a, b)]
    same(value, v * va + w * vb)
    same(grad, v * ga + w * gb)


@pytest.mark.parametrize("mode", MODES)
@given(backend=backends, seed=seeds, size=sizes, name=names)
def test_permutation_of_pixels(mode, backend, seed, size, name):
    x, y, mask, g = draw(mode, seed, size)
    order = torch.randperm(size, generator=g)
    value, grad = run(losses(mode)[name], x, y, backend, mask)
    moved, moved_grad = run(losses(mode)[name], x[..., order], y[..., order], backend, mask[..., order])
    same(value, moved)
    same(grad[..., order], moved_grad)


@pytest.mark.parametrize("mode", MODES)
@given(backend=backends, seed=seeds, size=sizes, name=names)
def test_order_of_the_batch(mode, backend, seed, size, name):
    x, y, mask, g = draw(mode, seed, size, samples=5)
    order = torch.randperm(5, generator=g)
    value, grad = run(losses(mode)[name], x, y, backend, mask)
    moved, moved_grad = run(losses(mode)[name], x[order], y[order], backend, mask[order])
    same(value, moved)
    same(grad[order], moved_grad)


@pytest.mark.parametrize("mode", MANY)
@given(backend=backends, seed=seeds, size=sizes, name=names)
def test_order_of_the_channels(mode, backend, seed, size, name):
    x, y, mask, g = draw(mode, seed, size)
    order = torch.randperm(3, generator=g)
    value, grad = run(losses(mode)[name], x, y, backend, mask)
    labels = y[:, order] if mode == "multilabel" else torch.argsort(order)[y]
    moved, moved_grad = run(losses(mode)[name], x[:, order], labels, backend, mask)
    same(value, moved)
    same(grad[:, order], moved_grad)


@pytest.mark.parametrize("mode", MODES)
@given(backend=backends, seed=seeds, size=sizes, name=names)
def test_perfect_prediction_costs_nothing(mode, backend, seed, size, name):
    _, y, mask, _ = draw(mode, seed, size)
    truth = torch.nn.functional.one_hot(y, 3).movedim(-1, 1) if mode == "multiclass" else y
    value, grad = run(losses(mode)[name], 200.0 * truth.double() - 100.0, y, backend, mask)
    assert abs(value) < 1e-12 and grad.abs().max() < 1e-12
    wrong, _ = run(losses(mode)[name], 100.0 - 200.0 * truth.double(), y, backend, mask)
    assert wrong > 0.3 or not (truth * mask[:, None]).any() or not mask.any()


@pytest.mark.parametrize("mode", MODES)
@given(backend=backends, seed=seeds, size=sizes, name=names)
def test_masked_pixels_might_as_well_not_be_there(mode, backend, seed, size, name):
    """One sample: the loss of what the mask keeps."""
    x, y, mask, _ = draw(mode, seed, size, samples=1)
    value, grad = run(losses(mode)[name], x, y, backend, mask)
    kept = mask[0]
    alone, alone_grad = run(losses(mode)[name], x[..., kept], y[..., kept], backend)
    same(value, alone)
    same(grad[..., kept], alone_grad)
    assert not grad[..., ~kept].any()


@pytest.mark.parametrize("mode", MODES)
@given(backend=backends, seed=seeds, size=sizes, name=names)
def test_region_losses_lie_between_0_and_1(mode, backend, seed, size, name):
    x, y, mask, _ = draw(mode, seed, size)
    value, _ = run(losses(mode)[name], x, y, backend, mask)
    assert value >= 0
    if name in ("dice", "jaccard", "sample"):
        assert value <= 1 + 1e-12


@pytest.mark.parametrize("mode", MODES)
@given(backend=backends, seed=seeds, size=sizes, name=pointwise, factor=st.floats(0.01, 100))
def test_pixel_weights_scale_pointwise_terms(mode, backend, seed, size, name, factor):
    x, y, mask, _ = draw(mode, seed, size)
    constant = torch.full(mask.shape, factor, dtype=torch.float64)
    value, grad = run(losses(mode)[name], x, y, backend, mask, constant)
    plain, plain_grad = run(losses(mode)[name], x, y, backend, mask)
    same(value, factor * plain)
    same(grad, factor * plain_grad)


@pytest.mark.parametrize("mode", MODES)
@given(backend=backends, seed=seeds, size=sizes, name=st.sampled_from(("crossentropy", "focal", "jaccard", "sample")))
def test_a_batch_twice_is_the_batch(mode, backend, seed, size, name):
    x, y, mask, _ = draw(mode, seed, size)
    value, grad = run(losses(mode)[name], x, y, backend, mask)
    twice, twice_grad = run(losses(mode)[name], *[torch.cat([t, t]) for t in (x, y)], backend, torch.cat([mask, mask]))
    same(value, twice)
    same(grad, 2 * twice_grad[:3])


@pytest.mark.parametrize("mode", SIGMOID)
@given(backend=backends, seed=seeds, size=sizes, name=pointwise)
def test_exchange_of_foreground_and_background(mode, backend, seed, size, name):
    x, y, mask, _ = draw(mode, seed, size)
    value, grad = run(losses(mode)[name], x, y, backend, mask)
    other, other_grad = run(losses(mode)[name], -x, 1 - y, backend, mask)
    same(value, other)
    same(grad, -other_grad)


@given(backend=backends, seed=seeds, size=sizes, name=pointwise)
def test_two_classes_are_one_logit(backend, seed, size, name):
    """softmax over (0, x) is sigmoid(x)."""
    x, y, mask, _ = draw("binary", seed, size)
    value, grad = run(losses("binary")[name], x, y, backend, mask)
    both = torch.cat([torch.zeros_like(x), x], 1)
    other, other_grad = run(losses("multiclass")[name], both, y[:, 0], backend, mask)
    same(value, other)
    same(grad, other_grad[:, 1:])


@given(backend=backends, seed=seeds, size=sizes, name=names, shift=st.floats(-50, 50))
def test_softmax_ignores_a_common_shift(backend, seed, size, name, shift):
    x, y, mask, _ = draw("multiclass", seed, size)
    value, grad = run(losses("multiclass")[name], x, y, backend, mask)
    moved, moved_grad = run(losses("multiclass")[name], x + shift, y, backend, mask)
    same(value, moved, 1e-8)
    assert grad.sum(1).abs().max() < 1e-12
    torch.testing.assert_close(grad, moved_grad, rtol=1e-7, atol=1e-11)


@given(backend=backends, seed=seeds, size=sizes, k=st.decimals("0.001", "1", places=3))
def test_topk_falls_with_k(backend, seed, size, k):
    """The mean of fewer, larger elements is larger; of all of them it is BCE."""
    x, y, _, _ = draw("binary", seed, size)
    value, grad = run(fl.TopKLoss("binary", k=float(k)), x, y, backend)
    mean, _ = run(fl.BCEWithLogitsLoss(), x, y, backend)
    count = max(1, int(k * 3 * size))
    assert value >= mean - 1e-12
    assert (grad != 0).sum() <= count + 1
    elements = torch.nn.functional.binary_cross_entropy_with_logits(x, y.double(), reduction="none").flatten()
    same(value, elements.topk(count).values.mean())
