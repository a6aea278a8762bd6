"""Time and memory of `UpsampledLoss` and `HeadLoss` against whole logits.

python bench/bands.py [--rounds 5] [--cases NAME,…] [--ways NAME;…] [--threads 1,2] [--no-compile] [--out FILE.json]
python bench/bands.py --draw FILE.json    the chart of a record, beside it

Forward and backward of Dice + cross-entropy, to the gradient of the low-resolution logits, or of features, weight and
bias. Time is CPU time of all threads, the ways in turn, so that a ratio is taken within a round; the table has medians.
Memory is by how much the process grew at most, beyond inputs: each way has a process of its own for it, and all of its
allocations count, those of C++ too. A record that is there is gone on with: other cases, ways and threads stay in it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastloss
from fastloss.bench import chart, record

# name: (samples, classes, low resolution or None, resolution, features or None)
CASES = {
    "up4-150x512": (2, 150, (128, 128), (512, 512), None),
    "up16-150x512": (2, 150, (32, 32), (512, 512), None),
    "up4-19x1024": (4, 19, (256, 256), (1024, 1024), None),
    "head-118x96": (1, 118, None, (96, 96, 96), 32),
}
OURS = "fastloss, in bands"


def plain(x: Tensor, y: Tensor) -> Tensor:
    """Dice + cross-entropy as one would write them in PyTorch."""
    axes = (0, *range(2, x.ndim))
    p, t = x.softmax(1), F.one_hot(y, x.shape[1]).movedim(-1, 1).to(x.dtype)
    tp = (p * t).sum(axes)
    dice = 1 - 2 * tp / (p.sum(axes) + t.sum(axes)).clamp_min(1e-7)
    return dice.mean() + F.cross_entropy(x, y)


def losses(compiled: bool) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    ours = fastloss.DiceLoss("multiclass") + fastloss.CrossEntropyLoss()
    found: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"fastloss": ours, "torch": plain}
    if find_spec("segmentation_models_pytorch"):
        import segmentation_models_pytorch as smp

        dice = smp.losses.DiceLoss("multiclass")
        found["smp"] = lambda x, y: dice(x, y) + F.cross_entropy(x, y)
    if find_spec("monai"):
        from monai.losses import DiceCELoss

        both = DiceCELoss(softmax=True, to_onehot_y=True, batch=True)
        found["MONAI"] = lambda x, y: both(x, y[:, None])
    if compiled:
        found |= {f"{name}, compiled": loss for name, loss in found.items() if name != "fastloss"}
    return found


class Step:
    """The ways of a case: each makes the loss and its gradients."""

    def __init__(self, name: str, compiled: bool) -> None:
        samples, classes, low, space, features = CASES[name]
        torch.manual_seed(0)
        self.y = torch.randint(0, classes, (samples, *space))
        if features is None:
            assert low is not None
            self.inputs = [torch.randn(samples, classes, *low, requires_grad=True)]
            mode = "bilinear" if len(space) == 2 else "trilinear"
            bands: nn.Module = fastloss.UpsampledLoss(losses(False)["fastloss"], mode)  # type: ignore[arg-type]
            whole = lambda x: F.interpolate(x, space, mode=mode)  # noqa: E731
            call = bands
        else:
            head = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[len(space) - 1](features, classes, 1)
            self.inputs = [torch.randn(samples, features, *space, requires_grad=True), *head.parameters()]
            bands = fastloss.HeadLoss(head, losses(False)["fastloss"])  # type: ignore[arg-type]
            whole, call = head, bands
        self.ways: dict[str, Callable[[], Tensor]] = {OURS: lambda: call(self.inputs[0], self.y)}
        for name, loss in losses(compiled).items():
            step = lambda x, y, loss=loss: loss(whole(x), y)  # noqa: E731
            made = torch.compile(step) if name.endswith("compiled") else step
            self.ways[name] = lambda made=made: made(self.inputs[0], self.y)

    def run(self, way: str) -> list[Tensor]:
        return list(torch.autograd.grad(self.ways[way](), self.inputs))


def timed(case: str, chosen: list[str] | None, rounds: int, compiled: bool) -> dict[str, list[float]]:
    step = Step(case, compiled)
    ways = [way for way in step.ways if chosen is None or way in chosen or way == OURS]
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(rounds + 1):
        for way in ways:
            start = time.process_time()
            step.run(way)
            if number:  # the first call compiles, and warms what can be warmed
                seconds[way].append(time.process_time() - start)
    return seconds


def resident(field: str) -> int:
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[field].split()[0]) * 1024


def peak(case: str, way: str) -> int:
    """Bytes by which this process grows at most in a call."""
    step = Step(case, way.endswith("compiled"))
    if way.endswith("compiled"):
        step.run(way)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    step.run(way)
    return resident("VmHWM") - before


def measured(case: str, threads: int, chosen: list[str] | None, rounds: int, compiled: bool) -> dict[str, dict]:
    """The rows of a case; memory only on one thread."""
    torch.set_num_threads(threads)
    rows = {}
    for way, found in (seconds := timed(case, chosen, rounds, compiled)).items():
        ratio = statistics.median([a / b for a, b in zip(found, seconds[OURS])])
        rows[way] = {"seconds": found, "ratio": ratio}
        if threads == 1:
            asked = subprocess.run([sys.executable, __file__, "--peak", case, way], capture_output=True, text=True)
            if asked.returncode:
                raise SystemExit(asked.stderr)
            rows[way]["peak"] = int(asked.stdout)
        grown = f"{rows[way]['peak'] / 2**20:.0f}" if "peak" in rows[way] else "-"
        print(f"| {case} | {threads} | {way} | {statistics.median(found):.3f} | {ratio:.2f} | {grown} |", flush=True)
    return rows


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--cases", default=",".join(CASES))
    options.add_argument("--ways", help="all by default; separated by semicolons")
    options.add_argument("--threads", default="1", help="numbers, separated by commas")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--no-compile", action="store_true")
    options.add_argument("--out", type=Path)
    options.add_argument("--draw", type=Path, metavar="FILE.json")
    options.add_argument("--peak", nargs=2, metavar=("CASE", "WAY"), help=argparse.SUPPRESS)
    given = options.parse_args()
    torch.set_num_threads(1)
    if given.peak:
        print(peak(*given.peak))
        return
    if given.draw:
        print(chart.bands(json.loads(given.draw.read_text()), given.draw.with_suffix(".svg")))
        return
    chosen = given.ways.split(";") if given.ways else None
    found: dict = {"machine": record.machine(), "torch": torch.__version__, "fastloss": fastloss.__version__}
    if given.out and given.out.exists():
        found |= {"cases": json.loads(given.out.read_text())["cases"]}
    print(f"{found['machine']['cpu']}, torch {torch.__version__}, medians of {given.rounds}, CPU time of all threads\n")
    print("| case | threads | way | seconds | of ours | MiB beyond the inputs |\n|---|---|---|---|---|---|")
    for threads in given.threads.split(","):
        for case in given.cases.split(","):
            rows = measured(case, int(threads), chosen, given.rounds, not given.no_compile)
            of_case = found.setdefault("cases", {}).setdefault(case, {})
            of_case[threads] = {**of_case.get(threads, {}), **rows}
            if given.out:
                given.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
