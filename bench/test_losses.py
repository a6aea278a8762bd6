"""Forward and backward of every case by every contender: `pytest bench --benchmark-only` or `pytest --benchmark`.

Grouped by case. A contender is timed only after its parity check; eager alone: `-m "not compiled"`.
"""

from functools import lru_cache

import pytest

from fastloss import backends
from fastloss.bench import parity
from fastloss.measure import cases, providers
from fastloss.measure.cases import CASES, Case
from fastloss.measure.peers import PEERS

CONTENDERS = [providers.OURS] + [name for peer in PEERS for name in (peer, f"{peer} compiled")]


@lru_cache(maxsize=1)
def prepared(case: Case):
    """Inputs, truth and contenders of a case; its parameters are neighbours, so one case is kept."""
    x, y = cases.inputs(case)
    truth = parity.truth(case, x, y)
    there, absent = providers.installed(list(PEERS))
    found, missing = providers.contenders(case, y, there, compiled=True, backend=None, every_dtype=False)
    missing |= {name: f"{name} is not installed" for name in absent}
    return providers.fresh_logits(case, x), truth, {c.name: c for c in found}, missing


def parameters():
    for case in CASES:
        for name in CONTENDERS:
            compiled = name.endswith("compiled")
            if not (compiled and case.group == "overhead"):
                marks = [pytest.mark.compiled] if compiled else []
                yield pytest.param(case, name, id=f"{case.name}-{name.replace(' ', '-')}", marks=marks)


@pytest.mark.parametrize(("case", "name"), list(parameters()))
def test_forward_backward(benchmark, case: Case, name: str) -> None:
    if (reason := backends.available()["cpu"]) and name == providers.OURS:
        pytest.skip(f"cpu backend: {reason}")
    x, truth, found, missing = prepared(case)
    if name not in found:
        pytest.skip(missing.get(name.removesuffix(" compiled"), "not offered"))
    contender = found[name]
    verdict = parity.check(case, contender, truth, x)
    assert verdict.ok, f"{name} is refused: {verdict.reason}"
    benchmark.group = case.name
    benchmark.extra_info |= {"role": contender.role, "target": contender.target, "notes": contender.notes}
    calls = max(1, round(5e5 / case.numel))
    benchmark.pedantic(contender.step, args=(x,), rounds=5, iterations=calls, warmup_rounds=1)
