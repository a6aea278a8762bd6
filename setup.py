"""Builds fastloss._C with ninja: CPU kernels once per instruction set, CUDA kernels if nvcc is there, stable-ABI ops, a
pybind11 module, all in one .so.

Environment: FASTLOSS_NO_EXT=1 (pure Python), FASTLOSS_SANITIZE=address,undefined, FASTLOSS_GLIBC=2.28, MAX_JOBS, CXX,
CXXFLAGS, LDFLAGS, and those of setup_cuda.py. CONTRIBUTING.md explains them.
"""

import ast
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from importlib.util import find_spec
from pathlib import Path

import setuptools
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT))  # a build in isolation does not have it
import setup_cuda  # noqa: E402
import setup_glibc  # noqa: E402

SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")
WINDOWS = sys.platform == "win32"  # its compiler has neither the vector extensions nor the flags below
NO_EXT = WINDOWS or os.environ.get("FASTLOSS_NO_EXT", "0") not in ("", "0")
SANITIZE = os.environ.get("FASTLOSS_SANITIZE", "")
GLIBC = os.environ.get("FASTLOSS_GLIBC", "")
TORCH_MIN = (2, 11)
STABLE_TARGET = f"0x{TORCH_MIN[0]:02x}{TORCH_MIN[1]:02x}000000000000"

# -fno-trapping-math lets selects become masks (12x on the sigmoid loops); NaN and infinities keep their meaning.
# -ffp-contract=off: the same arithmetic gives the same bits in every loop; fused multiply-adds are written out.
COMMON = (
    "-std=c++17 -O3 -DNDEBUG -fPIC -fvisibility=hidden -fvisibility-inlines-hidden -fno-trapping-math -fno-math-errno "
    "-ffp-contract=off -fopenmp-simd -Wall -Wextra"
).split()
AVX512 = "-mavx512f -mavx512dq -mavx512bw -mavx512vl -mfma -mf16c -mbmi2 -mprefer-vector-width=512"
# Lowest first: where a weak symbol ends up in several objects the linker keeps the first, which every machine can run.
ISAS = {"baseline": [], "avx2": "-mavx2 -mfma -mf16c".split(), "avx512": AVX512.split()}


def stop(sentence):
    raise SystemExit(f"fastloss: {sentence}")


if int(setuptools.__version__.partition(".")[0]) < 77:  # older ones reject pyproject.toml's licence with a page of text
    stop(f"building needs setuptools >= 77, found {setuptools.__version__}; run `pip install -U setuptools`.")


def read_assignment(path, name):
    """The literal assigned to `name` in a Python file, without importing it (torch takes seconds)."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(t, ast.Name) and t.id == name for t in targets):
            return ast.literal_eval(node.value)
    raise LookupError(f"{path} assigns no {name}")


def find_torch():
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        stop("building the extension needs torch >= 2.11; run `pip install torch` first or drop --no-build-isolation.")
    folder = Path(spec.origin).parent
    version = read_assignment(folder / "version.py", "__version__")
    if tuple(int(part) for part in version.split(".")[:2]) < TORCH_MIN:
        stop(f"building the extension needs torch >= 2.11, found {version}; run `pip install -U torch`.")
    return folder, version


def find_compiler():
    command = shlex.split(os.environ.get("CXX", "")) or [next(filter(shutil.which, ("c++", "g++", "clang++")), "c++")]
    if shutil.which(command[0]) is None:
        stop(f"no C++17 compiler ({command[0]}) was found; install g++ or clang, set CXX, or set FASTLOSS_NO_EXT=1.")
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        stop("Python.h was not found; install Python's headers (python3-dev), or set FASTLOSS_NO_EXT=1.")
    return command


def find_ninja():
    if find_spec("ninja") is not None:
        import ninja

        return str(Path(ninja.BIN_DIR, "ninja"))
    return shutil.which("ninja") or stop("ninja was not found; run `pip install ninja` or drop --no-build-isolation.")


def find_cuda():
    """(toolkit, None), or (None, why the CUDA kernels are left out)."""
    try:
        toolkit, reason = setup_cuda.find()
    except setup_cuda.CudaError as error:
        stop(str(error))
    if toolkit is not None and not list(ROOT.glob("csrc/cuda/**/*.cu")):
        return None, "this version has no CUDA kernels"
    if toolkit is not None and SANITIZE:  # nvcc's objects cannot be instrumented
        return None, "an instrumented build leaves the CUDA kernels to the emulator"
    return toolkit, reason


def write_graph(folder, cxx, torch_dir, cuda):
    """Writes build.ninja; returns the flags of each group of files, for the record."""
    import pybind11

    x86 = platform.machine().lower() in ("x86_64", "amd64") and sys.platform.startswith("linux")
    common = COMMON + ([] if x86 else ["-DFL_BASELINE_ONLY"]) + ["-Icsrc"]
    extra = shlex.split(os.environ.get("CXXFLAGS", ""))
    link = ["-shared", *shlex.split(os.environ.get("LDFLAGS", ""))]
    if SANITIZE:
        checks = [f"-fsanitize={SANITIZE}", "-fno-sanitize-recover=all"]
        extra += ["-O1", "-g", "-fno-omit-frame-pointer", *checks]
        link += checks
    python = ["-isystem", sysconfig.get_path("include"), "-isystem", pybind11.get_include()]
    torch = [f"-DTORCH_TARGET_VERSION={STABLE_TARGET}", "-isystem", str(torch_dir / "include")]
    torch += [f"-ffile-prefix-map={torch_dir}=torch"]  # no build path inside the error messages

    has = [] if cuda is None else ["-DFASTLOSS_HAS_CUDA"]
    groups = {
        "ops": ("csrc/ops/*.cpp", torch + has),
        "bind": ("csrc/bind.cpp", python + has),
        "cpu": ("csrc/cpu/*.cpp", []),
    }
    jobs = []  # (object, source, flags); kernels come last, see ISAS
    for name, (pattern, flags) in groups.items():
        for source in sorted(ROOT.glob(pattern)):
            kernels = name == "cpu" and source.name.startswith("kernels")
            if not kernels and (cuda is not None or not source.name.startswith("cuda")):
                own = SUFFIX.rpartition(".")[0] if name == "bind" else ""  # all other objects serve every Python
                jobs.append((f"{name}.{source.stem}{own}.o", source, flags))
    for isa, flags in ISAS.items() if x86 else [("baseline", [])]:
        for source in sorted(ROOT.glob("csrc/cpu/kernels*.cpp")):
            jobs.append((f"{source.stem}.{isa}.o", source, [f"-DFL_ISA=fl_{isa}", *flags]))

    # No rpath: `import torch` loads these libraries, its own ones. --no-as-needed keeps libtorch for weak symbols.
    if sys.platform == "darwin":
        link += ["-undefined", "dynamic_lookup"]
    else:
        link += ["-Wl,--no-as-needed"]
    libraries = [f"-L{torch_dir / 'lib'}", "-ltorch", "-ltorch_cpu", "-lc10"]
    if cuda is not None:
        libraries += cuda.link_flags()
    if GLIBC:
        first, last = setup_glibc.link_flags(folder / "glibc", cxx)
        link, libraries = [*link, *first], [*libraries, *last]

    def command(words):
        return shlex.join(words).replace("$", "$$")

    out = folder.relative_to(ROOT).as_posix()
    lines = [
        f"builddir = {out}",
        f"rule cxx\n  command = {command(cxx)} $flags -MD -MF $out.d -c $in -o $out\n  depfile = $out.d\n  deps = gcc\n"
        "  description = compiling $in ($name)",
        f"rule link\n  command = {command(cxx)} {command(link)} $in -o $out {command(libraries)}\n"
        "  description = linking fastloss._C",
    ]
    for target, source, flags in jobs:
        path = source.relative_to(ROOT).as_posix()
        lines.append(
            f"build {out}/{target}: cxx {path}\n  flags = {command([*common, *flags, *extra])}\n  name = {target}"
        )
    objects = [f"{out}/{target}" for target, _, _ in jobs]
    if cuda is not None:
        nvcc = command(cuda.compile_command(cxx))
        lines.append(
            f"rule nvcc\n  command = {nvcc} -MD -MF $out.d -c $in -o $out > $out.log 2>&1 || (cat $out.log; false)\n"
            "  depfile = $out.d\n  deps = gcc\n"
            "  description = compiling $in for $archs"
        )
        for source in sorted(ROOT.glob("csrc/cuda/**/*.cu")):
            objects.append(f"{out}/cuda.{source.stem}.o")
            lines.append(f"build {objects[-1]}: nvcc {source.relative_to(ROOT).as_posix()}")
            lines.append(f"  archs = {' '.join(cuda.archs)}")
    lines.append(f"build {out}/_C{SUFFIX}: link {' '.join(objects)}")
    (folder / "build.ninja").write_text("\n".join(lines) + "\n")
    isas = {isa: " ".join(flags) for isa, flags in ISAS.items() if x86 or isa == "baseline"}
    return {"common": " ".join([*common, *extra]), **isas}


def build(folder):
    """Compiles into `folder`, where objects stay for the next call; returns the paths of the .so and its record."""
    jobs = os.environ.get("MAX_JOBS", "")
    if jobs and not (jobs.isdigit() and int(jobs) > 0):
        stop(f"MAX_JOBS must be a positive whole number, not {jobs!r}.")
    if GLIBC not in ("", setup_glibc.GLIBC) or (GLIBC and not sys.platform.startswith("linux")):
        stop(f"FASTLOSS_GLIBC can only be {setup_glibc.GLIBC}, and on Linux, not {GLIBC!r}.")
    cuda, cuda_reason = find_cuda()
    torch_dir, torch_version = find_torch()
    cxx, ninja = find_compiler(), find_ninja()
    if find_spec("pybind11") is None:
        stop("pybind11 was not found; run `pip install pybind11` or drop --no-build-isolation.")
    folder.mkdir(parents=True, exist_ok=True)
    flags = write_graph(folder, cxx, torch_dir, cuda)
    call = [ninja, "-C", str(ROOT), "-f", str(folder / "build.ninja"), "-j", jobs or str(os.cpu_count() or 1)]
    if subprocess.run(call).returncode:
        leave_out = "" if cuda is None else "FASTLOSS_CUDA=0 to leave out the CUDA kernels, or "
        stop(f"the extension did not compile, see above; set {leave_out}FASTLOSS_NO_EXT=1 to install without it.")
    compiler = subprocess.run([*cxx, "--version"], capture_output=True, text=True).stdout.partition("\n")[0]
    record = {
        "version": read_assignment(ROOT / "fastloss" / "_version.py", "__version__"),
        "torch": torch_version,
        "torch_min": ".".join(map(str, TORCH_MIN)),
        "stable_target": STABLE_TARGET,
        "python": platform.python_version(),
        "suffix": SUFFIX,
        "platform": sysconfig.get_platform(),
        "compiler": compiler,
        "flags": flags,
        "cuda": None if cuda is None else cuda.record,
        "cuda_reason": cuda_reason,
        "sanitize": SANITIZE or None,
    }
    (folder / "_build.json").write_text(json.dumps(record, indent=2) + "\n")
    return folder / f"_C{SUFFIX}", folder / "_build.json"


def deliver(source, target):
    """Replaces `target` at once: a process that has the old file mapped keeps it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source, target.with_name(target.name + ".new"))
    os.replace(target.with_name(target.name + ".new"), target)


class NinjaBuild(build_ext):
    def run(self):
        if not self.extensions:  # FASTLOSS_NO_EXT=1 and an explicit build_ext
            return
        kind = "-sanitize" if SANITIZE else ""
        for built in build(ROOT / "build" / f"ext.{sysconfig.get_platform()}{kind}"):
            deliver(built, Path(self.build_lib, "fastloss", built.name))
            if self.inplace:
                deliver(built, ROOT / "fastloss" / built.name)

    def get_outputs(self):
        return [str(Path(self.build_lib, "fastloss", name)) for name in (f"_C{SUFFIX}", "_build.json")]

    def get_output_mapping(self):
        return {path: str(Path("fastloss", Path(path).name)) for path in self.get_outputs()} if self.inplace else {}


class CleanBuildPy(build_py):
    """Starts from nothing: a wheel holds no file of an earlier build, and a pure-Python install no extension."""

    def run(self):
        shutil.rmtree(Path(self.build_lib, "fastloss"), ignore_errors=True)
        if self.editable_mode and NO_EXT:
            for stale in [*(ROOT / "fastloss").glob("_C*.so"), ROOT / "fastloss" / "_build.json"]:
                stale.unlink(missing_ok=True)
        super().run()


def read_readme():
    """README with absolute links, for pages that show it with no files beside it (PyPI)."""
    text, project = [(ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "pyproject.toml")]
    home = re.search(r'^Repository = "(.+)"', project, re.MULTILINE)[1]

    def absolute(link):
        image, words, target = link.groups()
        return f"{image}[{words}]({home}/{'raw' if image else 'blob'}/main/{target})"

    return re.sub(r"(!?)\[([^\]]*)\]\((?![a-z]+:|#)([^)]+)\)", absolute, text)


if WINDOWS:
    print("fastloss: the extension is not built on Windows; losses run on Triton or in plain PyTorch.", file=sys.stderr)
setup(
    long_description=read_readme(),
    long_description_content_type="text/markdown",
    ext_modules=[] if NO_EXT else [Extension("fastloss._C", sources=[])],
    cmdclass={"build_ext": NinjaBuild, "build_py": CleanBuildPy},
)
