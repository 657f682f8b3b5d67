"""All4One (https://arxiv.org/abs/2303.09417): NNCLR with several neighbours and their attention.

Five neighbours a view are drawn from a queue of momentum projections; a transformer turns them into
one vector, and another four, behind the view's own prediction, into a second. With c₁₂ the columns
of two batches compared, the three tasks are

    neighbour   (contrast(nn₁; p₂) + contrast(nn₂; p₁))/2
    attention   (contrast(T(nn₁…), T(p'₂, nn₂…)) + the same the other way)/2
    feature     5·sqrt(mean (1 − diag c)²) + 5·sqrt(mean (off-diagonal c)²), over both directions
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from omegaconf import DictConfig
from solo.losses.nnclr import nnclr_loss_func
from solo.methods.base import BaseMomentumMethod
from solo.methods.heads import add_queue, deep, enqueue, normalized, with_queue
from solo.utils.momentum import initialize_momentum_params
from torch import Tensor, nn
from torch.nn.functional import normalize

NEIGHBOURS = 5


class All4One(BaseMomentumMethod):
    """L = (neighbour + attention + feature)/2 + the classifier's loss.

    Args:
        cfg: ``method_kwargs`` holds ``proj_hidden_dim``, ``proj_output_dim``, ``pred_hidden_dim``,
            ``temperature`` and ``queue_size``.
    """

    heads: ClassVar = {
        "projector": {},
        "predictor": {},
        "predictor2": {},
        "transformer_encoder": {"lr": 0.1},
    }

    def __init__(self, cfg: DictConfig) -> None:
        super().__init__(cfg)
        own = cfg.method_kwargs
        self.temperature: float = own.temperature
        self.queue_size: int = own.queue_size
        width, hidden = own.proj_output_dim, own.pred_hidden_dim
        sizes = self.features_dim, own.proj_hidden_dim, width
        self.projector, self.momentum_projector = deep(*sizes), deep(*sizes)
        initialize_momentum_params(self.projector, self.momentum_projector)
        self.predictor = normalized(width, hidden, width)
        self.predictor2 = normalized(width, hidden, width)
        layer = nn.TransformerEncoderLayer(
            width, nhead=8, dim_feedforward=2 * width, dropout=0.1, batch_first=True
        )
        self.transformer_encoder = nn.TransformerEncoder(layer, num_layers=3)
        add_queue(self, width, "queue_y", "queue_index")

    @staticmethod
    def add_and_assert_specific_cfg(cfg: DictConfig) -> DictConfig:
        """Fill in the queue's size."""
        return with_queue(BaseMomentumMethod.add_and_assert_specific_cfg(cfg))

    @torch.no_grad()
    def find_nn(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return the rows ``[B, 5]`` of the most similar past keys, and these ``[B, 5, d]``."""
        rows = (z @ self.queue.T).topk(NEIGHBOURS, dim=1).indices
        return rows, self.queue[rows]

    def forward(self, X: Tensor) -> dict[str, Any]:
        """Add the projection ``z`` and its prediction ``p``."""
        out = super().forward(X)
        z = self.projector(out["feats"])
        return out | {"z": z, "p": self.predictor(z)}

    @torch.no_grad()
    def momentum_forward(self, X: Tensor) -> dict[str, Any]:
        """Add the key ``z``."""
        out = super().momentum_forward(X)
        return out | {"z": normalize(self.momentum_projector(out["feats"]), dim=-1)}

    def training_step(self, batch: list[Any], batch_idx: int) -> Tensor:
        """Return the loss of a batch, then let its keys into the queue."""
        out = super().training_step(batch, batch_idx)
        keys = out["momentum_z"]
        z = [self.projector(feats) for feats in out["feats"]]
        (rows, nn1), (_, nn2) = (self.find_nn(key) for key in keys)
        p1, p2 = (self.predictor(view) for view in z)
        own = [self.predictor2(view)[:, None] for view in z]
        rich = [_placed(nn) for nn in (nn1, nn2)]
        shifted = [
            _placed(torch.cat([p, nn[:, :-1]], 1)) for p, nn in zip(own, (nn1, nn2), strict=True)
        ]
        one, two, mixed1, mixed2 = (self.transformer_encoder(t)[:, 0] for t in (*rich, *shifted))
        attention = (nnclr_loss_func(one, mixed2) + nnclr_loss_func(two, mixed1)) / 2
        neighbour = nnclr_loss_func(nn1[:, 0], p2, temperature=self.temperature) / 2
        neighbour = neighbour + nnclr_loss_func(nn2[:, 0], p1, temperature=self.temperature) / 2
        feature = _feature_task([(keys[0], z[1]), (keys[1], z[0])])
        loss = (attention + neighbour + feature) / 2
        agreed = (batch[-1] == self.queue_y[rows[:, 0]]).float().mean()
        enqueue(self, queue=keys[0], queue_y=batch[-1], queue_index=batch[0])
        metrics = {"train_nnclr_loss": neighbour, "train_att_nnclr_loss": attention}
        metrics |= {"train_comb_loss": loss, "train_feature_loss": feature}
        self.log_dict(metrics | {"train_nn_acc": agreed}, on_epoch=True, sync_dist=True)
        return loss + out["loss"]


def _placed(tokens: Tensor) -> Tensor:
    """Add sines and cosines to ``[B, T, d]``, the place being the column and not the token."""
    _, count, width = tokens.shape
    even = torch.arange(0, count, 2, device=tokens.device)
    frequencies = (1 / 10000.0 ** (even / (count + count % 2))).to(tokens)
    angles = torch.arange(width, device=tokens.device)[:, None] * frequencies
    waves = torch.stack([angles.sin(), angles.cos()], -1).flatten(1)[:, :count]
    return tokens + waves.T


def _feature_task(pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
    compared = [normalize(key, dim=0).T @ normalize(z, dim=0) for key, z in pairs]
    diagonal = torch.eye(len(compared[0]), dtype=torch.bool, device=compared[0].device)
    same = sum((c[diagonal] - 1).square().mean() for c in compared) / 2
    other = sum(c[~diagonal].square().mean() for c in compared) / 2
    return 5 * (same.sqrt() + other.sqrt())
