"""Which backend runs: argument, context, environment, device; and what is said when it cannot."""

import os
import subprocess
import sys
import threading

import pytest
import torch
from cases import COMPILED, DEVICES, SHAPES, logits, target

import fastloss as fl
from fastloss import _library, plan, validate

X, Y = logits(SHAPES["binary"]), target("binary", SHAPES["binary"])
MISSING = [name for name, why_not in fl.backends.available().items() if why_not is not None]
needs_cpu = pytest.mark.skipif("cpu" not in COMPILED, reason=f"no extension: {_library.reason()}")


@pytest.fixture
def used(monkeypatch):
    """The backends that calls were given to."""
    names = []
    real = validate.prepare

    def spy(*args):
        result = real(*args)
        names.append(result[0])
        return result

    monkeypatch.setattr(plan.validate, "prepare", spy)
    return names


def fresh():
    """A loss whose calls are not cached yet."""
    fresh.eps += 1e-9
    return fl.DiceLoss("binary", eps=fresh.eps)


fresh.eps = 1e-6


def python(code, **environment):
    env = {**os.environ, **environment}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)


def test_names():
    available = fl.backends.available()
    assert list(available) == ["reference", "cpu", "cuda", "triton"] and available["reference"] is None
    assert all(reason is None or (isinstance(reason, str) and reason) for reason in available.values())


@needs_cpu
def test_order_of_choice(used):
    fresh()(X, Y)
    with fl.backends.use("reference"):
        fresh()(X, Y)
        with fl.backends.use("cpu"):
            fresh()(X, Y)
        fresh()(X, Y)
        fl.DiceLoss("binary", eps=1.5e-6, backend="cpu")(X, Y)
    fresh()(X, Y)
    assert used == ["cpu", "reference", "cpu", "reference", "cpu", "cpu"]


@needs_cpu
def test_a_cached_call_follows_the_context(used):
    loss = fresh()
    for _ in range(2):
        loss(X, Y)
        with fl.backends.use("reference"):
            loss(X, Y)
    assert used == ["cpu", "reference"]  # the second round came from the cache, each under its own key


def test_the_context_belongs_to_the_thread():
    seen = []
    with fl.backends.use("reference"):
        thread = threading.Thread(target=lambda: seen.append(fl.backends.override.get()))
        thread.start()
        thread.join()
        assert fl.backends.override.get() == "reference"
    assert seen == [None] and fl.backends.override.get() is None


def test_the_context_ends_with_an_error():
    with pytest.raises(ZeroDivisionError), fl.backends.use("reference"):
        raise ZeroDivisionError
    assert fl.backends.override.get() is None


@pytest.mark.parametrize("name", MISSING)
def test_a_backend_that_cannot_run_says_why(name):
    reason = fl.backends.available()[name]
    with pytest.raises(RuntimeError, match=f"'{name}'.*cannot run here") as caught, fl.backends.use(name):
        pass
    assert reason in str(caught.value)
    with pytest.raises(RuntimeError, match=f"'{name}'.*cannot run here") as caught:
        fl.DiceLoss("binary", backend=name)(X, Y)
    assert reason in str(caught.value)


def test_an_unknown_name():
    with pytest.raises(ValueError, match="'gpu'"), fl.backends.use("gpu"):
        pass


@needs_cpu
def test_a_backend_of_another_device():
    x, y = X.to("meta"), Y.to("meta")
    with pytest.raises(ValueError, match="x is on meta"):
        fl.DiceLoss("binary", backend="cpu")(x, y)


CALL = "import torch, fastloss as f; f.DiceLoss('binary')(torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2))"
SHOW = "import fastloss as f, torch; print(f.backends.choose(None, torch.zeros(1)))"


def test_environment():
    assert python(SHOW, FASTLOSS_BACKEND="reference").stdout.strip() == "reference"
    for name, words in (("triton", "cannot run here"), ("gpu", "must be one of")):
        if name in fl.backends.available() and fl.backends.available()[name] is None:
            continue
        done = python(CALL, FASTLOSS_BACKEND=name)
        assert done.returncode and name in done.stderr and words in done.stderr and "FASTLOSS_BACKEND" in done.stderr
    assert python(SHOW, FASTLOSS_BACKEND="").returncode == 0


def test_without_the_extension_the_reference_runs():
    assert python(SHOW, FASTLOSS_DISABLE_EXT="1").stdout.strip() == "reference"
    done = python(CALL, FASTLOSS_DISABLE_EXT="1", FASTLOSS_BACKEND="cpu")
    assert done.returncode and "FASTLOSS_DISABLE_EXT" in done.stderr


def test_debug_raises_for_bad_targets(backend):
    with fl.debug(), fl.backends.use(backend), pytest.raises(ValueError, match="^y must"):
        fl.DiceLoss("binary")(X.to(DEVICES[backend]), torch.full_like(Y, 255).to(DEVICES[backend]))


def test_debug_asks_before_every_op_of_a_device(monkeypatch):
    """What looks at no values itself (sums, counts, drop-ins) has them looked at; the ops stand for those of a GPU."""
    from fastloss.compat import monai

    class Reached(Exception):
        pass

    def op(*_):
        raise Reached

    monkeypatch.setattr(validate.backends, "choose", lambda *_: "cuda")
    for name in ("loss", "sums", "elementwise", "counts"):
        monkeypatch.setattr(plan._ops, name, op)
    monkeypatch.setattr(torch.ops, "fastloss_cuda", type("Ops", (), {"sums": type("Sums", (), {"default": op})}))
    x, y = X.clone().requires_grad_(), Y.float() * 255
    calls = {
        "loss": lambda: fresh()(x, y),
        "elements": lambda: fl.BCEWithLogitsLoss(reduction="none", label_smoothing=fresh.eps)(x, y),
        "stats": lambda: fl.functional.stats(x, y, ignore_index=-3),
        "sums": lambda: plan.plan(fresh().spec).sums(x, y),
        "slopes": lambda: monai.DiceLoss(sigmoid=True, smooth_nr=0.1)(x, y),
        "finished": lambda: monai.GeneralizedDiceFocalLoss(sigmoid=True)(x, y),
        "drop-in": lambda: monai.DiceLoss(sigmoid=True)(x, y),
    }
    for name, call in calls.items():
        with pytest.raises(Reached):
            call()
        with fl.debug(), pytest.raises(ValueError, match="^y must lie between 0 and 1, got 255"):
            pytest.fail(f"{name}: {call()}")


@needs_cpu
@pytest.mark.parametrize("weight", (0, 0.0))
def test_a_loss_of_which_nothing_is_computed_still_looks_at_its_target(weight):
    """Every weight is 0: no kernel runs."""
    with pytest.raises(ValueError, match="^y must lie between 0 and 1, got 7"):
        (weight * fl.DiceLoss("binary"))(X, torch.full_like(Y, 7))
