"""Several real ranks against one process: gradients and memories.

The model has no BatchNorm, which would couple the samples of a rank. All in float64.
"""

from __future__ import annotations

import pytest
import ranks
import torch
from memories import written
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from negplug import ContrastiveBatch, ContrastiveLoss, NegativeSampler
from negplug.plugins.manager import plugins
from negplug.samplers.gather import Gather
from negplug.samplers.queue import Queue
from negplug.testing.one_process import mean_loss
from negplug.testing.ranks import shared_state, tensors
from negplug.testing.subject import difference

pytestmark = pytest.mark.filterwarnings("ignore:.*all of them are used")
STEPS = 5
SAMPLES = 60
RAGGED = (5, 3, 6, 4)  # sizes of the ranks' last batches
FULL = 6
# Without draws: also equal to one process that knows nothing of ranks. The queue holds two whole
# steps, since the order of the keys inside a step is another one there.
PLAIN = [
    "gather()",
    "gather(ring=True)",
    "schedule(gather(ring=True), gather(), from_steps=(0, 2))",
    "queue(size={two_steps})",
    "memory_bank(momentum=0.5)",
    "hierarchical(gather(), queue(size={two_steps}))",
    "hard(num_negatives=4, skip=2, source=gather())",
    "filtered(by='labels', source=gather())",
    "false_negatives(top=3, threshold=0.1, source=gather())",
]
DRAWING = [
    "uniform(num_negatives=4, correction=True, source=gather())",
    "uniform(num_negatives=4, shared=True, correction=True, source=gather())",
    "queue(size={more_than_one}, num_negatives=4)",
    "memory_bank(momentum=0.5, num_negatives=5)",
    "stratified(num_negatives=4, source=gather())",
    "hierarchical(in_batch(), uniform(num_negatives=4, source=queue(size={more_than_one})))",
    "synthetic(num_mixed=3, num_mixed_with_anchor=2, num_hardest=4, source=gather())",
    "gumbel_max(num_negatives=3, source=gather())",
    "schedule(gather(), hard(4, source=queue(size={more_than_one})), emc2(), from_steps=(0, 1, 3))",
    "emc2()",
    "isir(out_of_batch='drop')",
    "emc2(burn_in=2, out_of_batch='drop', source=queue(size={more_than_one}))",
]
LOCAL = ["queue(size=31, gather=False)", "memory_bank(gather=False)"]


class OneRankUsesTheQueueAlone(NegativeSampler):
    """Rank 0 compares with everybody's keys; the others' losses do not touch them."""

    def __init__(self):
        super().__init__()
        self.everywhere = Gather()
        self.past = Queue(50)

    def sample(self, batch):
        everywhere, past = self.everywhere(batch), self.past(batch)
        return everywhere if batch.context.draws.rank == 0 else past


SAMPLERS = [*PLAIN, *DRAWING, *LOCAL, "in_batch()", OneRankUsesTheQueueAlone]


class Recipe(nn.Module):
    """An encoder and its loss in one module, so that DDP wraps both."""

    def __init__(self, sampler, world):
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.encoder = nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 8)).double()
        for parameter in self.encoder.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator).double() / 4
        sampler = (
            sampler()
            if callable(sampler)
            else sampler.format(two_steps=4 * FULL * world, more_than_one=2 * FULL * world + 7)
        )
        self.loss = ContrastiveLoss(sampler, temperature=0.3, seed=1)
        # DDP broadcasts buffers from rank 0 before every step, if there are any.
        self.register_buffer("unrelated", torch.zeros(1))

    def forward(self, images, indexes):
        return self.loss(*map(self.encoder, images), indexes=indexes, labels=indexes % 3)


def data(step, world):
    """Each rank's two views and data set indexes; a sample comes back after a few steps."""
    generator = torch.Generator().manual_seed(2)
    images = torch.randn(SAMPLES, 10, generator=generator).double()
    generator = torch.Generator().manual_seed(100 + step)
    order = torch.randperm(SAMPLES, generator=generator)
    noise = torch.randn(2, SAMPLES, 10, generator=generator).double()
    sizes = RAGGED[:world] if step == STEPS - 1 else (FULL,) * world
    return [
        ([images[part] + view[part] for view in noise], part)
        for part in order[: sum(sizes)].split(sizes)
    ]


def steps(model, recipe, losses_of):
    """Train with SGD; return the gradient of the parameters in each step."""
    optimizer = torch.optim.SGD(recipe.encoder.parameters(), lr=0.3)
    gradients = []
    for step in range(STEPS):
        optimizer.zero_grad()
        losses_of(model, step).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in recipe.encoder.parameters()]))
        optimizer.step()
    return gradients


def on_this_rank(rank, world, samplers):
    """Train with every sampler, DDP's defaults; return gradients and the sampler's state."""
    found = []
    for sampler in samplers:
        recipe = Recipe(sampler, world)
        model = DistributedDataParallel(recipe)
        gradients = steps(model, recipe, lambda m, step: m(*data(step, world)[rank]))
        recipe.loss.end_step()
        recipe.loss.state_dict()
        found.append((gradients, recipe.loss.sampler.state_dict()))
    return found


def in_one_process(sampler, world):
    """The reference: a sampler for each rank, everybody's keys at hand."""
    recipe = Recipe(sampler, world)
    losses = [Recipe(sampler, world).loss for _ in range(world)]

    def loss(_, step):
        for each in losses:
            each.sampler.flush()
        batches = [
            ContrastiveBatch.from_views(tuple(map(recipe.encoder, views)), indexes, indexes % 3)
            for views, indexes in data(step, world)
        ]
        return mean_loss(losses, batches, step)

    gradients = steps(None, recipe, loss)
    for each in losses:
        each.sampler.flush()
    return gradients, [each.sampler.state_dict() for each in losses]


@pytest.fixture(scope="module", params=[2, 4])
def world(request):
    return request.param


@pytest.fixture(scope="module")
def trained(world):
    """For each sampler what every rank found; the processes serve all samplers."""
    found = ranks.run(on_this_rank, world, SAMPLERS, timeout=120)
    return dict(zip(SAMPLERS, zip(*found, strict=True), strict=True))


def test_every_built_in_sampler_is_tried():
    text = " ".join(name for name in SAMPLERS if isinstance(name, str))
    for provided in plugins().provided("sampler"):
        if provided.plugin.distribution == "negplug":
            assert f"{provided.spec.name}(" in text


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_gradients_and_memories_equal_one_process(trained, world, sampler):
    gradients, states = in_one_process(sampler, world)
    for rank, (found, state) in enumerate(trained[sampler]):
        assert any(gradient.norm() > 0 for gradient in gradients)
        for step, (one, other) in enumerate(zip(found, gradients, strict=True)):
            assert (one - other).norm() <= 1e-6 * other.norm(), (rank, step)
        torch.testing.assert_close(tensors(state), tensors(states[rank]), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("sampler", PLAIN)
def test_without_draws_ranks_equal_the_concatenated_batch(trained, world, sampler):
    recipe = Recipe(sampler, world)

    def loss(model, step):
        views, indexes = zip(*data(step, world), strict=True)
        return model([torch.cat(view) for view in zip(*views, strict=True)], torch.cat(indexes))

    for step, wanted in enumerate(steps(recipe, recipe, loss)):
        for found, _ in trained[sampler]:
            assert (found[step] - wanted).norm() <= 1e-6 * wanted.norm(), step


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_shared_memories_are_the_same_to_the_last_bit(trained, world, sampler):
    module = Recipe(sampler, world).loss.sampler
    _, first = trained[sampler][0]
    for _, state in trained[sampler][1:]:
        assert difference(shared_state(module, state), shared_state(module, first)) is None
        assert sampler in LOCAL or shared_state(module, state) == state


@pytest.mark.parametrize("sampler", LOCAL)
def test_ddp_leaves_each_rank_its_own_memory(trained, sampler):
    """Although the loss is part of the wrapped model, whose buffers are broadcast."""
    rows = [written(state["_extra_state"])["rows"] for _, state in trained[sampler]]
    for one in range(len(rows)):
        for other in range(one):
            assert not (rows[one][:, None] == rows[other]).all(2).any()


def gathered(rank, world):
    """A batch's anchors, and what its gathered form says of them."""
    generator = torch.Generator().manual_seed(rank)
    size = RAGGED[rank]
    batch = ContrastiveBatch.from_views(tuple(torch.randn(2, size, 8, generator=generator)))
    everywhere = batch.gathered()
    return {
        "keys": everywhere.keys.embeddings,
        "ids": everywhere.keys.ids,
        "anchors": everywhere.anchors.embeddings,
        "themselves": everywhere.keys.embeddings[everywhere.self_columns],
        "positives": everywhere.keys.embeddings[everywhere.positives[:, 0]],
        "views": everywhere.keys.views,
    }


def test_a_gathered_batch_knows_who_is_who(world):
    found = ranks.run(gathered, world)
    keys = torch.cat([one["anchors"] for one in found])
    for one, size in zip(found, RAGGED, strict=False):
        assert torch.equal(one["keys"], keys)
        assert torch.equal(one["ids"], found[0]["ids"])
        assert torch.equal(one["themselves"], one["anchors"])
        assert torch.equal(one["positives"], one["anchors"].roll(size, 0))
    # Each sample's two views share an id that no other sample has, on any rank.
    _, counts = found[0]["ids"].unique(return_counts=True)
    assert counts.tolist() == [2] * (len(keys) // 2)
    assert found[0]["views"].sum() == len(keys) // 2
