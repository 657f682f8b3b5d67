"""One thread, as ranks have: runs in this process repeat those of others to the last bit."""

import gc

import hypothesis
import pytest
import torch

from negplug.kernels import late
from negplug.testing import processes

torch.set_num_threads(1)

# What tests on ranks import, and what is not installed is passed over.
processes.PRELOADED += ["cloudpickle", "pytest"]
processes.PRELOADED += ["pytorch_lightning", "lightly.models", "solo.methods"]

# The same examples in every run, however busy the machine; nothing is left in the folder.
hypothesis.settings.register_profile("repeatable", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("repeatable")


def pytest_collection_finish():
    """Take what was imported and collected for no garbage: each look at all of it takes 0.3 s."""
    gc.freeze()


def pytest_unconfigure():
    """Let go at the end of what Triton would else call leaked."""
    gc.unfreeze()


@pytest.fixture
def two_threads():
    """Two threads for a test, and one again after it."""
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _checks_of_its_own():
    """What one test leaves a GPU to find is raised in no other, and each first check waits."""
    late._late.clear()
    late._looked.clear()


@pytest.fixture(autouse=True)
def _same_default_dtype():
    """Lightning 1.9 leaves another one behind when a run in precision 64 fails."""
    yield
    torch.set_default_dtype(torch.float32)
