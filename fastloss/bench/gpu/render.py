"""A GPU record as Markdown. A number that was not measured is never there: the cell says so."""

from __future__ import annotations

from ..render import table
from . import bars

OPEN = "not measured"
HEAD = """# Benchmark on a GPU

Generated from the JSON file of the same name by `fastloss bench --gpu --render FILE`. How it is measured:
`bench/README.md`, "On a GPU".
"""
DRY = """> **Dry run on a CPU.** It shows that the benchmark runs. Its times say nothing about a GPU; do not keep them.
"""
TIME = """Microseconds of forward and backward to the logits, median; ± is the interquartile range over the median.
`copy`: a device copy that reads and writes the case's least bytes, measured beside it. `predicted`: a copy of what the
path moves. `path`: by the kernels that ran. Peers: their time over fastloss's `cuda`; (in brackets):
another formula, never compared."""
GRAPH = """Calls over rotated inputs, more than the L2 cache holds, captured in one CUDA graph: microseconds a call;
`copy` in the same way. `host`: host time of one eager call at 64^2, where the device keeps up."""
MEMORY = "Beyond the inputs, in gradients of the logits: held while the loss is alive / peak of forward and backward."
LAUNCHES = "Kernels, copies and fills of one forward and backward / microseconds on the device, by the profiler."


def us(seconds: float | None) -> str:
    if seconds is None:
        return OPEN
    value = 1e6 * seconds
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 1000 else f"{value:.0f}"


def _own(row: dict, key: str) -> str:
    entry = row["contenders"].get(key)
    if entry is None:
        return "-"
    if "seconds" not in entry:
        return "refused" if "refused" in entry else OPEN
    return f"{us(entry['seconds'])} ±{100 * entry['spread']:.0f}%"


def _peer(row: dict, key: str) -> str:
    entry = row["contenders"].get(key)
    if entry is None or "missing" in entry:
        return "-"
    ratio = bars.over(entry.get("seconds"), bars.seconds(row, "cuda"))
    if ratio is None:
        return us(entry["seconds"]) + " us" if "seconds" in entry else "refused"
    return f"({ratio:.1f})" if entry["role"] == "other" else f"{ratio:.1f}"


def _problem(row: dict) -> list[str]:
    levels = "" if row["levels"] == 1 else f", {row['levels']} levels"
    return [row["title"], row["shape"] + levels, f"{row['dtype']}, {row['target']}"]


def _copy(row: dict) -> float | None:
    return next((e["copy"] for e in row["contenders"].values() if "copy" in e), None)


def _keys(data: dict) -> list[str]:
    return list(dict.fromkeys(key for row in data["rows"] for key in row["contenders"]))


def _times(data: dict) -> str:
    every = _keys(data)
    forced = [key for key in every if key.startswith("cuda ")]
    keys = [k for k in every if k not in ("cuda", "triton", *forced)]
    keys = [k for k in keys if any(_peer(row, k) != "-" for row in data["rows"])]
    head = ["loss", "logits", "dtype, target", "copy", "cuda", "of copy", "path", *forced, "predicted, split"]
    lines = []
    for row in data["rows"]:
        ratio = bars.of_copy(row)
        split = row["contenders"].get("cuda split", {}).get("predicted_seconds")
        lines.append(
            [
                *_problem(row),
                us(_copy(row)),
                _own(row, "cuda"),
                OPEN if ratio is None else f"{ratio:.2f}x",
                bars.path(row) or OPEN,
                *(_own(row, key) for key in forced),
                "-" if split is None else us(split),
                _own(row, "triton"),
                *(_peer(row, key) for key in keys),
            ]
        )
    return table([*head, "triton", *keys], lines)


def _graphs(data: dict) -> str:
    keys = [key for key in _keys(data) if key.partition(" ")[0] in ("cuda", "triton")]
    lines = []
    for row in data["rows"]:
        entries = [row["contenders"].get(key, {}) for key in keys]
        graphs = [entry.get("graph", {}) for entry in entries]
        copy = next((graph["copy"] for graph in graphs if "copy" in graph), None)
        ratio = bars.of_graph_copy(row)
        cells = [
            "refused" if "refused" in g else us(g.get("seconds")) if g or e else "-" for g, e in zip(graphs, entries)
        ]
        hosts = [
            us(row["contenders"].get(key, {}).get("host_seconds")) if row["size"] == "64" else "-"
            for key in ("cuda", "triton")
        ]
        lines.append([*_problem(row), us(copy), OPEN if ratio is None else f"{ratio:.2f}x", *cells, *hosts])
    return table(
        ["loss", "logits", "dtype, target", "copy", "cuda of copy", *keys, "host, cuda", "host, triton"], lines
    )


def _memory(data: dict) -> str:
    keys = list(dict.fromkeys(k for row in data["rows"] for k, e in row["contenders"].items() if "memory" in e))
    lines = []
    for row in data["rows"]:
        cells = []
        for key in keys:
            found = row["contenders"].get(key, {}).get("memory")
            size = row["one_gradient"]
            cells.append(f"{found['kept'] / size:.2f} / {found['peak'] / size:.2f}" if found else "-")
        lines.append([*_problem(row), *cells])
    return table(["loss", "logits", "dtype, target", *keys], lines) if keys else OPEN + "\n"


def _launches(data: dict) -> str:
    keys = list(dict.fromkeys(k for row in data["rows"] for k, e in row["contenders"].items() if "profile" in e))
    lines = []
    for row in data["rows"]:
        found = [row["contenders"].get(key, {}).get("profile") for key in keys]
        if any(found):
            lines.append([*_problem(row), *(f"{p['launches']} / {p['gpu_us']:.1f}" if p else "-" for p in found)])
    return table(["loss", "logits", "dtype, target", *keys], lines) if lines else OPEN + "\n"


def _machine(data: dict) -> list[str]:
    gpu = data["gpu"]
    versions = ", ".join(f"{name} {version}" for name, version in data["versions"].items())
    found = [f"- {versions}", f"- {data['date']}, commit {data['commit'][:12]}{'+changes' * ('+' in data['commit'])}"]
    if gpu:
        words = f"compute capability {gpu['capability']}, {gpu['multiprocessors']} multiprocessors"
        size = f"{gpu['memory_gib']} GiB, L2 {gpu['l2_mib']:.0f} MiB"
        found.insert(0, f"- {gpu['name']}, {words}, {size}, CUDA {gpu['cuda']}, {gpu['driver_clocks']}")
    largest = max(data["bandwidth"], key=int, default=None)
    if largest is not None and not data["dry"]:
        rate = int(largest) / data["bandwidth"][largest]["seconds"] / 1e12
        found.append(f"- device copy of {int(largest) / 2**30:.1f} GiB read and written: {rate:.2f} TB/s")
    return found


def _refused(data: dict) -> list[str]:
    found = []
    for row in data["rows"]:
        for key, entry in row["contenders"].items():
            reason = entry.get("refused") or entry.get("graph", {}).get("refused")
            if reason:
                found.append(f"- {row['problem']}, {key}: {reason}")
    return found


def page(data: dict) -> str:
    """The whole page."""
    judged = [[b.name, b.target, b.value, b.verdict, b.detail] for b in bars.check(data)]
    late: dict[str, list[str]] = {}
    for line in data["left_out"]:
        name, _, why = line.partition(": ")
        late.setdefault(why, []).append(name)
    left_out = [f"{why}: {', '.join(names)}" for why, names in late.items()]
    left_out += [f"{name}: not installed" for name in data["absent_peers"]]
    left_out += [f"{name}: {why}" for name, why in data["backends"].items() if why and name in ("cuda", "triton")]
    parts = [HEAD, DRY * data["dry"], "\n".join(_machine(data)) + "\n"]
    parts += ["## Bars\n", table(["bar", "target", "measured", "verdict", "detail"], judged)]
    parts += ["## Time\n", TIME + "\n", _times(data), "## CUDA graphs and the host\n", GRAPH + "\n", _graphs(data)]
    parts += ["## Memory\n", MEMORY + "\n", _memory(data), "## Launches\n", LAUNCHES + "\n", _launches(data)]
    if left_out:
        parts += ["## Left out\n", "\n".join(f"- {line}" for line in left_out) + "\n"]
    if refused := _refused(data):
        parts += ["## Refused\n", "\n".join(refused) + "\n"]
    return "\n".join(part for part in parts if part)
