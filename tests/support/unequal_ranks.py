"""Ranks that are not given the same: what each says, and whether they go on together."""

from __future__ import annotations

import torch
from torch.nn.functional import normalize

from negplug import ContrastiveBatch, ContrastiveLoss, NegativeSampler, make_objective
from negplug.contract.dataset import DatasetAccess
from negplug.contract.objective import Objective

SIZE, WIDTH = 4, 6


def views_of(rank, step, width=WIDTH):
    generator = torch.Generator().manual_seed(100 * rank + step)
    rows = torch.randn(2, SIZE, width, generator=generator, dtype=torch.float64)
    return [view.clone().requires_grad_() for view in rows]


def indexes_of(rank, step):
    return (torch.arange(SIZE) + SIZE * (rank + 2 * step)) % 24


def train(loss_fn, rank, step, **given):
    """A step with good inputs, but for those that are given; its loss."""
    z0, z1 = views_of(rank, step)
    indexes = indexes_of(rank, step)
    inputs = {"z0": z0, "z1": z1, "indexes": indexes, "labels": indexes % 3} | given
    loss = loss_fn(inputs.pop("z0"), inputs.pop("z1"), **inputs)
    loss.backward()
    return loss.detach()


def said(function, *args, **kwargs):
    """Return class and message of the error, None if there is none."""
    try:
        function(*args, **kwargs)
    except Exception as error:
        return type(error).__name__, str(error)
    return None


class Failing(NegativeSampler):
    """The keys of all ranks; fails on rank 1 in some call, before or after it has gathered."""

    def __init__(self, call, gathers=True, first=False):
        super().__init__()
        self.call, self.gathers, self.first = call, gathers, first
        self.expression = "failing()"
        self.calls = 0

    def sample(self, batch):
        self.calls += 1
        fails = self.calls == self.call + 1 and batch.context.draws.rank == 1
        if fails and self.first:
            raise ZeroDivisionError("a sampler's own fault")
        if self.gathers:
            batch = batch.gathered()
        if fails:
            raise ZeroDivisionError("a sampler's own fault")
        return batch.all_keys()


class FailingObjective(Objective):
    """An InfoNCE that fails on rank 1 in some call."""

    expression = "failing()"
    takes_streams = True

    def __init__(self, call):
        super().__init__()
        self.inner, self.call, self.calls = make_objective("infonce()"), call, 0

    def forward(self, batch, negatives, temperature):
        self.calls += 1
        if self.calls == self.call + 1 and batch.context.draws.rank == 1:
            raise ZeroDivisionError("an objective's own fault")
        return self.inner(batch, negatives, temperature)


def encoding_fails(loss_fn, rank, step):
    """A step in which rank 1 cannot embed what is outside its batch."""

    def encode(indexes):
        if rank:
            raise OSError("the data set's disk is gone")
        return [torch.randn(len(indexes), WIDTH, dtype=torch.float64) for _ in range(2)]

    batch = ContrastiveBatch.from_views(tuple(views_of(rank, step)), indexes_of(rank, step))
    loss_fn.contrast(batch, dataset=DatasetAccess(encode=encode)).backward()


def differing(rank):
    """Pairs of losses that the ranks must not have, by a word of the message."""

    def of(*choices, **options):
        return lambda: ContrastiveLoss(choices[rank], seed=3, **options)

    def by_rank(name, *values):
        return lambda: ContrastiveLoss(**{"seed": 3, name: values[rank]})

    def that_has_loaded_its_own():
        loss_fn = ContrastiveLoss("queue(size=16)", seed=3)
        rows = normalize(views_of(rank, 0)[0].detach(), dim=1).repeat(4, 1)
        state, names = loss_fn.state_dict(), torch.full((3, 16), -1)
        state["sampler._extra_state"]["values"] |= {"rows": rows, "names": names, "count": 16}
        loss_fn.load_state_dict(state)
        return loss_fn

    return [
        ("queue(size=16", of("queue(size=16)", "queue(size=24)")),
        ("momentum=0.9", of("memory_bank(momentum=0.5)", "memory_bank(momentum=0.9)")),
        ("gather=False", of("queue(size=64)", "queue(size=64, gather=False)")),
        ("gather()", of("gather()", "in_batch()")),
        ("ring=True", of("gather()", "gather(ring=True)")),
        ("in_batch()", of("in_batch()", "memory_bank()")),
        ("out_of_batch='drop'", of("emc2()", "emc2(out_of_batch='drop')")),
        ("burn_in=0.25", of("emc2()", "emc2(burn_in=0.25)")),
        ("isir", of("isir()", "emc2()")),
        ("num_negatives=3", of("uniform(num_negatives=2)", "uniform(num_negatives=3)")),
        ("decoupled()", by_rank("objective", "infonce()", "decoupled()")),
        ("relic(alpha=2.0)", by_rank("objective", "relic(alpha=1.0)", "relic(alpha=2.0)")),
        ("sogclr(gamma=0.5)", by_rank("objective", "sogclr()", "sogclr(gamma=0.5)")),
        ("temperature", by_rank("temperature", 0.1, 0.2)),
        ("memory of the sampler", that_has_loaded_its_own),
    ]
