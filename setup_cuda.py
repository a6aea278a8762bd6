"""For setup.py and tests/backends/test_sass.py: finds nvcc, says how csrc/cuda is compiled with it. Needs no torch.

Environment: FASTLOSS_CUDA=auto|1|0 (FORCE_CUDA=1 is the same as 1), CUDA_HOME, CUDA_PATH, TORCH_CUDA_ARCH_LIST.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sysconfig
from dataclasses import dataclass
from pathlib import Path

# One of each generation: later cards of a generation run its code, later generations compile the last one's PTX.
ARCHS = "8.0;9.0;10.0+PTX"
NAMED = {"Ampere": "8.0;8.6+PTX", "Ada": "8.9+PTX", "Hopper": "9.0+PTX", "Blackwell": "10.0;10.3;12.0;12.1+PTX"}
# --fmad=false: the gradient written early and the one computed late are the same arithmetic in different kernels, and
# must be the same bits; fused multiply-adds are written out, as on the CPU.
FLAGS = "-std=c++17 -O3 -DNDEBUG --fmad=false -Xcompiler=-fPIC,-fvisibility=hidden -Xfatbin=-compress-all -Icsrc"


WITHOUT = "FASTLOSS_CUDA=0 builds without CUDA"


class CudaError(Exception):
    """One sentence that says what stands in the way."""


@dataclass(frozen=True)
class Toolkit:
    nvcc: str
    libraries: Path  # with the static runtime
    version: str
    archs: tuple[str, ...]  # "9.0"; one that also goes in as PTX is "10.0+PTX"

    @property
    def record(self) -> dict[str, str]:
        return {"version": self.version, "archs": " ".join(self.archs), "flags": FLAGS}

    def compile_command(self, cxx: list[str]) -> list[str]:
        """Up to the source and the object."""
        host = next((word for word in cxx if Path(word).name not in ("ccache", "sccache", "distcc")), cxx[-1])
        report = "-Xptxas=-v"  # registers and spills, for tests/backends/test_sass.py
        return [
            self.nvcc,
            "-ccbin",
            host,
            report,
            *FLAGS.split(),
            *(flag for arch in self.archs for flag in gencode(arch)),
        ]

    def link_flags(self) -> list[str]:
        """The runtime goes into the extension, which so loads where there is no CUDA; its names stay inside."""
        names = ["-lcudart_static", "-ldl", "-lrt", "-lpthread"]
        return [f"-L{self.libraries}", "-Wl,--exclude-libs,libcudart_static.a", "-Wl,--as-needed", *names]


def gencode(arch: str) -> list[str]:
    number = arch.partition("+")[0].replace(".", "")
    kinds = [f"sm_{number}"] + [f"compute_{number}"] * arch.endswith("+PTX")
    return ["-gencode", f"arch=compute_{number},code=[{','.join(kinds)}]"]


def find() -> tuple[Toolkit | None, str | None]:
    """(toolkit, None), or (None, why the kernels are left out). Raises CudaError where CUDA was insisted on."""
    wish = os.environ.get("FASTLOSS_CUDA", "auto")
    if wish not in ("auto", "1", "0"):
        raise CudaError(f"FASTLOSS_CUDA must be auto, 1 or 0, not {wish!r}.")
    if wish == "0":
        return None, "built with FASTLOSS_CUDA=0"
    nvcc = _nvcc()
    if nvcc is None:
        why_not = "nvcc was not found in CUDA_HOME, CUDA_PATH, PATH or the package nvidia-cuda-nvcc"
    else:
        try:
            archs = choose_archs(re.findall(r"compute_(\d+)", _ask(nvcc, "--list-gpu-arch")))
            version = re.search(r"release (\d+\.\d+)", _ask(nvcc, "--version"))
            return Toolkit(nvcc, _libraries(nvcc), version[1] if version else "unknown", archs), None
        except (OSError, subprocess.CalledProcessError, LookupError) as error:
            why_not = f"nvcc was found, but is of no use ({error})"
    if wish == "1" or os.environ.get("FORCE_CUDA") == "1":
        raise CudaError(f"FASTLOSS_CUDA=1 cannot be done: {why_not}.")
    return None, why_not


def choose_archs(known: list[str]) -> tuple[str, ...]:
    """The architectures asked for, without those that this nvcc does not know."""
    given = os.environ.get("TORCH_CUDA_ARCH_LIST", "").strip()
    wanted = given or ARCHS
    for name, numbers in NAMED.items():
        wanted = re.sub(rf"\b{name}\b", numbers, wanted)
    words = wanted.replace(";", " ").replace(",", " ").split()
    for word in words:
        if not re.fullmatch(r"\d+\.\d[af]?(\+PTX)?", word):
            raise CudaError(f"TORCH_CUDA_ARCH_LIST must hold numbers such as 9.0 or 10.0+PTX, got {word!r}; {WITHOUT}.")
    fitting = [word for word in dict.fromkeys(words) if re.sub(r"\D", "", word) in known]
    if not fitting:
        raise CudaError(f"nvcc compiles for none of the architectures {wanted!r}; set TORCH_CUDA_ARCH_LIST; {WITHOUT}.")
    if not given and not fitting[-1].endswith("+PTX"):
        fitting[-1] += "+PTX"
    return tuple(fitting)


def _nvcc() -> str | None:
    homes = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    found = (shutil.which("nvcc", path=str(Path(home, "bin"))) for home in homes)
    return next(filter(None, found), None) or shutil.which("nvcc") or shutil.which("nvcc", path=_packages())


def _packages() -> str:
    """Where PyPI's packages put nvcc, from 13.0 on: those for 12 have neither it nor the static runtime."""
    return os.pathsep.join(str(path) for path in Path(sysconfig.get_path("purelib"), "nvidia").glob("cu*/bin"))


def _ask(nvcc: str, *options: str) -> str:
    done = subprocess.run([nvcc, *options], capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


def _libraries(nvcc: str) -> Path:
    # nvcc may be a script or a link that lies somewhere else: it knows best where it belongs.
    top = re.search(r"^#\$ TOP=(.+)$", _ask(nvcc, "--dryrun", "-E", "-x", "cu", os.devnull), re.MULTILINE)
    root = Path(top[1].strip() if top else Path(nvcc).resolve().parent.parent)
    places = [root / "lib64", root / "lib", *root.glob("targets/*/lib")]
    places.append(Path("/usr/lib", sysconfig.get_config_var("MULTIARCH") or ""))  # Debian's package
    for place in places:
        if (place / "libcudart_static.a").exists():
            return place.resolve()
    raise LookupError("its libcudart_static.a is missing")
