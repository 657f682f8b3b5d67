"""``relic`` beyond ``test_objectives.py``: its divergence alone, tiles, ranks, recipes."""

from __future__ import annotations

import hosts
import naive
import pytest
import ranks
import torch
from device import DEVICE
from pools import columns_of, only
from torch.nn.functional import kl_div, normalize

from negplug import (
    ContrastiveBatch,
    ContrastiveLoss,
    Negatives,
    Rows,
    make_objective,
    make_sampler,
)
from negplug.contract.negatives import enumerated


@pytest.mark.parametrize("temperature", [1.0, 0.1, 0.02])
def test_the_divergence_alone_is_torchs(temperature):
    z = naive.embeddings(2, 10)
    batch = ContrastiveBatch.from_views(tuple(z))
    drawn = make_sampler("uniform(num_negatives=4)")(batch)
    ours = make_objective("relic()").invariance(batch, drawn, temperature)
    rows = normalize(torch.cat(z))
    positive = rows.roll(10, 0)
    candidates = torch.cat([positive[:, None], rows[columns_of(only(drawn))]], 1)
    logits = (rows[:, None] * candidates).sum(2) / temperature
    theirs = (positive[:, None] * candidates).sum(2).detach() / temperature
    # torch's arguments are the logarithms of q and p.
    wanted = kl_div(theirs.log_softmax(1), logits.log_softmax(1), log_target=True, reduction="none")
    wanted = wanted.sum(1)
    assert wanted.min() > 0
    torch.testing.assert_close(ours, wanted, rtol=1e-10, atol=1e-11)
    got, expected = (naive.gradients(value.sum(), z) for value in (ours, wanted))
    assert naive.relative(got, expected) < 1e-10


def test_nothing_is_left_where_both_views_are_one():
    (z,) = naive.embeddings(1, 8)
    batch = ContrastiveBatch.from_views((z, z))
    drawn = make_sampler("in_batch()")(batch)
    apart = make_objective("relic()").invariance(batch, drawn, 0.1)
    torch.testing.assert_close(apart, torch.zeros_like(apart), atol=1e-12, rtol=0)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("frozen", [False, True])
def test_a_pool_of_several_tiles_equals_chosen_columns(weighted, frozen):
    generator = torch.Generator().manual_seed(0)
    z = [v.detach()[:, :6].requires_grad_() for v in naive.embeddings(2, 300)]
    pool = normalize(torch.randn(2100, 6, dtype=torch.float64, generator=generator)).to(DEVICE)
    pool.requires_grad_(not frozen)
    ids = torch.arange(2100, device=DEVICE) % 700
    batch = ContrastiveBatch.from_views(tuple(z), indexes=torch.arange(300))
    weight = torch.randn(600, 2100, dtype=torch.float64, generator=generator).to(DEVICE)
    weight = weight if weighted else None
    whole = [Negatives(Rows(pool, ids), log_weight=weight)]
    leaves = z if frozen else [*z, pool]
    found = []
    for negatives in (whole, [enumerated(whole, batch.anchors)]):
        value = make_objective("relic(alpha=2)")(batch, negatives, 0.1).mean()
        found.append((value.detach(), naive.gradients(value, leaves)))
    (value, gradient), (wanted, expected) = found
    torch.testing.assert_close(value, wanted, rtol=1e-12, atol=0)
    assert naive.relative(gradient, expected) < 1e-11


def on_a_rank(rank, world, sampler):
    z = naive.embeddings(2, 6, seed=rank)
    loss_fn = ContrastiveLoss(sampler, "relic(alpha=1.5)", temperature=0.2, seed=0)
    loss = loss_fn(*z)
    loss.backward()
    return loss.detach(), [view.grad / world for view in z]


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("pool", ["whole", "chosen"])
def test_gradients_on_ranks_are_those_of_one_process(world, pool):
    # As many draws as there are negatives: nothing is left to chance.
    draws = 2 * 6 * world - 2
    sampler = "gather()" if pool == "whole" else f"uniform(num_negatives={draws}, source=gather())"
    results = ranks.run(on_a_rank, world, sampler)
    shares = [naive.embeddings(2, 6, seed=rank) for rank in range(world)]
    z = [torch.cat(view).detach().requires_grad_() for view in zip(*shares, strict=True)]
    whole = ContrastiveLoss("in_batch()", "relic(alpha=1.5)", temperature=0.2)(*z)
    whole.backward()
    mean = torch.stack([loss for loss, _ in results]).mean()
    torch.testing.assert_close(mean, whole.detach(), rtol=1e-12, atol=0)
    for number, view in enumerate(z):
        got = torch.cat([gradients[number] for _, gradients in results])
        torch.testing.assert_close(got, view.grad, rtol=1e-9, atol=1e-12)


def first_gradient(sampler, objective):
    """The gradient of the host's own SimCLR recipe in its first step."""
    lightning = hosts.lightning()
    lightning.seed_everything(0)
    found = []

    class Keep(lightning.Callback):
        def on_after_backward(self, trainer, pl_module):
            found.extend(
                p.grad.flatten().cpu() for p in pl_module.parameters() if p.grad is not None
            )

    control = hosts.negative_control()(sampler, objective=objective)
    trainer = hosts.trainer(callbacks=[control, Keep()], max_steps=1)
    trainer.fit(hosts.recipe(), hosts.loader())
    return torch.cat(found)


@pytest.mark.parametrize("sampler", ["in_batch()", "uniform(num_negatives=3)"])
def test_the_hosts_simclr_recipe_trains_with_it(sampler):
    host, none, once, twice = (
        first_gradient(sampler, objective)
        for objective in (None, "relic(alpha=0)", "relic(alpha=100)", "relic(alpha=200)")
    )
    # A GPU's convolutions round what they multiply to TF32.
    bound = 1e-4 if DEVICE.type == "cpu" else 2e-3
    assert naive.relative(none, host) < bound
    assert naive.relative(once, none) > 0.01
    assert naive.relative(twice - none, 2 * (once - none)) < bound
