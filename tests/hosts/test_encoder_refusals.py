"""Recipes that cannot embed samples outside the batch say so, on the installed host."""

from __future__ import annotations

import hosts
import pytest
import ranks
import torch
from encoding import Encoding, ahead, fit, forgotten, is_first_lightning, network
from torch import nn
from torch.utils.data import ConcatDataset, IterableDataset, Subset

pytestmark = pytest.mark.filterwarnings("ignore")


def manual(module):
    module.automatic_optimization = False


def momentum(module):
    parameter = next(module.parameters())
    parameter.data.mul_(0.99)  # unseen by torch's counters


def without_statistics(module):
    backbone = getattr(module, network(module))
    backbone.insert(1, nn.BatchNorm2d(8, track_running_stats=False))


def skipping(module):
    """Only batches of eight reach the loss."""
    inner = module.training_step

    def training_step(batch, batch_idx):
        images = next(part for part in batch if isinstance(part, list))
        return inner(batch, batch_idx) if len(images[0]) == 8 else None

    module.training_step = training_step


def write(action):
    def change(module):
        module.register_buffer("filled", torch.full((2,), torch.nan))
        ahead(module, action)

    return change


REFUSED = {
    "manual": (manual, "optimises by hand"),
    "momentum": (write(momentum), r"writes to \w+.0.weight before it calls the loss"),
    "buffer": (write(lambda module: module.filled.fill_(1)), "writes to filled before"),
    "statistics": (without_statistics, "keeps no running statistics"),
    "call": (skipping, "calls the loss 0 times for samples outside"),
}


@pytest.mark.parametrize(("change", "reason"), REFUSED.values(), ids=list(REFUSED))
def test_what_cannot_be_run_again_is_refused(change, reason):
    def build():
        module = hosts.recipe()
        change(module)
        return module

    with pytest.raises(ValueError, match=rf"{reason}.*; use out_of_batch='cached'"):
        fit(forgotten, build)


def test_data_without_positions_is_refused():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter([hosts.Pairs()[number] for number in range(16)])

    with pytest.raises(ValueError, match=r"Stream is an IterableDataset.*; use out_of_batch='cach"):
        fit(forgotten, data=Stream())


def test_a_step_that_fetches_its_batches_is_refused():
    def build():
        module = hosts.recipe()
        inner = module.training_step

        class Fetching(type(module)):
            def training_step(self, dataloader_iter, *_):
                # Lightning 1.9 gives the batch itself where other arguments may follow.
                given = isinstance(dataloader_iter, list)
                fetched = dataloader_iter if given else next(dataloader_iter)
                batch = fetched[0] if isinstance(fetched, tuple) else fetched
                return inner(self.transfer_batch_to_device(batch, self.device, 0), 0)

        module.__class__ = Fetching
        module.log = module.log_dict = lambda *_, **__: None  # would want the batch's size
        return module

    sampler = Encoding(forgotten)
    sampler.wants_indexes = False  # the recorder of indexes would refuse before
    with pytest.raises(ValueError, match="takes dataloader_iter, not a batch alone"):
        fit(sampler, build)


@pytest.mark.parametrize(("indexes", "reason"), [([24], "no sample 24 in .* of 24"), ([-1], "-1")])
def test_samples_that_do_not_exist_are_refused(indexes, reason):
    with pytest.raises(ValueError, match=reason):
        fit(lambda batch: batch.context.dataset.encode(torch.tensor(indexes)))


@pytest.mark.skipif(hosts.solo_generation() is None, reason="Lightly's batches name no samples")
def test_samples_that_are_numbered_inside_a_subset():
    def encode(batch):
        assert batch.context.dataset.size == size
        batch.context.dataset.encode(torch.arange(3))

    subset, size = Subset(hosts.Pairs(), range(4, 20)), 24
    fit(encode, data=subset)  # those of its parent
    reason, size = "gets the samples 4, 5, 6, … where the positions 0, 1, 2 of the training", 16
    with pytest.raises(ValueError, match=reason):
        fit(encode, data=ConcatDataset([subset]))


@pytest.mark.skipif(not is_first_lightning(), reason="of Lightning 1")
def test_precision_64_of_the_first_lightning_is_refused():
    with pytest.raises(ValueError, match="cannot convert their images to precision 64"):
        fit(forgotten, precision=64)


def test_a_step_that_communicates_is_refused_on_every_rank():
    def meet(module):
        torch.distributed.all_reduce(torch.ones(1))

    def train():
        parallel = {"strategy": "ddp_fork", "devices": 2}
        fit(forgotten, lambda: ahead(hosts.recipe(), meet), batch_size=4, **parallel)

    with pytest.raises(Exception, match=r"communicates over ranks before .*out_of_batch='cached'"):
        ranks.apart(train)
