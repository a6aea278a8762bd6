"""Random calls against the oracle, and random bad input, for as long as one likes: `make fuzz`.

    python tests/support/fuzz.py [--seconds 120] [--calls 1000000] [--seed 0] [--backend cpu]

A failure prints its seed; `--seed N --calls 1` repeats it. tests/core/test_fuzz.py runs a short slice of the same.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
import time

import torch
from fuzz_cases import Case, bad, draw, relaid

import fastloss as fl
from fastloss import _registry

TOLERANCE = {torch.float64: (1e-11, 1e-10), torch.float32: (5e-6, 1e-4), torch.float16: (5e-6, 2e-3)}
TOLERANCE[torch.bfloat16] = (5e-6, 1.6e-2)
LAYOUTS = 16  # of the same numbers
LARGE = 1e30  # from here on float32 may overflow where the oracle does not


class Fuzzer:
    """Counts the calls of a backend and checks each against the oracle."""

    def __init__(self, backend: str) -> None:
        self.backend, self.calls, self.refused = backend, 0, 0

    def run(self, seed: int) -> None:
        """One case in all its variants. Raises AssertionError with the seed."""
        case = draw(seed)
        kept = [t.clone() for t in (*case.bases, *[t for t in case.args if t is not None])]
        try:
            self.good(case, random.Random(seed))
            self.refuse(case, random.Random(seed))
            if self.backend == "cpu":
                self.raw(case, random.Random(seed))
        except AssertionError as error:
            raise AssertionError(f"{case.note}: {error}") from error
        except Exception as error:
            raise AssertionError(f"{case.note}: {type(error).__name__}: {error}") from error
        now = (*case.bases, *[t for t in case.args if t is not None])
        assert all(map(same, kept, now)), f"{case.note}: an input was written to"

    def call(self, case: Case, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        with fl.backends.use(self.backend):
            return case.loss(x, *case.args[1:])

    def good(self, case: Case, r: random.Random) -> None:
        upstream = r.choice((1.0, 1.0, 0.25, 1024.0))
        expected = oracle(case, upstream)
        leaf = case.x.detach().requires_grad_()
        value = self.call(case, leaf)
        grads = [self.grad(value, leaf, upstream) for _ in range(2)]
        assert same(*grads), "the gradient of a second backward has other bits"
        assert grads[0].shape == leaf.shape and grads[0].dtype == leaf.dtype
        self.compare(case, (value, grads[0]), expected, upstream)
        again = self.call(case, leaf)
        assert same(again, value), f"the same call gives {again.item()!r} after {value.item()!r}"
        assert same(self.grad(again, leaf, upstream), grads[0]), "the gradient of the same call has other bits"
        with torch.no_grad():
            assert same(self.call(case, leaf), value), "another value without a gradient"
        for layout in range(LAYOUTS):  # the oracle costs more than all of them
            other = relaid(r, case)
            leaf = other.x.detach().requires_grad_(layout < LAYOUTS // 4)
            value = self.call(other, leaf)
            grad = self.grad(value, leaf, upstream) if leaf.requires_grad else None
            self.compare(case, (value, grad), expected, upstream)
        leaf = case.x.detach().requires_grad_()
        self.statistics(case, leaf, expected, r)

    def grad(self, value: torch.Tensor, leaf: torch.Tensor, upstream: float) -> torch.Tensor:
        self.calls += 1
        return torch.autograd.grad(value, leaf, torch.full_like(value, upstream), retain_graph=True)[0]

    def statistics(self, case: Case, leaf: torch.Tensor, expected: tuple, r: random.Random) -> None:
        threshold = r.choice((0.5, 0.5, 0.0, 1.0, 0.3))
        self.calls += 1
        with fl.backends.use(self.backend):
            value, stats = case.loss.with_stats(leaf, case.y, threshold, case.mask, case.pixel_weight)
        self.compare(case, (value, self.grad(value, leaf, 1.0) if r.random() < 0.3 else None), expected, 1.0, "stats")
        if case.hostile:
            return
        with fl.backends.use("reference"):
            truth = fl.functional.stats(case.x, case.y, case.loss.mode, threshold=threshold,
                                        ignore_index=case.loss.ignore_index, mask=case.mask)  # fmt: skip
        ties = case.loss.mode == "multiclass" and case.x.dtype != torch.float64
        assert same(stats.counts, truth.counts) or (ties and near(stats.counts, truth.counts)), "other counts"

    def compare(self, case: Case, found: tuple, expected: tuple, upstream: float, what: str = "") -> None:
        value, grad = found
        truth, true_grad, scale, before = expected
        value_limit, grad_limit = TOLERANCE[case.x.dtype]
        if value.isnan() and case.x.isnan().any():
            return  # a NaN that counts, if only with a weight of 0, may show
        if not truth.isfinite() or abs(truth) > LARGE:
            if truth.isnan() or abs(truth) < LARGE:
                assert value.isnan() == truth.isnan(), f"{what} value {value.item()}, expected {truth.item()}"
            return
        assert value.isfinite(), f"{what} value {value.item()}, expected {truth.item()}"
        error = abs(value.double() - truth).item()
        if error > value_limit * max(scale, 1e-12) and error > 20 * own_error(case, upstream)[0]:
            text = f"{what} value {value.item()!r}, expected {truth.item()!r}"
            assert (error < 0.1 * scale or cancels(case)) and self.exact(case, expected), text
        if grad is None or case.hostile or not grad.numel():
            return
        true_grad = true_grad if what == "" else true_grad / before
        if true_grad.abs().max() > torch.finfo(grad.dtype).max:
            return  # scaled as a GradScaler would, and too far
        assert grad.isfinite().all(), f"{what} gradient has {(~grad.isfinite()).sum()} elements that are not finite"
        apart, size = [t.abs().max().item() for t in (grad.double() - true_grad, true_grad)]
        if (
            apart > grad_limit * size + max(1e-12 * scale * upstream, 1e-37)
            and apart > 20 * own_error(case, upstream)[1]
        ):
            text = f"{what} gradient is off by {apart:.2e} of {size:.2e}"
            near_enough = apart < 0.05 * size + 1e-6 * scale * upstream
            assert (near_enough or cancels(case)) and self.exact(case, expected), text

    def exact(self, case: Case, expected: tuple) -> bool:
        """Whether it is the numbers' fault: a quotient of differences, say, which float64 gets right."""
        if case.x.dtype == torch.float64:
            return False
        leaf = case.x.detach().double().requires_grad_()
        value = self.call(case, leaf)
        grad = self.grad(value, leaf, expected[3])
        apart = (grad - expected[1]).abs().max().item()
        size = 1e-6 * expected[1].abs().max().item() + 1e-10 * expected[2] * expected[3]
        return abs(value - expected[0]).item() < 1e-7 * expected[2] and apart < size

    def refuse(self, case: Case, r: random.Random) -> None:
        """Bad input raises one sentence, gives nothing, and leaves the next call as it was."""
        wrong = bad(r, case)
        if wrong is None:
            return
        self.calls += 1
        self.refused += 1
        try:
            with fl.backends.use(self.backend):
                value = wrong.loss(*wrong.args)
        except (ValueError, TypeError) as error:
            text = str(error)
            assert text.endswith(".") and "\n" not in text and re.search(r"\b(x|y|mask|pixel_weight)\b", text), text
        else:
            given = [(t.dtype, list(t.shape)) if isinstance(t, torch.Tensor) else t for t in wrong.args]
            raise AssertionError(f"bad input gives {value}: {given}")

    def raw(self, case: Case, r: random.Random) -> None:
        """An op called directly with a spoiled encoding raises or answers, and reads nothing out of bounds."""
        if case.x.ndim == 3 and case.loss.mode == "binary" and case.x.shape[1] != 1:
            return
        ints, floats = [list(part) for part in case.loss.spec.encode(case.x.shape[1])]
        wild = ((ints, (-(2**63), -1, 0, 1, 2, 7, 17, 2**31, 2**63 - 1)), (floats, (0.0, -1.0, 1e300, torch.nan)))
        for _ in range(r.randint(1, 3)):
            part, values = r.choice(wild)
            if part and r.random() < 0.8:
                part[r.randrange(len(part))] = r.choice(values)
            elif part:
                del part[r.randrange(len(part)) :]
        x, y, mask, weight = case.args
        if r.random() < 0.2 and y.numel():
            y = y[..., :-1] if r.random() < 0.5 else y[:1]
        weights = [torch.tensor(1.0)] * r.randint(0, 2)
        state = torch.zeros(r.choice((0, 3, 50, 500)), dtype=torch.float64)
        namespace = torch.ops.fastloss_cpu
        calls = {
            "loss": lambda: namespace.loss(x, y, mask, weight, weights, ints, floats, r.randint(0, 3), 0.5, 1.0, None),
            "sums": lambda: namespace.sums(x, y, mask, weight, ints, floats),
            "elementwise": lambda: namespace.elementwise(x, y, mask, weight, ints, floats),
            "backward": lambda: namespace.backward(torch.ones(()), state, x, y, mask, weight, ints, floats),
        }  # fmt: skip
        self.calls += 1
        try:
            calls[r.choice(sorted(calls))]()
        except (ValueError, TypeError, RuntimeError):
            self.refused += 1


def oracle(case: Case, upstream: float) -> tuple:
    """(value, gradient, size of the terms, upstream) of the reference in float64."""
    x = case.x.detach().double().requires_grad_()
    weight = case.pixel_weight if case.pixel_weight is None else case.pixel_weight.double()
    y = case.y.double() if case.y.dtype == torch.float32 else case.y
    with fl.backends.use("reference"):
        value, stats = case.loss.with_stats(x, y, 0.5, case.mask, weight)
    grad = torch.autograd.grad(value, x, torch.full_like(value, upstream))[0]
    # An overlap loss is 1 minus a quotient, so that its error is one of 1.
    size = 0.0
    factors = [w.abs().item() for w in case.loss._weights()]
    for term, found in zip(case.loss.spec.terms, case_values(stats, case)):
        factor = abs(term.weight) * (factors[term.weight_index] if term.weight_index >= 0 else 1.0)
        size += factor * max(abs(found), 1.0 if term.region else 0.0)
    return value.detach(), grad, max(size, abs(value.item())), upstream


def case_values(stats: fl.Stats, case: Case) -> list[float]:
    """The value of each computed term (Python weights of 0 are not)."""
    return [value for value, row in zip(stats._values.tolist(), case.loss._rows) if row >= 0]


def cancels(case: Case) -> bool:
    """Whether a logarithm is taken of sum p + sum y - sum |p - y|, of which no digit may be left below float64."""
    return any([term.l1 and term.curve == "log" for term in case.loss.spec.terms])


def own_error(case: Case, upstream: float) -> tuple[float, float]:
    """How far plain PyTorch in the type of the logits is from the oracle: what the numbers themselves allow.

    Of float64, which the oracle has itself, by how far float32 is: both lose the same number of digits, give or take
    the luck of one rounding.
    """
    double = case.x.dtype == torch.float64
    x = (case.x.float() if double else case.x.clone()).detach().requires_grad_()
    with fl.backends.use("reference"):
        value = case.loss(x, *case.args[1:])
    grad = torch.autograd.grad(value, x, torch.full_like(value, upstream))[0]
    truth, true_grad, *_ = oracle(case, upstream)
    errors = abs(value.double() - truth).item(), (grad.double() - true_grad).abs().max().item() if grad.numel() else 0.0
    return (errors[0] * 2.0**-26, errors[1] * 2.0**-26) if double else errors


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal in shape and numbers; NaN is equal to NaN."""
    if torch.equal(a, b):
        return True
    return a.is_floating_point() and a.shape == b.shape and bool(((a == b) | (a.isnan() & b.isnan())).all())


def near(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Counts that differ by an element or two, of probabilities that are equal after rounding."""
    return bool(a.shape == b.shape and (a - b).abs().sum() <= 4)


def fuzz(backend: str, seed: int, calls: int, seconds: float, keep_going: bool, say=print) -> int:
    """Runs cases from `seed` on until either limit; returns how many failed."""
    fuzzer, first, failed, begin, told = Fuzzer(backend), seed, 0, time.perf_counter(), 0.0
    while fuzzer.calls < calls and time.perf_counter() - begin < seconds:
        try:
            fuzzer.run(seed)
        except AssertionError as error:
            failed += 1
            say(f"FAILED {error}")
            if not keep_going:
                raise
        seed += 1
        if time.perf_counter() - told > 60:
            told = time.perf_counter()
            say(f"{fuzzer.calls} calls, {failed} failed, next seed {seed}, {told - begin:.0f} s")
    words = f"{fuzzer.refused} refused as they should be, {failed} failed"
    say(f"{fuzzer.calls} calls in {seed - first} cases from seed {first}: {words}")
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", default="cpu", choices=_registry.BACKENDS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--calls", type=int, default=10**9)
    parser.add_argument("--seconds", type=float, default=1e9)
    parser.add_argument("--keep-going", action="store_true", help="count failures instead of stopping at the first")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True  # with NaN: an output left unwritten shows
    return min(fuzz(args.backend, args.seed, args.calls, args.seconds, args.keep_going), 1)


if __name__ == "__main__":
    sys.exit(main())
