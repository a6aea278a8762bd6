"""Pages of records. They are generated: edit nothing there by hand."""

from __future__ import annotations

from pathlib import Path

from . import chart, record, targets
from .tables import TABLES, table

HEADS = {
    "cpu": """# Benchmark results

Generated from the JSON files of this folder by `fastloss bench --render bench/results`.
How it is measured: [../README.md](../README.md).
""",
    "gpu": """# Benchmark on a GPU

Generated from the JSON file of the same name by `fastloss bench --render FILE`.
How it is measured: `bench/README.md`, "On a GPU".
""",
    "compat": """# Drop-in losses against their originals

Forward and backward on one core, CPU time, interleaved rounds. Generated from the JSON files of this folder by
`fastloss bench --render FOLDER`; `fastloss bench --compat` measures.
""",
}
DRY = """> **Dry run on a CPU.** It shows that the benchmark runs. Its times say nothing about a GPU; do not keep them.
"""


def _machine(data: dict) -> list[str]:
    versions = ", ".join(f"{name} {version}" for name, version in data["versions"].items())
    m, gpu = data["machine"], data.get("gpu")
    found = [
        f"{m['cpu']} ({m['cpu_id']}), {m['cores']} cores{', virtual' if m['hypervisor'] else ''}, L3 {m['l3'] or '?'}; "
    ]
    found[0] += ", ".join(m["isa"])
    if gpu:
        words = f"compute capability {gpu['capability']}, {gpu['multiprocessors']} multiprocessors"
        memory = f"{gpu['memory_gib']} GiB, L2 {gpu['l2_mib']:.0f} MiB"
        found.insert(0, f"{gpu['name']}, {words}, {memory}, CUDA {gpu['cuda']}, {gpu['driver_clocks']}")
    found.append(f"{m['system']}, {m['libc']}, huge pages {m['huge_pages'] or '?'}; {versions}")
    found.append(f"fastloss's kernels: {data['extension']['instruction_set'] or 'none'}, torch's: {data['torch_cpu']}")
    found.append(f"{data['date']}, commit {data['commit'][:12]}{'+changes' if '+' in data['commit'] else ''}")
    copied = data.get("bandwidth") or {}
    largest = max(copied, key=int, default=None)
    if largest is not None and not data["dry"]:
        rate = int(largest) / copied[largest]["seconds"] / 1e12
        found.append(f"device copy of {int(largest) / 2**30:.1f} GiB read and written: {rate:.2f} TB/s")
    return found


def _remarks(data: dict) -> list[str]:
    """List what is missing, refused or peculiar: the words, and the cases that they are about."""
    found: dict[str, list[str]] = {}
    for row in targets.rows_of(data):
        if "refused" in row and not row["contenders"]:
            found.setdefault(f"refused: {row['refused']}", []).append(row["case"])
        for name, why in row.get("missing", {}).items():
            found.setdefault(f"{name}: {why}", []).append(row["case"])
        for key, entry in row["contenders"].items():
            reasons = entry.get("refused"), entry.get("graph", {}).get("refused")
            notes = [f"refused: {why}" for why in reasons if why]
            for note in notes if key.endswith(" compiled") else entry.get("notes", []) + notes:
                found.setdefault(f"{key}: {note}", []).append(row["case"])
    for line in data.get("left_out", []):
        name, _, why = line.partition(": ")
        found.setdefault(f"left out: {why}", []).append(name)
    for name in data.get("absent_peers", []):
        found[f"{name}: not installed"] = []
    if data["kind"] == "gpu":
        found |= {f"{name}: {why}": [] for name, why in data["backends"].items() if why and name in ("cuda", "triton")}
    return [words + (f" ({', '.join(cases)})" if cases else "") for words, cases in found.items()]


def section(data: dict, title: str) -> str:
    """Write one record as Markdown."""
    parts = [
        f"## {title}",
        *([DRY] if data.get("dry") else []),
        "\n".join(f"- {line}" for line in _machine(data)) + "\n",
    ]
    if not targets.rows_of(data):
        parts.append("Nothing measured.\n")
    else:
        heads = ("target", "limit", "measured", "verdict", "detail")
        fields = ("name", "target", "value", "verdict", "detail")
        columns = [(head, lambda result, field=field: result[field]) for head, field in zip(heads, fields)]
        parts += ["### Targets", table(columns, [vars(result) for result in targets.check(data)])]
        for heading, words, text in TABLES[data["kind"]](data):
            parts += [f"### {heading}", words + "\n", text]
    if remarks := _remarks(data):
        parts += ["### Remarks", "\n".join(f"- {line}" for line in remarks) + "\n"]
    return "\n".join(part if part.endswith("\n") else part + "\n" for part in parts)


def write(path: Path) -> Path:
    """Write the page of a record beside it; of a folder README.md and charts of its records, but for those of a GPU,
    which have pages of their own. ValueError if there is none."""
    if not path.is_dir():
        page = path.with_suffix(".md")
        data = record.load(path)
        page.write_text(HEADS[data["kind"]] + "\n" + section(data, path.stem))
        return page
    page, parts, kinds = path / "README.md", [], []
    for file in sorted(path.glob("*.json")):
        try:
            data = record.load(file)
        except ValueError:
            continue  # another tool's file
        kinds.append(data["kind"])
        if data["kind"] == "gpu":
            page = write(file)
            continue
        chart.draw(data, path / file.stem)
        pictures = "".join(f"![{p.stem}]({p.name})\n" for p in sorted(path.glob(f"{file.stem}*.png")))
        parts.append(section(data, file.stem) + (f"\n{pictures}" if pictures else ""))
    if not kinds:
        raise ValueError(f"{path} holds no benchmark record")
    if parts:
        page = path / "README.md"
        others = [
            f"- [{p.parent.name}]({p.parent.name}/README.md): {p.read_text().splitlines()[0].lstrip('# ')}\n"
            for p in sorted(path.glob("*/README.md"))
        ]
        folders = "\nIn folders of their own:\n\n" + "".join(others) if others else ""
        page.write_text(HEADS[kinds[0]] + folders + "\n" + "\n".join(parts))
    return page
