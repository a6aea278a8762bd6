"""results/README.md from the records beside it. The tables are generated: edit nothing there by hand."""

from __future__ import annotations

from pathlib import Path

from fastloss.measure.providers import OURS

from . import bars, record
from .regimes import BARS, REGIMES

PEERS = ("torch", "smp", "monai", "exacta")
HEAD = """# Benchmark results

Generated from the JSON files of this folder by `fastloss bench --render bench/results`.
How it is measured: [../README.md](../README.md).
"""
TIME = """Columns by peer: its time over fastloss's, median over interleaved rounds; (in brackets): another formula,
never compared; °: a baseline that no library ships, no peer. `of memcpy`: bytes per second of the case's least
bytes as a share of memcpy's."""
MEMORY = """Kept for backward / peak of forward and backward, beyond the inputs, in multiples of the logits."""


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(cells) + " |" for cells in [head, ["---"] * len(head), *rows]]
    return "\n".join(lines) + "\n"


def ms(seconds: float) -> str:
    value = 1e3 * seconds
    return f"{value:.3f}" if value < 1 else f"{value:.2f}" if value < 10 else f"{value:.1f}"


def _cell(row: dict, key: str) -> str:
    entry = row["contenders"].get(key)
    if entry is None:
        return "-"
    if "refused" in entry:
        return "refused"
    text = f"{entry['ratio']['median']:.1f}"
    return f"({text})" if entry["role"] == "other" else f"{text}°" if entry["role"] == "baseline" else text


def _times(rows: list[dict], compiled: bool) -> str:
    head = [
        "case",
        "logits",
        "dtype, target",
        "fastloss ms",
        "of memcpy",
        "fastest peer",
        "ratio (quartiles)",
        "eager ratio",
    ]
    for peer in PEERS:
        head += [peer, f"{peer} compiled"] if compiled else [peer]
    body = []
    for row in rows:
        mine, best, eager = row["contenders"].get(OURS, {}), bars.fastest(row), bars.fastest(row, "eager")
        name = row["title"] + (" *noisy*" if row.get("noisy") else "")
        cells = [name, row["size"], f"{row['dtype']}, {mine.get('target', '-')}"]
        if "seconds" not in mine:
            body.append([*cells, f"refused: {row.get('refused', 'not timed')}", *["-"] * (len(head) - 4)])
            continue
        cells += [ms(mine["seconds"]), f"{100 * mine['of_memcpy']:.0f}%"]
        if best:
            span = best[1]["ratio"]
            cells += [
                f"{best[0]} {ms(best[1]['seconds'])} ms",
                f"**{span['median']:.1f}** ({span['low']:.1f}-{span['high']:.1f})",
            ]
        else:
            cells += ["-", "-"]
        cells.append(f"{eager[1]['ratio']['median']:.1f}" if eager else "-")
        for peer in PEERS:
            cells += [_cell(row, peer)] + ([_cell(row, f"{peer} compiled")] if compiled else [])
        body.append(cells)
    return table(head, body)


def _memory(rows: list[dict]) -> str:
    keys = [OURS] + [k for peer in PEERS for k in (peer, f"{peer} compiled")]
    body = []
    for row in rows:
        weights = [row["contenders"].get(k, {}).get("memory") for k in keys]
        if weights[0] is not None:
            body.append(
                [
                    row["title"],
                    row["size"],
                    row["dtype"],
                    *(f"{w['kept']:.2f} / {w['peak']:.2f}" if w else "-" for w in weights),
                ]
            )
    return table(["case", "logits", "dtype", *keys], body)


def _information(found: dict) -> str:
    body = []
    names = [n for n in REGIMES if n in found]
    by_case = {n: {r["case"]: r for r in found[n]["rows"]} for n in names}
    for case, row in by_case[names[0]].items():
        cells = [row["title"], row["size"], row["dtype"]]
        for name in names:
            entry = by_case[name].get(case)
            best = bars.fastest(entry) if entry else None
            mine = entry["contenders"].get(OURS, {}) if entry else {}
            cells.append(
                f"{ms(mine['seconds'])} ms, {best[1]['ratio']['median']:.1f}" if best and "seconds" in mine else "-"
            )
        body.append(cells)
    return table(["case", "logits", "dtype", *names], body)


def _alternatives(rows: list[dict]) -> str:
    body = []
    for row in rows:
        for key, entry in row["contenders"].items():
            if entry["role"] == "ours-alt" and "seconds" in entry:
                best = bars.fastest(row)
                against = f"{best[1]['seconds'] / entry['seconds']:.1f}" if best else "-"
                body.append([row["title"], row["size"], row["dtype"], key.split(":")[1], ms(entry["seconds"]), against])
    return table(["case", "logits", "dtype", "target", "fastloss ms", "fastest peer / this"], body) if body else ""


def _remarks(rows: list[dict]) -> str:
    lines: dict[str, list[str]] = {}
    for row in rows:
        for name, why in row["missing"].items():
            lines.setdefault(f"{name}: {why}", []).append(row["case"])
        for key, entry in row["contenders"].items():
            for note in entry["notes"] if entry["how"] == "eager" else []:
                lines.setdefault(f"{key}: {note}", []).append(row["case"])
            if "refused" in entry:
                lines.setdefault(f"{key} refused: {entry['refused']}", []).append(row["case"])
    return "".join(f"- {line} ({', '.join(cases)})\n" for line, cases in lines.items())


def section(data: dict, title: str) -> str:
    """One record as Markdown."""
    m, rows = data["machine"], data["regimes"].get(BARS, {}).get("rows", [])
    about = [
        f"{m['cpu']} ({m['cpu_id']}), {m['cores']} cores{', virtual' if m['hypervisor'] else ''}, L3 {m['l3'] or '?'}; "
        + ", ".join(m["isa"]),
        f"{m['system']}, {m['libc']}, huge pages {m['huge_pages'] or '?'}; "
        + ", ".join(f"{k} {v}" for k, v in data["versions"].items()),
        f"fastloss's kernels: {data['extension']['instruction_set'] or 'none'}, torch's: {data['torch_cpu']}",
        f"{data['date']}, commit {data['commit'][:12]}{'+changes' if data['commit'].endswith('+changes') else ''}",
    ]
    text = f"## {title}\n\n" + "".join(f"- {line}\n" for line in about)
    if not rows:
        return text + "\nNothing measured.\n"
    found = bars.check(data)
    text += "\n### Bars\n\n" + table(
        ["bar", "target", "measured", "verdict", "detail"],
        [[b.name, b.target, b.value, b.verdict, b.detail] for b in found],
    )
    text += f"\n### Time\n\n{REGIMES[BARS].words}. {TIME}\n\n"
    text += _times(rows, any(e["how"] == "compiled" for r in rows for e in r["contenders"].values()))
    alternatives = _alternatives(rows)
    if alternatives:
        text += "\nThe same with the target dtype that the peers are given:\n\n" + alternatives
    text += f"\n### Memory\n\n{MEMORY}\n\n" + _memory(rows)
    if len(data["regimes"]) > 1:
        words = "; ".join(f"`{n}`: {REGIMES[n].words}" for n in data["regimes"])
        text += f"\n### Other regimes (information)\n\nfastloss ms, fastest peer over fastloss. {words}.\n\n"
        text += _information(data["regimes"])
    remarks = _remarks(rows)
    return text + ("\n### Remarks\n\n" + remarks if remarks else "")


def write(folder: Path) -> Path:
    """Write folder/README.md from every record in it; ValueError if it holds none."""
    files = sorted(folder.glob("*.json"))
    page = folder / "README.md"
    parts = []
    for file in files:
        try:
            data = record.load(file)
        except ValueError:
            continue  # another tool's file
        pictures = "".join(f"![{p.stem}]({p.name})\n" for p in sorted(folder.glob(f"{file.stem}*.png")))
        parts.append(section(data, file.stem) + (f"\n{pictures}" if pictures else ""))
    if not parts:
        raise ValueError(f"--render: {folder} holds no record of schema {record.SCHEMA}")
    others = [
        f"- [{p.parent.name}]({p.parent.name}/README.md): {p.read_text().splitlines()[0].lstrip('# ')}\n"
        for p in sorted(folder.glob("*/README.md"))
    ]
    page.write_text(
        HEAD + "".join(["\nIn folders of their own:\n\n", *others] if others else []) + "\n" + "\n".join(parts)
    )
    return page
