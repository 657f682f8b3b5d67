"""Memories that outlive inference mode."""

import pytest
import torch

from negplug import ContrastiveLoss


@pytest.mark.parametrize("sampler", ["emc2()", "queue(size=12)", "memory_bank()"])
def test_a_state_saved_in_inference_mode_can_be_written_to_afterwards(sampler):
    loss_fn = ContrastiveLoss(sampler)
    generator = torch.Generator().manual_seed(0)
    for step in range(3):
        z = [torch.randn(4, 5, generator=generator, requires_grad=True) for _ in range(2)]
        loss_fn(*z, indexes=torch.arange(4) + 2 * (step % 2)).backward()
        with torch.inference_mode():
            loss_fn.state_dict()
    loss_fn.end_step()
