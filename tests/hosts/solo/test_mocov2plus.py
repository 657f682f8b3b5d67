"""solo-learn's MoCo v2+: full queues are the host's, and where ours differ.

Where the hosts' queues are full and hold the same keys, ``queue()`` is the same loss. Where ours
differs on purpose, the host's behaviour and ours stand side by side.
"""

from __future__ import annotations

import copy
import importlib.util

import hosts
import naive
import pytest
import ranks
import torch
from queue_contents import holds, rows_of
from torch import nn
from torch.nn.functional import normalize

from negplug import inject

HAS_LIGHTLY = importlib.util.find_spec("lightly") is not None
HAS_SOLO = hosts.solo_generation() is not None
solo_only = pytest.mark.skipif(not HAS_SOLO, reason="of solo-learn")
pytestmark = [
    pytest.mark.skipif(not (HAS_LIGHTLY or HAS_SOLO), reason="no host is installed"),
    pytest.mark.filterwarnings("ignore"),
]


def batch_for(number, rank=0, size=4):
    generator = torch.Generator().manual_seed(10 * number + rank)
    crops = [
        torch.randn(size, 3, 16, 16, generator=generator, dtype=torch.float64) for _ in range(2)
    ]
    first = 100 * number + 10 * rank  # no sample comes twice
    return [torch.arange(size) + first, crops, torch.arange(size) % 4]


def weights_of(model):
    return [p for p in model.parameters() if p.requires_grad]


def step(model, batch):
    """The host's own training step: its contrastive loss, and the gradients of the whole."""
    logged = {}
    model.log = lambda name, value, **kwargs: logged.update({name: value})
    model.log_dict = lambda *args, **kwargs: None
    loss = model.training_step(batch, 0)
    found = torch.autograd.grad(loss, weights_of(model), allow_unused=True)
    gradients = [
        torch.zeros_like(w) if g is None else g
        for w, g in zip(weights_of(model), found, strict=True)
    ]
    return logged["train_nce_loss"].detach(), gradients


def flat(tensors):
    return torch.cat([t.detach().flatten() for t in tensors])


def train(model, gradients, rate=0.3):
    with torch.no_grad():
        for weight, gradient in zip(weights_of(model), gradients, strict=True):
            weight -= rate * gradient
    for online, momentum in model.momentum_pairs:
        model.momentum_updater.update(online, momentum)


def solo_model(size, temperature=0.2):
    torch.manual_seed(0)
    return hosts.queue_recipe(size, temperature).double()


@solo_only
def test_full_queues_are_the_hosts_and_so_is_the_training():
    model = solo_model(12)
    twin, start = copy.deepcopy(model), flat(model.parameters())
    with inject(twin, "queue()") as handle:
        for number in range(7):
            if number <= 3:  # until the queues are full, weights follow the host's noise
                twin.load_state_dict(model.state_dict())
            theirs, their_grad = step(model, batch_for(number))
            ours, our_grad = step(twin, batch_for(number))
            if number < 3:
                assert ours < theirs
            else:
                torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=0)
                assert naive.relative(flat(our_grad), flat(their_grad)) < 1e-9
            train(model, their_grad), train(twin, our_grad)
            handle.end_step()
        # One queue for each of the two calls; the host goes on filling its own, unread.
        for queue, sampler in ((1, "sampler"), (0, "further.0.sampler")):
            torch.testing.assert_close(
                rows_of(handle, sampler).T.sort(1)[0], model.queue[queue].sort(1)[0]
            )
        torch.testing.assert_close(twin.queue, model.queue)
    assert handle.losses["mocov2plus_loss_func"].calls == 14
    moved = naive.relative(flat(model.parameters()), start)
    assert naive.relative(flat(twin.parameters()), flat(model.parameters())) < 1e-8 * moved


def _solo_on_ranks(rank, world):
    model = solo_model(16)
    twin = copy.deepcopy(model)
    found = []
    with inject(twin, "queue()") as handle:
        for number in range(4):
            theirs, their_grad = step(model, batch_for(number, rank))
            ours, our_grad = step(twin, batch_for(number, rank))
            found.append((theirs, ours, flat(their_grad), flat(our_grad)))
            handle.end_step()
        size = len(rows_of(handle))
    return found[2:], size


@solo_only
def test_full_queues_are_the_hosts_on_ranks():
    for found, size in ranks.run(_solo_on_ranks, 2):
        assert size == 16
        for theirs, ours, their_grad, our_grad in found:
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=0)
            assert naive.relative(our_grad, their_grad) < 1e-9


@torch.no_grad()
def queries_and_keys(model, batch):
    (online, momentum), heads = model.momentum_pairs
    queries = [normalize(heads[0](online(crop))) for crop in batch[1]]
    return queries, [normalize(heads[1](momentum(crop))) for crop in batch[1]]


def _momentum_keys(rank, world):
    """Our in-batch loss, and the cross-entropy of queries against every rank's momentum keys."""
    model = solo_model(16)
    train(model, step(model, batch_for(9))[1])  # or queries and keys would be the same
    batches = [batch_for(0, other) for other in range(world)]
    queries, _ = queries_and_keys(model, batches[rank])
    each = [queries_and_keys(model, batch)[1] for batch in batches]
    keys = [torch.cat(view) for view in zip(*each, strict=True)]
    target = torch.arange(4) + 4 * rank
    wanted = sum(
        nn.functional.cross_entropy(q @ k.T / 0.2, target)
        for q, k in ((queries[0], keys[1]), (queries[1], keys[0]))
    )
    with inject(model, "in_batch()"):
        ours, _ = step(model, batches[rank])
    return ours, wanted / 2


@solo_only
@pytest.mark.parametrize("world", [1, 2])
def test_in_batch_means_the_momentum_keys_of_all_ranks_never_queries(world):
    for ours, wanted in [_momentum_keys(0, 1)] if world == 1 else ranks.run(_momentum_keys, world):
        torch.testing.assert_close(ours, wanted)


@solo_only
def test_solo_noise_at_the_start_and_an_anchors_own_past():
    # A queue of two batches and a data set of one, not trained: the positive is in the queue.
    model, batch = solo_model(8), batch_for(0)
    twin, other = copy.deepcopy(model), copy.deepcopy(model)
    assert step(model, batch)[0] > 0  # of random negatives
    _, (_, keys) = queries_and_keys(model, batch)
    assert holds(model.queue[1].T, keys).all()
    theirs, _ = step(model, batch)
    with inject(twin, "queue()") as handle:
        assert step(twin, batch)[0] == 0
        handle.end_step()
        ours, _ = step(twin, batch)
    assert ours < theirs
    with inject(other, "in_batch()"):  # the other samples' keys, and those alone
        torch.testing.assert_close(ours, step(other, batch)[0])
