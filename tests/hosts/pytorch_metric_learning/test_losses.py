"""pytorch-metric-learning's losses, treated: the same loss, and other negatives."""

from __future__ import annotations

import copy
import itertools
import pickle

import naive
import pytest
import torch

from negplug import inject

pml = pytest.importorskip("pytorch_metric_learning")
from pytorch_metric_learning import distances, losses, miners, reducers  # noqa: E402

NAMES = ["NTXentLoss", "SupConLoss"]


def rows(count, seed=0):
    return naive.embeddings(1, count, seed=seed)[0]


def loss_of(name, **kwargs):
    return getattr(losses, name)(temperature=0.2, **kwargs)


def same(host, call, inputs):
    """Insist that a treated call has the host's value and gradient."""
    theirs = call(host)
    reference = torch.autograd.grad(theirs, inputs, retain_graph=True)
    with inject(host, "in_batch()") as handle:
        ours = call(host)
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
        found = torch.autograd.grad(ours, inputs)
        torch.testing.assert_close(found, reference, rtol=1e-9, atol=1e-12)
    assert [treated.calls for treated in handle.losses.values()] == [1]


# One class alone, a pair, several of one class, and all classes alike.
LABELS = [[7, 0, 0, 1, 1, 1, 1, 2, 2, 2, 5, 5], [0, 1, 2, 3, 4, 5] * 2, [3] * 12]


@pytest.mark.parametrize(("name", "labels"), list(itertools.product(NAMES, LABELS)))
def test_in_batch_equals_the_host(name, labels):
    z, y = rows(12), torch.tensor(labels)
    same(loss_of(name), lambda loss: loss(z, y), [z])


@pytest.mark.parametrize("name", NAMES)
def test_rows_with_references_of_their_own(name):
    z, reference = rows(8), rows(12, seed=1)
    y, of_reference = torch.arange(8) % 5, torch.arange(12) % 4  # class 4 has no reference

    def call(loss):
        return loss(z, y, ref_emb=reference, ref_labels=of_reference)

    same(loss_of(name), call, [z, reference])


@pytest.mark.parametrize(("name", "symmetric"), list(itertools.product(NAMES, [True, False])))
def test_two_views(name, symmetric):
    views = naive.embeddings(2, 9)
    same(losses.SelfSupervisedLoss(loss_of(name), symmetric), lambda loss: loss(*views), views)


@pytest.mark.parametrize("name", NAMES)
def test_a_memory_across_batches(name):
    host = losses.CrossBatchMemory(loss_of(name), embedding_size=16, memory_size=20).double()
    treated = copy.deepcopy(host)
    handle = inject(treated, "in_batch()")
    for step in range(5):
        z, y = rows(8, seed=step), torch.arange(8) % 3 + step % 2
        masked = {"enqueue_mask": torch.arange(8) < 4} if step == 3 else {}
        theirs, ours = host(z, y, **masked), treated(z, y, **masked)
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=0)
        assert naive.relative(naive.gradients(ours, [z]), naive.gradients(theirs, [z])) < 1e-9
    assert torch.equal(host.embedding_memory, treated.embedding_memory)
    assert list(handle.losses) == ["CrossBatchMemory"]
    with torch.no_grad():
        treated.eval()
        torch.testing.assert_close(treated(z, y), host.eval()(z, y))  # the host's own


def test_fewer_negatives_of_a_memory():
    host = losses.CrossBatchMemory(loss_of("NTXentLoss"), 16, memory_size=64).double()
    z, y = rows(32), torch.arange(32) % 4
    whole = copy.deepcopy(host)(z, y)
    with inject(host, "uniform(num_negatives=2)"):
        assert host(z, y) < whole - 0.5


@pytest.mark.parametrize("sampler", ["queue(size=64)", "hierarchical(in_batch(), queue(size=64))"])
def test_a_memory_takes_no_second_one(sampler):
    host = losses.CrossBatchMemory(loss_of("NTXentLoss"), 16)
    with pytest.raises(ValueError, match=r"compares with a memory of its own.*over and over"):
        inject(host, sampler)


def test_a_past_row_of_the_same_label_is_no_negative():
    host, zeros = loss_of("NTXentLoss"), torch.zeros(8, dtype=torch.int64)
    with inject(host, "queue(size=64)"):
        host(rows(8), zeros).backward()
        assert host(rows(8, seed=1), zeros) == 0  # the queue holds its class alone
        assert host(rows(8, seed=1), zeros + 1) > 0


REFUSED = {
    "distance is .*LpDistance": lambda: loss_of("NTXentLoss", distance=distances.LpDistance()),
    "distance is .*power=2": lambda: loss_of(
        "SupConLoss", distance=distances.CosineSimilarity(power=2)
    ),
    "its reducer is ThresholdReducer": lambda: loss_of(
        "NTXentLoss", reducer=reducers.ThresholdReducer(low=0.1)
    ),
    "a miner chooses its pairs": lambda: losses.CrossBatchMemory(
        loss_of("NTXentLoss"), 16, miner=miners.MultiSimilarityMiner()
    ),
    "TripletMarginLoss.* contrastive, but of pairs or triplets": losses.TripletMarginLoss,
    "MultiSimilarityLoss.* leave it alone with ignore=": losses.MultiSimilarityLoss,
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_cannot_be_treated_is_refused_by_name(why):
    with pytest.raises(ValueError, match=rf"pytorch-metric-learning {pml.__version__} .*{why}"):
        inject(REFUSED[why](), "in_batch()")


def test_pairs_that_a_miner_chose_are_refused():
    z, y = rows(8), torch.arange(8) % 3
    pairs = miners.MultiSimilarityMiner()(z, y)
    for host in (loss_of("NTXentLoss"), losses.CrossBatchMemory(loss_of("SupConLoss"), 16)):
        with inject(host, "in_batch()"), pytest.raises(ValueError, match="given indices_tuple"):
            host.double()(z, y, pairs)


def test_no_labels_and_an_override():
    class Scaled(losses.NTXentLoss):
        def _compute_loss(self, *args):
            return super()._compute_loss(*args)

    with pytest.raises(ValueError, match="overrides the _compute_loss of NTXentLoss"):
        inject(Scaled(), "in_batch()")
    host = loss_of("NTXentLoss")
    with inject(host, "in_batch()"):
        with pytest.raises(ValueError, match="needs the labels"):
            host(rows(4))
        with pytest.raises(ValueError, match="classes from 0 on, got -1"):
            host(rows(4), torch.tensor([0, -1, 0, -1]))


def test_temperature_is_read_at_every_call_and_the_model_stays_picklable():
    z, y = rows(12), torch.arange(12) % 4
    host = loss_of("NTXentLoss")
    handle = inject(host, "in_batch()")
    host.temperature = 0.7
    torch.testing.assert_close(host(z, y), losses.NTXentLoss(temperature=0.7)(z, y))
    pickle.loads(pickle.dumps(host))
    handle.remove()
    assert "forward" not in vars(host)
