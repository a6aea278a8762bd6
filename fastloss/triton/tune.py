"""Tile and warps of the gradient kernels, measured once for each kind of call and kept in Triton's cache on disk.

Only kernels without sums are tuned: how a sum is cut decides its bits, which must not depend on a measurement. Nothing
is measured while a CUDA graph is captured; the first candidate is used then.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable

import torch
from triton.runtime.cache import get_cache_manager  # no public name of Triton: where its own files lie

from .._version import __version__

# (pixels of a tile, warps)
SIGMOID = ((1024, 4), (512, 4), (2048, 4), (2048, 8))
SOFTMAX = ((512, 4), (256, 4), (1024, 4), (1024, 8))
REPEATS = 10
FILE = "fastloss_tile.json"

_best: dict[tuple, tuple[int, int]] = {}


def choose(
    candidates: tuple, key: tuple, device: torch.device, run: Callable[[tuple[int, int]], None] | None
) -> tuple[int, int]:
    """The candidate for calls of that kind. `run` starts the kernel with one, any number of times without harm; without
    it nothing is measured."""
    if device.type != "cuda":
        return candidates[0]
    key = (*key, device.index)
    found = _best.get(key)
    if found is not None:
        return found
    if run is None or torch.cuda.is_current_stream_capturing():
        return candidates[0]
    return decide(candidates, key, torch.cuda.get_device_name(device), lambda candidate: _milliseconds(candidate, run))


def decide(candidates: tuple, key: tuple, gpu: str, measure: Callable[[tuple[int, int]], float]) -> tuple[int, int]:
    """From the cache on disk, or the fastest, which is then put there."""
    name = hashlib.sha256(repr((__version__, gpu, candidates, key)).encode()).hexdigest()
    cache = get_cache_manager(name)
    file = cache.get_file(FILE)
    if file is not None:
        with open(file, encoding="utf-8") as stored:
            best = tuple(json.load(stored))
    else:
        best = min(candidates, key=measure)
        cache.put(json.dumps(best), FILE, binary=False)
    _best[key] = best
    return best


def _milliseconds(candidate: tuple[int, int], run: Callable[[tuple[int, int]], None]) -> float:
    run(candidate)  # compiles
    start, end = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
    start.record()
    for _ in range(REPEATS):
        run(candidate)
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / REPEATS
