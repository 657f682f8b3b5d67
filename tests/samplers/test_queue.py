"""``queue``: a deque of named rows, in place, and of a size that a batch fits in."""

from __future__ import annotations

from collections import deque

import pytest
import torch
from device import DEVICE
from memories import WIDTH, embed, first_in_first_out, memory, train, unit
from pools import only

from negplug import ContrastiveBatch, ContrastiveLoss
from negplug.objectives.infonce import InfoNCE


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
        assert loss_fn.sampler._count == loss_fn.sampler.count == len(reference)
        torch.testing.assert_close(rows, torch.stack([key for key, _, _ in reference]))
        assert names[0].tolist() == [index for _, index, _ in reference]  # ids are the indexes
        assert names[1].tolist() == [index for _, index, _ in reference]
        assert names[2].tolist() == [label for _, _, label in reference]


def test_rows_are_offered_with_their_names_and_only_once_written():
    loss_fn = ContrastiveLoss("queue(size=20)")
    probe = ContrastiveBatch.from_views(tuple(v.detach() for v in embed(3, 9)))
    assert only(loss_fn.sampler(probe)).rows.embeddings.shape == (0, WIDTH)
    views, indexes, labels = embed(4, 0), torch.tensor([7, 3, 5, 1]), torch.tensor([0, -1, 2, 2])
    train(loss_fn, views, indexes, labels)
    held_back = only(loss_fn.sampler(probe.within()))
    assert held_back.rows.embeddings.shape == (0, WIDTH)  # not yet written
    loss_fn.end_step()
    offered = only(loss_fn.sampler(probe.within()))
    torch.testing.assert_close(offered.rows.embeddings, unit(views))
    for names, expected in (
        (offered.rows.ids, indexes),
        (offered.rows.indexes, indexes),
        (offered.rows.labels, labels),
    ):
        assert torch.equal(names, expected.repeat(2).to(DEVICE))


class Watching(InfoNCE):
    """InfoNCE that keeps the negatives it was given."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, batch, negatives, temperature):
        self.seen.append(only(negatives))
        return super().forward(batch, negatives, temperature)


@pytest.mark.parametrize("expression", ["queue(size=20)", "memory_bank(size=12)"])
def test_the_pool_is_the_memory_itself_written_in_place(expression):
    watching = Watching()
    loss_fn = ContrastiveLoss(expression, watching)
    for step in range(8):
        train(loss_fn, embed(4, step), torch.arange(4) + 4 * (step % 3))
    loss_fn.end_step()
    probe = ContrastiveBatch.from_views(tuple(v.detach() for v in embed(1, 0)), torch.tensor([0]))
    now = only(loss_fn.sampler(probe)).rows.embeddings
    for negatives in watching.seen[1:]:
        assert negatives.rows.embeddings.data_ptr() == now.data_ptr()
        # The same storage: what was offered in an earlier step has changed with the memory.
        assert torch.equal(negatives.rows.embeddings, now[: len(negatives.rows.embeddings)])


def test_an_evaluation_may_have_more_keys_than_the_queue_has_places():
    loss_fn = ContrastiveLoss("queue(size=8)")
    train(loss_fn, embed(4, 0))
    loss_fn.end_step()
    with torch.no_grad():
        assert loss_fn(*embed(9, 1)) > 0


@pytest.mark.parametrize("expression", ["queue()", "queue(num_negatives=3)"])
def test_a_queue_without_a_host_needs_a_size(expression):
    with pytest.raises(ValueError, match="queue: size is required, because there is no host"):
        ContrastiveLoss(expression)
