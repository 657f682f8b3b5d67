"""Lightly's contrastive methods, as its examples build them from its own heads and memory banks."""

from __future__ import annotations

import copy

import hosts
import naive
import pytest
import ranks
import torch
from queue_contents import rows_in
from torch import nn

from negplug import inject

pytest.importorskip("lightly")

from lightly_methods import BATCH, CALLS, METHODS, PLACES, WITH_BANK, MoCo, build

pytestmark = [
    # Lightly copies a tensor with torch.tensor(), of which torch disapproves.
    pytest.mark.filterwarnings("ignore:To copy construct from a tensor"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


SAMPLED = [
    (name, sampler)
    for name in METHODS
    for sampler in ("in_batch()", "uniform(num_negatives=4)", "queue()")
    if sampler != "queue()" or name in WITH_BANK
]


def fit(module, sampler, batch_size=BATCH, **kwargs):
    """Train; return the losses and the callback."""
    losses = []

    class Losses(hosts.lightning().Callback):
        def on_train_batch_end(self, trainer, module, outputs, *_):
            losses.append(float(outputs["loss"]))

    control = hosts.negative_control()(sampler)
    trainer = hosts.trainer(callbacks=[control, Losses()], **kwargs)
    trainer.fit(module, hosts.loader(batch_size=batch_size))
    return losses, control


# ------------------------------------------------------------------ the same step


def weights_of(module):
    return [p for p in module.parameters() if p.requires_grad]


def step(module, batch):
    loss = module.training_step(batch, 0)
    return loss.detach(), naive.gradients(loss, weights_of(module))


def batches(number):
    generator = torch.Generator().manual_seed(5)
    shape = (number, 2, BATCH, 3, hosts.IMAGE, hosts.IMAGE)
    views = torch.randn(shape, generator=generator, dtype=torch.float64)
    return [(list(pair), torch.arange(BATCH), [""] * BATCH) for pair in views]


@pytest.mark.parametrize("name", METHODS)
def test_a_treated_step_is_the_hosts(name):
    # With a bank the host's negatives are noise until two batches have filled it.
    sampler, filling = ("queue()", 2) if name in WITH_BANK else ("in_batch()", 0)
    module = build(name).double()
    twin = copy.deepcopy(module)
    with inject(twin, sampler) as handle:
        for number, batch in enumerate(batches(5)):
            theirs, their_grad = step(module, batch)
            ours, our_grad = step(twin, batch)
            if number < filling:
                assert ours < theirs
            else:
                torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=0)
                assert naive.relative(our_grad, their_grad) < 1e-9
            for model in (module, twin):
                flat = nn.utils.parameters_to_vector(weights_of(model)).detach()
                nn.utils.vector_to_parameters(flat - 0.1 * their_grad, weights_of(model))
            handle.end_step()
        calls = {name: treated.calls // 5 for name, treated in handle.losses.items()}
    assert calls == CALLS.get(name, {"criterion": 1})


# ------------------------------------------------------------------ trained


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize(("name", "sampler"), SAMPLED)
def test_three_steps(name, sampler, precision):
    module = build(name)
    before, keys = hosts.parameters(module), list(module.state_dict())
    losses, control = fit(module, sampler, precision=precision)
    calls = {name: treated.calls // 3 for name, treated in control.injection.losses.items()}
    assert calls == CALLS.get(name, {"criterion": 1})
    assert len(losses) == 3
    after = hosts.parameters(module)
    assert torch.tensor(losses).isfinite().all()
    assert after.isfinite().all()
    assert not torch.equal(after, before)
    assert list(module.state_dict()) == keys


@pytest.mark.parametrize("name", METHODS)
def test_the_loss_falls_in_half_precision(name):
    sampler = "uniform(num_negatives=16)"
    found, _ = fit(build(name), sampler, batch_size=24, precision="bf16-mixed", max_epochs=50)
    losses = torch.tensor(found)
    assert len(losses) == 50
    assert losses.isfinite().all()
    first, last = losses[:10], losses[-10:]
    # How much differs between methods by three orders of magnitude, and so does the noise.
    assert last.mean() < first.mean() - first.std() / 2


# ------------------------------------------------------------------ two criteria, one of regions


def rows(handle, name):
    return len(rows_in(handle.losses[name].loss.state_dict()))


def test_dense_criteria_have_queues_of_their_own():
    _, control = fit(build("DenseCL"), "queue()")
    assert rows(control.injection, "criterion_global") == 2 * BATCH
    assert rows(control.injection, "criterion_local") == 2 * BATCH * PLACES


def test_regions_are_no_samples():
    reason = r"memory_bank: .* its 128 rows are not the 8 samples of the batch"
    with pytest.raises(ValueError, match=reason):
        fit(build("DenseCL"), "memory_bank()")
    control = hosts.negative_control()("memory_bank()", target="criterion_global")
    module = build("DenseCL")
    hosts.trainer(callbacks=[control]).fit(module, hosts.loader())
    assert set(control.injection.losses) == {"criterion_global"}
    assert rows(control.injection, "criterion_global") == 24
    assert int(module.criterion_local.memory_bank.bank_ptr) > 0  # the host's own, in use


# ------------------------------------------------------------------ ranks


def test_moco_on_two_ranks(tmp_path):
    """Both ranks keep one queue of everyone's keys, and stay in step."""

    class Record(hosts.lightning().Callback):
        def on_train_end(self, trainer, module):
            state = control.injection.state_dict()["criterion"]
            calls = control.injection.losses["criterion"].calls
            found = [rows_in(state), hosts.parameters(module), calls]
            torch.save(found, tmp_path / str(trainer.global_rank))

    def train():
        torch.manual_seed(0)
        trainer = hosts.trainer(callbacks=[control, Record()], strategy="ddp_fork", devices=2)
        trainer.fit(MoCo(gather_distributed=True), hosts.loader(24, 4))

    control = hosts.negative_control()("queue()")
    ranks.apart(train)
    first, second = (torch.load(tmp_path / str(rank), weights_only=True) for rank in range(2))
    assert first[2] == second[2] == 3
    assert len(first[0]) == 2 * BATCH
    assert torch.equal(first[0], second[0])
    weights = [found[1] for found in (first, second)]
    assert weights[0].isfinite().all()
    torch.testing.assert_close(*weights)
