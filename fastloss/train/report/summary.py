"""What a report begins with: its title, what ran, and what may be concluded from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict

from . import direction, paper1
from .page import Block, Heading, Table, Words
from .results import Reproduction
from .verdicts import LEAST, LEVEL, Comparison, p_value

NOT_RECORDED = "not recorded"  # by the version that trained
PAPERS = {"paper1": "paper 1 (loss functions integration)", "paper2": "paper 2 (dynamic alteration of the loss)"}
AGREES, DIFFERS, OPEN = "Agrees in direction", "Does not agree in direction", "Cannot be said"


def title(every: Sequence[Reproduction]) -> str:
    """Say what the page is: of which papers, on which data, and whether it is a reproduction or a trial."""
    words = " and ".join(dict.fromkeys([PAPERS[each.settings.paper] for each in every]))
    if any([each.comparable for each in every]):
        return f"fastloss report: reproduction of {words}"
    kinds = dict.fromkeys([_data(each) for each in every])
    presets = dict.fromkeys([f"preset {each.settings.preset}" for each in every])
    return f"fastloss report: trial run of the experiments of {words}, {', '.join([*kinds, *presets])}"


def blocks(every: Sequence[Reproduction]) -> list[Block]:
    """Make the summary of all folders."""
    points = {AGREES: [], DIFFERS: [], OPEN: []}
    for each in every:
        for kind, words in _findings(each):
            points[kind].append(words if len(every) == 1 else f"{short(each)}: {words}")
    lists: list[Block] = [Words(words or ["Nothing."], kind, listed=True) for kind, words in points.items()]
    return [Heading("Summary"), what_ran(every), *lists]


def short(found: Reproduction) -> str:
    s = found.settings
    return s.paper if s.paper == s.dataset else f"{s.paper} {s.dataset}"


def what_ran(every: Sequence[Reproduction]) -> Table:
    """Put each folder into a column."""
    lines = [[name, *[tell(each) for each in every]] for name, tell in _FACTS.items()]
    return Table("What ran", ["", *[short(each) for each in every]], [line for line in lines if any(line[1:])])


def _data(found: Reproduction) -> str:
    return "phantom data" if found.data["phantom"] else f"{found.data['kind']} data"


def _tell_data(found: Reproduction) -> str:
    data = found.data
    if data["kind"] == "demo":
        return f"MNI152, one averaged brain, {data['slices']} slices"
    what = "phantom (generated ellipses and noise)" if data["phantom"] else "real"
    return f"{data['kind']}, {what}, {data['patients']} patients, {data['slices']} slices"


def _tell_network(found: Reproduction) -> str:
    s = found.settings
    return f"{s.model}, {s.size} px, batch {s.batch}, {s.epochs} epochs for the longest rows"


def _tell_trainings(found: Reproduction) -> str:
    epochs = sum([result["run"]["epochs"] - result["run"]["first"] for result in found.finished.values()])
    done = sum([bool(found.results(row)) for row in found.rows])
    return f"{len(found.finished)} finished, {epochs} epochs; {done} of {len(found.rows)} rows have one"


def _tell_seeds(found: Reproduction) -> str:
    folds = {fold for row in found.rows for _, fold in found.results(row) if fold is not None}
    return f"{found.seeds}" + (f"; {len(folds)} of {found.settings.folds} folds" if folds else "")


def tell_time(found: Reproduction) -> str:
    ends = [result["finished"] for result in found.finished.values() if "finished" in result]
    first, last = (_minute(at) if at else NOT_RECORDED for at in (found.begun, max(ends, default="")))
    return NOT_RECORDED if first == last == NOT_RECORDED else f"{first} to {last} UTC"


def _minute(at: str) -> str:
    return at[:16].replace("T", " ")


def tell_processor(found: Reproduction) -> str:
    machine = found.machine
    device = "" if machine["device"] == "cpu" else f"{machine['device']}, "
    return f"{device}{machine.get('processor', NOT_RECORDED)}, {machine['threads']} thread(s)"


def tell_versions(found: Reproduction) -> str:
    machine = found.machine
    commit = machine.get("commit", NOT_RECORDED)
    return f"fastloss {machine['fastloss']} (commit {commit}, backend {machine['backend']}), torch {machine['torch']}"


def _tell_others(found: Reproduction) -> str:
    return f"Continued on {len(found.machines)} other machine(s), see the settings: bits may differ" * bool(
        found.machines
    )


_FACTS: dict[str, Callable[[Reproduction], str]] = {
    "data": _tell_data,
    "preset": lambda found: found.settings.preset,
    "changed from the preset": lambda found: ", ".join(found.changed),
    "network": _tell_network,
    "trainings": _tell_trainings,
    "seeds": _tell_seeds,
    "begun to finished": tell_time,
    "processor": tell_processor,
    "versions": tell_versions,
    "machines": _tell_others,
}


def settings_table(found: Reproduction) -> Table:
    """List all that the numbers depend on, folded."""
    rows = [[name, str(value)] for name, value in asdict(found.settings).items()]
    rows += [[f"data: {name}", str(value)] for name, value in found.data.items()]
    rows += [[f"machine: {name}", str(value)] for name, value in found.machine.items()]
    for number, machine in enumerate(found.machines, 2):
        rows += [[f"machine {number}: {name}", str(value)] for name, value in machine.items()]
    return Table("Settings and environment", ["setting", "value"], rows, folded=True)


def _findings(found: Reproduction) -> list[tuple[str, str]]:
    """Sort what the paper claims into what agrees, what does not and what cannot be said."""
    points = []
    if not found.comparable:
        points.append((OPEN, f"Anything for or against the paper. {found.caveat} What stands above is of these data "
                             "and settings."))  # fmt: skip
    groups = direction.comparisons(found) if found.settings.paper == "paper2" else {
        "Table 2, over the seeds": paper1.comparisons(found)}  # fmt: skip
    for where, made in groups.items():
        points += _of_group(where, [each for each in made if each.paper is not None])
    absent = [row.title for row in found.rows if not found.results(row)]
    if absent:
        points.append((OPEN, f"Rows without a finished training: {len(absent)} of {len(found.rows)}."))
    return points


def _of_group(where: str, made: list[Comparison]) -> list[tuple[str, str]]:
    there = [each for each in made if each.mine]
    if not there:
        return [(OPEN, f"{where}: none of {len(made)} comparisons has finished.")]
    points = []
    for kind, sign in ((AGREES, 1), (DIFFERS, -1)):  # a tie is neither
        mine = [each for each in there if sign * each.difference * (each.paper or 0) > 0]
        if mine:
            certain = [f"{each.name}, {each.metric} (p = {p_value(each.holm)})" for each in mine if each.significant]
            beyond = f"{len(certain)} beyond chance: {'; '.join(certain)}" if certain else "none of them beyond chance"
            points.append((kind, f"{where}: {len(mine)} of {len(there)} comparisons, {beyond}."))
    few = [each for each in there if not each.tested]
    unclear = [each for each in there if each.tested and not each.significant]
    if few:
        points.append((OPEN, f"{where}: whether {len(few)} of {len(there)} differences are more than chance, with "
                             f"fewer than {LEAST} {few[0].over} or no spread."))  # fmt: skip
    if unclear:
        points.append((OPEN, f"{where}: {len(unclear)} of {len(there)} differences may be chance (p after Holm's "
                             f"correction at least {LEVEL:g})."))  # fmt: skip
    if len(there) < len(made):
        points.append((OPEN, f"{where}: {len(made) - len(there)} of {len(made)} comparisons have not finished."))
    return points
