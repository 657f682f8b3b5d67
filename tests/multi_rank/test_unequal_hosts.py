"""Recipes of the installed host on ranks that were not given the same: an error on every rank."""

from __future__ import annotations

import hosts
import pytest
import ranks
import torch
from unequal_ranks import said

from negplug import inject

IS_LIGHTLY = hosts._has("lightly")
if not (IS_LIGHTLY or hosts.solo_generation()):
    pytest.skip("no host is installed", allow_module_level=True)

pytestmark = pytest.mark.filterwarnings("ignore")

SIZE = 4
STEPS = 3


def batch_of(rank, number, spoilt, empty):
    generator = torch.Generator().manual_seed(10 * number + rank)
    shape = (0 if empty else SIZE, 3, hosts.IMAGE, hosts.IMAGE)
    views = [torch.randn(shape, generator=generator) for _ in range(2)]
    if spoilt:
        views[0][1] = torch.inf
    indexes = torch.arange(shape[0]) + SIZE * rank
    if IS_LIGHTLY:
        return views, indexes % 3, [""] * shape[0]
    return [indexes, views, indexes % 3]


def recipes(rank):
    """Model, sampler and faulty steps of each fault, by its name."""
    odd = rank == 1
    yield "nan", hosts.recipe(), "gather()", [1] * odd, []
    yield "nan at once", hosts.recipe(), "queue(size=32)", [0] * odd, []
    # solo-learn's linear classifier has a loss of its own, which takes no empty batch.
    yield "empty", hosts.recipe(), "gather()", [], [1] * (odd and IS_LIGHTLY)
    yield "temperature", hosts.recipe(0.3 if odd else 0.2), "uniform(num_negatives=2)", [], []
    yield "sampler", hosts.recipe(), "queue(size=32)" if odd else "in_batch()", [], []
    if IS_LIGHTLY:
        model = hosts.recipe()
        model.criterion.gather_distributed = odd
        yield "gathering", model, "in_batch()", [], []
        yield "bank", hosts.queue_recipe(16 + 16 * rank), "queue()", [], []


def faults(rank, world):
    """What each rank says in each step, by fault; and the seeds of its draws."""
    found, seeds = {}, set()
    for name, model, sampler, spoilt, empty in recipes(rank):
        model.log_dict = model.log = lambda *args, **kwargs: None
        torch.manual_seed(7 + rank)
        heard = []
        with inject(model, sampler) as handle:
            for number in range(STEPS):
                batch = batch_of(rank, number, number in spoilt, number in empty)
                heard.append(said(lambda: model.training_step(batch, 0).backward()))  # noqa: B023
                handle.end_step()
            (treated,) = handle.losses.values()
            if heard[-1] is None:
                seeds.add(treated.loss.get_extra_state()["seed"])
        found[name] = heard
    return found, sorted(seeds)


def test_a_fault_of_one_rank_is_an_error_on_all():
    (zero, seeds), (one, others) = ranks.run(faults, 2, timeout=60.0)
    assert seeds == others
    assert len(seeds) == 1
    bad_steps = {"nan": [1], "nan at once": [0], "empty": [1] if IS_LIGHTLY else []}
    words = {
        "temperature": "temperature",
        "sampler": "queue(size=32)",
        "bank": "size of the sampler",
    }
    for name, heard in zero.items():
        refused = [number for number in range(STEPS) if heard[number] is not None]
        assert refused == bad_steps.get(name, [*range(STEPS)]), (name, heard)
        for number in refused:
            assert heard[number][0] == "RanksError", heard
            if name in bad_steps:
                kind, message = one[name][number]
                assert heard[number][1] == f"rank 1 failed, so no rank goes on: {kind}: {message}"
            else:
                assert heard[number] == one[name][number]
                assert words.get(name, "take different paths") in heard[number][1]
