"""Drop-in losses against their originals: the same value, gradient, shape or error from the same arguments."""

import copy
import pickle
import re
import warnings

import pytest
import torch

VALUE, GRADIENT = 3e-6, 1e-4  # both sides round in float32; a gradient is the rounded difference of larger numbers


def outcome(make, x, args):
    """(value, gradient) of make()(x, *args), or the exception."""
    try:
        x = x.detach().clone().requires_grad_()
        value = make()(x, *args)
        if value.requires_grad:
            upstream = torch.linspace(0.5, 1.5, max(1, value.numel())).reshape(value.shape)
            (value * upstream).sum().backward()
        return value, x.grad
    except Exception as error:
        return error


def assert_same(ours, theirs, x, *args, note=""):
    """`ours` and `theirs` make a loss; errors count as part of both. Returns the outcome of the original."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected, found = outcome(theirs, x, args), outcome(ours, x, args)
    if isinstance(expected, Exception):
        assert isinstance(found, Exception), f"{note}: the original raises {expected!r}, ours gives {found[0]}"
        assert isinstance(found, type(expected)), f"{note}: the original raises {expected!r}, ours {found!r}"
        return expected
    if isinstance(found, Exception):
        raise AssertionError(f"{note}: ours raises {found!r}") from found
    assert found[0].shape == expected[0].shape, f"{note}: {found[0].shape} instead of {expected[0].shape}"

    def say(message):
        return f"{note}: {message}"

    close = {"rtol": VALUE, "atol": 1e-6, "equal_nan": True, "check_dtype": False, "msg": say}
    torch.testing.assert_close(found[0], expected[0], **close)
    if expected[1] is not None:
        size = expected[1].nan_to_num().abs().max().item() if expected[1].numel() else 0.0
        close = {"rtol": GRADIENT, "atol": 2e-6 * size + 1e-12, "equal_nan": True, "msg": say}
        torch.testing.assert_close(found[1], expected[1], **close)
    return expected


def assert_module(loss, *inputs):
    """What a user does with a module: repr, pickle, deepcopy, state_dict, fresh settings, torch.jit refused."""
    expected = loss(*inputs)
    assert re.match(rf"fastloss\.compat\.\w+\.{type(loss).__name__}\(", repr(loss))
    for twin in (
        pickle.loads(pickle.dumps(loss)),
        copy.deepcopy(loss),
        type(loss).from_original(loss, strict=loss.strict),
    ):
        assert repr(twin) == repr(loss)
        assert torch.equal(twin(*inputs), expected)
    twin.load_state_dict(loss.state_dict())
    with pytest.raises(TypeError, match="cannot be scripted; use torch.compile"):
        torch.jit.script(loss)


def assert_compiles(loss, x, *args, fullgraph=True):
    """The same loss and gradient under torch.compile."""
    results = []
    for call in (loss, torch.compile(loss, fullgraph=fullgraph, backend="aot_eager")):
        leaf = x.detach().clone().requires_grad_()
        value = call(leaf, *args)
        value.sum().backward()
        results.append((value.detach(), leaf.grad))
    torch._dynamo.reset()
    for a, b in zip(*results):
        torch.testing.assert_close(a, b, rtol=VALUE, atol=1e-7, equal_nan=True)
