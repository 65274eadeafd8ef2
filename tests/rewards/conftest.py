"""A pool of workers for the tests of a module."""

from collections.abc import Iterator

import pytest

from rewards import WorkerPool


@pytest.fixture(scope="module")
def pool() -> Iterator[WorkerPool]:
    with WorkerPool(2, memory_gib=1) as pool:
        yield pool
