"""A step that a device counts draws what the same step draws that the host counts."""

from __future__ import annotations

import pytest
import torch
from device import DEVICE
from reads import Reads

from negplug import Draws
from negplug.kernels.random.distinct import distinct_places

METHODS = {
    "uniform": lambda random: random.uniform(3, 5),
    "exponential": lambda random: random.exponential((3, 5), torch.float32),
    "normal": lambda random: random.normal((7,), torch.float64),
    "integers": lambda random: random.integers(1000, 6),
    "permutation": lambda random: random.permutation(20),
    "distinct": lambda random: distinct_places(
        torch.arange(4, 40, device=random.device), 3, random
    )[0],
}


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
@pytest.mark.parametrize("step", [0, 1, 2**40])
def test_the_draws_of_a_counted_step(method, step):
    counted = torch.tensor(step, device=DEVICE)
    for stream in (0, 3):
        known = Draws(5, step, 1, 2).random(stream, DEVICE)
        unknown = Draws(5, counted, 1, 2).random(stream, DEVICE)
        for _ in range(2):
            wanted, found = method(known), method(unknown)
            torch.testing.assert_close(found, wanted, rtol=1e-6, atol=0)
    assert counted == step


def test_hashing_reads_nothing():
    random = Draws(5, torch.tensor(7, device=DEVICE)).random(0, DEVICE)
    with Reads() as reads:
        random.uniform(4)
        random.permutation(5)
    assert reads.found == []


def test_every_counter_changes_the_draws():
    counters = [Draws(), *(Draws(**{name: 1}) for name in ("seed", "step", "call", "rank"))]
    numbers = {int(d.random(s, DEVICE).integers(2**62, 1)) for d in counters for s in (0, 1)}
    assert len(numbers) == 2 * len(counters)
