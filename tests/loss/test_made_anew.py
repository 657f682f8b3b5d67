"""A loss that is made anew in every step is told from one that is trained again."""

import pytest
import torch

from negplug import ContrastiveLoss


def step(net, optimizer, loss_fn):
    """Take one training step."""
    views = torch.randn(2, 6, 4)
    loss = loss_fn(*map(net, views), indexes=torch.arange(6))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def training():
    net = torch.nn.Linear(4, 3)
    return net, torch.optim.SGD(net.parameters(), lr=0.1)


@pytest.mark.parametrize(
    "given", [("queue(size=24)",), ("in_batch()", "sogclr(size=6)"), ("emc2(size=6)",)], ids=str
)
def test_what_would_never_remember_is_warned_of(given):
    with pytest.warns(UserWarning, match="made anew after a single step.*make it once"):
        train_anew(*given)


def train_anew(*given):
    """Take three steps with a new loss each; the first may be the first that torch knows of."""
    parts = training()
    for _ in range(3):
        step(*parts, ContrastiveLoss(*given))


def test_what_remembers_nothing_may_be_made_anew():
    parts = training()
    for _ in range(4):
        step(*parts, ContrastiveLoss("uniform(num_negatives=3)", "decoupled()"))


def test_losses_that_stay_or_train_longer_or_otherwise_are_made_anew_rightly():
    one, other = (ContrastiveLoss("queue(size=24)") for _ in range(2))
    parts = training()
    for _ in range(3):
        step(*parts, one)
        step(*parts, other)
    for _ in range(3):  # epochs, each with a queue of its own
        fresh = ContrastiveLoss("queue(size=24)")
        step(*parts, fresh)
        step(*parts, fresh)
    for _ in range(4):  # folds of one step
        step(*training(), ContrastiveLoss("queue(size=24)"))
