"""No test reaches a network or reports anything."""

import os

import pytest
from hypothesis import settings

os.environ.update(
    HF_HUB_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    DO_NOT_TRACK="1",
    TOKENIZERS_PARALLELISM="false",
)

if "PYTEST_XDIST_WORKER" in os.environ:  # the processes of a suite share the cores: a thread for each
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# The suite draws the same examples every time. To look for new ones: pytest --hypothesis-profile=explore
settings.register_profile("suite", derandomize=True)
settings.register_profile("explore", derandomize=False)
settings.load_profile("suite")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The test that takes minutes comes first: at the end one process would work and the other wait."""
    items.sort(key=lambda item: "test_learning.py" not in item.nodeid)
