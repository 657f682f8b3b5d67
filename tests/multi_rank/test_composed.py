"""Composed batches on ranks: each has its own part of the same batches, resumed ones too."""

from __future__ import annotations

import hosts
import pytest
import ranks
import torch
from composing import BATCH, SIZE, Seen, Sorted, loader
from resumable import _whole_checkpoints, same_state

pytestmark = pytest.mark.filterwarnings("ignore")

EPOCHS = 3


def balanced():
    dataset = hosts.Pairs(SIZE)
    dataset.kinds = [index % 2 for index in range(SIZE)]
    return loader(dataset)


def fit(folder, world, compose, resume=None):
    """Train on some ranks, each of which leaves in a file what it has seen and ends with."""
    seen, control = Seen(), hosts.negative_control()("in_batch()", compose=compose)

    class Leaving(hosts.lightning().Callback):
        def setup(self, trainer, pl_module, stage):
            if trainer.is_global_zero:
                return
            torch.manual_seed(100 + trainer.global_rank)  # as a recipe may: seed + rank

        def on_train_epoch_end(self, trainer, pl_module):
            if trainer.current_epoch == 1 and resume is None:
                trainer.save_checkpoint(folder / "half.ckpt")

        def on_train_end(self, trainer, pl_module):
            state = control.composition.state_dict()
            given = getattr(control.composition.composer, "given", [])
            found = {
                "epochs": seen.epochs,
                "weights": hosts.parameters(pl_module),
                "state": state,
                "rows": [epoch.embeddings[epoch.samples.argsort()] for epoch in given],
            }
            torch.save(found, folder / f"{trainer.global_rank}.pt")

    hosts.lightning().seed_everything(0)
    options = {"strategy": "ddp_fork", "devices": world, "max_epochs": EPOCHS}
    trainer = hosts.trainer(callbacks=[Leaving(), control, seen], **options)
    with _whole_checkpoints():
        trainer.fit(hosts.recipe(), balanced(), ckpt_path=resume)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(world)]


def test_ranks_share_the_same_batches_and_resume(tmp_path):
    if hosts.solo_generation() == "1.0.2":
        pytest.skip("its Lightning wraps the sampler of several ranks, which is refused")

    def train():
        found = {}
        for world, compose in ((2, Sorted()), (4, "balanced(by='kinds')")):
            found[world] = fit(tmp_path, world, compose)
            (tmp_path / "half.ckpt").rename(tmp_path / f"half of {world}.ckpt")
        found["resumed"] = fit(tmp_path, 2, Sorted(), tmp_path / "half of 2.ckpt")
        return found

    found = ranks.apart(train)
    resumed = found.pop("resumed")
    for world, of_ranks in found.items():
        share = -(-SIZE // world)
        sizes = [BATCH] * (share // BATCH) + [share % BATCH] * (share % BATCH > 0)
        for epoch in range(EPOCHS):
            parts = [each["epochs"][epoch] for each in of_ranks]
            assert all([len(batch) for batch in part] == sizes for part in parts)
            together = [sample for part in parts for batch in part for sample in batch]
            # As torch's DistributedSampler: every sample once, and a few again to fill up.
            assert set(together) == set(range(SIZE))
            assert len(together) == share * world
        for each in of_ranks[1:]:
            assert same_state(each["state"], of_ranks[0]["state"])
            assert torch.equal(each["weights"], of_ranks[0]["weights"])
    for one, two in zip(*(each["rows"] for each in found[2]), strict=True):
        assert torch.equal(one, two)
        assert bool((one.norm(dim=1) > 0.99).all())  # of every sample, whichever rank had it
    first, second = (each["epochs"][1] for each in found[2])
    order = found[2][0]["rows"][0][:, 0].argsort().tolist()
    assert [first[0], second[0]] == [order[:8], order[8:16]]  # a part of a batch: neighbours too
    for batch in (batch for each in found[4] for (batch,) in each["epochs"]):
        assert abs(sum(index % 2 for index in batch) - len(batch) / 2) <= 2
    for straight, again in zip(found[2], resumed, strict=True):
        assert again["epochs"] == straight["epochs"][2:]
        assert torch.equal(again["weights"], straight["weights"])
        assert same_state(again["state"], straight["state"])
