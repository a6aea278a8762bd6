"""Wheels: links to old versions of the system's libraries, drivers that are too old for the runtime inside, and what
`make wheel` made: its contents, and parity where it is installed afresh (`make test-wheel`)."""

import ctypes
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
import torch

import fastloss
from fastloss import _library, backends, doctor, triton

ROOT = Path(__file__).resolve().parents[2]
setup_glibc = pytest.importorskip("setup_glibc", reason="not in a source tree")
CXX = shutil.which("c++")
needs_gnu = pytest.mark.skipif(
    not (CXX and shutil.which("objdump") and sysconfig.get_platform() == "linux-x86_64"),
    reason="needs g++ and binutils",
)
PYTHON = f"cp{sys.version_info[0]}{sys.version_info[1]}"
WHEELS = sorted((ROOT / "dist").glob(f"fastloss-{fastloss.__version__}-{PYTHON}-{PYTHON}-manylinux*.whl"))
needs_wheel = pytest.mark.skipif(not WHEELS, reason="no wheel of this version for this Python: run make wheel")


def run(*command, **options):
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


LISTING = """
0000000000089380 g    DF .text\t0000000000000eed (GLIBC_2.2.5) pthread_create
0000000000089380 g    DF .text\t0000000000000eed  GLIBC_2.34  pthread_create
000000000009be70 g   iD  .text\t0000000000000109  GLIBC_2.14  memcpy
00000000000a2d70 g    DF .text\t0000000000000028 (GLIBC_2.2.5) memcpy
0000000000137f10  w   DF .text\t0000000000000134  GLIBCXX_3.4.26 only_new
0000000000000010 g    D  .tbss\t0000000000000008  GLIBCXX_3.4.11 once_call
00000000001d4848 g    DO .data\t0000000000000008 (GLIBC_2.35) withdrawn
0000000000000000      DF *UND*\t0000000000000000 (GLIBC_2.3) __tls_get_addr
"""


def test_the_newest_version_that_is_old_enough():
    assert setup_glibc.choose(LISTING) == {
        "pthread_create": (False, "GLIBC_2.2.5"),
        "memcpy": (False, "GLIBC_2.14"),
        "only_new": (False, "GLIBCXX_3.4.26"),
        "once_call": (True, "GLIBCXX_3.4.11"),
    }


PROGRAM = r"""
#include <cmath>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <sstream>
#include <stdexcept>
#include <thread>
#include <vector>
extern "C" double work(double x, long n) try {
  std::mutex mutex;
  std::condition_variable changed;
  bool ready = false;
  std::exception_ptr error;
  std::once_flag once;
  std::thread other([&] {
    try { throw std::runtime_error("1.5"); } catch (...) { error = std::current_exception(); }
    const std::lock_guard<std::mutex> lock(mutex);
    std::call_once(once, [&] { ready = true; });
    changed.notify_all();
  });
  {
    std::unique_lock<std::mutex> lock(mutex);
    while (!ready) changed.wait(lock);
  }
  other.join();
  double sum = std::exp(x) + std::log(x);
  for (int i = 0; i < 1000; ++i) {
    std::exception_ptr copy = error;
    try { std::rethrow_exception(copy); } catch (const std::exception& e) {
      std::stringstream text;
      text << e.what();
      double number = 0;
      text >> number, sum += number;
    }
  }
  std::ostringstream out;
  out << std::vector<double>(n, 1.0).size();
  return sum + out.str().size();
} catch (const std::bad_array_new_length&) { return -1;
} catch (const std::exception&) { return -2; }
extern "C" double too_many(unsigned long n) try { return *new double[n]; }
catch (const std::bad_array_new_length&) { return -1; }
"""


def too_new(library):
    """Versions of the system's libraries that it needs and an old system lacks, and names of libstdc++ without one."""
    needed = run("objdump", "-T", library)
    versions = re.findall(r"\*UND\*.*?\(?(GLIBC|GLIBCXX|CXXABI)_([\d.]+)\)?\s+(\S+)", needed)
    found = [v for v in versions if tuple(map(int, v[1].split("."))) > setup_glibc.NEWEST[v[0]]]
    assert len(versions) > 10
    return found + re.findall(r"\*UND\*\t\w+ +(_ZNK?S\w+|_ZS\w+|__cxa_\w+|\w*pthread_\w+|dl\w+)$", needed, re.MULTILINE)


@needs_gnu
def test_a_library_for_older_systems_runs_on_this_one(tmp_path):
    """All that csrc/compat stands in for, and what has moved between the libraries of the system."""
    first, last = setup_glibc.link_flags(tmp_path / "images", [CXX])
    (tmp_path / "work.cpp").write_text(PROGRAM)
    call = [CXX, "-std=c++17", "-O2", "-fPIC", "-shared", *first, tmp_path / "work.cpp", "-o", tmp_path / "work.so"]
    run(*call, *last)
    assert not too_new(tmp_path / "work.so")
    exported = run("nm", "-D", "--defined-only", tmp_path / "work.so")
    assert " work\n" in exported and "stringstream" not in exported and "_M_addref" not in exported
    library = ctypes.CDLL(str(tmp_path / "work.so"))
    library.work.restype = library.too_many.restype = ctypes.c_double
    library.work.argtypes, library.too_many.argtypes = [ctypes.c_double, ctypes.c_long], [ctypes.c_ulong]
    assert library.work(1.0, 10) == pytest.approx(2.718281828459045 + 1500.0 + 2)
    assert library.too_many(2**63) == -1


@pytest.mark.parametrize("variables", ({"FASTLOSS_GLIBC": "2.17"}, {"FASTLOSS_GLIBC": "old"}))
def test_a_glibc_that_cannot_be_is_refused(variables, tmp_path):
    command = [sys.executable, "setup.py", "-q", "build_ext", f"--build-lib={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, **variables})
    assert done.returncode and done.stderr.strip().endswith(f"not {variables['FASTLOSS_GLIBC']!r}.")
    assert "fastloss: FASTLOSS_GLIBC can only be 2.28" in done.stderr and "Traceback" not in done.stderr


class Card:
    """A machine with a GPU, an extension with CUDA kernels of 13.0, and a driver that serves `driver`."""

    def __init__(self, patch, driver):
        record = {"cuda": {"version": "13.0", "archs": "9.0", "flags": ""}, "cuda_reason": None}
        module = type("Module", (), {"cuda_reason": staticmethod(lambda: None)})
        for place, name, value in (
            (_library, "EMULATED", None),
            (_library, "driver", lambda: driver),
            (_library, "build_record", lambda: record),
            (_library, "reason", lambda: None),
            (_library, "load", lambda: module),
            (torch.version, "cuda", "12.6"),
            (torch.cuda, "is_available", lambda: True),
            (triton, "reason", lambda: None),
            (backends, "_reasons", {}),
        ):
            patch.setattr(place, name, value)
        patch.delenv("FASTLOSS_CUDA_PATH", raising=False)


@pytest.mark.parametrize("driver", ((12, 4), (11, 8)))
def test_a_driver_that_is_too_old_leaves_the_gpu_to_triton(driver, monkeypatch):
    Card(monkeypatch, driver)
    why_not = backends.available()["cuda"]
    served = f"the NVIDIA driver serves CUDA {driver[0]}.{driver[1]}, the kernels were built with CUDA 13.0; "
    assert why_not == served + "update the driver (580 or later), or build fastloss from source with an older CUDA"
    assert backends._default("cuda") == "triton"
    with pytest.raises(RuntimeError, match="'cuda' cannot run here: the NVIDIA driver serves"), backends.use("cuda"):
        pass


@pytest.mark.parametrize("driver", ((13, 0), (13, 4), (14, 1), None))
def test_a_driver_that_serves_the_runtime(driver, monkeypatch):
    """None: nothing is known of the driver, and the runtime itself has the word."""
    Card(monkeypatch, driver)
    assert backends.available()["cuda"] is None and backends._default("cuda") == "cuda"


def test_doctor_says_what_the_driver_serves(monkeypatch):
    monkeypatch.setattr(_library, "driver", lambda: (12, 4))
    report = doctor.collect()
    assert report["driver"] == (12, 4) and "; the driver serves CUDA 12.4\n" in doctor.render(report)
    json.dumps(report)
    assert "the driver" not in doctor.render({**report, "driver": None, "backends": {}})


@pytest.mark.parametrize(
    ("answer", "expected"), [((0, 12040), (12, 4)), ((0, 13000), (13, 0)), ((0, 0), None), ((1, 1), None)]
)
def test_the_driver_is_asked(answer, expected, monkeypatch):
    def ask(pointer):
        pointer._obj.value = answer[1]
        return answer[0]

    monkeypatch.setattr(ctypes, "CDLL", lambda name: type("Driver", (), {"cuDriverGetVersion": staticmethod(ask)}))
    assert _library.driver() == expected


def test_the_workflow_builds_what_make_builds():
    workflow, make = [(ROOT / name).read_text() for name in (".github/workflows/wheels.yml", "Makefile")]
    archs = re.search(r"TORCH_CUDA_ARCH_LIST = (\S+)", make)[1]
    assert f'TORCH_CUDA_ARCH_LIST="{archs}"' in workflow and "LDFLAGS=-Wl,-s" in workflow
    excluded = r"--exclude libc10\.so --exclude 'libtorch\*\.so' -w"
    assert re.search(excluded, make) and re.search(excluded, workflow)
    assert re.search(r"WHEEL_CUDA := (\S+)", make)[1] + "/bin/nvcc" in workflow
    claimed = re.findall(r'"Programming Language :: Python :: 3\.(\d+)"', (ROOT / "pyproject.toml").read_text())
    built = re.findall(r"cp3(\d+)-\*", workflow)
    assert set(claimed) <= set(built) == {"10", "11", "12", "13", "14"}


# What `make wheel` made.


@needs_wheel
@pytest.mark.slow
def test_the_contents_of_the_wheel():
    wheel = WHEELS[-1]
    assert wheel.stat().st_size < 25e6
    glibc = [tuple(map(int, tag)) for tag in re.findall(r"manylinux_(\d+)_(\d+)", wheel.name)]
    assert glibc and min(glibc) <= (2, 28), wheel.name
    paths = [str(ROOT), str(Path.home()), sys.prefix, str(Path(torch.__file__).parent)]
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        for name in names:
            held = archive.read(name)
            assert not [path for path in paths if path.count("/") > 1 and path.encode() in held], name
        record = json.loads(archive.read("fastloss/_build.json"))
    assert {path.partition("/")[0].partition("-")[0] for path in names} == {"fastloss"}
    assert [name for name in names if ".so" in name] == [f"fastloss/_C{record['suffix']}"]
    assert "fastloss/py.typed" in names and "fastloss/triton/ops.py" in names
    assert {"baseline", "avx2", "avx512"} <= set(record["flags"])
    assert record["cuda"]["archs"] == "8.0 9.0 10.0 12.0+PTX" and record["version"] == fastloss.__version__


@needs_wheel
@needs_gnu
@pytest.mark.slow
def test_the_extension_of_the_wheel_needs_nothing_new(tmp_path):
    with zipfile.ZipFile(WHEELS[-1]) as archive:
        (name,) = [name for name in archive.namelist() if ".so" in name]
        library = archive.extract(name, tmp_path)
    assert not too_new(library)
    needed = set(re.findall(r"NEEDED +(\S+)", run("objdump", "-p", library)))
    assert "libtorch.so" in needed and not {name for name in needed if re.match("libcuda|libpython|libgomp", name)}


@needs_wheel
@pytest.mark.slow
def test_parity_where_the_wheel_is_installed_afresh(tmp_path):
    """In an environment of its own (torch and pytest are borrowed from this one), from a folder apart, no compiler."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("FASTLOSS", "PYTHON"))}
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python]
    run(*pip, "install", "-q", "--no-deps", "--no-index", WHEELS[-1], env=kept, cwd="/")
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", env=kept).strip())
    (site / "borrowed.pth").write_text("\n".join({str(Path(m.__file__).parents[1]) for m in (torch, pytest)}))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("conftest", "cases", "tolerances", "interpreted", "test_parity"):
        shutil.copy(next((ROOT / "tests").rglob(f"{name}.py")), elsewhere)
    environment = {**kept, "PATH": str(python.parent), "FASTLOSS_TEST_BACKENDS": "cpu"}
    assert not [name for name in ("cc", "c++", "g++", "nvcc", "ninja") if shutil.which(name, path=environment["PATH"])]
    options = {"cwd": elsewhere, "env": environment}
    report = json.loads(run(python, "-m", "fastloss", "doctor", "--json", **options))
    assert report["extension"]["loaded"] and report["backends"]["cpu"] is None, report
    where = run(python, "-c", "import fastloss; print(fastloss.__file__)", **options).strip()
    assert where == str(site / "fastloss" / "__init__.py")
    chosen = ["-p", "no:cacheprovider", "-p", "no:xdist", "-k", "test_loss or test_layout"]
    told = run(python, "-m", "pytest", "-q", *chosen, **options)
    passed = int(re.search(r"(\d+) passed", told)[1])
    assert passed > 500, told[-500:]
