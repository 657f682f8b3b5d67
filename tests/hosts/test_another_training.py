"""Plain loops in which a criterion trains another model than before."""

from __future__ import annotations

import naive
import pytest
import torch
from device import DEVICE
from torch import nn

NTXentLoss = pytest.importorskip("lightly.loss").NTXentLoss
SCHEDULE = "schedule(uniform(num_negatives=2), in_batch(), from_steps=(0, 2))"


def network():
    return nn.Linear(16, 8).double().to(DEVICE)


def trained(criterion, steps=3):
    """Train a new network by an optimizer of its own; return the losses of its steps."""
    torch.manual_seed(0)
    net, losses = network(), []
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(steps):
        loss = criterion(*(net(z) for z in naive.embeddings(2, 8)))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses


@pytest.mark.parametrize("sampler", ["queue(size=32)", SCHEDULE, "uniform(num_negatives=2)"])
def test_a_criterion_that_trains_another_model_begins_anew(watch, sampler):
    """As with folds or seeds in one process, of a criterion that is made once."""
    watching, criterion = watch(sampler), NTXentLoss()
    first = trained(criterion)
    assert [trained(criterion) for _ in range(2)] == [first] * 2
    assert list(watching.injections) == ["NTXentLoss"]
    watching.stop()
    assert "forward" not in vars(criterion)


def test_models_that_are_trained_in_turns_and_further_optimizers_of_a_model_go_on(watch):
    watching, criterion = watch("queue(size=32)"), NTXentLoss()
    nets = [network(), network()]
    optimizers = [torch.optim.SGD(net.parameters(), lr=0.1) for net in nets]
    for step in range(4):
        for number, net in enumerate(nets):
            if step == 2:
                optimizers[number] = torch.optim.Adam(net.parameters())
            criterion(*(net(z) for z in naive.embeddings(2, 8))).backward()
            optimizers[number].step()
            optimizers[number].zero_grad()
    (treated,) = watching.injections["NTXentLoss"].losses.values()
    assert treated.calls == 8


def test_a_model_that_gets_a_new_head_and_optimizer_goes_on(watch):
    watching, criterion = watch("queue(size=32)"), NTXentLoss()
    encoder = nn.Linear(16, 16).double().to(DEVICE)
    for _ in range(2):
        head = network()
        optimizer = torch.optim.SGD([*encoder.parameters(), *head.parameters()], lr=0.1)
        for _ in range(2):
            criterion(*(head(encoder(z)) for z in naive.embeddings(2, 8))).backward()
            optimizer.step()
            optimizer.zero_grad()
    (treated,) = watching.injections["NTXentLoss"].losses.values()
    assert treated.calls == 4


def test_an_optimizer_that_could_not_be_made_is_none(watch):
    """As a mistyped cell of a notebook leaves one behind, in the traceback that it keeps."""
    watch("queue(size=32)")
    criterion = NTXentLoss()
    first = trained(criterion)
    with pytest.raises(ValueError, match="learning rate") as kept:
        torch.optim.SGD(network().parameters(), lr=-1.0)
    assert trained(criterion) == first
    assert kept.tb is not None


def test_it_is_warned_once_that_a_criterion_begins_anew(watch, caplog):
    caplog.set_level("INFO", "negplug")
    watch("uniform(num_negatives=2)")
    criterion = NTXentLoss()
    for _ in range(3):
        trained(criterion)
    found = [each for each in caplog.records if "now trains another model" in each.getMessage()]
    assert [each.levelname for each in found] == ["WARNING", "INFO"]
    assert "what it draws begins anew" in found[0].getMessage()
