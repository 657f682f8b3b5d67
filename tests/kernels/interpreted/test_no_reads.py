"""On the path that a GPU takes, a steady training step reads nothing back from the device."""

from __future__ import annotations

import os

import pytest
import torch
from reads import Reads

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("run by tests/kernels/test_triton.py", allow_module_level=True)

from steady import batches, each

from negplug import ContrastiveLoss
from negplug.kernels import late


# All pairs take their steps on the meta device, where a read is an error: loss/test_meta_device.py.
@pytest.mark.parametrize(("sampler", "objective"), each())
@pytest.mark.filterwarnings("ignore:stratified")
def test_a_steady_step_reads_nothing(sampler, objective):
    loss_fn = ContrastiveLoss(sampler, objective)
    for step, (z, names) in enumerate(batches(4)):
        with Reads() as reads:
            loss_fn(*z, **names).backward()
            loss_fn.end_step()
        assert step == 0 or reads.found == []


def test_reads_are_found():
    values = torch.arange(3.0)
    with Reads() as reads:
        float(values.sum())
        values[values > 1]
        values.nonzero()
        values.unique()
    assert len(reads.found) == 4


@pytest.mark.parametrize("sampler", ["in_batch()", "uniform(num_negatives=5)"])
def test_what_a_graph_captures_reads_nothing_and_is_the_step(sampler, monkeypatch):
    ours, theirs = ContrastiveLoss(sampler, seed=3), ContrastiveLoss(sampler, seed=3)
    for step, (z, _) in enumerate(batches(4)):
        with monkeypatch.context() as patch, Reads() as reads:
            # No CPU has graphs: what a GPU would capture after a first step runs at once.
            patch.setattr(late, "capturing", lambda _, now=step > 0: now)
            found = ours(*z)
            gradient = torch.autograd.grad(found, z)
        wanted = theirs(*z)
        torch.testing.assert_close(found, wanted)
        torch.testing.assert_close(gradient, torch.autograd.grad(wanted, z))
        assert step == 0 or reads.found == []
    assert int(ours.graphs.done) == 3
