"""What one rank sees of its data set, all ranks act upon."""

from __future__ import annotations

from types import SimpleNamespace

import hosts
import pytest
import ranks
from torch.utils.data import DataLoader, Dataset, Subset

from negplug import inject
from negplug.hosts.trainer.ownership import KeptState

WITHOUT_DISTRIBUTED_SAMPLER = {"use_distributed_sampler": False}


def epochs(rank, world, sizes_of_each_epoch):
    """What a rank raises in the first epoch that it does not train."""
    kept, handle = KeptState(), inject(hosts.recipe(), "memory_bank()")
    kept.take_over(None, hosts.recipe())
    for number, sizes in enumerate(sizes_of_each_epoch):
        loader = DataLoader(hosts.Pairs(sizes[rank]))
        steps = {"max_steps": -1, "global_step": 0, "accumulate_grad_batches": 1}
        trainer = SimpleNamespace(train_dataloader=loader, num_training_batches=16, **steps)
        try:
            kept.check(trainer, handle, number and f"from epoch {number} on")
        except ValueError as error:
            return number, str(error), bool(kept.apart)
    return bool(kept.apart)


def test_other_data_on_one_rank_are_an_error_on_every_rank():
    # Ranks may have data sets of their own; in the third epoch the second rank's is another.
    found = ranks.run(epochs, 2, [(16, 24), (16, 24), (16, 32)])
    assert [number for number, *_ in found] == [2, 2]
    for _, message, apart in found:
        assert apart
        assert "from epoch 2 on the training data set is Pairs of 32" in message


def said_of(datasets, rank, world):
    """What a Trainer with a memory bank says of this rank's data sets."""
    ranks.join(rank, world)
    said = []
    for dataset in datasets:
        options = {"strategy": "ddp", "devices": world} | WITHOUT_DISTRIBUTED_SAMPLER
        control = hosts.negative_control()("memory_bank()")
        trainer = hosts.trainer(callbacks=[control], limit_train_batches=1, **options)
        # Or it would start more ranks.
        assert trainer.strategy.cluster_environment.creates_processes_externally
        try:
            trainer.fit(hosts.recipe(), DataLoader(dataset, batch_size=4))
        except ValueError as error:
            said.append(str(error))
    return said


def shards(rank, world):
    """What is said of indexes that count a rank's own part of the data, in a Trainer."""
    whole = hosts.Pairs(32)
    return said_of([Subset(whole, range(rank, 32, world)), whole], rank, world)


@pytest.mark.skipif(hosts.solo_generation() is not None, reason="solo-learn's batches say indexes")
def test_indexes_of_a_ranks_own_part_are_none():
    for said in ranks.run(shards, 2):
        assert len(said) == 1
        assert "each rank has a data set of its own" in said[0]


class Counted(Dataset):
    """A rank's own part of the data, whose samples say where they are: there, or in the whole."""

    def __init__(self, rank, in_the_whole):
        self.part, self.first = Subset(hosts.Pairs(32), range(16 * rank, 16 * rank + 16)), 0
        if in_the_whole:
            self.first = 16 * rank

    def __len__(self):
        return 16

    def __getitem__(self, index):
        return self.first + index, *self.part[index][1:]


def counted(rank, world):
    """What is said of indexes that samples of a rank's own part say themselves."""
    return said_of([Counted(rank, in_the_whole) for in_the_whole in (False, True)], rank, world)


@pytest.mark.skipif(hosts.solo_generation() != "main", reason="of solo-learn main")
def test_samples_that_each_rank_counts_from_zero_have_no_common_indexes():
    for said in ranks.run(counted, 2):
        assert len(said) == 1
        assert "each rank has a data set of its own" in said[0]
        assert "number the samples of all ranks apart" in said[0]
