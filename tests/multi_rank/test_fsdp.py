"""Encoders that ``fully_shard`` (FSDP2) has sharded train treated, in plain loops and a Trainer."""

from __future__ import annotations

import importlib.util
import tempfile

import pytest
import ranks
import sharded
import torch
from resumable import same_state
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    set_model_state_dict,
)

from negplug import ContrastiveLoss, accumulated

STEPS = 4
SIZE, RAGGED = 6, (5, 3, 6, 4)  # samples of a rank, and of each one's last batch
SAMPLERS = [
    "in_batch()",
    "gather()",
    "gather(ring=True)",
    "queue(size={steps})",
    "hard(num_negatives=4, source=gather())",
    "memory_bank(momentum=0.5)",
]


class Recipe(nn.Module):
    """An encoder and its loss in one module."""

    def __init__(self, sampler):
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.encoder = nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 8)).double()
        for parameter in self.encoder.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator).double() / 4
        self.loss = ContrastiveLoss(sampler, temperature=0.3, seed=1)

    def forward(self, views, indexes):
        z = [self.encoder(view) for view in views]
        assert all(type(view) is torch.Tensor for view in z)
        return self.loss(*z, indexes=indexes)


def data(step, world):
    """Each rank's views and indexes."""
    generator = torch.Generator().manual_seed(step)
    sizes = RAGGED[:world] if step == STEPS - 1 else (SIZE,) * world
    order = torch.randperm(40, generator=generator)[: sum(sizes)]
    views = torch.randn(2, sum(sizes), 10, generator=generator).double()
    return list(zip(views.split(sizes, 1), order.split(sizes), strict=True))


def step_of(recipe, optimizer, loss):
    """A step; the gradient of all parameters."""
    optimizer.zero_grad()
    loss.backward()
    gradient = sharded.whole(p.grad for p in recipe.encoder.parameters())
    optimizer.step()
    return gradient


def shard(recipe, mesh):
    from torch.distributed.fsdp import fully_shard

    for part in (recipe.encoder[0], recipe.encoder[2], recipe):
        fully_shard(part, mesh=mesh)
    return recipe, torch.optim.SGD(recipe.parameters(), lr=0.3)


def text(sampler, world):
    return sampler.format(steps=4 * SIZE * world)  # two whole steps


def on_this_rank(rank, world):
    """For each sampler the gradients, and those of a run that stopped after two steps."""
    mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (world,))
    found = {}
    for sampler in SAMPLERS:
        recipe, optimizer = shard(Recipe(text(sampler, world)), mesh)
        gradients = []
        for step in range(STEPS):
            if step == 2:
                options = StateDictOptions(full_state_dict=True)
                saved = get_model_state_dict(recipe.encoder, options=options)
                memory = recipe.loss.state_dict()
            gradients.append(step_of(recipe, optimizer, recipe(*data(step, world)[rank])))
        other, optimizer = shard(Recipe(text(sampler, world)), mesh)
        set_model_state_dict(other.encoder, saved, options=options)
        other.loss.load_state_dict(memory)
        resumed = [
            step_of(other, optimizer, other(*data(step, world)[rank])) for step in (2, STEPS - 1)
        ]
        same = same_state(other.loss.state_dict(), recipe.loss.state_dict())
        found[sampler] = gradients, same_state(resumed, gradients[2:]) and same
    return found, refusals(recipe, mesh)


def refusals(recipe, mesh):
    """What is said of tensors that are spread over ranks, and of micro-batches."""
    from torch.distributed.tensor import Shard, distribute_tensor

    z = distribute_tensor(torch.randn(8, 4), mesh, [Shard(0)])
    own, names = z.to_local(), torch.arange(len(z.to_local()))
    spread = distribute_tensor(torch.arange(8), mesh, [Shard(0)])
    tau = distribute_tensor(torch.full((len(own),), 0.1), mesh, [Shard(0)])[:1].requires_grad_()
    loss_fn = ContrastiveLoss()
    views, indexes = data(0, 4)[0]
    batch = [*views], indexes
    calls = [
        lambda: loss_fn(z, z),
        lambda: loss_fn.pairs(own, z),
        lambda: loss_fn(own, own, indexes=spread),
        lambda: loss_fn(own, own, labels=spread),
        lambda: loss_fn.contrast(batch_of(own, names), temperature=tau),
        lambda: accumulated(lambda b: recipe(*b), 2, model=recipe, loss=recipe.loss)(batch),
    ]
    said = []
    for call in calls:
        try:
            call()
            said.append("")
        except (TypeError, ValueError) as error:
            said.append(str(error))
    return said


def batch_of(z, indexes):
    from negplug import ContrastiveBatch

    return ContrastiveBatch.from_views((z, z), indexes)


@pytest.fixture(scope="module", params=[2, 4])
def world(request):
    return request.param


@pytest.fixture(scope="module")
def trained(world):
    return ranks.run(on_this_rank, world)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_gradients_equal_one_process(trained, world, sampler):
    recipe = Recipe(text(sampler, world))
    optimizer = torch.optim.SGD(recipe.parameters(), lr=0.3)
    for step in range(STEPS):
        parts = data(step, world)
        if sampler == "in_batch()":  # of each rank's own batch
            loss = torch.stack([recipe(*part) for part in parts]).mean()
        else:
            views, indexes = zip(*parts, strict=True)
            loss = recipe(torch.cat(views, 1), torch.cat(indexes))
        wanted = step_of(recipe, optimizer, loss)
        assert wanted.norm() > 0 or step == 0  # a memory that is empty yet
        for found, _ in trained:
            torch.testing.assert_close(found[sampler][0][step], wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_run_resumes_to_the_last_bit(trained, sampler):
    assert all(found[sampler][1] for found, _ in trained)


def test_what_is_spread_over_ranks_is_refused(trained):
    for _, said in trained:
        names = ["z0", "documents", "indexes", "labels", "temperature"]
        for name, sentence in zip(names, said[:-1], strict=True):
            assert sentence.startswith(f"{name} is a DTensor placed as ("), sentence
            assert f"{name}.to_local()" in sentence
        assert said[-1].startswith("accumulate: fully_shard has sharded the model")


def in_trainers(rank, world, folder):
    """Parameters and states: DDP, sharded at once, sharded and resumed; and what is refused."""
    ranks.join(rank, world)
    found = []
    for sampler in ("queue(size=48)", "memory_bank()", "gather(ring=True)"):
        kept = f"{folder}/{len(found)}.ckpt"
        plain = sharded.fitted(world, sampler, False, folder)
        at_once = sharded.fitted(world, sampler, True, folder)
        sharded.fitted(world, sampler, True, folder, epochs=1, save=kept)
        found.append((plain, at_once, sharded.fitted(world, sampler, True, folder, resume=kept)))
    said = []
    for sampler, settings in (
        ("queue(size=48)", {"sizes": (1, world)}),
        ("queue(size=48)", {"accumulate": 2}),
        ("emc2(out_of_batch='recompute')", {}),
    ):
        with pytest.raises(ValueError, match=r".") as raised:
            sharded.fitted(world, sampler, True, folder, **settings)
        said.append(str(raised.value))
    return found, said


@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(importlib.util.find_spec("lightly") is None, reason="run with Lightly")
def test_a_trainer_that_shards_trains_and_resumes_as_ddp():
    pytest.importorskip("pytorch_lightning.strategies.model_parallel")
    with tempfile.TemporaryDirectory() as folder:
        each = ranks.run(in_trainers, 2, folder)
    for found, (grouped, accumulates, recomputes) in each:
        for plain, at_once, resumed in found:
            assert torch.equal(at_once[0], plain[0])
            assert same_state(at_once[1], plain[1])
            assert torch.equal(resumed[0], plain[0])
            assert same_state(resumed[1], plain[1])
        assert "gives the same samples to the 2 ranks of a tensor-parallel group" in grouped
        assert "fully_shard has sharded the model" in accumulates
        assert "ModelParallelStrategy shards the model, so that no rank can run it" in recomputes
