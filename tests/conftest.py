"""No test reaches a network or reports anything."""

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    import torch

os.environ.update(
    HF_HUB_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    DO_NOT_TRACK="1",
    TOKENIZERS_PARALLELISM="false",
)

if "PYTEST_XDIST_WORKER" in os.environ:  # the processes of a suite share the cores: a thread for each
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> "torch.device":
    """A processor, with the suite, and a GPU, with `-m gpu`."""
    import torch

    return torch.device(request.param)


# The suite draws the same examples every time. To look for new ones: pytest --hypothesis-profile=explore
settings.register_profile("suite", derandomize=True)
settings.register_profile("explore", derandomize=False)
settings.load_profile("suite")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The test that takes minutes comes first: at the end one process would work and the other wait."""
    items.sort(key=lambda item: "test_learning.py" not in item.nodeid)
