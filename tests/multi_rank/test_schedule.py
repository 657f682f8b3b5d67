"""Ranks switch together, also to a sampler that exchanges what none did before."""

from __future__ import annotations

import ranks
import torch
from tiers import SIZE, TEMPERATURE

from negplug import ContrastiveLoss

EPOCHS = (0, 0, 1, 2, 2, 3)


def scheduled(rank, world):
    """Losses of a schedule and of its samplers alone, and what ranks of other epochs say."""
    import naive

    def step(loss_fn, number):
        z = naive.embeddings(2, SIZE, seed=10 * number + rank)
        loss = loss_fn(*z, indexes=torch.arange(SIZE) + 100 * number + SIZE * rank)
        loss.backward()
        return loss.item()

    each = ["in_batch()", "gather()", "queue(size=96)"]
    text = f"schedule({', '.join(each)}, from_epochs=(0, 1, 2))"
    switching, *alone = [ContrastiveLoss(t, temperature=TEMPERATURE) for t in (text, *each)]
    found, expected = [], []
    for number, epoch in enumerate(EPOCHS):
        switching.set_epoch(epoch)
        found.append(step(switching, number))
        expected.append([step(loss_fn, number) for loss_fn in alone][min(epoch, 2)])
    apart = ContrastiveLoss(text, temperature=TEMPERATURE)
    said = []
    for epochs in ((0, 0), (1, 2)):
        apart.set_epoch(epochs[rank])
        try:
            step(apart, 0)
            said.append("")
        except Exception as error:
            said.append(f"{type(error).__name__}: {error}")
    forgotten = ContrastiveLoss(text, temperature=TEMPERATURE)
    if rank == 0:
        forgotten.set_epoch(0)
    try:
        step(forgotten, 0)
    except Exception as error:
        said.append(f"{type(error).__name__}: {error}")
    return found, expected, said


def test_ranks_switch_together():
    heard = ranks.run(scheduled, 2)
    for found, expected, said in heard:
        assert found == expected
        assert said[0] == ""
        assert "RanksError" in said[1]
        assert "differ in the epoch: rank 0 has 1, rank 1 has 2" in said[1]
        assert "differ in the epoch: rank 0 has 0, rank 1 has None" in said[2]
