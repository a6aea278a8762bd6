"""What nvcc made of the kernels: the report of the build (registers, spills, local memory) and the machine code.

`python tests/support/sass.py [pattern]` prints a line for each kernel of the built extension.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OBJECTS = ROOT / "build" / f"ext.{sysconfig.get_platform()}"


@dataclass
class Kernel:
    arch: str  # "sm_90"
    symbol: str
    name: str  # demangled, without namespaces and parameters: "sigmoid_resident<float, NoElement>"
    stack: int  # bytes a thread
    spilled: int  # bytes stored and loaded
    registers: int
    shared: int  # bytes a block, without dynamic memory
    code: Counter = field(default_factory=Counter)  # instructions by opcode; empty if not disassembled


ENTRY = re.compile(
    r"Compiling entry function '(?P<symbol>\S+)' for '(?P<arch>sm_\w+)'.*?Function properties for (?P=symbol)\n"
    r"\s*(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads\n"
    r"[^\n]*Used (?P<registers>\d+) registers(?P<rest>[^\n]*)",
    re.DOTALL,
)


def logs() -> list[Path]:
    return sorted(OBJECTS.glob("cuda.*.o.log"))


def report(text: str) -> list[Kernel]:
    """The kernels of one log of nvcc with -Xptxas=-v."""
    found = list(ENTRY.finditer(text))
    names = demangle([m["symbol"] for m in found])
    kernels = []
    for m, name in zip(found, names):
        shared = re.search(r"(\d+) bytes smem", m["rest"])
        numbers = int(m["stack"]), int(m["stores"]) + int(m["loads"]), int(m["registers"]), int((shared or "00")[1])
        kernels.append(Kernel(m["arch"], m["symbol"], name, *numbers))
    return kernels


def demangle(symbols: list[str]) -> list[str]:
    """With c++filt, which comes with every compiler's binutils; else the symbols as they are."""
    if not symbols or shutil.which("c++filt") is None:
        return symbols
    text = subprocess.run(["c++filt"], input="\n".join(symbols), capture_output=True, text=True, check=True).stdout
    return [tidy(line) for line in text.splitlines()]


def tidy(name: str) -> str:
    name = re.sub(r"\(anonymous namespace\)::|\b(fl_cuda|fl|fl_plain)::", "", name)
    name = re.sub(r"\((?:\w+::)*\w+\)(\d)", r"\1", name)  # (Phase)1
    name = re.sub(r"^(void|auto) ", "", name)
    depth = 0
    for i, c in enumerate(name):
        depth += (c == "<") - (c == ">")
        if c == "(" and depth == 0:
            return name[:i]
    return name


def cuobjdump() -> str | None:
    """The toolkit's, or the one that Triton brings."""
    homes = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    places = [str(Path(home, "bin")) for home in homes] + [os.environ.get("PATH", "")]
    triton = importlib.util.find_spec("triton")
    if triton is not None and triton.origin:
        places.append(str(Path(triton.origin).parent / "backends" / "nvidia" / "bin"))
    return shutil.which("cuobjdump", path=os.pathsep.join(places))


INSTRUCTION = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)")


def disassemble(tool: str, path: Path, arch: str) -> dict[tuple[str, str], Counter]:
    """{(architecture, symbol): instructions by opcode}."""
    # nvdisasm, which cuobjdump calls, lies beside it.
    env = {**os.environ, "PATH": str(Path(tool).parent) + os.pathsep + os.environ.get("PATH", "")}
    quiet = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    done = subprocess.Popen([tool, "-arch", arch, "-sass", path], text=True, env=env, **quiet)
    code, current = {}, Counter()
    for line in done.stdout:
        if line.startswith("\t\tFunction : "):
            current = code.setdefault((arch, line.split()[-1]), Counter())
        elif match := INSTRUCTION.match(line):
            current[match[1]] += 1
    if done.wait():
        raise RuntimeError(f"{tool} does not read {path}")
    return code


@functools.cache
def kernels() -> list[Kernel]:
    """Of the last build in this tree; those of one architecture with their machine code, if a disassembler is found."""
    found, tool = [], cuobjdump()
    for log in logs():
        own = report(log.read_text())
        archs = {kernel.arch for kernel in own}
        arch = "sm_90" if "sm_90" in archs else max(archs, default=None)  # all of them would take a minute
        code = disassemble(tool, log.with_suffix(""), arch) if tool and arch else {}
        for kernel in own:
            kernel.code = code.get((kernel.arch, kernel.symbol), Counter())
        found += own
    return found


if __name__ == "__main__":
    pattern = re.compile(sys.argv[1] if len(sys.argv) > 1 else "")
    for k in sorted(kernels(), key=lambda k: (k.name, k.arch)):
        if pattern.search(k.name):
            wide = sum(n for name, n in k.code.items() if re.match(r"(LDG|STG)\b.*\.128", name))
            print(
                f"{k.arch:<7} {k.registers:>3} registers {k.spilled:>5} spilled {k.stack:>5} stack {k.shared:>6} shared"
                f" {sum(k.code.values()):>6} instructions {wide:>3} wide accesses  {k.name}"
            )
