"""The emulator that runs CUDA kernels on the CPU: it computes what a GPU would, and finds what a GPU may hide."""

import ctypes
import os
import subprocess
import sys

import emulated
import numpy as np
import pytest

pytestmark = pytest.mark.skipif(emulated.reason() is not None, reason=str(emulated.reason()))

SOURCES = [emulated.ROOT / "tests" / "support" / "emulator" / "kernels.cu", *emulated.EMULATOR]
BUGS = "shared_end dynamic_end global_end misaligned uninitialised divergent lane_missing grid_sync half_block lines"
BUGS = {name: number for number, name in enumerate(BUGS.split())}


@pytest.fixture(scope="module", params=((), ("-DFL_EMULATOR_UCONTEXT",)), ids=("switch", "ucontext"))
def kernels(request):
    """The library, with each way of changing between fibers."""
    name = "kernels" + "-ucontext" * bool(request.param)
    return ctypes.CDLL(str(emulated.build(name, SOURCES, flags=request.param)))


def at(array):
    return array.ctypes.data_as(ctypes.c_void_p)


def floats(*shape):
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


def long(n):
    return ctypes.c_int64(n)


def sum_rows(kernels, first=True, second=True, blocks=3, rounds=20):
    x = np.round(floats(blocks * rounds, 300) * 64)  # whole numbers: any order gives the same sum
    out = np.empty(len(x), np.float32)
    assert kernels.run_sum(at(x), at(out), long(300), blocks, rounds, first, second) == 0
    return out, x.sum(1)


def test_sums_of_a_block(kernels):
    out, expected = sum_rows(kernels)
    assert np.array_equal(out, expected)


@pytest.mark.parametrize("missing", ("first", "second"))
def test_a_missing_barrier_shows(kernels, missing):
    out, expected = sum_rows(kernels, **{missing: False})
    assert not np.array_equal(out, expected)


@pytest.mark.parametrize("blocks,threads", [(1, 32), (3, 256), (12, 256), (6, 512)])
def test_the_barrier_of_the_grid(kernels, blocks, threads):
    x, n = np.abs(floats(blocks * threads)) + 1, blocks * threads - 5
    out, partials = np.full_like(x, 7), np.full(blocks, np.nan, np.float32)
    arguments = at(x), at(out), at(partials), long(n), blocks, threads
    assert kernels.run_normalise(*arguments, True) == 0
    np.testing.assert_allclose(out[:n], x[:n] / x[:n].astype(np.float64).sum(), rtol=1e-5)
    assert (out[n:] == 7).all()
    if blocks > 1:  # without it some block reads what others have not written
        partials[:] = np.nan
        assert kernels.run_normalise(*arguments, False) == 0
        assert np.isnan(out[:n]).any()


def test_the_grid_must_fit(kernels, monkeypatch):
    x, out, partials = floats(2048), floats(2048), floats(13)
    arguments = at(x), at(out), at(partials), long(2048)
    assert kernels.run_normalise(*arguments, 13, 256, True) == 720  # 3 multiprocessors take 4 blocks of 256 each
    monkeypatch.setenv("FASTLOSS_EMULATOR_SMS", "4")
    assert kernels.run_normalise(*arguments, 13, 256, True) == 0
    monkeypatch.setenv("FASTLOSS_EMULATOR_COOPERATIVE", "0")
    assert kernels.run_normalise(*arguments, 1, 32, True) == 720
    assert kernels.run_normalise(*arguments, 1, 2048, True) == 9


def test_dynamic_shared_memory_beyond_48_kib_must_be_asked_for(kernels):
    assert kernels.shared_limit(48 << 10, 0) == 0
    assert kernels.shared_limit((48 << 10) + 16, 0) == 1
    assert kernels.shared_limit(227 << 10, 227 << 10) == 0


def test_atomics(kernels):
    x = np.random.default_rng(0).integers(0, 2**32, 5000, dtype=np.uint32)
    counts, largest = np.zeros(256, np.uint32), np.zeros(1, np.uint64)
    assert kernels.run_histogram(at(x), long(5000), at(counts), at(largest), 5) == 0
    assert np.array_equal(counts, np.bincount(x & 255, minlength=256))
    assert largest[0] == int(x.max()) << 20


def test_collectives(kernels):
    out = np.empty((16, 32), np.int64)
    assert kernels.run_collectives(at(out)) == 0
    i = np.arange(32)
    odd = 0xAAAAAAAA
    expected = [
        np.full(32, 105),
        (i ^ 3) + 100,
        np.where(i + 4 < 32, i + 4, i) << 40,
        np.where(i >= 2, i - 2, i),
        np.ones(32),
        np.full(32, odd),
        np.ones(32),
        np.ones(32),
        np.full(32, i.sum()),
        0x11111111 << (i % 4),
        np.where(i % 2, i ^ 2, 0),
        np.full(32, 7),
        np.full(32, 16 + 100 * 31 + 10000 * 4),
    ]
    for k, row in enumerate(expected):
        assert np.array_equal(out[k], row), k


def test_half_types_round_as_torch_does(kernels):
    import torch

    x = np.concatenate(
        [floats(250) * 1e-6, floats(250) * 1e5, [0.0, -0.0, np.inf, -np.inf, 65520, 65519.9, 1e-8, 3e38]]
    )
    x = np.ascontiguousarray(x.astype(np.float32))
    n = len(x)
    half, bfloat, copies = np.empty(n, np.uint16), np.empty(n, np.uint16), np.empty(n + 4, np.float32)
    copies = copies[(-copies.ctypes.data // 4) % 4 :]
    assert kernels.run_pack(at(x), at(half), at(bfloat), at(copies), n) == 0
    source = torch.from_numpy(x)
    assert np.array_equal(half, source.half().view(torch.uint16).numpy())
    assert np.array_equal(bfloat, source.bfloat16().view(torch.uint16).numpy())
    assert np.array_equal(copies[:n], x)


def run_wrong(bug, n=0, sanitize="", seed=0):
    """In a process of its own: the exit status (what the launch returned, or a signal) and what was said."""
    library = emulated.build("kernels", SOURCES, sanitize)
    code = f"""
import ctypes, sys
x = (ctypes.c_float * 1024)()
k = ctypes.CDLL({str(library)!r})
status = k.run_wrong({BUGS[bug]}, x, {n})
print(x[0])
sys.exit(min(status, 200))
"""
    env = {**os.environ, "FASTLOSS_EMULATOR_SEED": str(seed), "ASAN_OPTIONS": "detect_leaks=0"}
    if sanitize:
        env["LD_PRELOAD"] = emulated.preload()
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)


@pytest.mark.parametrize(
    "bug,words",
    [
        ("divergent", ["stuck", "16 threads in __shfl_sync at", "16 threads in the end"]),
        ("lane_missing", ["reads lane 3", "not in its mask"]),
        ("grid_sync", ["grid_sync", "outside of a cooperative launch"]),
        ("half_block", ["stuck", "16 threads in __syncwarp"]),
        ("lines", ["waits in __syncthreads at", "but thread", "for the same barrier"]),
    ],
)
def test_a_kernel_that_would_hang_or_read_nothing_is_refused(bug, words):
    done = run_wrong(bug)
    assert done.returncode == 200 and "fastloss emulator: " in done.stderr
    assert all(word in done.stderr for word in words), done.stderr


def test_shared_memory_holds_nothing_at_the_start():
    assert run_wrong("uninitialised").stdout.strip() == "nan"


@pytest.mark.parametrize(
    "bug,words",
    [
        ("shared_end", ["index 32 out of bounds"]),
        ("dynamic_end", ["heap-buffer-overflow"]),
        ("global_end", ["heap-buffer-overflow"]),
        ("misaligned", ["misaligned address"]),
    ],
)
def test_sanitizers_see_through_the_emulator(bug, words):
    sanitize = "address,undefined"
    fine = run_wrong(bug, 0, sanitize)
    assert bug == "misaligned" or (fine.returncode == 0 and not fine.stderr), fine.stderr
    done = run_wrong(bug, 1024 - 31 if bug == "global_end" else 1, sanitize)  # the first beyond the end
    assert done.returncode not in (0, 200)
    assert all(word in done.stderr for word in words), done.stderr
