"""Compiles CUDA sources with an ordinary compiler against csrc/emulator; ninja remakes what has changed.

`python tests/support/emulated.py [address,undefined]` prints the path of the emulated backend.
"""

from __future__ import annotations

import fcntl
import os
import platform
import shlex
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "build" / "emulated"
EMULATOR = sorted(ROOT.glob("csrc/emulator/*.cpp"))
BACKEND = [*sorted(ROOT.glob("csrc/cuda/**/*.cu")), *sorted(ROOT.glob("csrc/ops/cuda*.cpp")), *EMULATOR]
COMMON = (
    "-std=c++17 -g1 -DFASTLOSS_EMULATED -fPIC -fvisibility=hidden -fno-strict-aliasing -fno-math-errno "
    "-ffp-contract=off -w -Icsrc -Icsrc/emulator"
).split()


def reason() -> str | None:
    """None, or why the emulator does not run here."""
    if not sys.platform.startswith("linux"):
        return "the emulator needs Linux"
    compiler = shlex.split(os.environ.get("CXX", "c++"))[0]
    return None if shutil.which(compiler) else f"no compiler ({compiler})"


def _flags() -> list[str]:
    """The device multiplies and adds in one rounding; so does the processor, where it can."""
    if platform.machine() != "x86_64":
        return []
    has = Path("/proc/cpuinfo").read_text().partition("flags")[2].partition("\n")[0].split()
    return [f"-m{name}" for name in ("fma", "f16c", "avx2") if name in has]


def preload() -> str:
    """For LD_PRELOAD of a process that loads an instrumented library: `python tests/support/emulated.py preload`."""
    cxx = shlex.split(os.environ.get("CXX", "c++"))
    names = ("libasan.so", "libubsan.so")
    found = [subprocess.run([*cxx, f"-print-file-name={n}"], capture_output=True, text=True).stdout for n in names]
    return " ".join(path.strip() for path in found)


def build(name: str, sources: list[Path], sanitize: str = "", flags: tuple[str, ...] = ()) -> Path:
    """The path of a shared library made of `sources`. Raises RuntimeError with the compiler's words."""
    import torch

    cxx = shlex.split(os.environ.get("CXX", "c++"))
    checks = [f"-fsanitize={sanitize}", "-fno-sanitize-recover=all"] if sanitize else []
    level = ["-O1", "-fno-omit-frame-pointer"] if sanitize else ["-O2"]
    include = Path(torch.__file__).parent / "include"
    ops = ["-isystem", str(include), "-DTORCH_TARGET_VERSION=0x020b000000000000"]
    folder = FOLDER / "-".join([name, *sanitize.split(",")]).rstrip("-")
    folder.mkdir(parents=True, exist_ok=True)
    common = shlex.join([*cxx, *COMMON, *level, *_flags(), *checks, *flags])
    lines = [
        f"builddir = {folder}",
        f"rule cxx\n  command = {common} $flags -MD -MF $out.d -x c++ -c $in -o $out\n  depfile = $out.d\n  deps = gcc",
        f"rule link\n  command = {shlex.join([*cxx, '-shared', '-Wl,-z,defs', *checks])} $in -o $out $libraries",
    ]
    objects = []
    for source in sources:
        objects.append(f"{folder}/{source.name}.o")
        lines.append(f"build {objects[-1]}: cxx {source}")
        if source.parent.name == "ops":
            lines.append(f"  flags = {shlex.join(ops)}")
    library = folder / f"{name}.so"
    lines.append(f"build {library}: link {' '.join(objects)}")
    libraries = [f"-L{include.parent / 'lib'}", "-ltorch", "-ltorch_cpu", "-lc10"]
    if any(source.parent.name == "ops" for source in sources):
        lines.append(f"  libraries = {shlex.join(libraries)}")
    with open(folder / "lock", "w") as lock:  # several test processes may ask
        fcntl.flock(lock, fcntl.LOCK_EX)
        graph = folder / "build.ninja"
        graph.write_text("\n".join(lines) + "\n")
        jobs = os.environ.get("MAX_JOBS", str(os.cpu_count() or 1))
        done = subprocess.run([_ninja(), "-C", ROOT, "-f", graph, "-j", jobs], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)
    return library


def _ninja() -> str:
    if find_spec("ninja") is not None:
        import ninja

        return str(Path(ninja.BIN_DIR, "ninja"))
    return "ninja"


if __name__ == "__main__":
    print(preload() if sys.argv[1:] == ["preload"] else build("backend", BACKEND, *sys.argv[1:2]))
