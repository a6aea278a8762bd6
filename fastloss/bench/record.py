"""The JSON record: what ran, where and with which versions, so that a number can be read years later."""

from __future__ import annotations

import json
import os
import platform
import re
import time
from importlib import metadata
from pathlib import Path

import torch

from fastloss import backends, doctor
from fastloss.measure import host
from fastloss.measure.cases import Case
from fastloss.measure.peers import PACKAGES

SCHEMA = 2
ISA = ("avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512_bf16", "amx_bf16", "neon", "asimd", "sve")


def machine() -> dict:
    """Describe what the times depend on besides the code."""
    flags = set(host.cpuinfo("flags").split()) | set(host.cpuinfo("Features").split())
    memory = re.search(r"MemTotal:\s*(\d+)", host.read("/proc/meminfo"))
    return {
        "cpu": host.processor(),
        "cpu_id": f"family {host.cpuinfo('cpu family')} model {host.cpuinfo('model')}"
        if host.cpuinfo("cpu family")
        else "",
        "isa": [f for f in ISA if f in flags],
        "cores": os.cpu_count(),
        "l2": host.read("/sys/devices/system/cpu/cpu0/cache/index2/size"),
        "l3": host.read("/sys/devices/system/cpu/cpu0/cache/index3/size"),
        "memory_gib": round(int(memory.group(1)) / 2**20, 1) if memory else None,
        "hypervisor": "hypervisor" in flags,
        "huge_pages": (re.findall(r"\[(\w+)\]", host.read("/sys/kernel/mm/transparent_hugepage/enabled")) or [""])[0],
        "load_at_start": [round(v, 2) for v in os.getloadavg()],
        "system": f"{platform.system()} {platform.release()}",
        "libc": " ".join(platform.libc_ver()),
    }


def gpu() -> dict:
    """Describe the GPU, its driver and compilers; empty when there is no GPU."""
    if not torch.cuda.is_available():
        return {}
    p = torch.cuda.get_device_properties(0)
    query = ["nvidia-smi", "--query-gpu=driver_version,clocks.sm,clocks.mem,temperature.gpu", "--format=csv,noheader"]
    return {
        "name": p.name,
        "count": torch.cuda.device_count(),
        "capability": f"{p.major}.{p.minor}",
        "multiprocessors": p.multi_processor_count,
        "memory_gib": round(p.total_memory / 2**30, 1),
        "l2_mib": p.L2_cache_size / 2**20,
        "driver_clocks": host.output(*query),
        "nvcc": host.output("nvcc", "--version").splitlines()[-1:],
        "cuda": torch.version.cuda,
    }


def versions(peers: list[str]) -> dict[str, str]:
    found = {"python": platform.python_version(), "torch": torch.__version__}
    for name in ["fastloss", *(PACKAGES.get(p, p) for p in peers if p != "torch")]:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "from source"
    return found


def new(kind: str, peers: list[str], settings: dict, **more: object) -> dict:
    """Make a record without rows; `kind`: cpu (its rows lie in regimes), gpu or compat."""
    return {
        "schema": SCHEMA,
        "kind": kind,
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": host.commit() or "unknown",
        "machine": machine(),
        "torch_cpu": torch.backends.cpu.get_cpu_capability(),
        "backends": backends.available(),
        "extension": doctor.collect()["extension"],
        "versions": versions(peers),
        "settings": settings,
        **({"regimes": {}} if kind == "cpu" else {"rows": []}),
        **more,
    }


def row(case: Case) -> dict:
    """Make the row of a case, without contenders yet."""
    return {
        "case": case.name,
        "title": case.title,
        "group": case.group,
        "size": case.size,
        "levels": case.levels,
        "mode": case.mode,
        "dtype": case.dtype,
        "target": case.target,
        "ignored": case.ignored,
        "numel": case.numel,
        "pixels": case.pixels,
        "logits_bytes": case.logits_bytes,
        "least_bytes": case.least_bytes(),
        "missing": {},
        "contenders": {},
    }


def slug(record: dict) -> str:
    """Name the file of a record: device, processor and cores."""
    m = record["machine"]
    words = f"{m['cpu']} {m['cpu_id'].replace('model', 'm').replace('family', 'f')}".lower()
    return f"cpu--{re.sub(r'[^a-z0-9]+', '-', words).strip('-')}-{m['cores']}c"


def save(record: dict, *paths: Path | None) -> None:
    for path in filter(None, paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record, indent=1, allow_nan=True) + "\n")


def load(path: Path) -> dict:
    """Read a record, of an earlier schema too; ValueError if the file is none."""
    try:
        record = json.loads(path.read_text())
        return EARLIER.get(record["schema"], _today)(record)
    except (OSError, json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no benchmark record ({type(error).__name__}: {error})") from None


def _today(record: dict) -> dict:
    if record["schema"] != SCHEMA:
        raise KeyError(f"schema {record['schema']}")
    return record


def _from_1(record: dict) -> dict:
    """Convert records of a CPU and of drop-ins of 2026, the latter with milliseconds and ratios by name."""
    found = record["regimes"].pop("compat", None)
    if found is None:
        return record | {"kind": "cpu"}
    for row in found["rows"]:
        row |= {"group": row["size"], "size": "x".join(map(str, row.pop("shape"))), "contenders": {}}
        ratios = row.pop("ratio", {})
        for key, ms in row.pop("ms", {}).items():
            entry = {"role": "peer" if key.startswith("original") else "ours", "seconds": ms / 1e3}
            if key in ratios:
                entry["ratio"] = dict(zip(("median", "low", "high"), ratios[key]))
            row["contenders"][key] = entry
    return record | {"kind": "compat", "rows": found["rows"]}


def _from_gpu_1(record: dict) -> dict:
    """Convert records of a GPU of 2026: memory in bytes, other names."""
    for row in record["rows"]:
        row |= {"case": row.pop("problem"), "group": row["size"], "size": row.pop("shape")}
        row |= {"logits_bytes": row.pop("one_gradient"), "missing": {}}
        for key, entry in list(row["contenders"].items()):
            if "memory" in entry:
                entry["memory"] = {k: v / row["logits_bytes"] for k, v in entry["memory"].items()}
            if "missing" in entry:
                row["missing"][key] = row["contenders"].pop(key)["missing"]
    return record | {"kind": "gpu"}


EARLIER = {1: _from_1, "gpu-1": _from_gpu_1}
