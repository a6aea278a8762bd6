"""What a worker of the GPU bench answers. It keeps what is compiled, never a tensor of the inputs' size.

A forced path of the CUDA backend has a worker of its own, since it is set by the environment.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any

import torch

from fastloss.measure import memory
from fastloss.measure.cases import Case, by_level, fresh, inputs
from fastloss.measure.contenders import Contender, make_ours, make_peer

from . import clock, parity, smoke
from .cases_gpu import named, path_bytes
from .worker import reason

FORCED = ("cuda resident", "cuda split")
OURS = ("cuda", *FORCED, "triton")
DRY_BACKENDS = {"cuda": "cpu", "triton": "reference"}
GRAPH_BYTES = 256 << 20  # rotated inputs of a graph: more than any L2 cache
HOST_LOGITS = 100_000  # the device keeps up with the host below this size
Say = Callable[[str], None]


def backend_of(key: str, dry: bool) -> str:
    name = key.partition(" ")[0]
    return DRY_BACKENDS[name] if dry else name


def path_of(key: str) -> str:
    """Return what FASTLOSS_CUDA_PATH is set to for this contender."""
    return key.partition(" ")[2] or "auto"


@cache
def build(case: Case, key: str, dry: bool) -> Contender:
    """Make a contender by its key; NotOffered where a library has no such loss."""
    torch._dynamo.config.recompile_limit = 1000
    if key in OURS:
        return make_ours(case, backend_of(key, dry), key)
    library, _, how = key.partition(" ")
    compiler = "aot_eager" if dry else "inductor"  # a dry run has no time for it
    return make_peer(case, library, compiler if how else "")


@lru_cache(maxsize=1)
def _inputs(case: Case, dry: bool) -> tuple[Any, Any]:
    x, y = inputs(case, clock.choose(dry).device)
    return fresh(x), y


@lru_cache(maxsize=1)
def _truth(case: Case, dry: bool) -> parity.Truth:
    return parity.truth(case, *_inputs(case, dry))


def _forget(dry: bool) -> None:
    _inputs.cache_clear()
    _truth.cache_clear()
    clock.choose(dry).free()


def _copy(total: int, device: str) -> Callable[[], object]:
    source = torch.zeros(max(1, total // 2), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def bandwidth(sizes: list[int], dry: bool, say: Say) -> dict:
    """Time a device copy that reads and writes so many bytes together."""
    found = clock.choose(dry)
    return {str(size): found.rounds({"copy": _copy(size, found.device)}, 0.2)["copy"] for size in sizes}


def look(backend: str, modes: list[str], seconds: float, dry: bool, say: Say) -> dict:
    """Take a first look at a backend."""
    return smoke.run(backend, clock.choose(dry).device, dry, modes, seconds)


def prepare(case: str, key: str, dry: bool, say: Say) -> dict:
    """Call a contender once, so that whatever compiles has compiled."""
    one = named(dry)[case]
    x, y = _inputs(one, dry)
    start = time.perf_counter()
    build(one, key, dry).on(y).step(x)
    clock.choose(dry).wait()
    found = {"first_seconds": time.perf_counter() - start}
    del x, y
    _forget(dry)
    return found


def measure(case: str, key: str, seconds: float, last: bool, dry: bool, say: Say) -> dict:
    """Measure errors, times, memory and graph of a contender; `last`: the inputs are not needed again."""
    one, used = named(dry)[case], clock.choose(dry)
    x, y = _inputs(one, dry)
    contender = build(one, key, dry).on(y)
    found = parity.judge(one, contender, _truth(one, dry), x)
    if "refused" in found:
        return found
    mine = contender.role == "ours"
    copies = {"copy": _copy(one.least_bytes(), used.device)}
    moved = path_bytes(one, path_of(key)) if mine else None
    if moved not in (None, one.least_bytes()):
        copies["path_copy"] = _copy(moved, used.device)
    times = used.rounds({"call": lambda: contender.step(x), **copies}, seconds)
    found |= times.pop("call") | {name: entry["seconds"] for name, entry in times.items()}
    if moved is not None:
        found |= {"path_bytes": moved, "predicted_seconds": found.get("path_copy", found["copy"])}
    del copies
    found["memory"] = memory.in_logits(one, contender, x)
    if one.numel <= HOST_LOGITS:
        found["host_seconds"] = clock.host_seconds(lambda: contender.step(x), 100, used.wait)
    if mine:
        found["graph"] = _graph(one, contender, x, seconds, dry)
    if last:
        del x, y, contender
        _forget(dry)
    return found


def clones(x: Any, count: int) -> list[Any]:
    """Make inputs of the same kind with other values, so that the cache holds none of them when its turn comes."""
    return [fresh(by_level(lambda level, i=i: torch.roll(level.detach(), i + 1, -1), x)) for i in range(count)]


def _graph(case: Case, contender: Contender, x: Any, seconds: float, dry: bool) -> dict[str, Any]:
    used, count = clock.choose(dry), max(1, min(16, -(-GRAPH_BYTES // case.least_bytes())))
    works = [lambda one=one: contender.step(one) for one in [x, *clones(x, count - 1)]]
    copies = [_copy(case.least_bytes(), used.device) for _ in range(count)]
    try:
        return used.graph(works, seconds) | {"copy": used.graph(copies, seconds)["seconds"]}
    except Exception as error:  # a bench goes on; the table says that it cannot be captured
        return {"refused": reason(error)}


def profile(case: str, key: str, dry: bool, say: Say) -> dict:
    """List the launches of one call."""
    one, used = named(dry)[case], clock.choose(dry)
    x, y = _inputs(one, dry)
    contender = build(one, key, dry).on(y)
    found = used.launches(lambda: contender.step(x))
    answer = {"launches": len(found), "gpu_us": sum(e["us"] for e in found), "kernels": found[:40]}
    if contender.role == "ours":
        answer["forward"] = [e["name"] for e in used.launches(lambda: contender.loss(x, contender.y))]
    return answer
