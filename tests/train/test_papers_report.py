"""`fastloss reproduce` and `fastloss report` from the command line: what the pages say, and what they must not."""

import base64
import json
import os
import re
import shutil
import struct
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from paper_runs import cache, run  # noqa: F401

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

from fastloss.cli import main
from fastloss.measure import host
from fastloss.train.report import direction, paper2, results
from fastloss.train.report.published import PAPER2

CAVEAT = "No reproduction of accuracy (phantom data, preset smoke, changed settings)."
ROWS = "iou,iou-to-bce,iou+bce,bce"


class Page(HTMLParser):
    """Headings, tables (rows of texts), pictures, and everything that would be fetched."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.headings, self.tables, self.pictures, self.fetched, self.open = [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == [], f"not closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        elif tag in ("h1", "h2", "h3"):
            self.headings.append("")
        elif tag == "img":
            self.pictures.append(found["src"])
            assert found["alt"]
        self.fetched += [value for name, value in found.items() if name in ("src", "href") and value[0] != "#"]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "td" in self.open or "th" in self.open:
            self.tables[-1][-1][-1] += data
        elif self.open and self.open[-1] in ("h1", "h2", "h3"):
            self.headings[-1] += data


@pytest.fixture(scope="module")
def reproduced(cache, tmp_path_factory):  # noqa: F811
    out = tmp_path_factory.mktemp("reproduced") / "run"
    torch.set_num_threads(1)
    words = ["paper2", "--rows", ROWS, "--folds", "2", "--seeds", "2", "--out", str(out)]
    assert run(*words) == 0
    assert run(*words, "--resume", "--rows", "iou+bce", "--compare", "smp,monai") == 0
    return out


@pytest.fixture(scope="module")
def page(reproduced, tmp_path_factory):
    out = tmp_path_factory.mktemp("page")
    assert main(["report", str(reproduced), "--out", str(out)]) == 0
    return out


def test_the_html_is_whole_and_self_contained(page):
    found = Page((page / "report.html").read_text(encoding="utf-8"))
    assert all([where.startswith("data:image/png;base64,") for where in found.fetched])
    assert len(found.pictures) == 4
    for picture in found.pictures:
        data = base64.b64decode(picture.partition(",")[2])
        assert data.startswith(b"\x89PNG")
        assert min(struct.unpack(">II", data[16:24])) > 100
    title, summary, *_ = found.headings
    assert title.startswith("fastloss report: trial run of the experiments of paper 2") and summary == "Summary"
    assert "Paper 2: Dynamic alteration of the loss function (msd-colon)" in found.headings
    assert len(found.headings) == len(set(found.headings))


def test_the_masks_are_of_the_slice_with_the_largest_truth(page, reproduced):
    text = (page / "report.md").read_text(encoding="utf-8")
    assert "![Masks of every method](report-1-masks.png)" in text
    pixels = int(re.search(r"(\d+) pixels of truth, the largest of the validation slices", text).group(1))
    with np.load(next((reproduced / "runs").glob("split/*/example.npz"))) as arrays:
        assert pixels == (arrays["truth"] > 0).sum() > 0


def test_date_processor_and_commit_of_the_runs_are_told(page, reproduced):
    text = (page / "report.md").read_text(encoding="utf-8")
    assert re.search(r"\| begun to finished +\| 20\d\d-\d\d-\d\d \d\d:\d\d to 20\d\d-\d\d-\d\d \d\d:\d\d UTC", text)
    assert host.processor() in text and f"commit {host.commit() or 'unknown'}" in text


def test_folders_of_before_dates_and_processors_render(reproduced, tmp_path):
    old = tmp_path / "old"
    shutil.copytree(reproduced, old)
    stored = json.loads((old / "reproduction.json").read_text())
    del stored["begun"], stored["machine"]["processor"], stored["machine"]["commit"]
    (old / "reproduction.json").write_text(json.dumps(stored))
    for path in old.rglob("result.json"):
        result = json.loads(path.read_text())
        del result["finished"]
        path.write_text(json.dumps(result))
    assert main(["report", str(old), str(reproduced), "--out", str(tmp_path)]) == 0
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert re.search(r"\| begun to finished +\| not recorded +\| 20", text)
    assert {path.name for path in tmp_path.glob("*.png")} == {
        f"report-{number}-{name}.png" for number in (1, 2) for name in ("figure2", "pairs", "masks", "throughput")
    }  # two folders of one paper share none


def test_every_table_with_scores_says_that_it_is_no_reproduction(page):
    for name in ("report.html", "report.md"):
        text = (page / name).read_text(encoding="utf-8")
        with_scores = ("Table 1", "Table 2", "Table 3", "Table 4", "Controls", "Direction")
        parts = re.split(r"<h3[^>]*>|^### ", text, flags=re.MULTILINE)[1:]
        judged = [part for part in parts if part.startswith(with_scores)]
        assert len(judged) == len(with_scores)
        assert all([CAVEAT in part for part in judged])


def test_the_papers_numbers_stand_beside_ours_and_missing_rows_are_marked(page, reproduced):
    found = Page((page / "report.html").read_text(encoding="utf-8"))
    first, third = found.tables[1], found.tables[3]  # after what ran
    mine = results.read(reproduced)
    for line, (name, score) in zip(first[1:], PAPER2["table1"].items()):
        assert f"{score.dice:.4f} ± {score.dice_sd:.4f}" in line[2]
        values = mine.scores(mine.find("table1", name), "dice")
        assert line[2].startswith(paper2.mean_sd(values) if values else "missing")
        assert len(values) == (2 if name in ("iou", "bce") else 0)
    assert sum([line[2].startswith("missing") for line in third[1:]]) == 8
    beside = re.findall(r".?[+-]0\.\d{4}.?", " ".join([cell for line in first for cell in line]))
    assert beside and all([each[0] == "(" and each[-1] == ")" for each in beside])  # of other data: in brackets


def test_table_4_pairs_the_folds(reproduced):
    mine = results.read(reproduced)
    table = direction.table4(mine)
    lines = {(row[0].text, row[1].text): row for row in table.cells}
    row = lines["IoU + BCE / IoU → BCE", "Dice"]
    assert row[2].paper == "0.65 ± 0.03" and row[4].paper == "6.32"
    sides = [mine.find("table4", name) for name in ("iou+bce", "iou-to-bce")]
    assert [len(mine.scores(side, "dice")) for side in sides] == [2, 2]
    assert row[2].text == paper2.mean_sd(mine.scores(sides[0], "dice"))
    assert lines["Dice + Focal / Dice → Focal", "IoU"][2].text == "missing"
    assert "10.28" in table.notes[2]


def test_the_comparison_is_reported(page, reproduced):
    rows = json.loads((reproduced / "throughput.json").read_text())["rows"]
    cases = {row["case"] for row in rows}
    assert cases == {
        "IoU + BCE",
        "3D 16³, 14 classes, 3 outputs: Dice + CE",
        "3D 16³, 118 classes, 3 outputs: Dice + CE",
    }
    for row in rows:
        assert row["same_formula"] and row["value_gap"] < 1e-4 and row["gradient_gap"] < 1e-3, row
        assert 0 < row["share"] < 1 and row["launches"] > 0 and row["loss_peak_bytes"] > 0
        if row["contender"] != "fastloss":
            low, high = row["step_interval"]
            assert low < row["step_difference"] < high
    ours, theirs = (
        [row["launches"] for row in rows if row["case"] == "IoU + BCE" and row["contender"] == name]
        for name in ("fastloss", "smp")
    )
    assert ours < theirs
    text = (page / "report.md").read_text(encoding="utf-8")
    assert "Throughput: the same steps with other losses" in text


def test_numbers_are_compared_only_where_data_and_preset_match(reproduced, tmp_path):
    copy = tmp_path / "real"
    copy.mkdir()
    stored = json.loads((reproduced / "reproduction.json").read_text())
    from fastloss.train.settings import defaults

    stored["settings"] = {"paper": "paper2", "preset": "paper", "dataset": "msd-colon",
                          **defaults("paper2", "paper", "msd-colon")}  # fmt: skip
    stored["data"]["phantom"] = False
    (copy / "reproduction.json").write_text(json.dumps(stored))
    found = results.read(copy)
    assert found.comparable and found.caveat == ""
    name = "split/iou-50-seed0"
    scores = {"dice": 0.7, "iou": 0.6}
    found.finished[name] = {"run": {"seed": 0}, "best": scores, "last": scores, "test": None}
    line = next(row for row in paper2.single(found, "table1").cells if row[0].text == "IoU")
    assert line[2].difference == "+0.0241"


@pytest.mark.parametrize(("words", "sentence"), [([], "RUNS must name at least one folder"),
                                                 (["nowhere"], "nowhere holds no reproduction")])  # fmt: skip
def test_bad_folders(words, sentence, capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["report", *words]) == 2
    printed = capfd.readouterr().err
    assert sentence in printed and len(printed.strip().splitlines()) == 1


def test_a_reproduction_of_another_version_is_refused(tmp_path, capfd):
    (tmp_path / "reproduction.json").write_text('{"settings": {}, "data": {}, "machine": {}}')
    assert main(["report", str(tmp_path)]) == 2
    assert "was not written by this version" in capfd.readouterr().err
    assert not (tmp_path / "report.md").exists()


@pytest.mark.slow
def test_the_script_for_a_gpu_machine_stops_and_continues(tmp_path):
    script = Path(__file__).parents[2] / "bench" / "gpu_papers.sh"
    settings = {"FASTLOSS_DRY": "1", "PYTHON": sys.executable, "RUNS": str(tmp_path / "runs"), "OMP_NUM_THREADS": "1"}
    settings["PYTHONPATH"] = str(script.parent.parent)
    environment = {name: value for name, value in os.environ.items() if name != "FASTLOSS_CACHE"} | settings
    statuses = []
    for limit in ("45", "10000"):
        done = subprocess.run(["bash", script], env=environment | {"LIMIT": limit}, capture_output=True, text=True)
        statuses.append(done.returncode)
    assert statuses[1] == 0, done.stderr
    assert statuses[0] in (0, 75)
    out = tmp_path / "runs" / "out"
    assert "Throughput" in (out / "report" / "report.md").read_text(encoding="utf-8")
    assert (out / "paper1-uwmgi" / "runs" / "split" / "modified-2-seed0" / "result.json").exists()
    assert not list(out.rglob("*.pt"))


@pytest.mark.parametrize(
    ("name", "damage", "words"),
    [
        ("runs/figure2/epochs.csv", lambda text: text[:40], "cannot be read"),
        ("runs/figure2/epochs.csv", lambda text: "", "cannot be read"),
        ("runs/figure2/epochs.csv", lambda text: text[: text.rindex("\n", 0, -1) + 1], "is cut short"),
        ("runs/figure2/epochs.csv", lambda text: text[:-3], "is cut short"),
        ("runs/figure2/result.json", lambda text: text[:200], "cannot be read"),
        ("runs/figure2/result.json", lambda text: "{}", "best, best_epoch, last, parameters, run, switch, test"),
        ("runs/figure2/result.json", lambda text: text.replace('"dice"', '"dies"'), "is damaged"),
        ("runs/figure2/example.npz", lambda text: text[:100], "cannot be read"),
        ("throughput.json", lambda text: "{}", "rows is missing"),
        ("reproduction.json", lambda text: text[:100], "cannot be read"),
    ],
)
def test_what_is_half_there_is_named_and_not_trusted(reproduced, tmp_path, name, damage, words, capfd):
    out = tmp_path / "run"
    shutil.copytree(reproduced, out)
    path = out / name.replace("runs/figure2", "runs/split/iou-to-bce-2-seed0")
    path.write_bytes(damage(path.read_text("latin-1")).encode("latin-1"))
    statuses = [main(["report", str(out)])]
    if name.endswith("result.json"):
        statuses.append(run("paper2", "--rows", ROWS, "--folds", "2", "--seeds", "2", "--out", str(out), "--resume"))
    assert set(statuses) == {2}
    lines = capfd.readouterr().err.strip().splitlines()
    assert len(lines) == len(statuses)
    assert all([str(path) in line and words in line for line in lines])


def test_a_package_that_a_library_misses_is_one_sentence(monkeypatch, capfd):
    """MONAI imports einops only where it is used, and raises its own kind of ImportError."""
    from monai.utils import OptionalImportError

    from fastloss.train.report import cli as report

    def missing(args):
        raise OptionalImportError("required package `einops` is not installed")

    monkeypatch.setattr(report, "main", missing)
    assert main(["report", "x"]) == 2
    assert "`einops` is not installed; run `pip install 'fastloss[papers]'`" in capfd.readouterr().err


def test_other_peers_in_one_comparison_are_refused(reproduced, capfd):
    words = ["paper2", "--rows", "iou+bce", "--folds", "2", "--seeds", "2", "--out", str(reproduced)]
    assert run(*words, "--resume", "--compare", "smp") == 2
    assert "--compare was smp,monai" in capfd.readouterr().err


def test_scores_of_epochs_before_the_switch_are_marked_wherever_they_are_compared(reproduced):
    found = results.read(reproduced)
    altered = [name for name in found.finished if "iou-to-bce" in name]
    assert all([found.finished[name]["best_epoch"] >= found.finished[name]["switch"] == 1 for name in altered])
    judged = {"table3": paper2.single(found, "table3"), "table4": direction.table4(found)}
    judged["direction"] = direction.direction(found)
    assert not any(["†" in str(table) for table in judged.values()])
    for name in altered:
        found.finished[name]["best"] = found.finished[name]["best"] | {"epoch": 0}
    for name, make in (("table3", lambda: paper2.single(found, "table3")), ("table4", lambda: direction.table4(found)),
                       ("direction", lambda: direction.direction(found))):  # fmt: skip
        marked = make()
        assert any(["before the switch" in note for note in marked.notes]), name
        cells = [cell.text for row in marked.cells for cell in row if cell.text.endswith("†")]
        assert len(cells) == 2, name  # Dice and IoU of the one altered row
