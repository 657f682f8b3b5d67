"""A gradient cache by hand, which calls the loss once for each chunk of its batch, is one call."""

from __future__ import annotations

import pytest
import torch
from device import DEVICE
from torch import nn
from torch.nn import functional as F

from negplug import ContrastiveLoss

STEPS, SIZE, K, WIDTH = 4, 12, 3, 6
CHOICES = [
    ("in_batch()", "infonce()"),
    ("uniform(num_negatives=4)", "infonce()"),
    ("queue(size=48)", "infonce()"),
    ("memory_bank(num_negatives=5)", "debiased()"),
    ("hierarchical(uniform(num_negatives=3), queue(size=48))", "decoupled()"),
    ("emc2()", "infonce()"),
    ("isir()", "decoupled()"),
    ("uniform(num_negatives=4)", "isogclr()"),
]


def concatenated(constants, k, live):
    """The way of open_clip's ``--accum-freq``."""
    return torch.cat([*constants[:k], live, *constants[k + 1 :]])


def normalised(constants, k, live):
    return F.normalize(torch.cat([*constants[:k], live, *constants[k + 1 :]]), dim=1)


def stacked(constants, k, live):
    return torch.stack([*constants[:k], live, *constants[k + 1 :]]).flatten(0, 1)


JOINS = [concatenated, normalised, stacked]


class Training:
    """Two heads and a loss, trained by SGD on the same batches each time."""

    def __init__(self, sampler, objective="infonce()", pairs=False, per_update=1, dropout=0.0):
        generator = torch.Generator().manual_seed(3)
        self.inputs = torch.randn(STEPS, 2, SIZE, 7, generator=generator).to(DEVICE).double()
        self.indexes = [torch.randperm(30, generator=generator)[:SIZE] for _ in range(STEPS)]
        self.heads = nn.ModuleList(nn.Linear(7, WIDTH) for _ in range(2)).to(DEVICE, torch.float64)
        with torch.no_grad():
            for parameter in self.heads.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
        self.optimizer = torch.optim.SGD(self.heads.parameters(), lr=0.1)
        self.loss_fn = ContrastiveLoss(sampler, objective, seed=5)
        self.compute = self.loss_fn.pairs if pairs else self.loss_fn
        self.per_update = per_update
        self.dropout = nn.Dropout(dropout)

    def whole(self, step):
        rows = [head(x) for head, x in zip(self.heads, self.inputs[step], strict=True)]
        self.compute(*rows, indexes=self.indexes[step].to(DEVICE)).backward()

    def by_chunks(self, step, join, keep=False, without=()):
        views = [x.chunk(K) for x in self.inputs[step]]
        with torch.no_grad():
            constants = [[h(x) for x in v] for h, v in zip(self.heads, views, strict=True)]
        for k in range(K):
            live = [
                self.dropout(head(view[k])) for head, view in zip(self.heads, views, strict=True)
            ]
            rows = [join(c, k, new) for c, new in zip(constants, live, strict=True)]
            loss = self.compute(*rows, indexes=self.indexes[step].to(DEVICE))
            if (step, k) not in without:
                loss.backward(retain_graph=keep)

    def run(self, join=None):
        """Train; return the gradients and the final state."""
        found = []
        for step in range(STEPS):
            self.whole(step) if join is None else self.by_chunks(step, join)
            if (step + 1) % self.per_update == 0:
                found += [p.grad.clone() for p in self.heads.parameters()]
                self.optimizer.step()
                self.optimizer.zero_grad()
        return found, self.loss_fn.state_dict()


def assert_same(found, wanted):
    (gradients, state), (expected, state_expected) = found, wanted
    torch.testing.assert_close(gradients, expected)
    tensors, others = torch.utils._pytree.tree_flatten(state)
    expected, others_expected = torch.utils._pytree.tree_flatten(state_expected)
    assert others == others_expected
    for one, other in zip(tensors, expected, strict=True):
        if isinstance(one, torch.Tensor):
            torch.testing.assert_close(one, other)
        else:
            assert one == other


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize(("sampler", "objective"), CHOICES)
def test_chunks_have_the_gradient_and_the_state_of_the_whole(sampler, objective, pairs):
    found, wanted = (Training(sampler, objective, pairs).run(j) for j in (concatenated, None))
    assert_same(found, wanted)


@pytest.mark.parametrize("per_update", [1, 2])
@pytest.mark.parametrize("join", JOINS)
def test_chunks_are_told_however_they_are_joined(join, per_update):
    for sampler in ("uniform(num_negatives=4)", "queue(size=48)"):
        found, wanted = (Training(sampler, per_update=per_update).run(j) for j in (join, None))
        assert_same(found, wanted)


def test_a_chunk_that_dropout_changes_is_of_its_batch():
    _, state = Training("queue(size=200)", dropout=0.5).run(concatenated)
    assert state["_extra_state"]["step"] == STEPS
    assert state["sampler._extra_state"]["values"]["count"] == STEPS * 2 * SIZE


def test_chunks_of_a_step_whose_bounds_are_told():
    def told(training):
        states = []
        for step in range(STEPS):
            training.loss_fn.begin_step()
            training.by_chunks(step, concatenated)
            training.loss_fn.end_step()
            training.optimizer.step()
            training.optimizer.zero_grad()
            states.append(training.loss_fn.state_dict())
        return [p.detach() for p in training.heads.parameters()], states[-1]

    for sampler in ("uniform(num_negatives=4)", "queue(size=48)"):
        straight = Training(sampler)
        _, state = straight.run()
        wanted = [p.detach() for p in straight.heads.parameters()], state
        assert_same(told(Training(sampler)), wanted)


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("without", [[], [(1, 1)], [(1, 2), (2, 1), (2, 2)]])
def test_chunks_whose_graphs_are_kept_or_whose_backward_passes_are_left_out(keep, without):
    training = Training("queue(size=200)")
    for step in range(STEPS):
        training.by_chunks(step, concatenated, keep, without)
        training.optimizer.step()
        training.optimizer.zero_grad()
    state = training.loss_fn.state_dict()
    assert state["_extra_state"]["step"] == STEPS
    assert state["sampler._extra_state"]["values"]["count"] == STEPS * 2 * SIZE


def others_constant(head, x, step):
    """Other ranks' rows, gathered without gradient."""
    return torch.cat([head(x), torch.randn(x.shape[0], WIDTH, device=x.device)])


def parts_by_turns(head, x, step):
    """One part of each batch is trained, another one in each."""
    return torch.cat([p if step % 3 == n else p.detach() for n, p in enumerate(head(x).chunk(3))])


def features_by_turns(head, x, step):
    """One modality is dropped, another one in each batch."""
    parts = [p if step % 2 == n else torch.zeros_like(p) for n, p in enumerate(head(x).chunk(2, 1))]
    return torch.cat(parts, 1)


def below_the_network(head, x, step):
    """The same, of what a network joins for itself."""
    mixing = torch.eye(WIDTH, device=x.device).flip(1).requires_grad_()
    return features_by_turns(head, x, step).T.contiguous().T @ mixing


@pytest.mark.parametrize(
    "rows", [others_constant, parts_by_turns, features_by_turns, below_the_network]
)
def test_constants_in_micro_batches_that_are_added_up_make_no_chunks(rows):
    torch.manual_seed(0)
    loss_fn, head = ContrastiveLoss("queue(size=400)"), nn.Linear(7, WIDTH).to(DEVICE)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
    for step in range(6):
        loss_fn(
            *(rows(head, torch.randn(SIZE, 7, device=DEVICE), step) for _ in range(2))
        ).backward()
        if step % 3 == 2:
            optimizer.step()
            optimizer.zero_grad()
    assert loss_fn.state_dict()["_extra_state"]["step"] == 6


def test_views_that_are_trained_in_turns_make_no_chunks():
    torch.manual_seed(0)
    loss_fn, head = ContrastiveLoss("queue(size=400)"), nn.Linear(7, WIDTH).to(DEVICE)
    for step in range(6):
        views = head(torch.randn(2, SIZE, 7, device=DEVICE))
        joined = torch.stack([v if step % 2 == n else v.detach() for n, v in enumerate(views)])
        loss_fn(*joined).backward()
    assert loss_fn.state_dict()["_extra_state"]["step"] == 6


def test_the_same_batch_again_is_another_step():
    """As where a recipe is tried on one batch, and gradients of two steps are added up."""
    found = []
    for join in (concatenated, None):
        training = Training("queue(size=200)", per_update=2)
        training.inputs[:] = training.inputs[:1].clone()
        found.append(training.run(join))
    assert_same(*found)
