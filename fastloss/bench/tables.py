"""The tables of a record, as columns: a head, and what a row's cell says. What was not measured is never there."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from fastloss.measure.contenders import OURS
from fastloss.measure.peers import PEERS

from . import readings as read
from .readings import entry, graph, own, seconds
from .regimes import JUDGED, REGIMES
from .targets import Rows, rows_of

Column = tuple[str, Callable[[dict], str]]
Section = tuple[str, str, str]  # heading, words, table
OPEN = "not measured"
TIME = {
    "cpu": """Columns by peer: its time over fastloss's, median over interleaved rounds; (in brackets): another formula,
never compared; °: a baseline that no library ships, no peer. `of memcpy`: bytes per second of the case's least
bytes as a share of memcpy's.""",
    "gpu": """Microseconds of forward and backward to the logits, median; ± is the interquartile range over the median.
`copy`: a device copy that reads and writes the case's least bytes, measured beside it. `predicted`: a copy of what the
path moves. `path`: by the kernels that ran. Peers: their time over fastloss's `cuda`; (in brackets): another formula,
never compared; °: a baseline that no library ships.""",
    "compat": """The original's time over ours, the median of the rounds (lower and upper quartile). Losses that are not
fused are compiled too where the original is.""",
}
GRAPH = """Calls over rotated inputs, more than the L2 cache holds, captured in one CUDA graph: microseconds a call;
`copy` in the same way. `host`: host time of one eager call at 64^2, where the device keeps up."""
MEMORY = "Kept for backward / peak of forward and backward, beyond the inputs, in multiples of the logits."
LAUNCHES = "Kernels, copies and fills of one forward and backward / microseconds on the device, by the profiler."


def table(columns: list[Column], rows: Rows) -> str:
    cells = [[head for head, _ in columns], ["---"] * len(columns)]
    cells += [[cell(row) for _, cell in columns] for row in rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in cells)


def ms(value: float | None) -> str:
    if value is None:
        return OPEN
    value *= 1e3
    return f"{value:.3f}" if value < 1 else f"{value:.2f}" if value < 10 else f"{value:.1f}"


def us(value: float | None) -> str:
    if value is None:
        return OPEN
    value *= 1e6
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 1000 else f"{value:.0f}"


def times(value: float | None, form: str = ".1f", absent: str = "-", unit: str = "") -> str:
    return absent if value is None else f"{value:{form}}{unit}"


def quartiles(row: dict, key: str | None, form: str = ".1f", mark: str = "**") -> str:
    found = entry(row, key).get("ratio") if key else None
    if not found:
        return "-"
    return f"{mark}{found['median']:{form}}{mark} ({found['low']:{form}} to {found['high']:{form}})"


def relative(row: dict, key: str) -> str:
    """Return a peer's time over fastloss's."""
    found, value = entry(row, key), read.ratio(row, key)
    if "refused" in found:
        return "refused"
    if value is None:
        return f"{us(found['seconds'])} us" if "seconds" in found else "-"
    return {"other": f"({value:.1f})", "baseline": f"{value:.1f}°"}.get(found["role"], f"{value:.1f}")


def mine(row: dict) -> str:
    """Show milliseconds, or why there are none."""
    found = seconds(row, OURS)
    return ms(found) if found is not None else f"refused: {row.get('refused', 'not timed')}"


def own_us(row: dict, key: str) -> str:
    found = entry(row, key)
    if "seconds" not in found:
        return "refused" if "refused" in found else OPEN if found else "-"
    return f"{us(found['seconds'])} ±{100 * found['spread']:.0f}%"


def size(row: dict) -> str:
    return row["size"] + (f", {row['levels']} levels" if row.get("levels", 1) > 1 else "")


CASE: list[Column] = [
    ("loss", lambda row: row["title"] + " *noisy*" * bool(row.get("noisy"))),
    ("logits", size),
    ("dtype, target", lambda row: f"{row['dtype']}, {row.get('target') or own(row).get('target', '-')}"),
]


def keys(rows: Rows, has: str = "") -> list[str]:
    """List the contenders (that have something somewhere): ours first, then the peers in their usual order."""
    found = dict.fromkeys(key for row in rows for key, e in row["contenders"].items() if not has or has in e)
    order = list(PEERS)

    def place(key: str) -> int:
        library = key.removesuffix(" compiled")
        return 2 * order.index(library) + key.endswith(" compiled") if library in order else -1

    return sorted(found, key=place)


def peers(rows: Rows) -> list[Column]:
    """Make a column for each peer."""
    every = [key for key in keys(rows) if key.removesuffix(" compiled") in PEERS]
    return [(key, partial(relative, key=key)) for key in every]


def memory(rows: Rows) -> str:
    def cell(row: dict, key: str) -> str:
        found = entry(row, key).get("memory")
        return f"{found['kept']:.2f} / {found['peak']:.2f}" if found else "-"

    weighed = [key for key in keys(rows, "memory") if ":" not in key]
    return table([*CASE, *((key, partial(cell, key=key)) for key in weighed)], rows) if weighed else OPEN + "\n"


def cpu(data: dict) -> list[Section]:
    rows = rows_of(data)
    best = read.fastest

    def peer(row: dict) -> str:
        key = best(row)
        return f"{key} {ms(seconds(row, key))} ms" if key and seconds(row, OURS) else "-"

    columns: list[Column] = [
        ("fastloss ms", mine),
        ("of memcpy", lambda row: times(own(row).get("of_memcpy"), ".0%")),
        ("fastest peer", peer),
        ("ratio (quartiles)", lambda row: quartiles(row, best(row))),
        ("eager ratio", lambda row: times(read.peer(row, "eager"))),
    ]
    found = [("Time", f"{REGIMES[JUDGED].words}. {TIME['cpu']}", table([*CASE, *columns, *peers(rows)], rows))]
    if alternatives := [
        row | {"dtype": f"{row['dtype']}, {key.split(':')[1]}", "mine": e, "best": best(row)}
        for row in rows
        for key, e in row["contenders"].items()
        if e["role"] == "ours-alt" and "seconds" in e
    ]:
        shown: list[Column] = [
            ("dtype, target", lambda row: row["dtype"]),
            ("fastloss ms", lambda row: ms(row["mine"]["seconds"])),
            ("fastest peer / this", lambda row: times(row["best"] and read.ratio(row, row["best"], row["mine"]))),
        ]
        words = "The same with the target dtype that the peers are given."
        found.append(("Other targets", words, table([*CASE[:2], *shown], alternatives)))
    found.append(("Memory", MEMORY, memory(rows)))
    if len(regimes := data["regimes"]) > 1:
        found.append(_regimes(regimes))
    return found


def _regimes(regimes: dict) -> Section:
    by_case = {name: {row["case"]: row for row in regime["rows"]} for name, regime in regimes.items()}

    def cell(row: dict, name: str) -> str:
        found = by_case[name].get(row["case"], {"contenders": {}})
        value = read.peer(found)
        return "-" if value is None else f"{mine(found)} ms, {value:.1f}"

    words = "; ".join(f"`{name}`: {regime['words']}" for name, regime in regimes.items())
    columns = [*CASE, *((name, partial(cell, name=name)) for name in regimes)]
    rows = next(iter(regimes.values()))["rows"]
    return "Other regimes (information)", f"fastloss ms, fastest peer over fastloss. {words}.", table(columns, rows)


def gpu(data: dict) -> list[Section]:
    rows = rows_of(data)
    backends = ("cuda", "triton")
    ours = [key for key in keys(rows) if key.partition(" ")[0] in backends]

    def copy(row: dict) -> str:
        return us(next((e["copy"] for e in row["contenders"].values() if "copy" in e), None))

    def graph_copy(row: dict) -> str:
        return us(next((c for key in ours if (c := graph(row, key, "copy"))), None))

    def in_graph(row: dict, key: str) -> str:
        found = entry(row, key).get("graph", {})
        return "refused" if "refused" in found else us(found.get("seconds")) if entry(row, key) else "-"

    def split(row: dict) -> str:
        found = entry(row, "cuda split").get("predicted_seconds")
        return "-" if found is None else us(found)

    def host(row: dict, key: str) -> str:
        return us(entry(row, key).get("host_seconds")) if row["group"] == "64" else "-"

    def launches(row: dict, key: str) -> str:
        found = entry(row, key).get("profile")
        return f"{found['launches']} / {found['gpu_us']:.1f}" if found else "-"

    columns: list[Column] = [
        ("copy", copy),
        ("cuda", lambda row: own_us(row, "cuda") if entry(row, "cuda") else OPEN),
        ("of copy", lambda row: times(read.of_copy(row), ".2f", OPEN, "x")),
        ("path", lambda row: read.path(row) or OPEN),
        *((key, partial(own_us, key=key)) for key in ours if " " in key),
        ("predicted, split", split),
        ("triton", partial(own_us, key="triton")),
    ]
    graphs: list[Column] = [
        ("copy", graph_copy),
        ("cuda of copy", lambda row: times(read.of_graph_copy(row), ".2f", OPEN, "x")),
        *((key, partial(in_graph, key=key)) for key in ours),
        *((f"host, {key}", partial(host, key=key)) for key in backends),
    ]
    counted = [(key, partial(launches, key=key)) for key in keys(rows, "profile")]
    profiled = [row for row in rows if any("profile" in e for e in row["contenders"].values())]
    return [
        ("Time", TIME["gpu"], table([*CASE, *columns, *peers(rows)], rows)),
        ("CUDA graphs and the host", GRAPH, table([*CASE, *graphs], rows)),
        ("Memory", MEMORY, memory(rows)),
        ("Launches", LAUNCHES, table([*CASE, *counted], profiled) if profiled else OPEN + "\n"),
    ]


COMPAT: list[Column] = [
    ("loss", lambda row: row["case"]),
    ("input", lambda row: row["size"]),
    ("fused", lambda row: "yes" if row.get("fused") else "no"),
    ("fastloss ms", mine),
    ("original, eager", lambda row: quartiles(row, "original", ".2f", "")),
    ("original, compiled", lambda row: quartiles(row, "original compiled", ".2f", "")),
]


def compat(data: dict) -> list[Section]:
    return [("Time", TIME["compat"], table(COMPAT, rows_of(data)))]


TABLES = {"cpu": cpu, "gpu": gpu, "compat": compat}
