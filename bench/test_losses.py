"""Forward and backward of every case by every contender: `pytest bench --benchmark-only` or `pytest --benchmark`.

Grouped by case. A contender is timed only after its parity check; eager alone: `-m "not compiled"`.
"""

from functools import lru_cache

import pytest

from fastloss import backends
from fastloss.bench import parity
from fastloss.bench.cli import DEFAULT_PEERS
from fastloss.measure.cases import CASES, COMPILED, Case, fresh, inputs
from fastloss.measure.contenders import OURS, make_contenders
from fastloss.measure.peers import installed


@lru_cache(maxsize=1)
def prepared(case: Case):
    """Inputs, truth and contenders of a case; its parameters are neighbours, so one case is kept."""
    x, y = inputs(case)
    there, absent = installed(list(DEFAULT_PEERS))
    found, missing = make_contenders(case, there, compiled=True, every_dtype=False)
    missing |= {name: f"{name} is not installed" for name in absent}
    return fresh(x), parity.truth(case, x, y), {c.key: c.on(y) for c in found}, missing


def parameters():
    for case in CASES:
        yield pytest.param(case, OURS, id=f"{case.name}-{OURS}")
        for peer in DEFAULT_PEERS:
            yield pytest.param(case, peer, id=f"{case.name}-{peer}")
            if case.peers == COMPILED:
                marks = [pytest.mark.compiled]
                yield pytest.param(case, f"{peer} compiled", id=f"{case.name}-{peer}-compiled", marks=marks)


@pytest.mark.parametrize(("case", "name"), list(parameters()))
def test_forward_backward(benchmark, case: Case, name: str) -> None:
    if (reason := backends.available()["cpu"]) and name == OURS:
        pytest.skip(f"cpu backend: {reason}")
    x, truth, found, missing = prepared(case)
    if name not in found:
        pytest.skip(missing.get(name.removesuffix(" compiled"), "not offered"))
    contender = found[name]
    entry = parity.judge(case, contender, truth, x)
    assert "refused" not in entry, f"{name} is refused: {entry['refused']}"
    benchmark.group = case.name
    benchmark.extra_info |= {word: entry[word] for word in ("role", "target", "notes")}
    calls = max(1, round(5e5 / case.numel))
    benchmark.pedantic(contender.step, args=(x,), rounds=5, iterations=calls, warmup_rounds=1)
