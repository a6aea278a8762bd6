"""For every test: a fixed seed, poisoned fresh memory, and the process-wide settings put back."""

import os
from contextlib import nullcontext

import pytest
import torch
from cases import BACKENDS, COMPILED, DEVICES

import fastloss as fl

try:
    from hypothesis import settings
except ImportError:  # tests/core/test_properties.py skips itself
    pass
else:
    settings.register_profile("fastloss", deadline=None, derandomize=True, max_examples=25, print_blob=True)
    settings.load_profile("fastloss")

if DEVICES["triton"] == "cpu":  # TRITON_INTERPRET=1
    import interpreted

    interpreted.quicken()


def pytest_collection_modifyitems(items):
    """Processes that collect for themselves (pytest-xdist) must agree about the names."""
    unstable = [item.nodeid for item in items if " at 0x" in item.nodeid]
    if unstable:
        raise pytest.UsageError(f"the id of a test holds an address: {unstable[0]}")


def pytest_runtest_logreport(report):
    """bench/gpu.sh: a run that is stopped early has said what failed."""
    if report.failed and os.environ.get("FASTLOSS_TEST_SHOW"):
        print(f"\nFAILED {report.nodeid}\n{report.longreprtext}", flush=True)


@pytest.fixture(autouse=True)
def _surroundings():
    """Uninitialised memory holds NaN (integers: their largest value), so that an output left unwritten shows. One
    thread unless a test says otherwise: on a busy machine small work waits longer for its threads than it takes."""
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)


def _no_array(tensor, *_):
    raise TypeError("a device's tensor has no NumPy array: use .item() or .cpu()")


def _at_home(name):
    """What the test makes lies on the device of the backend; a CPU is treated as a GPU would have to be."""
    with pytest.MonkeyPatch.context() as patch:
        if name != "triton":  # its interpreter computes with arrays
            patch.setattr(torch.Tensor, "__array__", _no_array)
        with nullcontext() if DEVICES[name] == "cpu" else torch.device(DEVICES[name]):
            yield name


@pytest.fixture(params=BACKENDS)
def backend(request):
    """Each backend that runs here, the reference (in the dtype of the inputs) among them."""
    yield from _at_home(request.param)


CARDS = [name for name in COMPILED if DEVICES[name] == "cuda"]


@pytest.fixture(params=CARDS)
def card(request):
    """Each backend that runs on a GPU here, chosen for the whole test."""
    with torch.device("cuda"), fl.backends.use(request.param):
        yield request.param


@pytest.fixture(params=COMPILED)
def compiled(request):
    """Each backend with kernels that runs here."""
    yield from _at_home(request.param)
