"""A short slice of fuzz.py that is the same each time; `make fuzz` goes on for as long as one likes."""

import pytest
import torch
from cases import COMPILED
from fuzz import Fuzzer, fuzz, same
from fuzz_cases import bad, draw

import fastloss as fl

pytest.importorskip("hypothesis")
from hypothesis import given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.skipif("cpu" not in COMPILED, reason="no compiled CPU kernels")


@settings(max_examples=150)
@given(seed=st.integers(0, 2**32))
def test_random_calls(seed):
    Fuzzer("cpu").run(seed)


def test_most_cases_say_something():
    """Half of them differ from a plain call, most have pixels, some are refused for each argument."""
    import random

    cases = [draw(seed) for seed in range(300)]
    assert sum([case.x.numel() > 0 for case in cases]) > 200
    for wanted in (
        lambda c: c.mask is not None, lambda c: c.pixel_weight is not None, lambda c: c.loss.ignore_index is not None,
        lambda c: c.hostile, lambda c: not c.x.is_contiguous(), lambda c: not c.y.is_contiguous(),
        lambda c: len(c.loss.spec.terms) > 1, lambda c: c.loss.mode == "multiclass" and c.y.is_floating_point(),
        lambda c: c.x.shape[2:].numel() > 1000,
    ):  # fmt: skip
        assert sum(map(wanted, cases)) >= 5
    spoiled = [bad(random.Random(seed), case) for seed, case in enumerate(cases)]
    for name in ("x", "y", "mask", "pixel_weight"):
        assert sum([s is not None and getattr(s, name) is not getattr(c, name) for s, c in zip(spoiled, cases)]) > 10


def test_a_wrong_gradient_is_found(monkeypatch):
    """That the comparison can fail at all."""
    real = Fuzzer.grad
    monkeypatch.setattr(Fuzzer, "grad", lambda *args: real(*args) * 1.01)
    said = []
    assert fuzz("cpu", 0, 600, 60.0, keep_going=True, say=said.append) > 5 and "gradient" in said[0]


def test_an_input_that_is_written_to_is_found(monkeypatch):
    class Writes(fl.DiceLoss):
        def forward(self, x, y, mask=None, pixel_weight=None):
            with torch.no_grad():
                x.view(-1)[:1].fill_(0.125) if x.is_contiguous() else None
            return super().forward(x, y, mask, pixel_weight)

    seed = next(s for s in range(1000) if (c := draw(s)).x.numel() and c.x.is_contiguous() and c.loss.mode == "binary")
    case = draw(seed)
    case.loss = Writes("binary", ignore_index=case.loss.ignore_index)
    monkeypatch.setattr("fuzz.draw", lambda _: case)
    with pytest.raises(AssertionError, match="written to|other bits|value"):
        Fuzzer("cpu").run(seed)


def test_nan_is_nan():
    assert same(torch.tensor([1.0, torch.nan]), torch.tensor([1.0, torch.nan]))
    assert not same(torch.tensor([1.0, torch.nan]), torch.tensor([1.0, 2.0]))
