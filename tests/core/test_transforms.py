"""What torch's own losses let one do with them: forward-mode AD, torch.func, batched gradients, fake tensors, make_fx.

Each case is compared with an ordinary forward and backward of the same loss.
"""

import pytest
import torch
from cases import MODES, SHAPES, build, crossentropy, logits, target
from dropins import DROPINS
from dropins import logits as dropin_logits
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx

import fastloss as fl

pytestmark = [
    pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated"),  # torch's, at its first tangent
    pytest.mark.filterwarnings("ignore:There is a performance drop"),  # torch's own scatter_ under vmap
    pytest.mark.filterwarnings("ignore:single channel"),
]


def deep(mode):
    loss = fl.DeepSupervisionLoss(fl.DiceLoss(mode) + crossentropy(mode))
    return lambda x, y: loss([x, x[..., ::2, ::2], x[..., :3, :3]], y)


def scheduled(mode):
    schedule = fl.LossSchedule.linear(fl.DiceLoss(mode), crossentropy(mode), 0, 4)
    schedule.step(2)
    return schedule


FORMS = {
    "elements": lambda mode: crossentropy(mode, reduction="none"),
    "focal elements": lambda mode: fl.FocalLoss(mode, reduction="none"),
    "learns": lambda mode: torch.tensor(0.3, requires_grad=True) * fl.DiceLoss(mode) + crossentropy(mode),
    "functional": lambda mode: lambda x, y: fl.functional.tversky_loss(x, y, mode, alpha=0.3, gamma=1.5),
    "statistics": lambda mode: lambda x, y: (fl.DiceLoss(mode) + crossentropy(mode)).with_stats(x, y)[0],
    "schedule": scheduled,
    "deep supervision": deep,
}
NAMES = ("dice", "focal-1.5", "topk", "dice-sample-skip", "tensors", "everything")
NATIVE = {f"{m}:{name}": (m, build, f"{m}:{name}") for m in MODES for name in NAMES}
NATIVE |= {f"{m}:{name}": (m, make, m) for name, make in FORMS.items() for m in MODES}
CASES = [*NATIVE, *DROPINS]


class Case:
    """A loss, its inputs of 4 x 4 pixels, a direction, and what an ordinary call gives."""

    def __init__(self, name):
        if name in NATIVE:
            mode, make, argument = NATIVE[name]
            shape = (2, SHAPES[mode][1], 4, 4)
            self.loss, self.x, self.y = make(argument), logits(shape), target(mode, shape)
        else:
            make, labels = DROPINS[name]
            self.loss, self.x, self.y = make(), dropin_logits()[..., :4, :4].clone(), labels()[..., :4, :4].clone()
        self.t = torch.randn_like(self.x)
        self.value, self.grad = self.ordinary(self.x)
        self.slope = (self.grad * self.t).sum()

    def ordinary(self, x):
        x = x.detach().clone().requires_grad_()
        value = self.loss(x, self.y)
        return value.detach().sum(), torch.autograd.grad(value.sum(), x)[0]

    def total(self, x):
        return self.loss(x, self.y).sum()


@pytest.fixture(params=CASES)
def case(request):
    return Case(request.param)


def close(found, expected):
    assert found is not None, "the derivative is lost"
    torch.testing.assert_close(found.double(), expected.double(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("leaf", (False, True), ids=("plain", "requires_grad"))
def test_a_dual_tensor_keeps_its_tangent(case, leaf):
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(case.x.clone().requires_grad_(leaf), case.t)
        value, tangent = forward_ad.unpack_dual(case.total(dual))
        assert tangent is not None, "the tangent is lost"
    close(value, case.value)
    close(tangent, case.slope)


def test_a_loss_beside_dual_tensors_is_the_fused_one():
    """Inside of a level, what has no tangent runs as ever."""
    x, y = logits(SHAPES["binary"]), target("binary", SHAPES["binary"])
    loss = build("binary:everything")
    with forward_ad.dual_level():
        assert torch.equal(loss(x, y), loss(x.clone(), y))


def test_the_tangents_of_targets_and_weights_count_too():
    x, y, t = torch.randn(2, 1, 4, 4), torch.rand(2, 1, 4, 4), torch.rand(2, 1, 4, 4)
    weight, loss = torch.tensor(0.5), fl.BCEWithLogitsLoss()
    with forward_ad.dual_level():
        soft = forward_ad.unpack_dual(loss(x, forward_ad.make_dual(y, t))).tangent
        weighed = loss(x, y, pixel_weight=forward_ad.make_dual(torch.ones_like(y), t))
        weighed = forward_ad.unpack_dual(weighed).tangent
        factor = forward_ad.unpack_dual((forward_ad.make_dual(weight, torch.tensor(2.0)) * loss)(x, y)).tangent
    elements = torch.nn.functional.binary_cross_entropy_with_logits(x, y, reduction="none")
    close(soft, (-x * t).mean())
    close(weighed, (elements * t).mean())
    close(factor, 2.0 * elements.mean())


def test_torch_func(case):
    close(torch.func.jvp(case.total, (case.x,), (case.t,))[1], case.slope)
    close(torch.func.grad(case.total)(case.x), case.grad)
    close(torch.func.jacfwd(case.total)(case.x), case.grad)


def test_hessian(case):
    """Of plain PyTorch, so exact enough to be symmetric."""
    x = case.x[:1, :, :2, :2].double()
    found = torch.func.hessian(lambda x: case.loss(x, case.y[:1, ..., :2, :2]).sum())(x).reshape(x.numel(), x.numel())
    assert found.isfinite().all()
    close(found, found.T)


def test_vmap(case):
    """Over the logits; and over the targets as well, where nobody can look at their values."""
    both = torch.stack([case.x, case.x / 2])
    expected = torch.stack([case.value, case.ordinary(case.x / 2)[0]])
    close(torch.func.vmap(case.total)(both), expected)
    twice = torch.func.vmap(lambda x, y: case.loss(x, y).sum())(both, torch.stack([case.y, case.y]))
    close(twice, expected)


def test_batched_upstream_gradients(case):
    x = case.x.clone().requires_grad_()
    value = case.loss(x, case.y)
    upstream = torch.stack([torch.ones_like(value), 2 * torch.ones_like(value), torch.zeros_like(value)])
    (found,) = torch.autograd.grad(value, x, upstream, is_grads_batched=True, retain_graph=True)
    close(found, torch.stack([case.grad, 2 * case.grad, 0 * case.grad]))
    one = torch.func.vmap(lambda u: torch.autograd.grad(value, x, u, retain_graph=True)[0])(upstream)
    close(one, found)


@pytest.mark.parametrize("strategy", ("reverse-mode", "forward-mode"))
def test_jacobian(case, strategy):
    found = torch.autograd.functional.jacobian(case.total, case.x, vectorize=True, strategy=strategy)
    close(found, case.grad)


OWN_TENSORS = ("tensors", "learns", "schedule", "BCEWithLogitsLoss-weight", "smp.FocalLoss-weights", "monai.FocalLoss")


def test_fake_tensors(case, request):
    """Sizes without numbers; as with torch's losses, a weight tensor of the loss must then be a fake one too."""
    if request.node.callspec.params["case"].endswith(OWN_TENSORS):
        pytest.skip("it has tensors of its own")
    mode = FakeTensorMode()
    x, y = mode.from_tensor(case.x).requires_grad_(), mode.from_tensor(case.y)
    with mode:
        value = case.loss(x, y)
        value.sum().backward()
    assert x.grad.shape == x.shape and x.grad.dtype == x.dtype
    assert value.shape == case.loss(case.x, case.y).shape


@pytest.mark.parametrize("mode", ("real", "symbolic"))
def test_make_fx(case, mode, request):
    """The graph of a forward and backward, run on other numbers."""
    if mode == "symbolic" and request.node.callspec.params["case"].endswith(OWN_TENSORS):
        pytest.skip("it has tensors of its own")

    def step(x, y):
        x = x.detach().requires_grad_()
        value = case.loss(x, y).sum()
        return value, torch.autograd.grad(value, x)[0]

    value, grad = make_fx(step, tracing_mode=mode)(case.x, case.y)(case.x / 2, case.y)
    expected, expected_grad = case.ordinary(case.x / 2)
    close(value.detach(), expected)
    close(grad, expected_grad)


def test_bad_targets_are_told_where_they_can_be_seen():
    loss, x, y = fl.CrossEntropyLoss(), torch.randn(2, 3, 4, 4), torch.full((2, 4, 4), 7)
    with pytest.raises(ValueError, match="class ids from 0 to 2, got 7"):
        torch.func.grad(loss)(x, y)
    with forward_ad.dual_level(), pytest.raises(ValueError, match="class ids from 0 to 2, got 7"):
        loss(forward_ad.make_dual(x, x), y)
    assert torch.func.vmap(loss)(torch.stack([x, x]), torch.stack([y, y])).isnan().all()


def test_counts_under_a_transform():
    x, y = torch.randn(3, 2, 3, 4, 4), torch.randint(0, 3, (2, 4, 4))
    found = torch.func.vmap(lambda x: fl.functional.stats(x, y, "multiclass").counts)(x)
    assert torch.equal(found, torch.stack([fl.functional.stats(x, y, "multiclass").counts for x in x]))
