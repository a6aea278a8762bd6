"""The benchmark command: its cases, its judgement of peers and of itself, and its bars. Times are not tested here."""

import importlib.util
import json
import math
from dataclasses import replace

import pytest
import torch

from fastloss.bench import (
    bars,
    chart,
    cli,
    parity,
    record,
    render,
)
from fastloss.bench.regimes import BARS, REGIMES
from fastloss.cli import main
from fastloss.measure import cases, formula, memory, peers, plain, providers, timing

SMALL = {c.name: replace(c, shape=formula.small(c).shape) for c in cases.CASES if c.group != "overhead"}


def contender(case, loss, role="peer", library="other"):
    x, y = cases.inputs(case)
    return providers.Contender(library, "eager", role, loss, y, "int64"), providers.fresh_logits(case, x), y


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
    for mine in providers._ours(case, y, "reference", every_dtype=True):
        verdict = parity.check(case, mine, truth, providers.fresh_logits(case, x))
        assert verdict.ok, f"{mine.key}: {verdict.reason}"


@pytest.mark.parametrize("scale", [1.001, float("nan")])
def test_a_wrong_result_is_refused(scale):
    case = SMALL["dice+focal-fp32"]
    right = plain.build(case)
    wrong, x, y = contender(case, lambda x, y: scale * right(x, y), role="ours")
    assert not parity.check(case, wrong, parity.truth(case, x, y), x).ok


def test_ties_of_topk_may_share_their_weight():
    case = SMALL["topk-bf16"]  # bfloat16 logits tie by the dozen
    x, y = cases.inputs(case)
    mine, theirs = parity.truth(case, x, y), formula.evaluate(plain.build(case), x, y)
    assert formula.compare(mine, *theirs, (1e-9, 1e-9)).ok
    assert not formula.compare(replace(mine, band=None), *theirs, (1e-9, 1e-9)).ok


@pytest.mark.parametrize("library", ["smp", "monai", "exacta"])
@pytest.mark.parametrize("name", [n for n in SMALL if not n.endswith("bf16")])
def test_peers_compute_the_same_formula(library, name):
    pytest.importorskip(peers.MODULES[library])
    case = SMALL[name]
    try:
        offer = peers.PEERS[library](case)
    except peers.NotOffered:
        pytest.skip("not offered")
    differs = formula.same_formula(case, offer.loss, offer.target)
    assert bool(differs) == bool(offer.other), differs


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
    weights = memory.measure(hoarder, x)
    assert memory.in_logits(case, weights.saved) == 0
    assert memory.in_logits(case, weights.kept) == pytest.approx(1, abs=0.05)
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
        entry = {
            "library": "smp",
            "how": "eager",
            "role": "peer",
            "target": "float32",
            "notes": [],
            "seconds": factor,
            "spread": 0.01,
            "ratio": {"median": factor, "low": factor, "high": factor},
            "memory": {"kept": 3.0, "saved": 3.0, "peak_forward": 3.0, "peak": 5.0},
        }
        mine = {
            "library": "fastloss",
            "how": "eager",
            "role": "ours",
            "target": case.target,
            "notes": [],
            "seconds": 1.0,
            "spread": 0.01,
            "of_memcpy": 0.6,
            "memory": {"kept": 1.0, "saved": 1.0, "peak_forward": 1.0, "peak": 1.0, "no_grad_peak": 0.0},
        }
        rows.append(
            {
                "case": case.name,
                "title": case.title,
                "size": case.size,
                "group": case.group,
                "dtype": case.dtype,
                "numel": case.numel,
                "pixels": case.pixels,
                "missing": {"monai": "no such loss"},
                "noisy": noisy,
                "contenders": {"fastloss": mine, "smp": entry, "smp compiled": entry | {"how": "compiled"}},
            }
        )
    return record.new([], {}) | {"regimes": {BARS: {"rows": rows}}}


@pytest.mark.parametrize(
    ("data", "verdict"), [(made_up(), "pass"), (made_up(0.5), "miss"), (made_up(noisy=True), "unproven")]
)
def test_bars(data, verdict):
    found = [b.verdict for b in bars.check(data)]
    assert verdict in found and len(found) == 9
    if verdict == "pass":
        assert set(found) == {"pass"}
    assert all(math.isfinite(len(line)) for line in bars.lines(data))


def test_no_bar_passes_without_a_measurement():
    empty = made_up() | {"regimes": {}}
    assert {b.verdict for b in bars.check(empty)} == {"unproven"}


def test_render_and_charts_from_a_record(tmp_path):
    data = made_up()
    record.save(data, tmp_path / "cpu--x.json")
    (tmp_path / "foreign.json").write_text(json.dumps([1]))
    if chart.possible():
        assert chart.speed(data, tmp_path / "cpu--x.png").stat().st_size > 1000
        assert chart.many_classes(data, tmp_path / "cpu--x--3d.png").stat().st_size > 1000
    page = render.write(tmp_path).read_text()
    assert "| Dice+CE | 1x14x96^3 |" in page and "monai: no such loss" in page
    assert page.count("![") == (2 if chart.possible() else 0)


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
    ],
)
def test_bad_arguments_are_one_sentence(words, capsys):
    assert main(["bench", *words]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"fastloss bench: {words[0] if words != ['--quick', '--full'] else '--quick'}")
    assert err.count("\n") == 1 and "Traceback" not in err


def test_quick_run_from_end_to_end(tmp_path, capsys):
    words = [
        "bench",
        "--quick",
        "--cases",
        "dice-64",
        "--rounds",
        "3",
        "--backend",
        "reference",
        "--out",
        str(tmp_path),
    ]
    assert main(words) == 0
    (file,) = tmp_path.glob("*.json")
    data = record.load(file)
    (row,) = data["regimes"][BARS]["rows"]
    assert data["machine"]["cores"] and data["versions"]["torch"] == torch.__version__
    assert {"fastloss", "fastloss:float32", "torch"} == set(row["contenders"])
    assert row["contenders"]["fastloss"]["seconds"] > 0 and row["memcpy"]["bytes_per_second"] > 0
    assert "dice-64" in capsys.readouterr().out


def test_every_regime_says_what_it_is():
    assert importlib.util.find_spec("fastloss.bench.worker")
    assert cli.FULL[0] == BARS and set(cli.FULL) <= set(REGIMES)
    assert REGIMES[BARS].thread_count == 1 and REGIMES[BARS].env and not REGIMES["default-1t"].env
