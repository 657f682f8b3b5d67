"""Whose state it is: of how many ranks, of which one, and whether it is the same on all."""

from __future__ import annotations

import warnings

import pytest
import torch
from resumable import same_state
from stated import Memory, Model, filled, held

from negplug.contract.state import Stateful, digest_of


@pytest.mark.parametrize("strict", [True, False])
def test_a_model_that_was_trained_on_more_ranks_loads_and_says_so(strict):
    state = Model().state_dict()
    state["memory._extra_state"]["settings"]["world_size"] = 8
    model = Model()
    model.memory = Memory()
    with pytest.warns(UserWarning, match=r"memory\(\): was saved with 8 ranks, this run has 1; "):
        model.load_state_dict(state, strict=strict)
    assert same_state(held(model.memory), held(filled()))


def test_a_state_of_each_rank_says_of_which_one_it_was():
    memory = Memory()
    memory.per_rank = True
    state = held(memory)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        memory.set_extra_state(state)
    for rank, world, text in [(1, 2, "rank 1 of 2"), (0, 4, "rank 0 of 4")]:
        state["rank"], state["settings"]["world_size"] = rank, world
        with pytest.warns(UserWarning, match=f"by {text}, this is rank 0 of 1, and each has"):
            memory.set_extra_state(state)


def test_a_digest_tells_every_entry_and_its_place_from_others():
    memory, seen = filled(), set()
    seen.add(digest_of(memory))
    for name in ("rows", "score", "names", "known"):
        value = getattr(memory, name)
        for other in (value.flip(-1), torch.where(value == value.max(), value.min(), value)):
            setattr(memory, name, other)
            seen.add(digest_of(memory))
        setattr(memory, name, value)
    memory.next = 3
    seen.add(digest_of(memory))
    assert len(seen) == 10
    assert digest_of(filled()) in seen


def test_a_digest_is_the_same_with_any_number_of_threads_and_takes_a_single_value():
    class Bank(Stateful):
        def __init__(self, values):
            super().__init__()
            self.add_state("rows", 0.0, (None,))
            self.add_state("mean", 0.0, ())
            self.rows, self.mean = values, values[0]

    values = torch.randn(3 * 2**20, generator=torch.Generator().manual_seed(0))
    before, found = torch.get_num_threads(), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(digest_of(Bank(values)))
    torch.set_num_threads(before)
    assert found[0] == found[1]
    values[2**21] += 1e-3
    assert digest_of(Bank(values)) != found[0]
