"""How the build finds nvcc and chooses what it compiles for. nvcc is a script here, so that none is needed."""

import os
from pathlib import Path

import pytest

setup_cuda = pytest.importorskip("setup_cuda", reason="not in a source tree")

NVCC = """#!/bin/sh
case "$1" in
  --list-gpu-arch) echo compute_75; echo compute_80; echo compute_90 ;;
  --version) echo "Cuda compilation tools, release 12.4, V12.4.131" ;;
  --dryrun) echo "#$ TOP=TOOLKIT" >&2 ;;
esac
"""
NAMES = ("FASTLOSS_CUDA", "FORCE_CUDA", "CUDA_HOME", "CUDA_PATH", "TORCH_CUDA_ARCH_LIST")


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", "/usr/bin:/bin" if not Path("/usr/bin/nvcc").exists() else "")
    monkeypatch.setattr(setup_cuda.sysconfig, "get_path", lambda name: "/nowhere")


@pytest.fixture
def toolkit(tmp_path):
    """A toolkit whose nvcc lies apart from it; returns the folder above nvcc's bin."""
    (tmp_path / "toolkit" / "lib64").mkdir(parents=True)
    (tmp_path / "toolkit" / "lib64" / "libcudart_static.a").touch()
    (tmp_path / "home" / "bin").mkdir(parents=True)
    nvcc = tmp_path / "home" / "bin" / "nvcc"
    nvcc.write_text(NVCC.replace("TOOLKIT", str(tmp_path / "toolkit")))
    nvcc.chmod(0o755)
    return tmp_path / "home"


@pytest.mark.parametrize("variable", ("CUDA_HOME", "CUDA_PATH", "PATH"))
def test_nvcc_is_found(toolkit, variable, monkeypatch):
    path = os.environ["PATH"]
    monkeypatch.setenv(variable, f"{toolkit / 'bin'}{os.pathsep}{path}" if variable == "PATH" else str(toolkit))
    found, reason = setup_cuda.find()
    assert reason is None and found.nvcc == str(toolkit / "bin" / "nvcc")
    assert found.libraries == (toolkit.parent / "toolkit" / "lib64").resolve()
    assert found.record == {"version": "12.4", "archs": "8.0 9.0+PTX", "flags": setup_cuda.FLAGS}
    assert f"-L{found.libraries}" in found.link_flags() and "-lcudart_static" in found.link_flags()


def test_nvcc_of_a_package_is_found_last(toolkit, tmp_path, monkeypatch):
    (tmp_path / "site" / "nvidia").mkdir(parents=True)
    (tmp_path / "site" / "nvidia" / "cu13").symlink_to(toolkit)
    monkeypatch.setattr(setup_cuda.sysconfig, "get_path", lambda name: str(tmp_path / "site"))
    found, reason = setup_cuda.find()
    assert reason is None and found.nvcc == str(tmp_path / "site" / "nvidia" / "cu13" / "bin" / "nvcc")
    monkeypatch.setenv("CUDA_HOME", str(toolkit))
    assert setup_cuda.find()[0].nvcc == str(toolkit / "bin" / "nvcc")


def test_without_nvcc(monkeypatch):
    places = "CUDA_HOME, CUDA_PATH, PATH or the package nvidia-cuda-nvcc"
    assert setup_cuda.find() == (None, f"nvcc was not found in {places}")
    for name, value in (("FASTLOSS_CUDA", "1"), ("FORCE_CUDA", "1")):
        with monkeypatch.context() as context:
            context.setenv(name, value)
            with pytest.raises(setup_cuda.CudaError, match="FASTLOSS_CUDA=1 .*nvcc was not found"):
                setup_cuda.find()


def test_nvcc_is_not_wanted(toolkit, monkeypatch):
    monkeypatch.setenv("CUDA_HOME", str(toolkit))
    monkeypatch.setenv("FORCE_CUDA", "1")
    monkeypatch.setenv("FASTLOSS_CUDA", "0")
    assert setup_cuda.find() == (None, "built with FASTLOSS_CUDA=0")


def test_an_incomplete_toolkit_is_left_out_unless_insisted_on(toolkit, monkeypatch):
    monkeypatch.setenv("CUDA_HOME", str(toolkit))
    (toolkit.parent / "toolkit" / "lib64" / "libcudart_static.a").unlink()
    found, reason = setup_cuda.find()
    assert found is None and "libcudart_static.a is missing" in reason
    monkeypatch.setenv("FASTLOSS_CUDA", "1")
    with pytest.raises(setup_cuda.CudaError, match="libcudart_static.a is missing"):
        setup_cuda.find()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("", ("8.0", "9.0+PTX")),  # what is left of the default; later cards compile the PTX
        ("9.0", ("9.0",)),
        ("8.0;9.0+PTX", ("8.0", "9.0+PTX")),
        ("7.5 9.0a, 12.0+PTX 9.0a", ("7.5", "9.0a")),
        ("Hopper", ("9.0+PTX",)),
        ("Ampere;Hopper", ("8.0", "9.0+PTX")),
    ],
)
def test_architectures(given, expected, monkeypatch):
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", given)
    assert setup_cuda.choose_archs(["75", "80", "90"]) == expected


NO_ARCHITECTURES = [(word, f"'{word}'") for word in ("sm_90", "Turing", "native", "all", "90")]
NO_ARCHITECTURES += [(number, f"none of the architectures '{number}'") for number in ("12.0", "6.1")]


@pytest.mark.parametrize(("given", "words"), NO_ARCHITECTURES)
def test_architectures_that_cannot_be(given, words, toolkit, monkeypatch):
    """An installation that stops for them says how to do without."""
    monkeypatch.setenv("CUDA_HOME", str(toolkit))
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", given)
    with pytest.raises(setup_cuda.CudaError, match=f"{words}.*; FASTLOSS_CUDA=0 builds without CUDA\\.$"):
        setup_cuda.find()


def test_code_for_an_architecture():
    assert setup_cuda.gencode("9.0a") == ["-gencode", "arch=compute_90a,code=[sm_90a]"]
    assert setup_cuda.gencode("10.0+PTX") == ["-gencode", "arch=compute_100,code=[sm_100,compute_100]"]
