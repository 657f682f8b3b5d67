"""Momentum encoders: θ' ← τ θ' + (1 − τ) θ after every optimizer step, τ rising along a cosine.

Source: He et al. 2020, "Momentum contrast" (https://arxiv.org/abs/1911.05722), equation 2; the
cosine is BYOL's (https://arxiv.org/abs/2006.07733), section 3.2.
"""

from __future__ import annotations

import math

import torch
from torch import nn


@torch.no_grad()
def initialize_momentum_params(online_net: nn.Module, momentum_net: nn.Module) -> None:
    """Start the momentum network at the online one's parameters, and keep gradients away."""
    for online, momentum in zip(online_net.parameters(), momentum_net.parameters(), strict=True):
        momentum.copy_(online)
        momentum.requires_grad = False


class MomentumUpdater:
    """Moves momentum networks towards the online ones.

    Args:
        base_tau: τ at the first step.
        final_tau: τ at the last.
    """

    def __init__(self, base_tau: float = 0.996, final_tau: float = 1.0) -> None:
        self.base_tau, self.final_tau, self.cur_tau = base_tau, final_tau, base_tau

    @torch.no_grad()
    def update(self, online_net: nn.Module, momentum_net: nn.Module) -> None:
        """Take one step of the moving average."""
        pairs = zip(online_net.parameters(), momentum_net.parameters(), strict=True)
        for online, momentum in pairs:
            momentum.lerp_(online, 1 - self.cur_tau)

    def update_tau(self, cur_step: int, max_steps: int) -> None:
        """Set τ = final − (final − base) (1 + cos(π step / steps)) / 2."""
        left = (1 + math.cos(math.pi * cur_step / max_steps)) / 2
        self.cur_tau = self.final_tau - (self.final_tau - self.base_tau) * left
