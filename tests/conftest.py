"""Tests fork ranks, and a forked process cannot use OpenMP's threads of its parent.

One thread from the start means that there are none; otherwise a rank hangs at its first
convolution. It also lets in-process runs repeat those of other processes to the last bit.
"""

import hypothesis
import pytest
import torch

torch.set_num_threads(1)

# The same examples in every run, however busy the machine; nothing is left in the folder.
hypothesis.settings.register_profile("repeatable", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("repeatable")


@pytest.fixture
def two_threads():
    """Two threads for a test, and one again after it."""
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _same_default_dtype():
    """Lightning 1.9 leaves another one behind when a run in precision 64 fails."""
    yield
    torch.set_default_dtype(torch.float32)
