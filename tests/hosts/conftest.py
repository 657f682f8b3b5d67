"""What tests of several hosts start and have to end."""

import gc

import pytest
import torch
from torch import nn

from negplug.hosts import watch as at_work


@pytest.fixture(autouse=True)
def nobody_watches():
    """End with each test the watch that it, or its environment, has started."""
    yield
    if at_work._watch is not None:
        at_work._watch.stop()


@pytest.fixture
def watch():
    """Starts a watch."""
    return at_work.Watch


@pytest.fixture(scope="module")
def unmarked():
    """No treated loss of a test before looks at functions, and marks those that it knows."""
    gc.collect()


@pytest.fixture
def views():
    """Two views of six samples, ``[6, 4]``, as a network embeds them."""
    net, x = nn.Linear(3, 4), torch.randn(6, 3)
    return net(x), net(x + 0.1)
