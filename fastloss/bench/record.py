"""The JSON record: what ran, where and with which versions, so that a number can be read years later."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import time
from importlib import metadata
from pathlib import Path

import torch

from fastloss.measure.peers import PACKAGES

SCHEMA = 1
ISA = ("avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512_bf16", "amx_bf16", "neon", "asimd", "sve")


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace").strip()
    except OSError:
        return ""


def _cpuinfo(key: str) -> str:
    found = re.search(rf"^{key}\s*:\s*(.+)$", _read("/proc/cpuinfo"), re.MULTILINE)
    return found.group(1).strip() if found else ""


def _git(*words: str) -> str:
    here = Path(__file__).resolve().parent
    try:
        done = subprocess.run(["git", "-C", str(here), *words], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def machine() -> dict:
    """What the times depend on besides the code."""
    flags = set(_cpuinfo("flags").split()) | set(_cpuinfo("Features").split())
    memory = re.search(r"MemTotal:\s*(\d+)", _read("/proc/meminfo"))
    return {
        "cpu": _cpuinfo("model name") or platform.processor() or platform.machine(),
        "cpu_id": f"family {_cpuinfo('cpu family')} model {_cpuinfo('model')}" if _cpuinfo("cpu family") else "",
        "isa": [f for f in ISA if f in flags],
        "cores": os.cpu_count(),
        "l2": _read("/sys/devices/system/cpu/cpu0/cache/index2/size"),
        "l3": _read("/sys/devices/system/cpu/cpu0/cache/index3/size"),
        "memory_gib": round(int(memory.group(1)) / 2**20, 1) if memory else None,
        "hypervisor": "hypervisor" in flags,
        "huge_pages": (re.findall(r"\[(\w+)\]", _read("/sys/kernel/mm/transparent_hugepage/enabled")) or [""])[0],
        "load_at_start": [round(v, 2) for v in os.getloadavg()],
        "system": f"{platform.system()} {platform.release()}",
        "libc": " ".join(platform.libc_ver()),
    }


def versions(peers: list[str]) -> dict[str, str]:
    found = {"python": platform.python_version(), "torch": torch.__version__}
    for name in ["fastloss", *(PACKAGES[p] for p in peers if p != "torch")]:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "from source"
    return found


def new(peers: list[str], settings: dict) -> dict:
    """An empty record; regimes are added as they finish."""
    from fastloss import backends, doctor

    dirty = bool(_git("status", "--porcelain", "--untracked-files=no"))
    return {
        "schema": SCHEMA,
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": (_git("rev-parse", "HEAD") + ("+changes" if dirty else "")) or "unknown",
        "machine": machine(),
        "torch_cpu": torch.backends.cpu.get_cpu_capability(),
        "backends": backends.available(),
        "extension": doctor.collect()["extension"],
        "versions": versions(peers),
        "settings": settings,
        "regimes": {},
    }


def slug(record: dict) -> str:
    """File name of a record: device, processor and cores."""
    m = record["machine"]
    words = re.sub(
        r"[^a-z0-9]+", "-", f"{m['cpu']} {m['cpu_id'].replace('model', 'm').replace('family', 'f')}".lower()
    ).strip("-")
    return f"cpu--{words}-{m['cores']}c"


def save(record: dict, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1, allow_nan=True) + "\n")


def load(path: Path) -> dict:
    """Read a record; ValueError if the file is no record of this schema."""
    try:
        record = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is no benchmark record: {error}") from None
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        raise ValueError(f"{path} is no benchmark record of schema {SCHEMA}")
    return record
