"""Plain loops, and Trainers that are left alone: nothing contrastive trains on untreated."""

from __future__ import annotations

import gc
import weakref

import hosts
import naive
import pytest
import torch
from torch import nn

from negplug import inject
from negplug.hosts.untreated import UntreatedLossError

lightly_loss = pytest.importorskip("lightly.loss")
NTXentLoss = lightly_loss.NTXentLoss


class Own(nn.Module):
    def forward(self, views):
        a, b = views
        return nn.functional.cross_entropy(a @ b.T, torch.arange(len(a), device=a.device))


def embeddings():
    return [z * 1.0 for z in naive.embeddings(2, 8)]  # of a network, no parameters


def test_a_loss_that_no_adapter_knows_is_refused_at_its_first_call(watch):
    watch("in_batch()")
    with pytest.raises(UntreatedLossError, match=r"^Own, called at test_plain_untreated\.py:\d+"):
        Own()(embeddings())


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_what_torch_jit_made_is_named_with_what_can_be_done(watch):
    z = embeddings()
    traced = torch.jit.trace(NTXentLoss(), tuple(z), check_trace=False)
    with pytest.raises(ValueError, match=r"found in ModuleDict \(but torch.jit made 'criterion';"):
        inject(nn.ModuleDict({"criterion": traced}), "in_batch()")
    watch("in_batch()")
    with pytest.raises(UntreatedLossError, match="call the loss itself, for nothing can take"):
        traced(*z)


def test_a_first_call_inside_of_a_transform_of_functions_is_refused(watch):
    z0, z1 = (z.detach() for z in embeddings())
    watch("in_batch()")
    with pytest.raises(TypeError, match=r"what NTXentLoss is given is inside .* torch\.func"):
        torch.func.grad(lambda z: NTXentLoss()(z, z1))(z0)


def test_ignore(watch):
    watching = watch("in_batch()", ignore=["Own", "DCLLoss"])
    Own()(embeddings())
    lightly_loss.DCLLoss()(*embeddings())
    assert not watching.injections


def step(criterion):
    loss = criterion(*embeddings())
    loss.backward()


@pytest.mark.parametrize("sampler", ["uniform(num_negatives=4)", "queue(size=32)"])
def test_a_criterion_made_anew_in_each_step_is_refused_in_the_second(watch, sampler):
    watch(sampler)
    weight = nn.Parameter(torch.ones(()))
    optimizer = torch.optim.SGD([weight], lr=0.1)

    def train():
        loss = NTXentLoss()(*(weight * z for z in embeddings()))
        loss.backward()
        optimizer.step()

    train()
    with pytest.raises(UntreatedLossError, match="made anew in every step"):
        train()


def test_several_at_one_place_with_a_backward_pass_each_are_taken(watch):
    watching = watch("queue(size=32)")
    weight = nn.Parameter(torch.ones(()))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    heads = [NTXentLoss(0.1), NTXentLoss(0.2)]
    for _ in range(3):
        for criterion in heads:
            criterion(*(weight * z for z in embeddings())).backward()
        optimizer.step()
    assert len(watching.injections) == 2


def test_a_new_criterion_for_a_new_training_and_several_at_one_place_are_taken(watch):
    watching = watch("queue(size=32)")
    for _ in range(2):  # as with k-fold
        criterion = NTXentLoss()
        for _ in range(2):
            step(criterion)
    heads = [NTXentLoss(0.1), NTXentLoss(0.2)]
    for _ in range(2):
        sum(criterion(*embeddings()) for criterion in heads).backward()
    assert len(watching.injections) == 3  # that of the first training is gone


@pytest.mark.parametrize("steps", [1, 3])
def test_trainings_of_one_process_draw_alike_and_leave_nothing(watch, steps):
    """As a cell that is run again, folds and the jobs of a search do, a smoke test's too."""
    watching = watch("uniform(num_negatives=2)")

    def trained():
        torch.manual_seed(0)
        net, criterion = nn.Linear(4, 4), NTXentLoss()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        for _ in range(steps):
            x = torch.randn(8, 4)
            loss = criterion(net(x), net(x + 0.1))
            loss.backward()
            optimizer.step()
        left.append(weakref.ref(criterion))
        return loss.detach()

    left = []
    assert len({float(trained()) for _ in range(3)}) == 1
    gc.collect()
    assert not watching.injections
    assert [criterion() for criterion in left] == [None] * 3


class Apart(hosts.lightning().LightningModule):
    """Its criterion is where no search finds it."""

    def __init__(self, get):
        super().__init__()
        self.net, self.get = nn.Linear(3 * hosts.IMAGE**2, 8), get

    def training_step(self, batch, batch_idx):
        return self.get()(*(self.net(view.flatten(1)) for view in batch[0]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05)


@pytest.mark.filterwarnings("ignore")
def test_the_watch_takes_over_from_a_trainer_that_is_left_alone(watch, monkeypatch):
    monkeypatch.setenv("NEGPLUG_SAMPLER", "queue(size=32)")
    watching, kept = watch("queue(size=32)"), [NTXentLoss()]
    hosts.trainer().fit(Apart(lambda: kept[0]), hosts.loader())
    assert watching.injections["NTXentLoss"].losses["NTXentLoss"].calls == 3
    with pytest.raises(UntreatedLossError, match="made anew in every step"):
        hosts.trainer().fit(Apart(NTXentLoss), hosts.loader())
    with pytest.raises(UntreatedLossError, match="Own"):
        hosts.trainer().fit(Apart(lambda: lambda a, b: Own()((a, b))), hosts.loader())
