"""Rows of past steps as negatives: the queue and the memory bank beside naive references."""

from __future__ import annotations

import copy
from collections import deque
from dataclasses import replace

import hosts
import naive
import pytest
import torch
from resumable import same_state
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from negplug import ContrastiveBatch, ContrastiveLoss, NegativeSampler, make_objective, make_sampler
from negplug.contract.adapter import LossSite
from negplug.hosts.injection import Injection
from negplug.hosts.treated_loss import TreatedLoss
from negplug.objectives.infonce import InfoNCE
from negplug.samplers.filtered import Filtered
from negplug.samplers.hard import Hard
from negplug.samplers.hierarchical import Hierarchical
from negplug.samplers.memory_bank import MemoryBank
from negplug.samplers.queue import Queue
from negplug.samplers.stratified import Stratified
from negplug.samplers.uniform import Uniform

WIDTH = 6
TAU = 0.3
STATE = "_extra_state"


def embed(size, seed, views=2, width=WIDTH, dtype=torch.float64):
    return [
        v.detach().to(dtype).requires_grad_() for v in naive.embeddings(views, size, width, seed)
    ]


def unit(views):
    """The keys of a step, view after view, as the formulas have them."""
    rows = torch.cat([v.detach() for v in views])
    return rows / rows.norm(dim=1, keepdim=True)


def train(loss_fn, views, indexes=None, labels=None):
    """One training step of a plain loop; the loss before it."""
    loss = loss_fn(*views, indexes=indexes, labels=labels)
    loss.backward()
    return loss.detach()


def memory(loss_fn, name="sampler"):
    """What a loss's memory holds, its pending keys included."""
    return loss_fn.state_dict()[f"{name}.{STATE}"]


def first_in_first_out(state):
    """Rows and names of a queue, oldest first."""
    full = len(state["rows"]) == state["settings"]["size"]
    turn = -state["next"] if full else 0
    return state["rows"].roll(turn, 0), state["names"].roll(turn, 1)


def looped(views, indexes, rows, row_indexes, temperature=TAU):
    """Mean over all anchors of −log Σ_p e^{s_p} / (Σ_p e^{s_p} + Σ_j e^{s_j}), j of the memory."""
    z = torch.cat(views)
    z = z / z.norm(dim=1, keepdim=True)
    size, total = len(views[0]), 0.0
    for i in range(len(z)):
        positives = [k for k in range(len(z)) if k != i and k % size == i % size]
        pull = sum(torch.exp(z[i] @ z[k] / temperature) for k in positives)
        push = torch.zeros((), dtype=z.dtype)
        for row, index in zip(rows, row_indexes, strict=True):
            if indexes is None or index == -1 or index != int(indexes[i % size]):
                push = push + torch.exp(z[i] @ row / temperature)
        total = total - torch.log(pull / (pull + push))
    return total / len(z)


class Remembered:
    """The memory bank as its formula: one row per index in a dict."""

    def __init__(self, momentum):
        self.momentum = momentum
        self.rows = {}

    def take_in(self, views, indexes):
        keys, names = unit(views), indexes.repeat(len(views)).tolist()
        for index in set(names):
            mean = sum(keys[k] for k in range(len(keys)) if names[k] == index)
            mean = mean / mean.norm()
            if index in self.rows:
                mean = self.momentum * self.rows[index] + (1 - self.momentum) * mean
            self.rows[index] = mean / mean.norm()


@pytest.mark.parametrize("size", [16, 17, 23, 64])
def test_a_queue_is_a_deque(size):
    generator = torch.Generator().manual_seed(size)
    loss_fn = ContrastiveLoss(f"queue(size={size})")
    reference = deque(maxlen=size)
    for step in range(25):
        batch = int(torch.randint(1, 9, (), generator=generator))
        views = embed(batch, step)
        indexes = torch.randint(0, 1000, (batch,), generator=generator)
        labels = torch.randint(-1, 4, (batch,), generator=generator)
        train(loss_fn, views, indexes, labels)
        names = zip(unit(views), indexes.repeat(2), labels.repeat(2), strict=True)
        reference.extend((key, int(index), int(label)) for key, index, label in names)
        rows, names = first_in_first_out(memory(loss_fn))
        torch.testing.assert_close(rows, torch.stack([key for key, _, _ in reference]))
        assert names[0].tolist() == [index for _, index, _ in reference]  # ids are the indexes
        assert names[1].tolist() == [index for _, index, _ in reference]
        assert names[2].tolist() == [label for _, _, label in reference]


def test_rows_are_offered_with_their_names_and_only_once_written():
    loss_fn = ContrastiveLoss("queue(size=20)")
    probe = ContrastiveBatch.from_views(tuple(v.detach() for v in embed(3, 9)))
    assert loss_fn.sampler(probe).pool.shape == (0, WIDTH)
    views, indexes, labels = embed(4, 0), torch.tensor([7, 3, 5, 1]), torch.tensor([0, -1, 2, 2])
    train(loss_fn, views, indexes, labels)
    assert loss_fn.sampler(replace(probe)).pool.shape == (0, WIDTH)  # held back, not yet written
    loss_fn.end_step()
    offered = loss_fn.sampler(replace(probe))
    torch.testing.assert_close(offered.pool, unit(views))
    for names, expected in (
        (offered.pool_ids, indexes),
        (offered.pool_indexes, indexes),
        (offered.pool_labels, labels),
    ):
        assert torch.equal(names, expected.repeat(2))


class Watching(InfoNCE):
    """InfoNCE that keeps the negatives it was given."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, batch, negatives, temperature):
        self.seen.append(negatives)
        return super().forward(batch, negatives, temperature)


@pytest.mark.parametrize("expression", ["queue(size=20)", "memory_bank(size=12)"])
def test_the_pool_is_the_memory_itself_written_in_place(expression):
    watching = Watching()
    loss_fn = ContrastiveLoss(expression, watching)
    for step in range(8):
        train(loss_fn, embed(4, step), torch.arange(4) + 4 * (step % 3))
    loss_fn.end_step()
    probe = ContrastiveBatch.from_views(tuple(v.detach() for v in embed(1, 0)), torch.tensor([0]))
    now = loss_fn.sampler(probe).pool
    for negatives in watching.seen[1:]:
        assert negatives.pool.data_ptr() == now.data_ptr()
        # The same storage: what was offered in an earlier step has changed with the memory.
        assert torch.equal(negatives.pool, now[: len(negatives.pool)])


@pytest.mark.parametrize(
    ("expression", "indexed"),
    [("queue(size=13)", True), ("queue(size=13)", False), ("memory_bank(momentum=0.4)", True)],
)
@pytest.mark.parametrize("views", [2, 3])
def test_value_and_gradient_equal_the_loop(expression, indexed, views):
    bank = expression.startswith("memory_bank")
    loss_fn = ContrastiveLoss(expression, temperature=TAU)
    ring, slots = deque(maxlen=13), Remembered(0.4)
    generator = torch.Generator().manual_seed(views)
    for step in range(9):
        z = embed(int(torch.randint(1, 5, (), generator=generator)), step, views)
        # Of seven samples, so that an anchor's own past comes up all the time.
        indexes = torch.randperm(7, generator=generator)[: len(z[0])] if indexed else None
        if bank:
            rows, names = list(slots.rows.values()), list(slots.rows)
        else:
            rows, names = [row for row, _ in ring], [index for _, index in ring]
        reference = looped(z, indexes, rows, names)
        ours = loss_fn(*z, indexes=indexes)
        torch.testing.assert_close(ours, reference, rtol=1e-11, atol=1e-13)
        gradients = naive.gradients(ours, z)
        expected = naive.gradients(reference, z)
        torch.testing.assert_close(gradients, expected, rtol=1e-10, atol=1e-13)
        ours.backward()
        if bank:
            slots.take_in(z, indexes)
        else:
            known = indexes.repeat(views).tolist() if indexed else [-1] * len(unit(z))
            ring.extend(zip(unit(z), known, strict=True))


@pytest.mark.parametrize("expression", ["queue(size=16)", "memory_bank()"])
def test_nothing_is_written_between_forward_and_backward(expression):
    loss_fn = ContrastiveLoss(expression, temperature=TAU)
    indexes = torch.arange(4)
    for step in range(4):
        train(loss_fn, embed(4, step), 4 * (step % 2) + indexes)
    before = memory(loss_fn)
    probe = ContrastiveBatch.from_views(tuple(v.detach() for v in embed(2, 9)), indexes[:2] + 90)
    # Two forward passes before one backward pass, as in gradient caching.
    z, more = embed(4, 10), embed(4, 11)
    first, second = loss_fn(*z, indexes=indexes), loss_fn(*more, indexes=indexes + 4)
    assert torch.equal(loss_fn.sampler(probe).pool, before["rows"])
    reference = sum(
        looped(v, i, before["rows"], before["names"][1].tolist())
        for v, i in ((z, indexes), (more, indexes + 4))
    )
    torch.testing.assert_close(first + second, reference, rtol=1e-11, atol=0)
    both = z + more
    gradients = naive.gradients(first + second, both)
    torch.testing.assert_close(gradients, naive.gradients(reference, both), rtol=1e-10, atol=1e-13)
    (first + second).backward()
    assert not torch.equal(memory(loss_fn)["rows"], before["rows"])


def test_a_backward_pass_after_the_queue_has_changed_is_right():
    loss_fn = ContrastiveLoss("queue(size=8)", temperature=TAU)
    train(loss_fn, embed(4, 0))
    z = embed(4, 1)
    late = loss_fn(*z)
    expected = naive.gradients(looped(z, None, unit(embed(4, 0)), [-1] * 8), z)
    late.backward(retain_graph=True)
    train(loss_fn, embed(4, 2))  # writes the keys of `late` over the rows it was computed from
    torch.testing.assert_close(naive.gradients(late, z), expected)


@pytest.mark.parametrize("expression", ["queue(size=16)", "memory_bank()"])
def test_evaluation_reads_and_does_not_write(expression):
    loss_fn = ContrastiveLoss(expression, temperature=TAU)
    views, indexes = embed(4, 0), torch.arange(4)
    train(loss_fn, views, indexes)
    before = loss_fn.state_dict()
    other = embed(4, 1)
    held = before[f"sampler.{STATE}"]
    expected = looped(other, indexes, held["rows"], held["names"][1].tolist()).detach()
    with torch.no_grad():
        torch.testing.assert_close(loss_fn(*other, indexes=indexes), expected)
    frozen = [v.detach() for v in other]
    torch.testing.assert_close(loss_fn(*frozen, indexes=indexes), expected)
    assert same_state(loss_fn.state_dict(), before)


def test_an_evaluation_may_have_more_keys_than_the_queue_has_places():
    loss_fn = ContrastiveLoss("queue(size=8)")
    train(loss_fn, embed(4, 0))
    loss_fn.end_step()
    with torch.no_grad():
        assert loss_fn(*embed(9, 1)) > 0


class Two(NegativeSampler):
    """Two samplers that read one queue."""

    def __init__(self):
        super().__init__()
        shared = Queue(64)
        self.first = Uniform(2, source=shared)
        self.second = Uniform(3, source=shared)

    def sample(self, batch):
        return replace(self.first(batch), others=(self.second(batch),))


def test_two_readers_of_one_queue_enqueue_once():
    loss_fn = ContrastiveLoss(Two())
    for step in range(3):
        train(loss_fn, embed(4, step))
    state = loss_fn.state_dict()
    for reader in ("first", "second"):
        rows = state[f"sampler.{reader}.source.{STATE}"]["rows"]
        torch.testing.assert_close(rows, torch.cat([unit(embed(4, step)) for step in range(3)]))


@pytest.mark.parametrize("expression", ["queue(size=40)", "memory_bank()"])
def test_two_calls_in_a_step_have_a_memory_each(expression):
    loss_fn = ContrastiveLoss(expression, temperature=TAU)
    for step in range(3):
        losses = []
        for call in range(2):
            views = embed(4, 10 * step + call)
            indexes = torch.arange(4) + 4 * step
            losses.append(loss_fn.contrast(ContrastiveBatch.from_views(tuple(views), indexes)))
        sum(losses).backward()
        loss_fn.end_step()
    for call, name in enumerate(("sampler", "further.0.sampler")):
        views = [embed(4, 10 * step + call) for step in range(3)]
        if expression.startswith("queue"):
            expected = torch.cat([unit(v) for v in views])
        else:
            means = torch.cat([unit(v).view(2, 4, WIDTH).sum(0) for v in views])
            expected = means / means.norm(dim=1, keepdim=True)
        torch.testing.assert_close(memory(loss_fn, name)["rows"], expected)
    assert loss_fn.state_dict()[STATE]["further"] == 1


def test_every_accumulated_batch_counts():
    model = nn.Linear(5, WIDTH)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loss_fn = ContrastiveLoss("queue(size=40)")
    expected = []
    for step in range(6):
        views = [
            model(x) for x in torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(step))
        ]
        expected.append(unit(views))
        (loss_fn(*views) / 3).backward()
        if step % 3 == 2:
            optimizer.step()
            optimizer.zero_grad()
    rows, _ = first_in_first_out(memory(loss_fn))
    torch.testing.assert_close(rows, torch.cat(expected))


def test_an_anchors_own_past_never_serves():
    loss_fn = ContrastiveLoss("queue(size=64)")  # five samples, each many times in the queue
    for step in range(8):
        train(loss_fn, embed(5, step), torch.arange(5))
    loss_fn.end_step()
    indexes = torch.tensor([2, 0, 8])
    batch = ContrastiveBatch.from_views(tuple(v.detach() for v in embed(3, 20)), indexes)
    offered = loss_fn.sampler(batch)
    assert len(offered.pool) == 64
    of_own = [int((offered.pool_indexes == index).sum()) for index in indexes]
    assert of_own[0] > 10
    assert of_own[2] == 0
    assert offered.counts(batch.anchor_ids).tolist() == [64 - own for own in of_own] * 2


def test_an_anchor_whose_past_fills_the_memory_pays_nothing():
    loss_fn = ContrastiveLoss("queue(size=64)")
    for step in range(3):
        views = embed(1, step)
        assert train(loss_fn, views, torch.tensor([5])) == 0
        assert all(v.grad.abs().sum() == 0 for v in views)


def test_the_past_of_positives_never_serves():
    # Supervised contrast: the classes are the ids, the same in every step.
    loss_fn = ContrastiveLoss("queue(size=64)")
    classes = torch.tensor([0, 1, 0, 2, 1])
    for step in range(2):
        (z,) = embed(5, step, views=1)
        batch = ContrastiveBatch.from_ids(nn.functional.normalize(z, dim=1), classes, lasting=True)
        counts = loss_fn.sampler(batch.detach()).counts(classes)
        assert counts.tolist() == ([0] * 5 if step == 0 else [3, 3, 3, 4, 3])
        loss_fn.contrast(batch).backward()
        loss_fn.end_step()


def test_names_of_one_batch_mean_nothing_in_another():
    loss_fn = ContrastiveLoss("queue(size=64)")
    total = 0
    for step, indexes in enumerate([torch.arange(4), None, torch.arange(4), None, None]):
        views = tuple(v.detach() for v in embed(4, step))
        batch = ContrastiveBatch.from_views(views, indexes)
        counts = loss_fn.sampler(batch).counts(batch.anchor_ids)
        # Of an indexed batch before, each sample has two rows.
        own = 2 if step == 2 else 0
        assert counts.tolist() == [total - own] * 8
        train(loss_fn, embed(4, step), indexes)
        loss_fn.end_step()
        total += 8


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("size", [None, 30])
@pytest.mark.parametrize("views", [2, 3])
def test_a_memory_bank_is_a_dict(momentum, size, views):
    loss_fn = ContrastiveLoss(MemoryBank(momentum, size))
    reference = Remembered(momentum)
    generator = torch.Generator().manual_seed(views)
    for step in range(12):
        batch = int(torch.randint(1, 9, (), generator=generator))
        z = embed(batch, step, views)
        # Indexes that grow, come again, and are twice in a batch.
        indexes = torch.randint(0, min(5 + 3 * step, 30), (batch,), generator=generator)
        labels = indexes % 3
        train(loss_fn, z, indexes, labels)
        reference.take_in(z, indexes)
        state = memory(loss_fn)
        names = state["names"][1].tolist()
        assert sorted(names) == sorted(reference.rows)  # each visited index once, no other
        expected = torch.stack([reference.rows[index] for index in names])
        torch.testing.assert_close(state["rows"], expected, rtol=1e-11, atol=1e-13)
        assert state["names"][2].tolist() == [index % 3 for index in names]


@pytest.mark.parametrize("expression", ["queue(size=48)", "memory_bank()"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("temperature", [0.1, 0.01])
def test_half_precision_is_finite_and_remembered_in_float32(expression, dtype, temperature):
    torch.manual_seed(0)
    model = nn.Linear(5, WIDTH)
    loss_fn = ContrastiveLoss(expression, temperature=temperature)
    for step in range(4):
        with torch.autocast("cpu", dtype):
            views = [model(x) for x in torch.randn(2, 8, 5)]
            assert views[0].dtype == dtype
            loss = loss_fn(*views, indexes=torch.arange(8) + 4 * step)
        loss.backward()
        assert loss.dtype == torch.float32
        assert loss.isfinite()
        assert all(p.grad.isfinite().all() for p in model.parameters())
    rows = memory(loss_fn)["rows"]
    assert rows.dtype == torch.float32
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(len(rows)))


@pytest.mark.parametrize("expression", ["queue(size=20)", "memory_bank(size=12)", "memory_bank()"])
def test_a_change_of_precision_between_steps(expression):
    loss_fn = ContrastiveLoss(expression)
    for step, dtype in enumerate([torch.float32, torch.float64, torch.float32]):
        assert train(loss_fn, embed(4, step, dtype=dtype), torch.arange(4)).isfinite()
    assert memory(loss_fn)["rows"].dtype == torch.float32  # that of the first


def test_a_memory_follows_the_module_to_another_device():
    for expression in ("queue(size=20)", "memory_bank()"):
        loss_fn = ContrastiveLoss(expression)
        train(loss_fn, embed(4, 0), torch.arange(4))
        loss_fn.end_step()
        loss_fn.to("meta")  # a device that every machine has
        tensors = [v for v in vars(loss_fn.sampler).values() if isinstance(v, torch.Tensor)]
        assert tensors
        assert all(tensor.device.type == "meta" for tensor in tensors)


BAD_STEPS = [
    ("queue(size=7)", {"size": 4}, "size=7 is less than the 8 keys of one step; enlarge it"),
    ("queue(size=12)", {"width": 9}, "embeddings of width 6, this batch has width 9"),
    ("queue(size=12)", {"indexes": [0, -1, 2]}, "indexes must be at least 0, got -1"),
    ("queue(size=12)", {"indexes": [0, 1]}, r"indexes must be a tensor \[3\]"),
    ("memory_bank(size=9)", {"indexes": [0, 9, 1]}, "data set index 9 is beyond size=9"),
    ("memory_bank()", {"indexes": [0, -1, 2]}, "indexes must be at least 0, got -1"),
    ("memory_bank()", {"width": 9}, "embeddings of width 6, this batch has width 9"),
    ("memory_bank()", {"indexes": None}, "but the loss was called without indexes="),
    ("memory_bank(num_negatives=2)", {"indexes": None}, "memory_bank: needs the data set index"),
]


@pytest.mark.parametrize(("expression", "change", "message"), BAD_STEPS)
def test_a_bad_step_is_refused_and_leaves_no_trace(expression, change, message):
    loss_fn = ContrastiveLoss(expression)
    indexes = torch.tensor([0, 1, 2])
    for step in range(2):
        train(loss_fn, embed(3, step), indexes + 2 * step)
    before = loss_fn.state_dict()
    good = {"size": 3, "width": WIDTH, "indexes": indexes.tolist()} | change
    indexes = good["indexes"]
    if indexes is not None:
        indexes = torch.tensor(indexes if good["size"] == 3 else range(good["size"]))
    with pytest.raises(ValueError, match=message):
        loss_fn(*embed(good["size"], 5, width=good["width"]), indexes=indexes)
    assert same_state(loss_fn.state_dict(), before)
    train(loss_fn, embed(3, 6), torch.arange(3))  # and training goes on


def test_a_bank_refuses_the_negative_indexes_of_an_adapter():
    loss_fn = ContrastiveLoss("memory_bank()")
    train(loss_fn, embed(3, 0), torch.arange(3))
    before = loss_fn.state_dict()
    (z,) = embed(4, 1, views=1)
    indexes = torch.tensor([0, -1, 0, -1])
    batch = ContrastiveBatch.from_ids(nn.functional.normalize(z, dim=1), indexes, indexes=indexes)
    with pytest.raises(ValueError, match="of every sample, but one is -1"):
        loss_fn.contrast(batch)
    assert same_state(loss_fn.state_dict(), before)


@pytest.mark.parametrize(
    ("expression", "error", "message"),
    [
        ("queue(size='many')", TypeError, "queue: size must be an integer, got 'many'"),
        ("queue(size=2.5)", TypeError, "queue: size must be an integer, got 2.5"),
        ("queue(size=True)", TypeError, "queue: size must be an integer, got True"),
        ("queue(size=0)", ValueError, "queue: size must be at least 1, got 0"),
        ("queue(size=8, gather=1)", TypeError, "queue: gather must be True or False, got 1"),
        ("queue(size=8, num_negatives=0)", ValueError, "num_negatives must be at least 1, got 0"),
        ("queue(size=8, num_negatives=9)", ValueError, "num_negatives=9 is more than the 8 rows"),
        (
            "uniform(num_negatives=256, source=queue(size=128))",
            ValueError,
            "more than the 128 rows",
        ),
        ("memory_bank(size=-1)", ValueError, "memory_bank: size must be at least 1, got -1"),
        ("memory_bank(size='all')", TypeError, "memory_bank: size must be an integer, got 'all'"),
        ("memory_bank(momentum=1.0)", ValueError, r"momentum must be in \[0.0, 1.0\), got 1.0"),
        ("memory_bank(momentum=-0.1)", ValueError, r"momentum must be in \[0.0, 1.0\), got -0.1"),
        ("memory_bank(momentum='half')", TypeError, "momentum must be a number, got 'half'"),
        ("memory_bank(num_negatives=9, size=8)", ValueError, "more than the 8 rows"),
    ],
)
def test_bad_arguments_are_refused_where_they_are_written(expression, error, message):
    with pytest.raises(error, match=message):
        make_sampler(expression)


@pytest.mark.parametrize("expression", ["queue()", "queue(num_negatives=3)"])
def test_a_queue_without_a_host_needs_a_size(expression):
    with pytest.raises(ValueError, match="queue: size is required, because there is no host"):
        ContrastiveLoss(expression)


def trained(expression, steps=3):
    loss_fn = ContrastiveLoss(expression, seed=4)
    for step in range(steps):
        train(loss_fn, embed(3, step), torch.arange(3) + step)
    return loss_fn


def with_setting(name, value):
    def edit(state):
        for entry in state.values():
            if "settings" in entry:
                entry["settings"][name] = value

    return edit


def unchanged(state):
    return state


BAD_LOADS = [
    ("queue(size=16)", unchanged, "queue(size=24)", "was saved with size=16, this run has size=24"),
    ("queue(size=16)", with_setting("world_size", 2), "queue(size=16)", "saved with world_size=2"),
    ("queue(size=16, gather=False)", unchanged, "queue(size=16)", "saved with gather=False"),
    (
        "queue(size=16, num_negatives=2)",
        unchanged,
        "queue(size=24, num_negatives=2)",
        "was saved with size=16, this run has size=24",
    ),
    (
        "memory_bank(momentum=0.5)",
        unchanged,
        "memory_bank(momentum=0.9)",
        "was saved with momentum=0.5, this run has momentum=0.9",
    ),
    ("memory_bank(size=16)", unchanged, "memory_bank(size=24)", "saved with size=16"),
    ("memory_bank()", with_setting("world_size", 2), "memory_bank()", "saved with world_size=2"),
    ("memory_bank(size=16)", unchanged, "queue(size=16)", "saved state is another sampler's"),
    ("queue(size=16)", unchanged, "memory_bank(size=16)", "saved state is another sampler's"),
]


@pytest.mark.parametrize(("saved", "edit", "resumed", "message"), BAD_LOADS)
@pytest.mark.parametrize("steps", [0, 2])
def test_a_state_that_does_not_fit_is_refused_whole(saved, edit, resumed, message, steps):
    state = copy.deepcopy(trained(saved).state_dict())
    edit(state)
    loss_fn = trained(resumed, steps)
    before = loss_fn.state_dict()
    with pytest.raises(ValueError, match=message):
        loss_fn.load_state_dict(state)
    assert same_state(loss_fn.state_dict(), before)
    train(loss_fn, embed(3, 6), torch.arange(3))  # and training goes on, counters included
    undisturbed = trained(resumed, steps)
    train(undisturbed, embed(3, 6), torch.arange(3))
    assert same_state(loss_fn.state_dict(), undisturbed.state_dict())


def test_a_second_calls_memory_that_does_not_fit_is_refused_whole():
    state = two_calls("queue(size=16)").state_dict()
    state[f"further.0.sampler.{STATE}"]["settings"]["size"] = 20
    loss_fn = trained("queue(size=16)", 1)  # of one call a step so far
    before = loss_fn.state_dict()
    with pytest.raises(ValueError, match="was saved with size=20"):
        loss_fn.load_state_dict(state)
    assert same_state(loss_fn.state_dict(), before)


def two_calls(expression):
    loss_fn = ContrastiveLoss(expression)
    batches = [ContrastiveBatch.from_views(tuple(embed(3, seed))) for seed in range(2)]
    sum(loss_fn.contrast(batch) for batch in batches).backward()
    loss_fn.end_step()
    return loss_fn


class Site(LossSite):
    """A loss of no host, so that one injection has two everywhere."""

    host = "nowhere"

    def __init__(self, name):
        self.name = name

    def treat(self, contrast):
        self.contrast = contrast

    def restore(self):
        del self.contrast


def injection(size, steps):
    sites = [Site("global"), Site("local")]
    losses = [TreatedLoss(site, Queue(size), None, None) for site in sites]
    handle = Injection(sites, losses)
    for step in range(steps):
        for number, site in enumerate(sites):
            batch = ContrastiveBatch.from_views(tuple(embed(3, 10 * step + number)))
            loss = site.contrast(batch, objective=make_objective("infonce()"), temperature=TAU)
            loss.backward()
        handle.end_step()
    return handle


def test_an_injections_state_is_loaded_whole_or_not_at_all():
    state = injection(16, 3).state_dict()
    handle = injection(16, 1)
    before = handle.state_dict()
    bad = copy.deepcopy(state)
    bad["local"][f"sampler.{STATE}"]["settings"]["size"] = 20  # the first site's fits
    with pytest.raises(ValueError, match="was saved with size=20"):
        handle.load_state_dict(bad)
    assert same_state(handle.state_dict(), before)
    with pytest.raises(ValueError, match="negative state is of"):
        handle.load_state_dict({"global": state["global"]})
    assert same_state(handle.state_dict(), before)
    handle.load_state_dict(state)
    assert same_state(handle.state_dict(), state)


def test_a_state_can_be_loaded_before_the_first_step():
    for expression in ("queue(size=16)", "memory_bank(size=16)", "memory_bank()"):
        empty = ContrastiveLoss(expression, seed=4)
        resumed = ContrastiveLoss(expression, seed=9)
        resumed.load_state_dict(empty.state_dict())
        for loss_fn in (empty, resumed):
            for step in range(3):
                train(loss_fn, embed(3, step), torch.arange(3) + step)
        assert same_state(resumed.state_dict(), empty.state_dict())


class Stream(IterableDataset):
    """The recipe's samples, in an order that nobody can name."""

    def __iter__(self):
        samples = hosts.Pairs(24)
        return iter(samples[index] for index in range(len(samples)))


class Unnamed(hosts.Pairs):
    """solo-learn's samples with numbers that are no integers in the place of their indexes."""

    def __getitem__(self, index):
        first, *rest = super().__getitem__(index)
        return (float(first), *rest)


@pytest.mark.filterwarnings("ignore")
def test_a_recipe_that_cannot_say_which_samples_it_trains_on():
    if hosts.site_name() == "criterion":
        samples, reason = Stream(), "but Stream is an IterableDataset, which has no indexes"
    else:
        samples, reason = Unnamed(), "but solo-learn's batch holds no integer indexes"
    control = hosts.negative_control()("memory_bank()")
    trainer = hosts.trainer(callbacks=[control])
    message = f"memory_bank: needs the data set index of every sample, {reason}"
    with pytest.raises(ValueError, match=message):
        trainer.fit(hosts.recipe(), DataLoader(samples, batch_size=8))
    state = control.state_dict()["losses"][hosts.site_name()]
    assert len(state[f"sampler.{STATE}"]["rows"]) == 0
    assert state[STATE]["step"] == 0


def test_a_call_that_fails_leaves_nothing_behind():
    loss_fn = ContrastiveLoss("hierarchical(queue(size=64), memory_bank())")
    z = naive.embeddings(2, 4)
    indexes = torch.arange(4)
    loss_fn(*z, indexes=indexes).backward()
    before = loss_fn.state_dict()
    with pytest.raises(ValueError, match="needs the data set index"):
        loss_fn(*z)
    loss_fn.end_step()
    after = loss_fn.state_dict()["sampler.tiers.0._extra_state"]
    assert len(after["rows"]) == len(before["sampler.tiers.0._extra_state"]["rows"]) == 8


class Parent(nn.Module):
    """A model that holds its loss, between other parts."""

    def __init__(self, expression="queue(size=64)", seed=4):
        super().__init__()
        self.loss = ContrastiveLoss(expression, seed=seed)
        self.scale = nn.Parameter(torch.ones(()))

    def step(self, number):
        views = [self.scale.detach() * view for view in embed(3, number)]
        views = [view.requires_grad_() for view in views]
        return train(self.loss, views, torch.arange(3) + number)


PARENTS = ["queue(size=64)", "queue(size=64, num_negatives=5)", "memory_bank()"]


@pytest.mark.parametrize("expression", PARENTS)
def test_a_roll_back_through_the_parent_forgets_what_was_held_back(expression):
    parent, fresh = Parent(expression), Parent(expression, seed=9)
    parent.step(0), parent.step(1)
    saved = copy.deepcopy(parent.state_dict())
    parent.step(2)  # held back, and then never to be written
    parent.load_state_dict(saved)
    assert same_state(dict(parent.state_dict()), dict(saved))
    parent.step(2)
    parent.load_state_dict(saved)
    fresh.load_state_dict(saved)
    for number in (3, 4):
        assert torch.equal(parent.step(number), fresh.step(number))
    assert same_state(dict(parent.state_dict()), dict(fresh.state_dict()))


def test_a_roll_back_into_the_middle_of_a_step_goes_on_there():
    def call(parent, number):
        loss = parent.loss.contrast(ContrastiveBatch.from_views(tuple(embed(3, number))))
        loss.backward()
        return loss.detach()

    parent, fresh = Parent(PARENTS[1]), Parent(PARENTS[1], seed=9)
    call(parent, 0)
    first = ContrastiveBatch.from_views(tuple(embed(3, 1)))
    parent.loss.contrast(first)  # of a step of two calls
    saved = copy.deepcopy(parent.state_dict())
    assert saved[f"loss.{STATE}"] == {"seed": 4, "step": 1, "call": 1, "further": 0}
    call(parent, 2)
    parent.load_state_dict(saved)
    fresh.load_state_dict(saved)
    for number in (3, 4):
        assert torch.equal(call(parent, number), call(fresh, number))
    assert same_state(dict(parent.state_dict()), dict(fresh.state_dict()))


@pytest.mark.parametrize("between", [False, True])
def test_a_parents_state_that_does_not_fit_leaves_the_loss_as_it_was(between):
    other, parent, undisturbed = Parent("queue(size=48)", 9), Parent(), Parent()
    other.step(0)
    parent.step(0), undisturbed.step(0)
    before = undisturbed.state_dict()
    if between:
        before = parent.state_dict()  # nothing held back
    with pytest.raises(ValueError, match="was saved with size=48, this run has size=64"):
        parent.load_state_dict(other.state_dict())
    assert same_state(dict(parent.state_dict()), dict(before))
    assert torch.equal(parent.step(1), undisturbed.step(1))
    assert same_state(dict(parent.state_dict()), dict(undisturbed.state_dict()))


def test_a_parents_state_with_a_second_call_that_does_not_fit_is_refused_whole():
    other, parent = Parent(), Parent()
    other.loss = two_calls("queue(size=64)")
    state = other.state_dict()
    state[f"loss.further.0.sampler.{STATE}"]["settings"]["size"] = 48
    parent.step(0)
    before = parent.state_dict()
    with pytest.raises(ValueError, match="was saved with size=48"):
        parent.load_state_dict(state)
    assert same_state(dict(parent.state_dict()), dict(before))


def test_a_damaged_state_is_refused_whole():
    state = copy.deepcopy(trained("queue(size=16)").state_dict())
    state[f"sampler.{STATE}"]["names"] = state[f"sampler.{STATE}"]["names"][:, :-1]
    loss_fn = trained("queue(size=16)", 1)
    before = loss_fn.state_dict()
    with pytest.raises(ValueError, match="do not fit together; the file is damaged"):
        loss_fn.load_state_dict(state)
    assert same_state(loss_fn.state_dict(), before)


def test_samplers_made_in_python_say_what_they_are_made_of():
    made = [
        Uniform(4, source=Queue(16)),
        Uniform(8, source=Queue(16)),
        Uniform(4, source=Queue(24)),
        Uniform(4, correction=True, source=Queue(16)),
        Uniform(4, source=MemoryBank(0.4, 16)),
        Uniform(4, source=MemoryBank(0.5, 16)),
        Hard(4, Queue(16)),
        Filtered(Queue(16), similarity=0.5),
        Filtered(Queue(16), similarity=0.6),
        Uniform(4, source=Uniform(8, source=Queue(16))),
        Uniform(4, source=Uniform(9, source=Queue(16))),
        Stratified(4, same=0.25),
        Stratified(4, same=0.5),
        Stratified(4, by=torch.tensor([0, 1])),
        Stratified(4, by=torch.tensor([1, 0])),
        Hierarchical(Queue(8), Queue(9)),
        Hierarchical(Queue(8), Queue(10)),
    ]
    assert len({str(sampler) for sampler in made}) == len(made)
    assert str(made[0]) == str(Uniform(4, source=Queue(16)))
    assert str(make_sampler("uniform(4)")) == "uniform(4)"
