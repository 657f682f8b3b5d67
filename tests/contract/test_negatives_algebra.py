"""Properties of exclusion and of the algebra of Negatives, against loops over single entries."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from negplug import Columns, Negatives, Rows, Whole
from negplug.contract.ids import BEYOND, UNKNOWN, columns_with_same_id, number_of_excluded
from negplug.contract.negatives import enumerated, total_counts

# -2 is reserved: it stands for an unknown anchor where ids are compared.
ids = st.lists(st.integers(-5, 6).filter(lambda i: i != -2), min_size=1, max_size=12)


def rows(values: list[int], first: float = 0.0) -> Rows:
    """Rows whose single coordinate tells them apart."""
    embeddings = first + torch.arange(len(values), dtype=torch.float64)[:, None]
    return Rows(embeddings, torch.tensor(values))


def excluded(anchor: int, row: int) -> bool:
    return anchor == row and anchor != UNKNOWN


def listed(pools, anchors: Rows) -> list[list[tuple[float, float]]]:
    """Each anchor's negatives as (row, log weight), one after another."""
    found = [[] for _ in anchors.ids]
    for part in pools:
        serving = part.serving(anchors)
        weight = torch.zeros(1, 1) if part.log_weight is None else part.log_weight
        weight = weight.expand(serving.shape)
        for i, entry in serving.nonzero().tolist():
            whole = isinstance(part.choice, Whole)
            column = entry if whole else int(part.choice.columns[i, entry])
            found[i].append((float(part.rows.embeddings[column, 0]), float(weight[i, entry])))
    return found


@st.composite
def a_part(draw, anchors: list[int], first: float):
    """Negatives of one pool: whole or columns, masked or not, weighted or not."""
    pool = rows(draw(ids), first)
    n, k = len(anchors), len(pool)
    width = k
    seed = draw(st.integers(0, 2**32))
    generator = torch.Generator().manual_seed(seed)
    choice = Whole()
    if draw(st.booleans()):
        width = draw(st.integers(1, 5))
        choice = Columns(torch.randint(k, (n, width), generator=generator))
    part = Negatives(pool, choice)
    if draw(st.booleans()):
        part = part.masked(torch.rand(n, width, generator=generator) < 0.6)
    if draw(st.booleans()):
        shape = draw(st.sampled_from([(n, width), (1, width), (n, 1), (1, 1)]))
        weight = torch.randn(shape, generator=generator, dtype=torch.float64)
        part = Negatives(part.rows, part.choice, weight)
    return part


@st.composite
def a_case(draw):
    anchors = draw(ids)
    count = draw(st.integers(1, 3))
    parts = tuple(draw(a_part(anchors, 100.0 * n)) for n in range(count))
    return rows(anchors), parts


@given(ids, ids)
def test_the_excluded_columns_are_those_of_the_same_id(anchors, pool):
    columns, count = columns_with_same_id(torch.tensor(anchors), torch.tensor(pool))
    for i, anchor in enumerate(anchors):
        wanted = [k for k, row in enumerate(pool) if excluded(anchor, row)]
        found = [k for k in columns[i].tolist() if k != BEYOND]
        assert found == wanted
        assert int(count[i]) == len(wanted)


@given(ids, st.sampled_from([1, 200]))
def test_excluded_ids_are_counted_as_one_by_one(values, times):
    """Of few all pairs are compared, many are sorted."""
    wanted = [times * sum(excluded(one, other) for other in values) for one in values] * times
    own = torch.tensor(values * times)
    assert number_of_excluded(own, own, same=True).tolist() == wanted
    assert number_of_excluded(own, own.clone(), same=False).tolist() == wanted


@given(a_case())
def test_counts_are_the_number_of_entries_that_serve(case):
    anchors, parts = case
    counts = total_counts(parts, anchors).tolist()
    assert counts == [len(found) for found in listed(parts, anchors)]


@given(a_case())
def test_enumerating_changes_no_negative_and_no_weight(case):
    anchors, parts = case
    together = enumerated(parts, anchors)
    assert isinstance(together.choice, Columns)
    assert listed([together], anchors) == listed(parts, anchors)


@given(a_case(), st.integers(0, 2**32))
def test_masking_keeps_what_both_masks_keep(case, seed):
    anchors, (part, *_) = case
    mask = torch.rand(len(anchors), part.width, generator=torch.Generator().manual_seed(seed)) < 0.5
    both = part.serving(anchors) & mask
    assert torch.equal(part.masked(mask).serving(anchors), both)


@given(ids, st.data())
def test_selected_rows_keep_what_is_known_of_them_and_no_name(values, data):
    known = torch.tensor(values)
    every = Rows(known[:, None].double(), known, known + 1, known + 2, known + 3, name="keys")
    chosen = torch.tensor(data.draw(st.lists(st.integers(0, len(values) - 1), max_size=6))).long()
    some = every.select(chosen)
    for name, shift in (("ids", 0), ("indexes", 1), ("labels", 2), ("views", 3)):
        assert torch.equal(getattr(some, name), known[chosen] + shift)
    assert torch.equal(some.embeddings[:, 0], known[chosen].double())
    assert not some.same_as(every)
    assert every.same_as(Rows(every.embeddings.clone(), known, name="keys"))
    assert not every.detach().same_as(every)
    assert every.detach().same_as(every.detach())
