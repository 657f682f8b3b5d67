"""Micro-batches on ranks: the gradient of the global batch, and one exchange for each step."""

from __future__ import annotations

import hosts
import pytest
import ranks
import torch
from splittable import Net, batches
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from negplug import ContrastiveLoss, accumulated

pytestmark = pytest.mark.filterwarnings("ignore")

SAMPLERS = ["gather()", "queue(size=96)"]
STEPS = 4


def train(rank, world, sampler, count):
    """Return parameters, and how often gradients were exchanged."""
    torch.manual_seed(0)
    model = DistributedDataParallel(Net())
    exchanged = []

    def exchange(_, bucket):
        exchanged.append(1)
        work = torch.distributed.all_reduce(bucket.buffer() / world, async_op=True)
        return work.get_future().then(lambda done: done.value()[0])

    model.register_comm_hook(None, exchange)
    loss_fn = ContrastiveLoss(sampler, seed=3)

    def step(batch):
        views, known = batch
        return loss_fn(*(model(view) for view in views), **known)

    run = accumulated(step, count, model=model, loss=loss_fn)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    # The last batch of a rank is smaller than the others'.
    own = 24 // world
    for number, (views, known) in enumerate(batches(STEPS, 24)):
        end = 24 if number < STEPS - 1 else 21
        mine = slice(rank * own, min((rank + 1) * own, end))
        batch = [view[mine] for view in views], {n: value[mine] for n, value in known.items()}
        run(batch).backward()
        optimizer.step()
        optimizer.zero_grad()
    return torch.cat([p.detach().flatten() for p in model.parameters()]), len(exchanged)


def every_sampler(rank, world):
    return [[train(rank, world, sampler, count) for count in (1, 4)] for sampler in SAMPLERS]


def test_ranks_train_as_on_their_whole_batches_and_exchange_once():
    first, *others = ranks.run(every_sampler, 4)
    for whole, split in first:
        torch.testing.assert_close(split[0], whole[0], rtol=1e-4, atol=2e-6)
        assert split[1] == whole[1] == STEPS
    for other in others:
        for one, two in zip(first, other, strict=True):
            assert torch.equal(one[1][0], two[1][0])


def fits():
    found = []
    for count in (1, 4):
        hosts.lightning().seed_everything(0)
        module = hosts.queue_recipe(32)
        control = hosts.negative_control()("queue(size=64)", accumulate=count)
        trainer = hosts.trainer(callbacks=[control], strategy="ddp_fork", devices=2)
        keeper = Keeping()
        trainer.callbacks.append(keeper)
        trainer.fit(module, DataLoader(hosts.Pairs(48), 8))
        found.append(trainer.callback_metrics)
    return found


class Keeping(hosts.lightning().Callback):
    """Has rank 0 log what it ends with, for the process that has forked it."""

    def on_train_epoch_end(self, trainer, module):
        values = hosts.parameters(module)
        weights = torch.linspace(-1, 1, values.numel())
        module.log_dict({"sum": (values * weights).sum(), "norm": values.norm()})


def test_a_recipe_on_ranks():
    whole, split = ranks.apart(fits)
    assert whole.keys() == split.keys()
    for name in whole:
        torch.testing.assert_close(split[name], whole[name], rtol=1e-5, atol=1e-5, msg=name)
