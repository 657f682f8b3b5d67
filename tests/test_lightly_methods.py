"""Lightly's contrastive methods, as its examples build them from its own heads and memory banks."""

from __future__ import annotations

import copy
import importlib

import hosts
import naive
import pytest
import torch
from torch import nn

from negplug import inject

lightly_loss = pytest.importorskip("lightly.loss")
parts = importlib.import_module("lightly.models.modules")
utils = importlib.import_module("lightly.models.utils")
Base = hosts.lightning().LightningModule
NTXentLoss = lightly_loss.NTXentLoss

BATCH = 8
PLACES = 16
"""Positions of a feature map, each a row of DenseCL's local loss."""

pytestmark = [
    # Lightly copies a tensor with torch.tensor(), of which torch disapproves.
    pytest.mark.filterwarnings("ignore:To copy construct from a tensor"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


def features():
    return nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(4))


def encoder():
    return nn.Sequential(features(), nn.Flatten(), nn.Linear(8 * PLACES, 32))


def frozen(module):
    module = copy.deepcopy(module)
    utils.deactivate_requires_grad(module)
    return module


class Method(Base):
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.06)


class SimCLR(Method):
    def __init__(self, criterion=NTXentLoss):
        super().__init__()
        self.backbone = encoder()
        self.projection_head = parts.SimCLRProjectionHead(32, 32, 16)
        self.criterion = criterion()

    def forward(self, x):
        return self.projection_head(self.backbone(x))

    def training_step(self, batch, batch_idx):
        x0, x1 = batch[0]
        return self.criterion(self(x0), self(x1))


class DirectCLR(SimCLR):
    """Without a projection head."""

    def __init__(self):
        super().__init__(lambda: lightly_loss.DirectCLRLoss(loss_dim=8))
        self.projection_head = nn.Identity()


class MoCo(Method):
    def __init__(self, gather_distributed=False):
        super().__init__()
        self.backbone = encoder()
        self.projection_head = parts.MoCoProjectionHead(32, 32, 16)
        self.backbone_momentum = frozen(self.backbone)
        self.projection_head_momentum = frozen(self.projection_head)
        size = 2 * BATCH
        self.criterion = NTXentLoss(
            memory_bank_size=(size, 16), gather_distributed=gather_distributed
        )

    def training_step(self, batch, batch_idx):
        utils.update_momentum(self.backbone, self.backbone_momentum, m=0.9)
        utils.update_momentum(self.projection_head, self.projection_head_momentum, m=0.9)
        x_query, x_key = batch[0]
        query = self.projection_head(self.backbone(x_query))
        key = self.projection_head_momentum(self.backbone_momentum(x_key)).detach()
        return self.criterion(query, key)


class NNCLR(Method):
    """The bank is the method's own, for nearest neighbours, and the criterion has none."""

    def __init__(self):
        super().__init__()
        self.backbone = encoder()
        self.projection_head = parts.NNCLRProjectionHead(32, 32, 16)
        self.prediction_head = parts.NNCLRPredictionHead(16, 32, 16)
        self.memory_bank = parts.NNMemoryBankModule(size=(4 * BATCH, 16))
        self.criterion = NTXentLoss()

    def forward(self, x):
        z = self.projection_head(self.backbone(x))
        return z.detach(), self.prediction_head(z)

    def training_step(self, batch, batch_idx):
        x0, x1 = batch[0]
        (z0, p0), (z1, p1) = self(x0), self(x1)
        z0 = self.memory_bank(z0, update=False)
        z1 = self.memory_bank(z1, update=True)
        return 0.5 * (self.criterion(z0, p1) + self.criterion(z1, p0))


class DenseCL(Method):
    def __init__(self):
        super().__init__()
        self.backbone = features()
        self.head_global = parts.DenseCLProjectionHead(8, 8, 16)
        self.head_local = parts.DenseCLProjectionHead(8, 8, 16)
        online = (self.backbone, self.head_global, self.head_local)
        self.momentum = nn.ModuleList(frozen(module) for module in online)
        self.criterion_global = NTXentLoss(memory_bank_size=(2 * BATCH, 16))
        self.criterion_local = NTXentLoss(memory_bank_size=(2 * BATCH * PLACES, 16))

    def embed(self, x, modules):
        backbone, head_global, head_local = modules
        maps = backbone(x)
        rows = maps.flatten(start_dim=2).permute(0, 2, 1)
        return rows, head_global(maps.mean((2, 3))), head_local(rows)

    def training_step(self, batch, batch_idx):
        online = (self.backbone, self.head_global, self.head_local)
        for module, momentum in zip(online, self.momentum, strict=True):
            utils.update_momentum(module, momentum, m=0.9)
        x_query, x_key = batch[0]
        query_rows, query_global, query_local = self.embed(x_query, online)
        with torch.no_grad():
            key_rows, key_global, key_local = self.embed(x_key, self.momentum)
        key_local = utils.select_most_similar(query_rows, key_rows, key_local)
        loss_global = self.criterion_global(query_global, key_global)
        loss_local = self.criterion_local(query_local.flatten(0, 1), key_local.flatten(0, 1))
        return 0.5 * loss_global + 0.5 * loss_local


METHODS = {
    "SimCLR": SimCLR,
    "DirectCLR": DirectCLR,
    "MACL": lambda: SimCLR(lightly_loss.MACLLoss),
    "DCL": lambda: SimCLR(lightly_loss.DCLLoss),
    "DCLW": lambda: SimCLR(lightly_loss.DCLWLoss),
    "NNCLR": NNCLR,
    "MoCo": MoCo,
    "DenseCL": DenseCL,
}
WITH_BANK = ("MoCo", "DenseCL")
CALLS = {"NNCLR": {"criterion": 2}, "DenseCL": {"criterion_global": 1, "criterion_local": 1}}
"""Calls of each criterion in a step; one of ``criterion`` unless stated."""

SAMPLED = [
    (name, sampler)
    for name in METHODS
    for sampler in ("in_batch()", "uniform(num_negatives=4)", "queue()")
    if sampler != "queue()" or name in WITH_BANK
]


def build(name):
    torch.manual_seed(0)
    return METHODS[name]()


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
    return len(handle.losses[name].loss.state_dict()["sampler._extra_state"]["rows"])


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
    control = hosts.negative_control()("queue()")

    class Record(hosts.lightning().Callback):
        def on_train_end(self, trainer, module):
            state = control.injection.state_dict()["criterion"]
            calls = control.injection.losses["criterion"].calls
            found = [state["sampler._extra_state"]["rows"], hosts.parameters(module), calls]
            torch.save(found, tmp_path / str(trainer.global_rank))

    torch.manual_seed(0)
    trainer = hosts.trainer(callbacks=[control, Record()], strategy="ddp_fork", devices=2)
    trainer.fit(MoCo(gather_distributed=True), hosts.loader(24, 4))
    first, second = (torch.load(tmp_path / str(rank), weights_only=True) for rank in range(2))
    assert first[2] == second[2] == 3
    assert len(first[0]) == 2 * BATCH
    assert torch.equal(first[0], second[0])
    weights = [found[1] for found in (first, second)]
    assert weights[0].isfinite().all()
    torch.testing.assert_close(*weights)
