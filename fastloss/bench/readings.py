"""What a record's rows say: times, ratios, memory. None where it was not measured."""

from __future__ import annotations

import math

from fastloss.measure.contenders import OURS

PEER, ANY = ("peer",), ("peer", "baseline")
CUDA_KERNELS = ("sigmoid_", "softmax_")  # those of the CUDA backend that read logits


def over(upper: float | None, lower: float | None) -> float | None:
    return None if upper is None or not lower else upper / lower


def entry(row: dict, key: str) -> dict:
    return row["contenders"].get(key, {})


def own(row: dict) -> dict:
    """Return fastloss's entry; on a GPU that of the CUDA backend."""
    return entry(row, OURS) or entry(row, "cuda")


def seconds(row: dict, key: str) -> float | None:
    return entry(row, key).get("seconds")


def how(key: str) -> str:
    return "compiled" if key.endswith(" compiled") else "eager"


def ratio(row: dict, key: str, mine: dict | None = None) -> float | None:
    """Return a contender's time over fastloss's (or that of the entry `mine`); paired by round if measured so."""
    found = entry(row, key)
    if mine is None and "ratio" in found:
        return found["ratio"]["median"]
    return over(found.get("seconds"), (own(row) if mine is None else mine).get("seconds"))


def fastest(row: dict, kind: str | None = None, roles: tuple[str, ...] = PEER) -> str | None:
    """Return the fastest contender of these roles; `kind` eager or compiled, None: either."""
    timed = [
        key
        for key, found in row["contenders"].items()
        if "seconds" in found and found["role"] in roles and kind in (None, how(key))
    ]
    return min(timed, key=lambda key: ratio(row, key) or seconds(row, key) or math.inf, default=None)


def peer(row: dict, kind: str | None = None, roles: tuple[str, ...] = PEER, mine: str | None = None) -> float | None:
    """Return the time of the fastest peer over fastloss's, or over that of `mine`."""
    key = fastest(row, kind, roles)
    return None if key is None else ratio(row, key, None if mine is None else entry(row, mine))


def memory(row: dict, what: str) -> float | None:
    """Return a number of fastloss's memory, in multiples of the logits."""
    return own(row).get("memory", {}).get(what)


def path(row: dict, key: str = "cuda") -> str | None:
    """Return `one pass` if one kernel over the logits wrote the gradient in forward, else `split`."""
    names = entry(row, key).get("profile", {}).get("forward", [])
    passes = [name for name in names if any(kernel in name for kernel in CUDA_KERNELS)]
    kept = memory(row, "kept")
    if not passes or kept is None:
        return None
    return "one pass" if len(passes) == 1 and 2 * kept >= 1 else "split"


def graph(row: dict, key: str = "cuda", what: str = "seconds") -> float | None:
    """Return the seconds of a call in a CUDA graph, or those of a `copy` there."""
    return entry(row, key).get("graph", {}).get(what)


def of_graph_copy(row: dict) -> float | None:
    """Time over the copy of the least bytes, both in a CUDA graph."""
    return over(graph(row), graph(row, what="copy"))


def of_copy(row: dict) -> float | None:
    return over(seconds(row, "cuda"), entry(row, "cuda").get("copy"))


def split_of_copy(row: dict) -> float | None:
    return over(seconds(row, "cuda"), entry(row, "cuda split").get("path_copy"))


def of_path_copy(row: dict) -> float | None:
    """Time over a copy of the bytes of the path that ran."""
    return {"one pass": of_copy, "split": split_of_copy}.get(path(row) or "", lambda row: None)(row)


def captured(row: dict, key: str) -> float | None:
    """Return 1 if the call was captured in a CUDA graph, 0 if that failed."""
    found = entry(row, key).get("graph")
    return None if found is None else float("seconds" in found)
