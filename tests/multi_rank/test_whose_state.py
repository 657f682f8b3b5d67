"""What one rank sees of its data set, all ranks act upon."""

from __future__ import annotations

from types import SimpleNamespace

import hosts
import ranks
from torch.utils.data import DataLoader

from negplug import inject
from negplug.hosts.trainer.ownership import KeptState


def epochs(rank, world, sizes_of_each_epoch):
    """What a rank raises in the first epoch that it does not train."""
    kept, handle = KeptState(), inject(hosts.recipe(), "memory_bank()")
    kept.take_over(None, hosts.recipe())
    for number, sizes in enumerate(sizes_of_each_epoch):
        trainer = SimpleNamespace(train_dataloader=DataLoader(hosts.Pairs(sizes[rank])))
        try:
            kept.check(trainer, handle, number and f"from epoch {number} on")
        except ValueError as error:
            return number, str(error)
    return None


def test_other_data_on_one_rank_are_an_error_on_every_rank():
    # Ranks may have data sets of their own; in the third epoch the second rank's is another.
    found = ranks.run(epochs, 2, [(16, 24), (16, 24), (16, 32)])
    assert [number for number, _ in found] == [2, 2]
    for _, message in found:
        assert "from epoch 2 on the training data set is Pairs of 32" in message
