"""Keys that go around a ring of ranks, against one process on the concatenated batch."""

from __future__ import annotations

import pytest
import ranks
import torch
from live_memory import LiveMemory

from negplug import ContrastiveBatch, ContrastiveLoss
from negplug.loss.temperature import LearnedTemperature

SIZES = (5, 3, 6, 4)  # samples of each rank
WIDTH = 7
RING, WHOLE = "gather(ring=True)", "in_batch()"


def rows(rank, number, dtype, count=None):
    """Some embeddings of a rank's samples."""
    generator = torch.Generator().manual_seed(10 * rank + number)
    shape = (SIZES[rank], WIDTH) if count is None else (SIZES[rank], count, WIDTH)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def indexes(rank):
    """Data set indexes; one sample is on two ranks."""
    return torch.arange(SIZES[rank]) + 10 * rank if rank != 1 else torch.tensor([11, 0, 12])


def of_views(count, objective="infonce()", learns=False):
    """A loss of views."""

    def case(given, sampler, dtype):
        views = [joined(given, number, dtype) for number in range(count)]
        tau = LearnedTemperature(0.3) if learns else 0.3
        loss_fn = ContrastiveLoss(sampler, objective, tau, seed=1)
        loss = loss_fn(*views, indexes=torch.cat([indexes(rank) for rank in given]))
        return loss, views, [*loss_fn.parameters()]

    return case


def of_pairs(given, sampler, dtype):
    """A loss of two encoders in both directions, with hard negatives that are nobody's positive."""
    views = [joined(given, number, dtype) for number in range(2)]
    hard = joined(given, 2, dtype, 2)
    loss_fn = ContrastiveLoss(sampler, temperature=0.3, seed=1)
    names = torch.cat([indexes(rank) for rank in given])
    return loss_fn.pairs(*views, hard, indexes=names), [*views, hard], []


def of_momentum_keys(given, sampler, dtype):
    """A loss in one direction, against keys without gradient."""
    queries, keys = (joined(given, number, dtype) for number in range(2))
    names = torch.cat([indexes(rank) for rank in given])
    batch = ContrastiveBatch.from_pairs(queries, keys.detach(), names)
    return ContrastiveLoss(sampler, temperature=0.3, seed=1).contrast(batch), [queries], []


def joined(given, number, dtype, count=None):
    return torch.cat([rows(rank, number, dtype, count) for rank in given]).requires_grad_()


CASES = {
    "two views": of_views(2),
    "three views": of_views(3, "infonce(positives='each')"),
    "decoupled": of_views(2, "decoupled()"),
    "ifm": of_views(2, "ifm(epsilon=0.1)"),
    "rince": of_views(2, "rince(q=0.5)"),
    "a learned temperature": of_views(2, learns=True),
    "pairs": of_pairs,
    "momentum keys": of_momentum_keys,
}
DTYPES = {torch.float64: 1e-12, torch.float32: 2e-6}


def computed(case, given, sampler, dtype):
    """Value, gradient of the rows, gradient of the parameters."""
    loss, leaves, parameters = CASES[case](given, sampler, dtype)
    loss.backward()
    grads = [leaf.grad for leaf in leaves]
    return loss.detach(), grads, [parameter.grad for parameter in parameters]


def memory_and_order(rank, world):
    """Bytes at most, and operations in their order, of a step with each sampler."""
    found = {}
    for sampler in (RING, "gather()"):
        loss_fn = ContrastiveLoss(sampler, temperature=0.3, seed=1)
        for _ in range(2):  # the first step compares what the ranks were given
            views = torch.randn(2, 128, 64).requires_grad_()
            with LiveMemory() as memory:
                loss_fn(*views).backward()
        found[sampler] = memory.peak, memory.names
    return found


def watched_by_one(rank, world):
    """What rank 0 alone measures, and the value without gradient."""
    loss_fn = ContrastiveLoss(RING, temperature=0.3, seed=1)
    loss_fn.observe = rank == 0
    told = []
    if rank == 0:
        loss_fn.witness = lambda batch, pools: told.extend(len(part.rows) for part in pools)
    views = [rows(rank, number, torch.float64).requires_grad_() for number in range(2)]
    loss_fn(*views).backward()
    with torch.no_grad():
        value = loss_fn(*views)
    return loss_fn.observed, told, value


def unused(rank, world):
    """Gradients where an anchor's loss depends on its own rank's keys alone, or on none."""
    loss_fn = ContrastiveLoss(RING, temperature=0.3, seed=1)
    views = [rows(rank, number, torch.float64).requires_grad_() for number in range(2)]
    loss = loss_fn(*views)
    (loss * (rank == 0)).backward()
    return views[0].grad.norm().item()


def everything(rank, world):
    cases = {
        (case, dtype): computed(case, [rank], RING, dtype) for case in CASES for dtype in DTYPES
    }
    return cases, memory_and_order(rank, world), watched_by_one(rank, world), unused(rank, world)


@pytest.fixture(scope="module", params=[2, 4])
def world(request):
    return request.param


@pytest.fixture(scope="module")
def found(world):
    return ranks.run(everything, world)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES)
def test_value_and_gradient_equal_the_concatenated_batch(found, world, case, dtype):
    value, grads, parameters = computed(case, range(world), WHOLE, torch.float64)
    each = [of_rank[0][case, dtype] for of_rank in found]
    near = {"rtol": DTYPES[dtype], "atol": DTYPES[dtype]}
    mean = torch.stack([one[0] for one in each]).mean()
    torch.testing.assert_close(mean.double(), value, **near)
    for number, wanted in enumerate(grads):
        got = torch.cat([one[1][number] for one in each]) / world
        torch.testing.assert_close(got.double(), wanted, **near)
    for number, wanted in enumerate(parameters):
        # A parameter is float32, whatever the rows are.
        got = torch.stack([one[2][number] for one in each]).mean()
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)
        assert wanted.abs() > 1e-3


def test_memory_does_not_grow_with_the_ranks(found, world):
    block = 256 * 64 * 4  # bytes of a rank's keys; its logits with its anchors are four such
    for _, of_rank, *_ in found:
        # Rows, gradients, two blocks and theirs, and logits of one block: alike for 2 and 4 ranks.
        assert of_rank[RING][0] < 14.5 * block
        assert of_rank["gather()"][0] > (4 + 6 * world) * block


def test_a_block_is_under_way_before_one_is_computed_with(found, world):
    begun, back = ["send", "send", "recv_", "recv_"], ["send", "recv_"]  # keys and ids; a gradient
    for _, of_rank, *_ in found:
        names = [name for name in of_rank[RING][1] if name in {"send", "recv_", "addmm_", "amax"}]
        first = len(names) - names[::-1].index("amax")  # of the backward pass
        forward = [name for name in names[:first] if name != "addmm_"]
        assert forward == [*begun, "amax"] * (world - 1) + ["amax"]
        backward = names[names.index("send", first) :]
        alone = [n for n in range(1, len(backward)) if backward[n - 1 : n + 1] != ["addmm_"] * 2]
        passes = [backward[0], *(backward[n] for n in alone)]
        assert passes == [*begun, "addmm_", *back] * (world - 1) + ["addmm_", *back]


def test_what_one_rank_measures_asks_nothing_of_the_others(found):
    for rank, (*_, (observed, told, value), _) in enumerate(found):
        assert value.isfinite()
        assert ("alignment" in observed) == (rank == 0)
        assert "num_negatives" not in observed
        assert told == ([2 * SIZES[0]] * 2 if rank == 0 else [])


def test_a_rank_whose_loss_counts_nothing_takes_part(found):
    assert all(norm > 0 for *_, norm in found)
