"""Lightly's contrastive methods, as its examples build them from its own heads and memory banks."""

from __future__ import annotations

import copy

import hosts
import torch
from lightly import loss as lightly_loss
from lightly.loss import NTXentLoss
from lightly.models import modules as parts
from lightly.models import utils
from torch import nn

Base = hosts.lightning().LightningModule

BATCH = 8
PLACES = 16
"""Positions of a feature map, each a row of DenseCL's local loss."""


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


def build(name):
    torch.manual_seed(0)
    return METHODS[name]()
