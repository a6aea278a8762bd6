"""One thread for all: the same footing for everybody on a shared machine. Claims come from `fastloss bench`."""

import importlib.util
from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if importlib.util.find_spec("pytest_benchmark") is None:
        for item in items:
            item.add_marker(pytest.mark.skip(reason="pytest-benchmark is not installed"))
