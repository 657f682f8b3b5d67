"""Ranks of a recipe that were told different things: an error on all of them before they train."""

from __future__ import annotations

import os

import hosts
import pytest
import ranks
import torch
from torch import nn
from unequal_ranks import said, views_of

from negplug import inject
from negplug.hosts.trainer.epoch_length import Batches, insist_on_one_number
from negplug.kernels.errors import RanksError

if not (hosts._has("lightly") or hosts.solo_generation()):
    pytest.skip("no host is installed", allow_module_level=True)


# What the second rank is told, beside words of the message; None if it makes no difference.
ARGUMENTS = [
    ({"accumulate": 2}, "accumulate of NegativeControl: rank 0 has 1, rank 1 has 2"),
    ({"ignore": "another"}, "ignore of NegativeControl"),
    ({"temperature": 0.7}, "temperature of NegativeControl: rank 0 has None, rank 1 has 0.7"),
    ({"compose": "balanced(by='kinds')"}, "compose of NegativeControl"),
    ({"treat": "pkg.losses:Mine=ntxent"}, "treat of NegativeControl"),
    ({"sampler": "gather()"}, "sampler of NegativeControl"),
    ({"target": hosts.site_name()}, "target of NegativeControl"),
]
VARIABLES = [
    (
        {"TREAT": "pkg.losses:Mine=ntxent"},
        "variable NEGPLUG_TREAT: rank 0 has unset, rank 1 has pkg",
    ),
    ({"IGNORE": "another"}, "variable NEGPLUG_IGNORE"),
    ({"DISABLE_AUTOLOAD": "yes"}, "NEGPLUG_DISABLE_AUTOLOAD: rank 0 has False, rank 1 has True"),
    ({"DISABLE_AUTOLOAD": "0", "IGNORE": " ", "BACKEND": "", "METRICS": os.devnull}, None),
]


# Of a rank with fewer samples: how many steps are taken, and what is said of it.
SAMPLES = [
    (1, None),  # the end of an epoch is not reached
    (3, "rank 0 has 3 batches in an epoch and rank 1 has 2"),
]


def fit(samples=24, steps=1, module=None, **given):
    control = hosts.negative_control()(**{"sampler": "in_batch()"} | given)
    trainer = hosts.trainer(callbacks=[control], max_steps=steps)
    trainer.fit(module or hosts.recipe(), hosts.loader(samples))


def by_hand():
    """A recipe that makes two steps of optimizers in each batch."""
    module = hosts.recipe()
    step, weights = module.training_step, [p for p in module.parameters() if p.requires_grad]

    def training_step(batch, batch_idx):
        loss = step(batch, batch_idx)
        module.manual_backward(loss["loss"] if isinstance(loss, dict) else loss)
        for optimizer in module.optimizers():
            optimizer.step()
            optimizer.zero_grad()

    module.training_step, module.automatic_optimization = training_step, False
    module.configure_optimizers = lambda: [torch.optim.SGD(weights[n::2], 0.1) for n in range(2)]
    return module


class Two(nn.Module):
    """Two losses that a host knows, in one model."""

    def __init__(self):
        super().__init__()
        criteria = __import__("lightly.loss").loss
        self.first, self.second = criteria.NTXentLoss(0.2), criteria.NTXentLoss(0.2)


def plain(rank):
    """A loop in which the second rank leaves one of two losses alone."""
    model = Two()
    with inject(model, "in_batch()", ignore="second" if rank else ()):
        views = views_of(rank, 0)
        (model.first(*views) + model.second(*views)).backward()


def told(rank, world):
    """What a rank says of each."""
    torch.manual_seed(0)
    found = [said(fit, **(given if rank else {})) for given, _ in ARGUMENTS]
    for variables, _ in VARIABLES:
        own = {f"NEGPLUG_{name}": value for name, value in variables.items() if rank}
        os.environ.update(own)
        found.append(said(fit))
        for name in own:
            del os.environ[name]
    found += [said(fit, samples=16 if rank else 24, steps=steps) for steps, _ in SAMPLES]
    found.append(said(fit, samples=16 if rank else 24, steps=4, module=by_hand()))
    return [*found, said(plain, rank)] if hosts._has("lightly") else found


@pytest.mark.filterwarnings("ignore")
def test_what_a_rank_alone_was_told_is_an_error_on_all():
    zero, one = ranks.run(told, 2)
    words = [word for *_, word in (*ARGUMENTS, *VARIABLES, *SAMPLES)]
    words.append(None)  # two batches of two steps are on all ranks
    words += ["treated losses: rank 0 has first, second, rank 1 has first"][
        : len(zero) - len(words)
    ]
    assert zero == one, (zero, one)
    for word, heard in zip(words, zero, strict=True):
        assert (heard is None) == (word is None), (word, heard)
        if word is not None:
            assert heard[0] == "RanksError"
            assert word in heard[1], heard


def test_other_numbers_of_batches_where_nobody_knows_whether_an_epoch_ends():
    insist_on_one_number([Batches(3, True), Batches(3, True)])
    with pytest.warns(UserWarning, match="rank 0 has 3 batches .* rank 1 has 2.* unless max_steps"):
        insist_on_one_number([Batches(3, True), Batches(2, True)])
    with pytest.raises(RanksError, match="would wait for ever; give all ranks"):
        insist_on_one_number([Batches(3, False), Batches(2, False)])
