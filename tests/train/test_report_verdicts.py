"""What a report concludes: from scores that are made up here, without a training."""

import math
from pathlib import Path

import pytest

pytest.importorskip("lightning_fabric")
pytest.importorskip("matplotlib")
pytest.importorskip("scipy")

from fastloss.train.experiments import rows
from fastloss.train.report import demo, direction, paper1, paper2, summary, verdicts
from fastloss.train.report.published import PAPER1_TABLE2
from fastloss.train.report.results import Reproduction
from fastloss.train.report.ttests import Outcome
from fastloss.train.report.verdicts import Comparison, compare, corrected, verdict
from fastloss.train.runs import folders
from fastloss.train.settings import resolve

OLD = {"torch": "2.14.1", "fastloss": "0.1.0", "backend": "cpu", "cpu": "AVX2", "device": "cpu", "threads": 2}
NEW = OLD | {"processor": "A processor", "commit": "c0ffee"}
ALTERED_WINS = {"iou-to-bce": [0.77, 0.78, 0.76, 0.79, 0.77], "iou+bce": [0.65, 0.66, 0.65, 0.66, 0.64]}


def made_up(paper="paper2", scores=None, machine=NEW, preset="paper", phantom=False, **more) -> Reproduction:
    """A folder with the given scores of its rows, one for each seed or fold."""
    dataset = {"paper1": "uwmgi", "paper2": "msd-colon", "demo": "demo"}[paper]
    settings = resolve(paper, preset, dataset, {})
    finished = {}
    for row in rows(settings):
        values = (scores or {}).get(row.name, [])
        for seed in range(1 if row.folds else len(values)):
            for (_, fold), name in folders(settings, row, 1).items():
                if (fold or 0) < len(values):
                    value = values[seed if fold is None else fold]
                    marks = {"dice": value, "iou": value / 2, "epoch": 99, "train_loss": 0.1, "valid_loss": 0.2}
                    finished[name.replace("seed0", f"seed{seed}")] = {
                        "run": {"seed": seed, "epochs": row.epochs, "first": 0}, "best": marks, "last": marks,
                        "test": None, "switch": 50, "parameters": 10, "best_epoch": 99} | more  # fmt: skip
    data = {"kind": dataset, "phantom": phantom, "patients": 9, "slices": 99}
    return Reproduction(
        Path("nowhere"), settings, data, machine, finished, begun="2026-12-01T10:00:00Z" if more else ""
    )


def made(p: float, mine=(3.0, 2.0, 1.0), other=(0.0, 0.0, 0.0), paper=None) -> Comparison:
    return Comparison("a over b", "Dice", mine, other, "folds", Outcome(1.0, p), paper)


def test_holm_by_hand():
    """R: p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm") is 0.03 0.06 0.06 0.02."""
    found = corrected([made(p) for p in (0.01, 0.04, 0.03, 0.005)] + [made(0.001, (1.0,), (0.0,))])
    assert [each.holm for each in found[:4]] == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert math.isnan(found[4].holm)  # one pair is no test, and does not count as one
    assert [each.holm for each in corrected([made(0.8), made(0.9)])] == [1.0, 1.0]


def test_a_verdict_is_never_a_bare_yes():
    (unclear,) = corrected([made(0.87, paper=0.1)])
    assert verdict(unclear).text == "cannot be said, p = 0.8700" and verdict(unclear).paper == "yes"
    assert verdict(corrected([made(0.004)])[0]).text == "yes, p = 0.0040"
    assert verdict(corrected([made(0.004, (0.0,) * 3, (1.0,) * 3, paper=-1)])[0]).text == "no, lower, p = 0.0040"
    few = compare("a over b", "Dice", {0: 0.9, 1: 0.8}, {0: 0.1, 1: 0.2}, "seeds")
    assert verdict(few).text == "cannot be said (2 seeds, 3 needed)"
    one = compare("a over b", "Dice", {0: 0.9}, {0: 0.1, 1: 0.2}, "seeds")
    assert verdict(one).text == "cannot be said (1 seed, 3 needed)"
    for value in (0.5, 0.25):  # t would be no number, or infinite
        same = compare("a over b", "Dice", dict.fromkeys(range(4), 0.5), dict.fromkeys(range(4), value), "seeds")
        assert verdict(corrected([same])[0]).text == "cannot be said (no spread to test against)"
    assert verdict(compare("a over b", "Dice", {}, {0: 1.0}, "seeds", 0.1)).text == "missing"


def test_pairs_are_of_the_same_seed():
    pair = compare("a over b", "Dice", {0: 0.5, 2: 0.7, 3: 0.8, 4: 0.6}, {4: 0.1, 3: 0.3, 2: 0.25, 1: 0.9}, "seeds")
    assert (pair.mine, pair.other) == ([0.7, 0.8, 0.6], [0.25, 0.3, 0.1])
    assert pair.outcome.t > 0


def test_the_number_of_comparisons_is_said():
    found = made_up(scores=ALTERED_WINS)
    for table, words in ((direction.table4(found), "8 comparisons, 2 of them tested"),
                         (direction.direction(found), "16 comparisons, 2 of them tested")):  # fmt: skip
        (note,) = [note for note in table.notes if note.startswith(words)]
        assert "Holm" in note
    none = direction.direction(made_up(scores={}))
    assert "16 comparisons, none with the 3 pairs that a test needs." in none.notes


def test_table_4_and_the_direction_answer_with_p():
    found = made_up(scores=ALTERED_WINS)
    by_pair = {(row[0].text, row[1].text): row for row in direction.table4(found).cells}
    line = by_pair["IoU + BCE / IoU → BCE", "Dice"]
    assert line[-1].text.startswith("yes, p = 5e-0") and line[-1].paper == "yes"
    assert line[3].difference == "+0.0040" and line[3].paper == "0.77 ± 0.03"
    assert all([float(line[at].text) > 0 for at in (4, 6, 8)])  # t of the three tests
    line = next(row for row in direction.direction(found).cells if row[0].text == "IoU → BCE")
    assert line[5].text == "5, 0" and line[6].text.startswith("yes, p = ") and line[7].text == "missing"
    noise = {"iou-to-bce": [0.66, 0.64, 0.65, 0.66, 0.65], "iou+bce": ALTERED_WINS["iou+bce"]}
    texts = [cell.text for row in direction.table4(made_up(scores=noise)).cells for cell in row]
    assert "yes" not in texts and any([text.startswith("cannot be said, p = ") for text in texts])


def test_the_summary_sorts_what_agrees_what_does_not_and_what_cannot_be_said():
    heading, _, agrees, differs, unclear = summary.blocks([made_up(scores=ALTERED_WINS)])
    assert heading.title == "Summary" and agrees.title == "Agrees in direction"
    assert "2 of 2 comparisons, 2 beyond chance: IoU → BCE over IoU + BCE, Dice (p = " in agrees.paragraphs[0]
    assert differs.paragraphs == ["Nothing."]
    assert any(["6 of 8 comparisons have not finished" in words for words in unclear.paragraphs])
    swapped = dict(zip(ALTERED_WINS, reversed(ALTERED_WINS.values())))
    *_, agrees, differs, unclear = summary.blocks([made_up(scores=swapped, phantom=True, preset="smoke")])
    assert agrees.paragraphs == ["Nothing."] and "2 of 2" in differs.paragraphs[0]
    assert unclear.paragraphs[0].startswith("Anything for or against the paper. No reproduction of accuracy (phantom")
    tie = {"iou-to-bce": [0.5] * 5, "iou+bce": [0.5] * 5}
    *_, agrees, differs, unclear = summary.blocks([made_up(scores=tie)])
    assert agrees.paragraphs == differs.paragraphs == ["Nothing."] and "2 of 2 differences" in unclear.paragraphs[0]
    *_, unclear = summary.blocks([made_up(scores={})])
    assert "none of 8 comparisons has finished" in unclear.paragraphs[0]


def test_the_title_says_what_it_is():
    real, trial = made_up(scores=ALTERED_WINS), made_up(phantom=True, preset="smoke")
    assert summary.title([real]) == "fastloss report: reproduction of paper 2 (dynamic alteration of the loss)"
    assert "trial run" in summary.title([trial]) and summary.title([trial]).endswith("phantom data, preset smoke")
    both = summary.title([made_up("paper1", phantom=True), trial])
    assert "paper 1 (loss functions integration) and paper 2" in both


def test_date_processor_and_versions_are_told_or_said_to_be_missing():
    found = made_up(scores=ALTERED_WINS, finished="2026-12-01T11:30:59Z")
    facts = {row[0].text: row[1].text for row in summary.what_ran([found]).cells}
    assert facts["begun to finished"] == "2026-12-01 10:00 to 2026-12-01 11:30 UTC"
    assert facts["processor"] == "A processor, 2 thread(s)"
    assert facts["versions"] == "fastloss 0.1.0 (commit c0ffee, backend cpu), torch 2.14.1"
    assert facts["seeds"] == "5; 5 of 5 folds" and "preset" in facts and "changed from the preset" not in facts
    old = {row[0].text: row[1].text for row in summary.what_ran([made_up(machine=OLD)]).cells}
    assert old["begun to finished"] == "not recorded" and old["processor"] == "not recorded, 2 thread(s)"
    assert "commit not recorded" in old["versions"]
    gpu = {row[0].text: row[1].text for row in summary.what_ran([made_up(machine=NEW | {"device": "H200"})]).cells}
    assert gpu["processor"].startswith("H200, A processor")


def test_the_difference_stands_beside_each_published_score():
    scores = {name: [0.7] for name in ("focal", "dice", "iou-to-bce", "baseline", "modified")}
    line = paper2.single(made_up(scores=scores), "table1").cells[0]
    assert (line[2].paper, line[2].difference) == ("0.7538 ± 0.0062", "-0.0538")
    bracketed = paper2.single(made_up(scores={"focal": [0.7]}, phantom=True), "table1")
    assert bracketed.cells[0][2].difference == "(-0.0538)" and "in brackets because" in bracketed.notes[0]
    found = made_up("paper1", scores)
    table = {row[0].text: row for row in paper1.table2(found).cells}
    assert table["Best Dice"][2].difference == f"{0.7 - PAPER1_TABLE2['best_dice'][1]:+.4f}"
    assert table["Best epoch"][1].difference == "+71" and table["Parameters"][2].difference == "-52,156,509"
    assert table["Training loss, last epoch"][1].difference == "(+0.0295)"  # whose formula the paper does not state
    assert all([cell.difference for row in table.values() for cell in row if cell.paper])


def test_paper_1_is_better_only_with_its_p():
    found = made_up("paper1", {"baseline": [0.70, 0.71, 0.72], "modified": [0.70, 0.72, 0.71]})
    lines = paper1.direction(found).cells
    assert [line[0].text for line in lines] == [
        "Best Dice", "Best Jaccard", "Validation Dice, last epoch", "Validation Jaccard, last epoch"]  # fmt: skip
    assert [line[-1].paper for line in lines] == ["yes", "yes", "no", "yes"]
    assert all([line[-1].text.startswith("cannot be said, p = ") and line[4].text == "3" for line in lines])
    assert lines[0][3].text == "+0.0000" and lines[0][3].paper == "+0.0142"


def test_the_demo_says_what_may_be_concluded():
    scores = {"iou-to-bce": [0.5, 0.6], "iou+bce": [0.4, 0.5], "bce": [0.4, 0.3]}
    _, ran, words, _ = demo.beginning(made_up("demo", scores, preset="full"))
    assert ran.head == ["", "demo"] and ran.cells[0][1].text == "MNI152, one averaged brain, 99 slices"
    assert "no evidence for or against" in words.paragraphs[0]
    assert words.paragraphs[1] == "IoU → BCE over IoU + BCE, Dice +0.100. Better: cannot be said (2 seeds, 3 needed)."
    assert verdicts.how_many([])  # a sentence for none too
