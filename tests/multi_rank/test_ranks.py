"""Several real ranks against one process: gradients, memories, launches, checkpoints.

The model has no BatchNorm, which would couple the samples of a rank. All in float64.
"""

from __future__ import annotations

import subprocess
import sys

import hosts
import pytest
import ranks
import torch
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
    "queue(size={two_steps})",
    "memory_bank(momentum=0.5)",
    "hierarchical(gather(), queue(size={two_steps}))",
    "hard(num_negatives=4, source=gather())",
    "filtered(by='labels', source=gather())",
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
        return everywhere if batch.draws.rank == 0 else past


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
    found = ranks.run(on_this_rank, world, SAMPLERS, timeout=30)
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
    rows = [state["_extra_state"]["rows"] for _, state in trained[sampler]]
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
        "keys": everywhere.keys,
        "ids": everywhere.key_ids,
        "anchors": everywhere.anchors,
        "themselves": everywhere.keys[everywhere.self_columns],
        "positives": everywhere.keys[everywhere.positives[:, 0]],
        "views": everywhere.key_views,
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


def local_memories(rank, world):
    """What a rank's own memories hold after two steps of batches that were gathered before."""
    losses = [ContrastiveLoss(f"{form}gather=False)") for form in ("queue(64, ", "memory_bank(")]
    keys, names = [], []
    for step in range(2):
        generator = torch.Generator().manual_seed(10 * step + rank)
        views = torch.randn(2, RAGGED[rank], 8, dtype=torch.float64, generator=generator)
        indexes = torch.arange(RAGGED[rank]) + 100 * rank + 10 * step
        batch = ContrastiveBatch.from_views(tuple(views.requires_grad_()), indexes, indexes % 3)
        sum(loss_fn.contrast(batch.gathered()) for loss_fn in losses).backward()
        keys.append(batch.keys.detach())
        names.append(indexes.repeat(2))
    queue, bank = (loss_fn.state_dict()["sampler._extra_state"] for loss_fn in losses)
    return queue, bank, torch.cat(keys), torch.cat(names)


def test_local_memories_take_their_own_keys_of_a_gathered_batch():
    for queue, bank, keys, indexes in ranks.run(local_memories, 2):
        assert torch.equal(queue["rows"], keys)
        assert torch.equal(queue["names"], torch.stack([indexes, indexes, indexes % 3]))
        assert torch.equal(bank["names"][1], indexes.unique())


REFUSED = [
    ([9, 1], "memory_bank: the data set index 9 is beyond size=8"),
    ([3, -1], "memory_bank: needs the data set index of every sample, but"),
    (None, "memory_bank: needs the data set index of every sample, but"),
]
"""Indexes on one rank, and what every rank says."""


def refused(rank, world):
    """For each bad step between two good ones: the error, whether it left a trace, the state."""
    found = []
    for bad, _ in REFUSED:
        for gather_first in (False, True):
            loss_fn = ContrastiveLoss("memory_bank(size=8)")
            good = [2 * rank, 2 * rank + 1]
            indexed_loss(loss_fn, good, rank, 0, gather_first).backward()
            before = loss_fn.state_dict()
            message = "no error"
            try:
                indexes = bad if rank == world - 1 else good
                indexed_loss(loss_fn, indexes, rank, 1, gather_first)
            except ValueError as error:
                message = str(error)
            unchanged = difference(loss_fn.state_dict(), before) is None
            indexed_loss(loss_fn, good, rank, 2, gather_first).backward()
            found.append((message, unchanged, loss_fn.state_dict()))
    return found


def indexed_loss(loss_fn, indexes, rank, step, gather_first):
    generator = torch.Generator().manual_seed(10 * step + rank)
    rows = torch.randn(4, 8, dtype=torch.float64, generator=generator).requires_grad_()
    rows = torch.nn.functional.normalize(rows, dim=1)
    if indexes is not None:
        indexes = torch.tensor(indexes).repeat(2)
    # As an adapter builds it, which may know some of the indexes only.
    batch = ContrastiveBatch.from_ids(rows, torch.arange(2).repeat(2), indexes=indexes)
    return loss_fn.contrast(batch.gathered() if gather_first else batch)


def test_an_index_that_is_bad_on_one_rank_is_refused_on_all():
    first, second = ranks.run(refused, 2)
    expected = [message for _, message in REFUSED for _ in range(2)]
    for message, one, other in zip(expected, first, second, strict=True):
        for said, unchanged, state in (one, other):
            assert said.startswith(message)
            assert unchanged
            names = state["sampler._extra_state"]["names"][1]
            assert names.sort().values.tolist() == [0, 1, 2, 3]
        assert difference(one[2], other[2]) is None


# --- launchers ----------------------------------------------------------------------------------

SCRIPT = """
import sys
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from negplug import ContrastiveLoss

torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, found = dist.get_rank(), {}
for sampler in sys.argv[2:]:
    torch.manual_seed(0)
    model = DistributedDataParallel(nn.Linear(10, 8).double())
    loss_fn = ContrastiveLoss(sampler)
    for step in range(3):
        views = torch.randn(2, 12, 10, dtype=torch.float64).unflatten(1, (2, 6))[:, rank]
        model.zero_grad()
        loss_fn(*model(views)).backward()
    found[sampler] = model.module.weight.grad, loss_fn.state_dict()
torch.save(found, f"{sys.argv[1]}/{rank}")
dist.destroy_process_group()
"""


def test_torchrun(tmp_path):
    """Local batches under torchrun against the concatenated one here."""
    samplers = ["gather()", "queue(size=48)"]
    (tmp_path / "train.py").write_text(SCRIPT)
    subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", "2", str(tmp_path / "train.py"), str(tmp_path), *samplers),
        ],
        check=True,
        timeout=120,
    )
    found = [torch.load(tmp_path / str(rank), weights_only=True) for rank in range(2)]
    assert difference(found[0], found[1]) is None
    for sampler in samplers:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = nn.Linear(10, 8).double()
            loss_fn = ContrastiveLoss(sampler)
            for _ in range(3):
                model.zero_grad()
                loss_fn(*model(torch.randn(2, 12, 10, dtype=torch.float64))).backward()
        gradient, state = found[0][sampler]
        torch.testing.assert_close(gradient, model.weight.grad, rtol=1e-6, atol=1e-12)
        assert sampler == "gather()" or len(state["sampler._extra_state"]["rows"]) == 48


KEPT = {"queue(size=24)": "world_size=2", "queue(size=24, gather=False)": "state of 2 ranks"}
"""Sampler, and what the error says that refuses its state on another number of ranks."""


def fit(sampler, folder, devices=2, **kwargs):
    """Fit the host's recipe under DDP; write every rank's state at the start and at the end."""
    control = hosts.negative_control()(sampler)

    class Record(hosts.lightning().Callback):
        def on_train_start(self, trainer, module):
            self.write(trainer, "start")

        def on_train_end(self, trainer, module):
            self.write(trainer, "end")
            trainer.save_checkpoint(folder / "checkpoint")

        def write(self, trainer, when):
            folder.mkdir(exist_ok=True)
            torch.save(control.injection.state_dict(), folder / f"{when}{trainer.global_rank}")

    torch.manual_seed(0)
    parallel = {"strategy": "ddp_fork", "devices": devices} if devices > 1 else {}
    trainer = hosts.trainer(callbacks=[control, Record()], **parallel, **kwargs.pop("trainer", {}))
    trainer.fit(hosts.recipe(), hosts.loader(32, 4), **kwargs)
    return control


def states(folder, when):
    return [torch.load(folder / f"{when}{rank}", weights_only=True) for rank in range(2)]


@pytest.fixture(scope="module", params=KEPT)
def half(request, tmp_path_factory):
    """A sampler, and the folder of a run of one epoch with it."""
    folder = tmp_path_factory.mktemp("half")
    fit(request.param, folder)
    return request.param, folder


def test_lightnings_ranks_agree_and_their_checkpoint_loads(half):
    sampler, folder = half
    first, second = states(folder, "end")
    saved = torch.load(folder / "checkpoint", weights_only=False)["callbacks"]["negplug"]
    torch.save(saved, folder / "ours")
    assert difference(torch.load(folder / "ours", weights_only=True), saved) is None
    rows = [state[hosts.site_name()]["sampler._extra_state"]["rows"] for state in (first, second)]
    assert len(rows[0]) == len(rows[1]) == 24
    if "gather=False" in sampler:
        # Though solo-learn main gathers by itself, so that its batches hold everyone's keys.
        assert not torch.equal(*rows)
        assert difference(saved["ranks"], [first, second]) is None
    else:
        assert difference(first, second) is None
        assert difference(saved["losses"], first) is None


def test_each_rank_gets_its_own_state_back(half, tmp_path):
    sampler, folder = half
    fit(sampler, tmp_path, trainer={"max_epochs": 2}, ckpt_path=folder / "checkpoint")
    assert difference(states(tmp_path, "start"), states(folder, "end")) is None
    assert difference(states(tmp_path, "end"), states(folder, "end")) is not None


def test_another_number_of_ranks_is_refused_and_changes_nothing(half, tmp_path):
    sampler, folder = half
    control = hosts.negative_control()(sampler)
    trainer = hosts.trainer(callbacks=[control], max_epochs=2)
    with pytest.raises(ValueError, match=KEPT[sampler]):
        trainer.fit(hosts.recipe(), hosts.loader(32, 4), ckpt_path=folder / "checkpoint")
    state = control.injection.state_dict()[hosts.site_name()]
    assert len(state["sampler._extra_state"]["rows"]) == 0
    assert state["_extra_state"]["step"] == 0
