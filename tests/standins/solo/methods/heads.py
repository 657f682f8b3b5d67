"""Heads and queues that several methods have alike; the host has no such module."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from omegaconf import DictConfig
from solo.methods.base import BaseMethod, BaseMomentumMethod
from solo.utils.misc import gather, omegaconf_select
from solo.utils.momentum import initialize_momentum_params
from torch import Tensor, nn
from torch.nn.functional import normalize


def plain(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Two layers, of SimCLR and MoCo v2."""
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs))


def normalized(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Two layers with BatchNorm between, a predictor of NNCLR."""
    between = (nn.BatchNorm1d(hidden), nn.ReLU())
    return nn.Sequential(nn.Linear(inputs, hidden), *between, nn.Linear(hidden, outputs))


def deep(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Three layers, each with BatchNorm, the projector of NNCLR."""
    sizes = ((inputs, hidden), (hidden, hidden), (hidden, outputs))
    layers = [part for i, o in sizes for part in (nn.Linear(i, o), nn.BatchNorm1d(o), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def unbiased(inputs: int, hidden: int, outputs: int, last: bool = True) -> nn.Sequential:
    """Two layers without bias, of MoCo v3; ``last`` adds a BatchNorm without parameters."""
    layers: list[nn.Module] = [nn.Linear(inputs, hidden, bias=False), nn.BatchNorm1d(hidden)]
    layers += [nn.ReLU(), nn.Linear(hidden, outputs, bias=False)]
    return nn.Sequential(*layers, *([nn.BatchNorm1d(outputs, affine=False)] if last else []))


def with_queue(cfg: DictConfig) -> DictConfig:
    """Fill in the size of the queue."""
    settings = cfg.method_kwargs
    settings.queue_size = omegaconf_select(cfg, "method_kwargs.queue_size", 65536)
    return cfg


def add_queue(module: Any, width: int, *more: str) -> None:
    """Register a queue ``[K, d]`` of unit noise, its pointer, and columns of -1 beside it."""
    size = module.queue_size
    module.register_buffer("queue", normalize(torch.randn(size, width), dim=1))
    module.register_buffer("queue_ptr", torch.zeros(1, dtype=torch.long))
    for name in more:
        module.register_buffer(name, -torch.ones(size, dtype=torch.long))


@torch.no_grad()
def enqueue(module: Any, **rows: Tensor) -> None:
    """Write the rows of all ranks over the oldest, in the buffers of these names."""
    first = int(module.queue_ptr)
    for name, values in rows.items():
        values = gather(values)
        assert module.queue_size % len(values) == 0
        getattr(module, name)[first : first + len(values)] = values
    module.queue_ptr[0] = (first + len(values)) % module.queue_size


class Projected(BaseMethod):
    """SimCLR's networks: a projection ``z`` of every crop.

    Args:
        cfg: ``method_kwargs`` holds ``proj_hidden_dim``, ``proj_output_dim`` and ``temperature``.
    """

    heads: ClassVar = {"projector": {}}

    def __init__(self, cfg: DictConfig) -> None:
        super().__init__(cfg)
        own = cfg.method_kwargs
        self.temperature: float = own.temperature
        self.projector = plain(self.features_dim, own.proj_hidden_dim, own.proj_output_dim)

    def forward(self, X: Tensor) -> dict[str, Any]:
        """Add the projection."""
        out = super().forward(X)
        return out | {"z": self.projector(out["feats"])}

    def multicrop_forward(self, X: Tensor) -> dict[str, Any]:
        """Add the projection."""
        out = super().multicrop_forward(X)
        return out | {"z": self.projector(out["feats"])}


class QueryAndKey(BaseMomentumMethod):
    """MoCo's networks: a query ``z``, and as the momentum networks' ``z`` a key, of unit length.

    Args:
        cfg: ``method_kwargs`` holds ``proj_hidden_dim``, ``proj_output_dim`` and ``queue_size``.
    """

    heads: ClassVar = {"projector": {}}

    def __init__(self, cfg: DictConfig) -> None:
        super().__init__(cfg)
        own = cfg.method_kwargs
        self.queue_size: int = own.queue_size
        sizes = self.features_dim, own.proj_hidden_dim, own.proj_output_dim
        self.projector, self.momentum_projector = plain(*sizes), plain(*sizes)
        initialize_momentum_params(self.projector, self.momentum_projector)

    @staticmethod
    def add_and_assert_specific_cfg(cfg: DictConfig) -> DictConfig:
        """Fill in the queue's size."""
        return with_queue(BaseMomentumMethod.add_and_assert_specific_cfg(cfg))

    def forward(self, X: Tensor) -> dict[str, Any]:
        """Add the query."""
        out = super().forward(X)
        return out | {"z": normalize(self.projector(out["feats"]), dim=-1)}

    @torch.no_grad()
    def momentum_forward(self, X: Tensor) -> dict[str, Any]:
        """Add the key."""
        out = super().momentum_forward(X)
        return out | {"z": normalize(self.momentum_projector(out["feats"]), dim=-1)}
