"""`pytest --benchmark` runs bench/ and nothing else; plain `pytest` runs tests/ (testpaths in pyproject.toml)."""

from pathlib import Path

import pytest

BENCH = Path(__file__).parent / "bench"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--benchmark", action="store_true", help="run bench/ (the same as pytest bench --benchmark-only)")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "compiled: a peer under torch.compile, slow to start")
    plugin = config.pluginmanager.hasplugin("benchmark")
    if config.option.benchmark:
        if not plugin:
            raise pytest.UsageError("--benchmark needs pytest-benchmark: pip install 'fastloss[bench]'")
        config.option.benchmark_only = True
        if config.args_source is not pytest.Config.ArgsSource.ARGS:
            config.args = [str(BENCH)]
    if plugin and config.option.benchmark_only:
        _thread_time(config)


def _thread_time(config: pytest.Config) -> None:
    """CPU time of the one working thread, not pytest-benchmark's wall clock; a clock that was asked for stays."""
    if str(config.option.benchmark_timer) == "time.perf_counter":
        config.option.benchmark_timer = "time.thread_time"
