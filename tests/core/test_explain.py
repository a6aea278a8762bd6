"""What `explain` says of a call is what the call then does."""

import os
import subprocess
import sys
import warnings

import dropins
import pytest
import torch
from cases import BACKENDS, COMPILED, DEVICES, LOSSES, SHAPES, build, logits, target

import fastloss as fl
from fastloss import explanation, triton

cpu = pytest.mark.skipif("cpu" not in COMPILED or DEVICES["cuda"] == "cpu", reason="no CPU kernels")
OPS = ("loss", "sums", "elementwise", "backward", "upsampled_sums", "upsampled_backward")


def inputs(name, dtype=torch.float32):
    mode = LOSSES[name][0]
    return logits(SHAPES[mode], dtype).requires_grad_(), target(mode, SHAPES[mode])


def ops_of(run):
    """How often each op ran, by backend and name."""
    counts = {}
    with torch.autograd.profiler.profile() as profile:
        run()
    for event in profile.function_events:
        backend, _, op = event.name.partition("::")
        if backend.startswith("fastloss_") and op in OPS:
            key = backend.removeprefix("fastloss_"), op
            counts[key] = counts.get(key, 0) + 1
    return counts


def check(loss, *given, scale=1.0):
    """Explains a call, makes it, and compares."""
    said = fl.explain(loss, *given)
    calls = said.calls or (said,)

    def run():
        value = loss(*given)
        if value.requires_grad:
            (scale * value.sum()).backward()

    run()  # the gradient that forward writes is scaled by the gradient of the loss that was seen last
    found = ops_of(run)
    expected = {}

    def expect(backend, op):
        expected[backend, op] = expected.get((backend, op), 0) + 1

    for call in calls:
        if call.path in ("reference", "plain"):
            continue
        elements = any(["each element" in reason for reason in call.reasons])
        expect(call.backend, "sums" if call.path == "generic" else "elementwise" if elements else "loss")
        if call.gradient == "late":
            expect(call.backend, "backward")
    assert found == expected, f"{said}\n{found}"
    return said


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss(name, backend):
    with fl.backends.use(backend):
        said = check(build(name).to(DEVICES.get(backend, "cpu")), *inputs(name))
    assert said.backend == backend and f"backends.use asks for {backend!r}" in str(said)
    if backend == "reference":
        assert (said.path, said.gradient) == ("reference", "autograd")
    elif any([term.summed for term in build(name).spec.terms]):
        assert (said.path, said.gradient) == ("generic", "late")
    else:
        assert said.path in ("fast", "general")
        # Triton writes it in forward where the kernel of the sums can.
        late = backend == "triton" and not triton.one_pass(tuple(build(name).spec.encode(2)[0]))
        assert said.gradient == ("late" if late else "early")


@pytest.mark.parametrize("dtype", (torch.float64, torch.float16, torch.bfloat16))
@pytest.mark.parametrize("name", ("binary:dice+focal", "multiclass:tversky+crossentropy"))
def test_types(name, dtype, compiled):
    loss = build(name).to(DEVICES[compiled])
    with fl.backends.use(compiled):
        said = check(loss, *inputs(name, dtype))
        late = compiled == "triton" or dtype is torch.float16 or (dtype is torch.bfloat16 and compiled == "cpu")
        assert said.gradient == ("late" if late else "early")
        x, y = inputs(name, dtype)
        assert loss.explain(x.detach(), y).gradient == "none"
        with torch.no_grad():
            assert check(loss, x, y).gradient == "none"


BEYOND = torch.ones(4, 1, 13, 11, dtype=torch.bool)
FAST = {  # loss, what else is given, the path, a word of the reason
    "dice": ("binary:dice", {}, "fast", ""),
    "bce": ("binary:bce", {}, "fast", ""),
    "focal": ("multilabel:focal-2.0", {}, "fast", ""),
    "classes": ("multiclass:tversky+crossentropy", {}, "fast", ""),
    "masked": ("binary:dice", {"mask": BEYOND}, "general", "masked"),
    "weighted": ("binary:bce", {"pixel_weight": BEYOND.float()}, "general", "pixel weights"),
    "squared": ("binary:dice-squared", {}, "general", "squared"),
    "several": ("binary:everything", {}, "general", "pointwise"),
    "smoothed": ("multiclass:ce-smoothing", {}, "general", "smoothing"),
}


@cpu
@pytest.mark.parametrize("name,more,path,word", FAST.values(), ids=FAST)
def test_the_kernels_of_the_cpu(name, more, path, word):
    with fl.backends.use("cpu"):
        said = build(name).explain(*inputs(name), **more)
    assert said.path == path and (not word or word in str(said)), said


@cpu
def test_wide_and_soft_inputs_of_the_cpu():
    x, _ = inputs("binary:dice")
    soft = torch.rand(x.shape)
    assert "float64" in str(build("binary:dice").explain(x.double(), soft))
    assert fl.FocalLoss("binary").explain(x, soft).path == "general"
    assert fl.DiceLoss("binary").explain(x, soft).path == fl.BCEWithLogitsLoss().explain(x, soft).path == "fast"
    x, _ = inputs("multiclass:dice")
    assert "probabilities" in str(build("multiclass:dice").explain(x, target("multiclass", x.shape, "probabilities")))


@pytest.mark.skipif("cuda" not in COMPILED, reason="no CUDA kernels")
def test_the_kernels_of_cuda():
    device = DEVICES["cuda"]
    with fl.backends.use("cuda"):
        x = torch.randn(2, 1, 16, 16, device=device, requires_grad=True)
        y = torch.rand(2, 1, 16, 16, device=device) < 0.5
        assert fl.DiceLoss("binary").explain(x, y).path == "fast"
        for loss in (fl.FocalLoss("binary", gamma=1.5), fl.DiceLoss("binary", squared=True)):
            assert loss.explain(x, y).path == "general"
        assert "contiguous" in str(fl.DiceLoss("binary").explain(x.transpose(2, 3), y))
        x = torch.randn(2, 5, 16, 16, device=device, requires_grad=True)
        assert fl.DiceLoss("multiclass").explain(x, y[:, 0].long()).path == "fast"
        assert fl.DiceLoss("multiclass").explain(x, x.detach().softmax(1)).path == "general"


def test_elements(compiled):
    with fl.backends.use(compiled):
        said = check(fl.BCEWithLogitsLoss(reduction="none"), *inputs("binary:bce"))
    assert said.gradient == "late" and "each element" in str(said)


def test_weights_that_learn(compiled):
    device = DEVICES[compiled]
    loss = (torch.nn.Parameter(torch.tensor(0.5)) * fl.DiceLoss("binary") + fl.BCEWithLogitsLoss()).to(device)
    with fl.backends.use(compiled):
        said = check(loss, *inputs("binary:bce"))
        assert said.path == "generic" and "requires a gradient" in str(said)
        with torch.no_grad():
            assert check(loss, *inputs("binary:bce")).path != "generic"


def test_process_groups_are_not_called(compiled):
    """No process group is there: the call itself would raise."""
    loss = fl.DiceLoss("binary", process_group=True)
    with fl.backends.use(compiled):
        said = loss.explain(*inputs("binary:dice"))
    assert said.path == "generic" and "process_group" in str(said) and said.gradient == "late"


def test_transforms_take_the_reference(compiled):
    x, y = inputs("binary:dice")
    seen = []

    def told(x):
        seen.append(fl.DiceLoss("binary").explain(x, y))
        return x.sum()

    with fl.backends.use(compiled):
        torch.func.grad(told)(x.detach())
    assert seen[0].path == "reference" and "torch.func" in str(seen[0])


def test_nothing_to_compute(compiled):
    with fl.backends.use(compiled):
        said = (0 * fl.DiceLoss("binary")).explain(*inputs("binary:dice"))
    assert said.path == "reference" and "every weight is 0" in str(said)


@cpu
def test_schedules_pyramids_and_sums():
    x, y = inputs("binary:dice")
    schedule = fl.LossSchedule([(0, fl.DiceLoss("binary")), (3, fl.DiceLoss("binary", squared=True))])
    assert check(schedule, x, y).path == "fast"
    schedule.step(3)
    assert check(schedule, x, y).path == "general"
    pyramid = fl.DeepSupervisionLoss(fl.DiceLoss("binary"))
    levels = [x.detach().requires_grad_(), x.detach()[..., ::2, ::2].contiguous().requires_grad_()]
    said = check(pyramid, levels, y[..., :13, :11])
    assert len(said.calls) == 2 and said.path == "fast" and str(list(levels[1].shape)) in str(said)


@pytest.mark.parametrize("name", dropins.DROPINS)
def test_drop_ins(name):
    make, labels = dropins.DROPINS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what runs as plain PyTorch says so
        said = check(make(), dropins.logits().requires_grad_(), labels())
    paths = {call.path for call in said.calls or (said,)}
    if name != "monai.MaskedDiceLoss":  # whose mask with integer labels the original refuses in its own words
        assert ("plain" in paths) == (name in dropins.PLAIN)
    if "-sums" in name:
        assert "generic" in paths


@pytest.mark.parametrize("loss,gradient", ((fl.DiceLoss("multiclass"), "late"), (fl.CrossEntropyLoss(), "early")))
def test_bands(loss, gradient, compiled):
    device = DEVICES[compiled]
    head = torch.nn.Conv2d(4, 3, 1).to(device)
    x, y = torch.randn(2, 4, 6, 5, device=device), torch.randint(0, 3, (2, 6, 5), device=device)
    low = torch.randn(2, 3, 3, 3, device=device, requires_grad=True)
    for banded, given in ((fl.HeadLoss(head, loss), x), (fl.UpsampledLoss(loss), low)):
        with fl.backends.use(compiled):
            said = banded.explain(given, y)
            found = {op.removeprefix("upsampled_") for _, op in ops_of(lambda: banded(given, y).backward())}
        if given is x or compiled == "triton":  # where one op of C++ walks over the bands, forward only sums
            assert said.gradient == gradient
        assert (said.backend, said.path) == (compiled, "bands")
        assert found == ({"loss"} if said.gradient == "early" else {"sums", "backward"}), said
    with fl.backends.use("reference"):  # asked for by name, it can be differentiated twice
        assert fl.UpsampledLoss(loss).explain(low, y).path == "reference"
    hooked = torch.nn.Conv2d(4, 3, 1).to(device)
    hooked.register_forward_hook(lambda *_: None)
    with fl.backends.use(compiled):
        assert fl.HeadLoss(hooked, loss).explain(x, y).path == "fast"


@pytest.mark.compile
def test_compiled_losses(compiled):
    x, y = inputs("binary:dice")
    with fl.backends.use(compiled):
        loss = torch.compile(fl.DiceLoss("binary"), backend="aot_eager")
        said = fl.explain(loss, x, y)
        assert (said.backend, said.gradient) == (compiled, "late") and "torch.compile" in str(said)
        loss(x, y)  # compiles, which a second call need not
        assert set(ops_of(lambda: loss(x, y).backward())) == {(compiled, "loss"), (compiled, "backward")}


def test_other_modules():
    x, y = inputs("binary:bce")
    said = fl.explain(torch.nn.BCEWithLogitsLoss(), x, y.float())
    assert (said.backend, said.path, said.gradient) == ("torch", "plain", "autograd")
    with pytest.raises(TypeError, match="^loss must be a module"):
        fl.explain(torch.nn.functional.cross_entropy, x, y)


def test_faults_are_those_of_the_call(compiled):
    x, y = inputs("binary:dice")
    with fl.backends.use(compiled), pytest.raises(ValueError, match="^y must have the shape"):
        fl.DiceLoss("binary").explain(x, y[..., :3])
    assert explanation.noted.calls is None  # and the next call computes
    assert fl.DiceLoss("binary")(x, y).item() > 0


def test_the_default_says_why():
    x, y = inputs("binary:dice")
    said = str(fl.DiceLoss("binary").explain(x, y))
    assert "default for cpu tensors" in said or "no kernels run on cpu tensors" in said
    assert "made with backend='reference'" in str(fl.DiceLoss("binary", backend="reference").explain(x, y))
    meta = fl.DiceLoss("binary").explain(x.detach().to("meta"), y.to("meta"))
    assert meta.path == "reference" and "meta" in str(meta)


CALL = """
import torch, fastloss as f
loss, x, y = f.DiceLoss('binary'), torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2)
for _ in range(2): loss(x, y); f.BCEWithLogitsLoss()(x, y)
loss(x.to('meta'), y.to('meta'))
"""


@pytest.mark.parametrize("disabled,warned", (("1", 1), ("0", 0 if "cpu" in BACKENDS else 1)))
def test_the_reference_by_default_warns_once(disabled, warned):
    env = {**os.environ, "FASTLOSS_DISABLE_EXT": disabled}
    env.pop("FASTLOSS_BACKEND", None)
    done = subprocess.run([sys.executable, "-W", "always", "-c", CALL], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("run as plain PyTorch") == warned, done.stderr


def test_a_gpu_without_kernels_warns(monkeypatch):
    monkeypatch.setattr(fl.backends, "_reasons", {"cuda": "no driver", "triton": "no Triton"})
    monkeypatch.setattr(fl.backends, "_slow", set())
    with pytest.warns(UserWarning, match="cuda: no driver; triton: no Triton"):
        assert fl.backends._default("cuda") == "reference"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fl.backends._default("cuda") == "reference" and fl.backends._default("mps") == "reference"
