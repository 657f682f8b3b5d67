"""Properties of distinct draws: distinct, inside the bounds, all of a short row, and uniform."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from negplug.contract.ids import BEYOND
from negplug.kernels.random.distinct import distinct_places, places_to_columns_
from negplug.kernels.random.numbers import RandomNumbers


def random_numbers(seed: int) -> RandomNumbers:
    return RandomNumbers(seed, torch.device("cpu"))


@given(
    st.lists(st.integers(0, 60), min_size=1, max_size=8),
    st.integers(1, 20),
    st.integers(0, 2**60),
)
def test_places_are_distinct_and_inside_the_bounds(bounds, count, seed):
    places, mask = distinct_places(torch.tensor(bounds), count, random_numbers(seed))
    again, _ = distinct_places(torch.tensor(bounds), count, random_numbers(seed))
    assert torch.equal(places, again)
    for n, bound in enumerate(bounds):
        row = places[n] if mask is None else places[n][mask[n]]
        drawn = row.tolist()
        assert len(set(drawn)) == len(drawn) == min(bound, count)
        assert all(0 <= place < bound for place in drawn)


@given(st.integers(2, 40), st.data())
def test_places_become_the_columns_that_are_not_excluded(width, data):
    taken = data.draw(st.sets(st.integers(0, width - 1), max_size=width - 1))
    kept = [column for column in range(width) if column not in taken]
    padding = data.draw(st.integers(0, 3))
    excluded = torch.tensor([[*sorted(taken), *[BEYOND] * padding]]).long()
    places = torch.arange(len(kept))[None].clone()
    assert places_to_columns_(places, excluded)[0].tolist() == kept
