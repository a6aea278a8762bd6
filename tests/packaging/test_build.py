"""The built extension: a true record, no code leaking between instruction sets, torch's stable symbols only."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import torch

import fastloss
from fastloss import _library

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = Path(fastloss.__file__).parent
SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")
LIBRARY = PACKAGE / f"_C{SUFFIX}"

needs_extension = pytest.mark.skipif(_library.load() is None, reason=f"no extension: {_library.reason()}")
needs_binutils = pytest.mark.skipif(
    not sys.platform.startswith("linux") or shutil.which("objdump") is None, reason="reads ELF files with binutils"
)


def python(code, *, path=None, **environment):
    """Runs `code` in a new interpreter, with `path` before everything on the module path; returns what it printed."""
    env = {**os.environ, **environment, "PYTHONPATH": str(path or PACKAGE.parent)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, cwd="/")
    assert done.returncode == 0, done.stderr
    return done.stdout


def doctor(*, path=None, **environment):
    code = "import sys; from fastloss.cli import main; sys.exit(main(['doctor', '--json']))"
    return json.loads(python(code, path=path, **environment))


@pytest.fixture
def package(tmp_path):
    """A copy of the package without the extension and its record; returns the folder that holds it."""
    shutil.copytree(PACKAGE, tmp_path / "fastloss", ignore=shutil.ignore_patterns("_C*", "_build.json", "__pycache__"))
    return tmp_path


@needs_extension
def test_the_record_is_about_this_build():
    record = _library.build_record()
    assert record["version"] == fastloss.__version__
    assert record["suffix"] == SUFFIX
    assert record["platform"] == sysconfig.get_platform()
    assert record["python"].split(".")[:2] == list(map(str, sys.version_info[:2]))
    assert record["stable_target"] == "0x020b000000000000"
    assert _library.load().cpu_capability() in record["flags"]
    assert (record["cuda"] is None) == bool(record["cuda_reason"])
    if record["cuda"]:
        assert set(record["cuda"]) == {"version", "archs", "flags"} and all(record["cuda"].values())


@needs_extension
def test_the_record_holds_no_path_and_no_time():
    text = json.dumps(_library.build_record())
    assert not re.search(r'[" =]/\w', text)
    assert not re.search(r"\d\d:\d\d", text)


def test_import_needs_only_torch_and_takes_no_cuda_context():
    code = """
import sys, torch
before = set(sys.modules)
import fastloss
new = {name.partition(".")[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names) - {"torch"}
new = {name for name in new if not name.startswith("_sysconfigdata")}  # what sysconfig reads
optional = ("fastloss.train", "fastloss.bench", "fastloss.measure", "fastloss.triton.")
parts = {name for name in sys.modules if name.startswith(optional)}
print(sorted(new), sorted(parts), torch.cuda.is_initialized())
"""
    assert python(code).split("\n")[0] == "['fastloss'] [] False"


@needs_extension
def test_doctor_with_the_extension():
    report = doctor(FASTLOSS_DISABLE_EXT="0")
    assert report["extension"]["loaded"] and report["extension"]["reason"] is None
    assert report["extension"]["instruction_set"] in report["extension"]["build"]["flags"]
    assert report["backends"]["cpu"] is None and report["backends"]["reference"] is None
    assert report["backends"]["cuda"] or report["gpus"]
    assert report["torch"] == torch.__version__


def test_doctor_with_the_extension_switched_off():
    report = doctor(FASTLOSS_DISABLE_EXT="1")
    assert not report["extension"]["loaded"]
    assert "FASTLOSS_DISABLE_EXT" in report["extension"]["reason"]
    assert report["backends"]["cpu"] and report["backends"]["reference"] is None


def test_doctor_of_a_pure_python_install(package):
    report = doctor(path=package)
    assert not report["extension"]["loaded"]
    assert "no compiled extension" in report["extension"]["reason"]
    assert report["extension"]["build"] is None
    assert report["backends"]["cpu"] and report["backends"]["reference"] is None


@needs_extension
def test_a_damaged_extension_is_explained(package):
    shutil.copy(PACKAGE / "_build.json", package / "fastloss")
    (package / "fastloss" / LIBRARY.name).write_bytes(b"not a library")
    reason = doctor(path=package)["extension"]["reason"]
    assert "does not load" in reason and "built for PyTorch" in reason and "reinstall" in reason


@needs_extension
def test_a_refused_setting_is_the_reason():
    reason = doctor(FASTLOSS_CPU="abacus")["extension"]["reason"]
    assert reason.startswith("FASTLOSS_CPU must be") and "reinstall" not in reason


def test_a_path_of_the_cuda_kernels_that_does_not_exist_is_refused():
    """On any machine; else it would silently mean auto."""
    report = doctor(FASTLOSS_CUDA_PATH="residnet")
    assert report["backends"]["cuda"] == "FASTLOSS_CUDA_PATH must be one of auto, resident, split, not 'residnet'"
    assert report["backends"]["cpu"] == doctor()["backends"]["cpu"]
    assert "FASTLOSS_CUDA_PATH" not in (doctor(FASTLOSS_CUDA_PATH="split")["backends"]["cuda"] or "")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": "0.0.1"}, ["built for fastloss 0.0.1", f"you have {fastloss.__version__}"]),
        ({"suffix": ".cpython-39-x86_64-linux-gnu.so"}, ["built for Python", "cpython-39", "you have"]),
        ({"torch_min": "99.1"}, ["built for PyTorch 99.1", f"you have {torch.__version__}"]),
        ({}, None),
    ],
)
def test_a_mismatch_says_what_was_built_and_what_is_here(change, words):
    fitting = {"version": fastloss.__version__, "suffix": SUFFIX, "torch_min": "2.11"}
    sentence = _library._mismatch({**fitting, **change})
    if words is None:
        assert sentence is None
    else:
        assert all(word in sentence for word in words), sentence


def symbols(*options):
    lines = subprocess.run(
        ["nm", "-D", *options, LIBRARY], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    return [line.split()[-1].partition("@")[0] for line in lines]


@needs_extension
@needs_binutils
def test_only_stable_torch_symbols_are_needed():
    needed = symbols("--undefined-only")
    assert any(name.startswith("aoti_torch_") for name in needed)
    unstable = [name for name in needed if re.match(r"_ZNK?(2at|3c10|5torch)\d", name)]
    assert not unstable


@needs_extension
@needs_binutils
def test_nothing_but_the_module_is_exported():
    ours = [name for name in symbols("--defined-only") if re.search("fl_|fastloss|^_?_?cuda", name)]
    assert not ours


@needs_extension
@needs_binutils
def test_no_rpath_to_the_torch_of_the_build():
    dynamic = subprocess.run(["objdump", "-p", LIBRARY], capture_output=True, text=True, check=True).stdout
    assert "libtorch.so" in dynamic
    assert "RPATH" not in dynamic and "RUNPATH" not in dynamic


@needs_extension
@needs_binutils
@pytest.mark.skipif("avx2" not in _library.build_record().get("flags", {}), reason="built for one instruction set")
def test_no_instruction_set_leaks_into_code_for_another():
    """A weak symbol outside `namespace FL_ISA` would let the linker give AVX code to a machine without it."""
    listing = subprocess.Popen(
        ["objdump", "-d", "--no-show-raw-insn", LIBRARY], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    vector, leaks, name = {"fl_baseline": 0, "fl_avx2": 0, "fl_avx512": 0}, set(), ""
    for line in listing.stdout:
        if line.endswith(">:\n"):
            name = line
            home = next((isa for isa in ("fl_avx512", "fl_avx2", "fl_baseline") if isa in name), "fl_baseline")
            continue
        used = (
            "fl_avx512"
            if "%zmm" in line
            else "fl_avx2"
            if "%ymm" in line
            else "fl_baseline"
            if "%xmm" in line
            else None
        )
        if used is None:
            continue
        vector[used] += 1
        if list(vector).index(used) > list(vector).index(home):
            leaks.add(name.strip())
    assert listing.wait() == 0
    assert not leaks
    assert all(vector.values()), vector


@pytest.mark.skipif(not (ROOT / "setup.py").exists(), reason="not in a source tree")
@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"FASTLOSS_CUDA": "yes"}, ["FASTLOSS_CUDA", "auto, 1 or 0", "'yes'"]),
        ({"FASTLOSS_CUDA": "1", "CUDA_HOME": "", "CUDA_PATH": "", "PATH": "/nowhere"}, ["FASTLOSS_CUDA=1", "nvcc"]),
        ({"CXX": "no-such-compiler"}, ["no-such-compiler", "FASTLOSS_NO_EXT=1"]),
        ({"MAX_JOBS": "many"}, ["MAX_JOBS", "'many'"]),
    ],
)
def test_what_cannot_be_built_stops_with_one_sentence(tmp_path, variables, words):
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", f"--build-lib={tmp_path}"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **variables},
    )
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("fastloss: ") and all(word in last for word in words), done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(not (ROOT / "setup.py").exists(), reason="not in a source tree")
def test_windows_gets_a_package_without_the_extension(tmp_path):
    code = f"""
import runpy, setuptools.command.build_ext, setuptools.command.build_py, sys
sys.platform, sys.argv = "win32", ["setup.py", "-q", "build", "--build-lib", {str(tmp_path / "lib")!r}]
sys.argv += ["--build-base", {str(tmp_path)!r}]
runpy.run_path({str(ROOT / "setup.py")!r}, run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and "not built on Windows" in done.stderr, done.stderr
    built = [path.name for path in (tmp_path / "lib" / "fastloss").iterdir()]
    assert "losses.py" in built and not [name for name in built if name.startswith("_C")]
