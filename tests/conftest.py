"""The order of the tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")  # the machine's other work is no defect of a test

LONGEST = ("test_faults.py", "test_runtimes.py", "test_run.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files, so that processes that share the tests end at about the same time."""
    items.sort(key=lambda item: ("end_to_end" not in item.path.parts, item.path.name not in LONGEST))


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Run torch on one thread, from the same seed in every test that asks for it."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)
