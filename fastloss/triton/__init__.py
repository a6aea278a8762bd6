"""The Triton backend: the ops of fastloss/_registry.py for a GPU where nothing was compiled.

Importing this package imports no triton; the first op that runs does. TRITON_INTERPRET=1 in the environment of the
process runs the kernels in Triton's interpreter, on CPU tensors.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import importlib.util
import os
from typing import Any

import torch

from ..spec import HEADER_INTS, KINDS, REGION_KINDS, TERM_INTS, Header, TermInt

OLDEST_TRITON, OLDEST_GPU = (3, 6), (8, 0)


def interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes", "y")


def reason() -> str | None:
    """None when the kernels can run on the current device, else why not. Takes no CUDA context."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed; run `pip install triton`"
    version = importlib.metadata.version("triton")
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_TRITON:
        return f"the kernels need triton {'.'.join(map(str, OLDEST_TRITON))} or later, you have {version}"
    if interpreted():
        return None
    if torch.version.cuda is None:
        return f"PyTorch {torch.__version__} was built without CUDA; install a CUDA build of it"
    if not torch.cuda.is_available():
        return "PyTorch finds no NVIDIA GPU"
    capability = torch.cuda.get_device_capability()
    if capability < OLDEST_GPU:
        oldest, own = [".".join(map(str, c)) for c in (OLDEST_GPU, capability)]
        return f"the kernels need a GPU of compute capability {oldest} or later, this one has {own}"
    return None


def implement(library: torch.library.Library, names: list[str]) -> None:
    """Gives each op of the library its implementation, imported when it is first called."""
    for name in names:
        library.impl(name, functools.partial(_call, name), "CPU" if interpreted() else "CUDA")


def direct(name: str, op: Any) -> Any:
    """The op for eager calls below autograd, without the dispatcher, which costs more than the rest of a launch; a
    profiler sees the op itself. Not for tensors or modes that watch what runs on them."""

    def call(*arguments: Any) -> Any:
        return op(*arguments) if torch.autograd._profiler_enabled() else _call(name, *arguments)

    return call


@functools.lru_cache(maxsize=1024)
def one_pass(ints: tuple[int, ...]) -> bool:
    """Whether a kernel can make sums and gradient at once where nothing is masked: its terms divide by the number of
    elements. Other gradients wait for the sums, so that they are made in backward, for the right grad_output."""
    terms = [ints[at : at + TERM_INTS] for at in range(HEADER_INTS, len(ints), TERM_INTS)]
    kinds = [KINDS[term[TermInt.KIND]] for term in terms]
    counted = [kind in ("ce", "poly") and term[TermInt.VECTOR_LENGTH] > 0 for kind, term in zip(kinds, terms)]
    return not (ints[Header.HAS_IGNORE] or "topk" in kinds or any(counted) or set(kinds) & set(REGION_KINDS))


def _call(name: str, *arguments: Any) -> Any:
    return getattr(_ops(), name)(*arguments)


@functools.cache
def _ops() -> Any:
    return importlib.import_module(".ops", __name__)
