"""On the path that a GPU takes, a steady training step reads nothing back from the device."""

from __future__ import annotations

import os

import pytest
import torch
from reads import Reads

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("run by tests/kernels/test_triton.py", allow_module_level=True)

from steady import batches, pairs

from negplug import ContrastiveLoss


@pytest.mark.parametrize(("sampler", "objective"), pairs())
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
