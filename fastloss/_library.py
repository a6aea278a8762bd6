"""Loads the extension module fastloss._C once, and explains in one sentence why it cannot be loaded where it cannot."""

import ctypes
import functools
import importlib
import json
import os
import sysconfig
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from fastloss._version import __version__

_FOLDER = Path(__file__).parent
# CUDA's major version -> the first driver of Linux that serves it, whatever the minor version.
DRIVERS = {"12": "525", "13": "580"}
# Tests load the CUDA kernels compiled for the CPU from here: CONTRIBUTING.md.
EMULATED = os.environ.get("FASTLOSS_EMULATED")
CUDA_PATHS = ("auto", "resident", "split")  # what FASTLOSS_CUDA_PATH may be


@functools.cache
def build_record() -> dict:
    """What setup.py wrote about the build (compiler, flags, torch, CUDA); empty for a pure-Python install."""
    try:
        return json.loads((_FOLDER / "_build.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}


def load() -> ModuleType | None:
    """fastloss._C, or None; `reason` then says why. The first outcome holds for the life of the process."""
    return _load()[0]


def reason() -> str | None:
    """None when the extension is loaded, else one sentence that says why it is not and what to do."""
    return _load()[1]


def cuda_reason() -> str | None:
    """None when the CUDA kernels can run on the current GPU, else why not."""
    if EMULATED:
        return None
    path = os.environ.get("FASTLOSS_CUDA_PATH") or "auto"
    if path not in CUDA_PATHS:
        return f"FASTLOSS_CUDA_PATH must be one of {', '.join(CUDA_PATHS)}, not {path!r}"
    if reason() is not None:
        return reason()
    record = build_record()
    if record.get("cuda") is None:
        return record.get("cuda_reason") or "the extension was built without CUDA"
    if torch.version.cuda is None:
        return f"PyTorch {torch.__version__} was built without CUDA; install a CUDA build of it"
    old = _old_driver(record["cuda"]["version"])
    if old:
        return old
    if not torch.cuda.is_available():
        return "PyTorch finds no NVIDIA GPU"
    module: Any = load()
    return module.cuda_reason()


def driver() -> tuple[int, int] | None:
    """(major, minor) of the newest CUDA that the NVIDIA driver serves, None without a driver. Takes no CUDA context."""
    version = ctypes.c_int(0)
    try:
        failed = ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version))
    except (OSError, AttributeError):
        return None
    return None if failed or not version.value else (version.value // 1000, version.value % 1000 // 10)


def _old_driver(runtime: str) -> str | None:
    """Why the driver cannot serve the CUDA runtime inside the extension; None if it can, or if there is no driver."""
    present, major = driver(), runtime.partition(".")[0]
    if present is None or present[0] >= int(major):
        return None
    needed = f" ({DRIVERS[major]} or later)" if major in DRIVERS else ""
    return (
        f"the NVIDIA driver serves CUDA {present[0]}.{present[1]}, the kernels were built with CUDA {runtime}; "
        f"update the driver{needed}, or build fastloss from source with an older CUDA"
    )


@functools.cache
def _load() -> tuple[ModuleType | None, str | None]:
    if os.environ.get("FASTLOSS_DISABLE_EXT", "0") not in ("", "0"):
        return None, "the extension is switched off by FASTLOSS_DISABLE_EXT"
    record = build_record()
    if not record:
        return None, (
            "this install has no compiled extension (built with FASTLOSS_NO_EXT=1, or run from a source tree that was "
            "not built); reinstall with `pip install --no-build-isolation .`"
        )
    mismatch = _mismatch(record)
    if mismatch:
        return None, mismatch
    try:
        return importlib.import_module("fastloss._C"), None
    except ImportError as error:
        cause = str(error).splitlines()[0]
        if cause.startswith("FASTLOSS_"):  # a setting that the extension itself refuses
            return None, cause
        return None, f"the extension, {_built(record)}, does not load with {_present()} ({cause}); reinstall fastloss"


def _mismatch(record: dict) -> str | None:
    """Compares what the extension needs with what is here, before the dynamic linker fails with less to say."""
    if record["version"] != __version__:
        return f"the extension was built for fastloss {record['version']}, you have {__version__}; reinstall fastloss"
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    if record["suffix"] != suffix:
        return f"the extension was built for Python *{record['suffix']}, you have *{suffix}; reinstall fastloss"
    needed = tuple(int(part) for part in record["torch_min"].split("."))
    present = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if present < needed:
        return (
            f"the extension was built for PyTorch {record['torch_min']} and later, you have {torch.__version__}; "
            "run `pip install -U torch`"
        )
    return None


def _built(record: dict) -> str:
    return f"built for PyTorch >= {record['torch_min']} (compiled against {record['torch']}) and {record['platform']}"


def _present() -> str:
    return f"PyTorch {torch.__version__} on {sysconfig.get_platform()}"
