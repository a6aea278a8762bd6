"""The benchmark command: its cases, its judgement of peers and of itself, its targets. Times are not tested here."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fastloss.bench import chart, parity, process, record, render, targets
from fastloss.bench.regimes import FULL, JUDGED, REGIMES
from fastloss.cli import main
from fastloss.measure import cases, contenders, formula, memory, peers, plain, timing
from fastloss.spec import Term

ROOT = Path(__file__).parents[2]
SMALL = {c.name: replace(c, shape=formula.small(c).shape) for c in cases.CASES if c.group != "overhead"}


def contender(case, loss, role="peer"):
    """A contender with a target, logits, and the truth."""
    x, y = cases.inputs(case)
    return contenders.Contender("other", role, loss).on(y), cases.fresh(x), y


def test_least_bytes_are_two_logits_and_one_target():
    (dice,) = cases.select(["dice-fp32"])
    (many,) = cases.select(["softmax3d-dice+ce"])
    assert dice.least_bytes() == 9 * 32 * 256**2
    assert dice.least_bytes("float32") == 12 * 32 * 256**2
    assert many.least_bytes() == (2 * 14 * 4 + 1) * 96**3


def test_select_by_name_group_and_part():
    assert [c.name for c in cases.select(["dice-fp32"])] == ["dice-fp32"]
    assert {c.group for c in cases.select(["softmax"])} == {"softmax"}
    assert all("topk" in c.name for c in cases.select(["topk"]))
    with pytest.raises(ValueError, match="no case matches 'nope'"):
        cases.select(["nope"])


@pytest.mark.parametrize("name", SMALL)
def test_ours_passes_the_parity_that_gates_every_time(name):
    case = SMALL[name]
    x, y = cases.inputs(case)
    truth = parity.truth(case, x, y)
    found, _ = contenders.make_contenders(case, [], compiled=False, backend="reference")
    assert [mine.role for mine in found] == ["ours", "ours-alt"]
    for mine in found:
        entry = parity.judge(case, mine.on(y), truth, cases.fresh(x))
        assert "refused" not in entry, f"{mine.key}: {entry}"


@pytest.mark.parametrize("scale", [1.001, float("nan")])
def test_a_wrong_result_is_refused(scale):
    case = SMALL["dice+focal-fp32"]
    right = plain.build(case)
    wrong, x, y = contender(case, lambda x, y: scale * right(x, y), role="ours")
    assert "parity" in parity.judge(case, wrong, parity.truth(case, x, y), x)["refused"]


def test_ties_of_topk_may_share_their_weight():
    case = SMALL["topk-bf16"]  # bfloat16 logits tie by the dozen
    x, y = cases.inputs(case)
    mine, theirs = parity.truth(case, x, y), formula.evaluate(plain.build(case), x, y)
    assert formula.compare(mine, *theirs, (1e-9, 1e-9)).ok
    assert not formula.compare(replace(mine, band=None), *theirs, (1e-9, 1e-9)).ok


@pytest.mark.parametrize("library", ["smp", "monai", "exacta"])
@pytest.mark.parametrize("name", [n for n in SMALL if not n.endswith("bf16")])
def test_peers_compute_the_same_formula(library, name):
    pytest.importorskip(peers.MODULES.get(library, library))
    case = SMALL[name]
    try:
        offer = peers.offer(case, library)
    except peers.NotOffered:
        pytest.skip("not offered")
    differs = formula.same_formula(case, offer.loss, offer.target)
    assert bool(differs) == bool(offer.other), differs


def test_settings_that_no_peer_is_set_to_are_not_offered():
    dice = SMALL["dice-fp32"]
    for settings in ({"smooth": 1.0}, {"squared": True}, {"weight_index": 0}):
        with pytest.raises(peers.NotOffered, match="settings"):
            peers.offer(replace(dice, terms=(Term("tversky", **settings),)), "torch")
    with pytest.raises(peers.NotOffered, match="plain torch only"):
        peers.offer(replace(dice, ignored="index"), "smp")


def test_kept_bytes_see_what_autograd_hooks_do_not():
    class Hoard(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.grad = x * 2  # kept on the node, not saved
            return x.square().sum()

        @staticmethod
        def backward(ctx, go):
            return ctx.grad * go

    case = SMALL["dice-fp32"]
    hoarder, x, _ = contender(case, lambda x, y: Hoard.apply(x))
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(saved.append, lambda tensor: tensor):
        hoarder.step(x)
    assert not saved and memory.in_logits(case, hoarder, x)["kept"] == pytest.approx(1, abs=0.05)
    assert memory.no_grad_peak(hoarder, x) >= case.logits_bytes


def test_interleave_pairs_rounds_and_finds_the_ratio():
    busy = torch.ones(200_000)
    works = {"memcpy": lambda: busy.clone(), "one": lambda: busy.exp(), "two": lambda: (busy.exp(), busy.exp())}
    timings, faults = timing.interleave(works, ("memcpy", "one"), clock="cpu", rounds=5, seconds=1.0)
    assert {len(t.rounds) for t in timings.values()} == {5}
    assert 1.3 < timing.ratio(timings["two"], timings["one"]).median < 3
    assert set(faults) == set(works)


def made_up(factor=10.0, noisy=False):
    """A record whose peers are `factor` times slower."""
    rows = []
    for case in cases.CASES:
        ratio = {"median": factor, "low": factor, "high": factor}
        theirs = {"role": "peer", "target": "float32", "notes": ["torch's CE"], "seconds": factor, "ratio": ratio}
        theirs |= {"spread": 0.01, "memory": {"kept": 3.0, "peak": 5.0}}
        mine = {"role": "ours", "target": case.target, "notes": [], "seconds": 1.0, "spread": 0.01, "of_memcpy": 0.6}
        mine["memory"] = {"kept": 1.0, "peak": 1.0, "no_grad_peak": 0.0}
        row = record.row(case) | {"missing": {"monai": "no such loss"}, "noisy": noisy}
        rows.append(row | {"contenders": {"fastloss": mine, "smp": theirs, "smp compiled": dict(theirs)}})
    return record.new("cpu", [], {}) | {"regimes": {JUDGED: {"words": "1 thread", "rows": rows}}}


@pytest.mark.parametrize(
    ("data", "verdict"), [(made_up(), "pass"), (made_up(0.5), "miss"), (made_up(noisy=True), "unproven")]
)
def test_targets(data, verdict):
    found = [result.verdict for result in targets.check(data)]
    assert verdict in found and len(found) == 9
    if verdict == "pass":
        assert set(found) == {"pass"}
    assert all(line.startswith(verdict.upper()) for line, v in zip(targets.lines(data), found) if v == verdict)


def test_no_target_is_met_without_a_measurement():
    empty = made_up() | {"regimes": {}}
    assert {b.verdict for b in targets.check(empty)} == {"unproven"}


def test_render_and_charts_from_a_record(tmp_path):
    data = made_up()
    record.save(data, tmp_path / "cpu--x.json")
    (tmp_path / "foreign.json").write_text(json.dumps([1]))
    page = render.write(tmp_path).read_text()
    assert "| Dice+CE | 1x14x96^3 |" in page and "monai: no such loss" in page and "smp: torch's CE (" in page
    assert page.count("![") == (2 if chart.possible() else 0)
    assert all(picture.stat().st_size > 1000 for picture in tmp_path.glob("*.png"))


# But those of bench/bands.py, which has a form and a page of its own: test_bench_bands.
STORED = sorted(file for file in (ROOT / "bench/results").glob("**/*.json") if file.parent.name != "bands")


@pytest.mark.parametrize("file", STORED, ids=[f"{file.parent.name}-{file.stem}" for file in STORED])
def test_stored_records_give_the_stored_pages(file, tmp_path):
    """Records of every schema: a reader of years later sees the numbers that were measured."""
    beside, folder = file.with_suffix(".md"), file.parent / "README.md"
    copy = tmp_path / file.name
    copy.write_bytes(file.read_bytes())
    stored = (beside if beside.exists() else folder).read_text()
    rendered = render.write(copy).read_text()
    section = rendered[rendered.index("## ") :]
    assert section in stored and targets.check(record.load(file))
    assert len(re.findall(r"^\| .*\d", section, re.MULTILINE)) > len(targets.rows_of(record.load(file)))


@pytest.mark.parametrize(
    "words",
    [
        ["--cases", "nope"],
        ["--cases", ","],
        ["--rounds", "1"],
        ["--peers", "foo"],
        ["--quick", "--full"],
        ["--regimes", "x"],
        ["--backend", "nope"],
        ["--out", __file__],
        ["--render", "nowhere"],
        ["--json", "/proc/x/y"],
        ["--json", str(ROOT)],
        ["--out", "/proc/x"],
    ],
)
def test_bad_arguments_are_one_sentence(words, capsys):
    assert main(["bench", *words]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"fastloss bench: {words[0] if words != ['--quick', '--full'] else '--quick'}")
    assert err.count("\n") == 1 and "Traceback" not in err


def test_quick_run_from_end_to_end(tmp_path, capsys):
    words = ["--quick", "--cases", "dice-64", "--rounds", "3", "--backend", "reference"]
    assert main(["bench", *words, "--out", str(tmp_path), "--json", str(tmp_path / "a" / "copy.json")]) == 0
    (file,) = tmp_path.glob("*.json")
    data = record.load(file)
    assert json.loads((tmp_path / "a" / "copy.json").read_text()) == json.loads(file.read_text())
    (row,) = data["regimes"][JUDGED]["rows"]
    assert data["machine"]["cores"] and data["versions"]["torch"] == torch.__version__
    assert {"fastloss", "fastloss:float32", "torch"} == set(row["contenders"])
    assert row["contenders"]["fastloss"]["seconds"] > 0 and row["memcpy"]["bytes_per_second"] > 0
    assert "dice-64" in capsys.readouterr().out
    assert "| 1x1x64^2 | float32, uint8 |" in (tmp_path / "README.md").read_text()


def test_a_worker_that_ends_costs_its_case(tmp_path, monkeypatch, capsys):
    why = "the process ended with status -9: killed"
    monkeypatch.setattr(process.Worker, "ask", lambda self, request, **_: {"refused": why})
    assert main(["bench", "--quick", "--cases", "dice-64,bce-64", "--out", str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert "refused: dice-64, bce-64" in said.err and said.out.count(why) == 2
    assert why in (tmp_path / "README.md").read_text()


def test_every_regime_says_what_it_is():
    assert FULL[0] == JUDGED and set(FULL) <= set(REGIMES)
    assert REGIMES[JUDGED].thread_count == 1 and REGIMES[JUDGED].env and not REGIMES["default-1t"].env


@pytest.mark.parametrize("folder", ("measure", "train"))
def test_what_measures_and_trains_does_not_import_the_bench(folder):
    files = list((ROOT / "fastloss" / folder).rglob("*.py"))
    found = [f for f in files if re.search(r"^\s*(?:from|import) .*\bbench\b", f.read_text(), re.MULTILINE)]
    assert files and not found
