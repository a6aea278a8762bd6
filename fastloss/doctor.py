"""`fastloss doctor`: what is installed, how it was built, and which backend runs here or why it does not."""

import argparse
import json
import os
import platform
import time

import torch

import fastloss
from fastloss import _library, backends
from fastloss._types import Mode
from fastloss._version import __version__


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    warm = "run common losses on the GPU, so that their kernels are compiled and tuned, and say how long that took"
    parser.add_argument("--warm", action="store_true", help=warm)


def main(args: argparse.Namespace) -> int:
    """Prints the report; a missing extension is a finding, not a failure, so the exit status is 0."""
    report = collect()
    if args.warm:
        report["warm"] = warm(report["backends"])
    print(json.dumps(report, indent=2) if args.json else render(report))
    return 0


def collect() -> dict:
    """The report as plain data; every entry is asked for at the moment of the call."""
    extension = _library.load()
    return {
        "fastloss": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "torch": torch.__version__,
        "torch_cuda": torch.version.cuda,
        "driver": _library.driver(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "threads": torch.get_num_threads(),
        "extension": {
            "loaded": extension is not None,
            "reason": _library.reason(),
            "instruction_set": extension.cpu_capability() if extension is not None else None,
            "build": _library.build_record() or None,
        },
        "backends": backends.available(),
        "environment": {name: value for name, value in sorted(os.environ.items()) if name.startswith("FASTLOSS_")},
    }


def warm(available: dict[str, str | None], device: str = "cuda") -> list[dict]:
    """Seconds of the first and of the second forward and backward of common losses, on each backend of the device.

    What Triton compiles and finds fastest stays in its cache on disk (TRITON_CACHE_DIR).
    """
    rows = []
    for backend in [name for name, why_not in available.items() if why_not is None]:
        if backends.DEVICES.get(backend) != device:
            continue
        modes: list[tuple[Mode, int]] = [("binary", 1), ("multilabel", 3), ("multiclass", 4)]
        for mode, channels in modes:
            plain = fastloss.CrossEntropyLoss() if mode == "multiclass" else fastloss.BCEWithLogitsLoss(mode)
            dice = fastloss.DiceLoss(mode)
            for criterion in (plain, dice, dice + plain, dice + fastloss.FocalLoss(mode), fastloss.TopKLoss(mode)):
                for dtype in (torch.float32, torch.bfloat16):
                    first, second = [_seconds(criterion, backend, channels, dtype, device) for _ in range(2)]
                    row = {"backend": backend, "loss": repr(criterion), "dtype": str(dtype).removeprefix("torch.")}
                    rows.append(row | {"first": first, "second": second})
    return rows


def _seconds(criterion: torch.nn.Module, backend: str, channels: int, dtype: torch.dtype, device: str) -> float:
    x = torch.randn(4, channels, 256, 256, device=device, dtype=dtype, requires_grad=True)
    y = torch.zeros(4, 256, 256, device=device, dtype=torch.uint8)
    if criterion.mode != "multiclass":
        y = y[:, None].repeat(1, channels, 1, 1)
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    wait()
    begin = time.perf_counter()
    with backends.use(backend):
        criterion(x, y).backward()
    wait()
    return time.perf_counter() - begin


def render(report: dict) -> str:
    """The report as text, one fact a line."""
    cuda = f"for CUDA {report['torch_cuda']}" if report["torch_cuda"] else "without CUDA"
    lines = [
        f"fastloss    {report['fastloss']}",
        f"Python      {report['python']} on {report['platform']}",
        f"PyTorch     {report['torch']}, built {cuda}",
        f"GPUs        {', '.join(report['gpus']) or 'none visible to PyTorch'}{_render_driver(report['driver'])}",
        f"threads     {report['threads']}",
        *_render_extension(report["extension"]),
        "backends",
    ]
    for name, why_not in report["backends"].items():
        if why_not is not None and why_not == report["extension"]["reason"]:
            why_not = "needs the extension"
        lines.append(f"  {name:<9} {'available' if why_not is None else 'not available: ' + why_not}")
    for name, value in report["environment"].items():
        lines.append(f"  {name}={value}")
    if "warm" in report:
        lines += _render_warm(report["warm"])
    return "\n".join(lines)


def _render_driver(driver: tuple[int, int] | None) -> str:
    return "" if driver is None else f"; the driver serves CUDA {driver[0]}.{driver[1]}"


def _render_extension(extension: dict) -> list[str]:
    state = "loaded" if extension["loaded"] else f"not loaded: {extension['reason']}"
    lines = [f"extension   {state}"]
    build = extension["build"]
    if build is None:
        return lines
    if extension["loaded"]:
        lines.append(f"  runs      {extension['instruction_set']} kernels")
    flags = dict(build["flags"])
    lines += [
        f"  built     fastloss {build['version']}, Python {build['python']}, {build['platform']}, {build['compiler']}",
        f"  torch     compiled against {build['torch']}, stable ABI: runs on {build['torch_min']} and later",
        f"  CUDA      {_render_cuda(build)}",
        f"  flags     {flags.pop('common')}",
    ]
    lines += [f"  {name:<9} {value or 'no further flags'}" for name, value in flags.items()]
    if build["sanitize"]:
        lines.append(f"  sanitize  {build['sanitize']}")
    return lines


def _render_warm(rows: list[dict]) -> list[str]:
    if not rows:
        return ["warm        nothing to do: no backend runs on a GPU here"]
    lines = ["warm        first and second call (forward and backward, with what is compiled and tuned)"]
    for row in rows:
        times = f"{row['first']:8.3f} s {row['second']:10.6f} s"
        lines.append(f"  {row['backend']:<9} {times}  {row['dtype']:<9} {row['loss']}")
    return lines


def _render_cuda(build: dict) -> str:
    if build["cuda"] is None:
        return f"not built: {build['cuda_reason']}"
    return f"nvcc {build['cuda']['version']} for {build['cuda']['archs']}, {build['cuda']['flags']}"
