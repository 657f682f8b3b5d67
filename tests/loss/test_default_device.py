"""Steps under another default device, as of recipes that call ``torch.set_default_device``."""

from __future__ import annotations

import pytest
import torch
from steady import batches

from negplug import ContrastiveLoss
from negplug.kernels import late

SAMPLERS = [
    "in_batch()",
    "queue(size=96, num_negatives=5)",
    "memory_bank(size=64)",
    "stratified(num_negatives=4)",
    "hard(num_negatives=5)",
    "emc2(size=64)",
]


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.filterwarnings("ignore:queue", "ignore:memory_bank", "ignore:stratified")
def test_a_loss_computes_where_its_views_are(sampler):
    expected, loss_fn = (ContrastiveLoss(sampler, seed=1) for _ in range(2))
    for z, names in batches(3):
        wanted = expected(*z.detach().requires_grad_(), **names)
        wanted.backward()
        expected.end_step()
        # What is made without a word about where has no values here, and any use of it raises.
        with torch.device("meta"):
            loss = loss_fn(*z.detach().requires_grad_(), **names)
            loss.backward()
            loss_fn.end_step()
        assert torch.equal(loss, wanted)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_values_of_a_card_come_to_the_host():
    with torch.device("cuda"):
        assert late.later(torch.arange(3))() == [0, 1, 2]
        late.check("a default device", torch.tensor(False), ValueError)
        late.check("a default device", torch.tensor(False), ValueError)
        late.settle()
