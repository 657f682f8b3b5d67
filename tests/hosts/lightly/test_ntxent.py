"""Lightly's NTXentLoss: treated, it is the same loss."""

from __future__ import annotations

import naive
import pytest
import torch
from torch import nn
from two_criteria import Recipe, _site_of

from negplug import inject

lightly_loss = pytest.importorskip("lightly.loss")
NTXentLoss = lightly_loss.NTXentLoss


@pytest.mark.parametrize("size", [2, 33, 300])
@pytest.mark.parametrize("temperature", [0.5, 0.1, 0.02, 0.01])
@pytest.mark.parametrize("gather_distributed", [False, True])
def test_in_batch_equals_the_host(size, temperature, gather_distributed):
    z = naive.embeddings(2, size)
    criterion = NTXentLoss(temperature=temperature, gather_distributed=gather_distributed)
    theirs = criterion(*z)
    with inject(criterion, "in_batch()"):
        ours = criterion(*z)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    mine, reference = naive.gradients(ours, z), naive.gradients(theirs, z)
    # The host's softmax minus one-hot rounds at 1e-16/τ where the loss is nearly 0.
    assert (mine - reference).norm() < 1e-9 * reference.norm() + 1e-13


@pytest.mark.parametrize("sampler", ["in_batch()", "gather()", "hard(num_negatives=14)"])
def test_a_sample_twice_in_a_batch_is_its_own_negative_as_in_the_host(sampler):
    z = [torch.cat([v, v[:2]]) for v in naive.embeddings(2, 6)]
    criterion = NTXentLoss(temperature=0.3)
    theirs = criterion(*z)
    with inject(criterion, sampler) as handle:
        handle.provide(indexes=torch.tensor([0, 1, 2, 3, 4, 5, 0, 1]))
        torch.testing.assert_close(criterion(*z), theirs, rtol=1e-9, atol=0)


def test_what_remembers_knows_a_sample_by_its_index():
    z = [torch.cat([v, v[:2]]) for v in naive.embeddings(2, 6)]
    criterion = NTXentLoss(temperature=0.3)
    theirs = criterion(*z)
    with inject(criterion, "hierarchical(in_batch(), queue(size=64))") as handle:
        handle.provide(indexes=torch.tensor([0, 1, 2, 3, 4, 5, 0, 1]))
        assert criterion(*z) < theirs  # whose denominators hold the anchor's copies


def test_uniform_equals_the_loop():
    z = naive.embeddings(2, 12)
    criterion = NTXentLoss(temperature=0.3)
    with inject(criterion, "uniform(num_negatives=22)"):
        torch.testing.assert_close(criterion(*z), naive.simclr(z, 0.3), rtol=1e-12, atol=0)
    with inject(criterion, "uniform(num_negatives=3)") as handle:
        ours = criterion(*z)
    assert handle.losses["NTXentLoss"].calls == 1
    assert ours < naive.simclr(z, 0.3)  # fewer terms in the denominator


def test_temperature_is_read_at_every_call():
    z = naive.embeddings(2, 12)
    criterion = NTXentLoss(temperature=0.5)
    with inject(criterion, "in_batch()"):
        warm = criterion(*z)
        criterion.temperature = 0.1
        cold = criterion(*z)
    torch.testing.assert_close(cold, NTXentLoss(temperature=0.1)(*z))
    assert not torch.equal(warm, cold)
    criterion.temperature = -0.5
    with inject(criterion, "in_batch()"), pytest.raises(ValueError, match="temperature must be"):
        criterion(*z)
    with inject(criterion, "in_batch()", temperature=0.1):
        torch.testing.assert_close(criterion(*z), cold)


DCLLoss, DCLWLoss = lightly_loss.DCLLoss, lightly_loss.DCLWLoss


def test_the_site_knows_the_size_of_the_bank():
    assert _site_of(NTXentLoss(memory_bank_size=(32, 8))).queue_size == 32
    for without in (NTXentLoss(), DCLLoss()):
        assert _site_of(without).queue_size is None
        with pytest.raises(ValueError, match=r"size is required, because lightly .* has no queue"):
            inject(without, "queue()")


def test_two_criteria_draw_different_negatives():
    model, z = Recipe(), naive.embeddings(2, 32)
    model.first.temperature = model.losses[0].temperature = 0.2
    with inject(model, "uniform(num_negatives=2)"):
        assert model.first(*z) != model.losses[0](*z)


def test_temperatures_of_other_types():
    z = naive.embeddings(2, 8)
    criterion = NTXentLoss(temperature=0.2)
    wanted = criterion(*z)
    with inject(criterion, "in_batch()"):
        criterion.temperature = torch.tensor(0.2, dtype=torch.float64)
        torch.testing.assert_close(criterion(*z), wanted)


def test_a_temperature_that_the_host_learns_gets_its_gradient():
    z = naive.embeddings(2, 8)
    criterion = NTXentLoss(temperature=0.2)
    criterion.temperature = nn.Parameter(torch.tensor(0.2, dtype=torch.float64))
    inputs = [*z, criterion.temperature]
    wanted = naive.gradients(criterion(*z), inputs)
    with inject(criterion, "in_batch()"):
        assert naive.relative(naive.gradients(criterion(*z), inputs), wanted) < 1e-9


@pytest.mark.parametrize("sampler", ["in_batch()", "uniform(num_negatives=4)"])
def test_a_compiled_model_is_treated(sampler):
    criterion, z = NTXentLoss(temperature=0.2), naive.embeddings(2, 8)
    with inject(criterion, sampler) as handle:
        compiled = torch.compile(lambda a, b: criterion(a * 2, b * 2), backend="eager")
        for _ in range(3):
            naive.gradients(compiled(*z), z)
        assert handle.losses["NTXentLoss"].calls == 3


def test_evaluation_in_no_grad_keeps_the_counters():
    criterion, z = NTXentLoss(), naive.embeddings(2, 8)
    with inject(criterion, "uniform(num_negatives=2)") as handle, torch.no_grad():
        criterion(*z)
    assert handle.state_dict()["NTXentLoss"]["_extra_state"]["call"] == 0
