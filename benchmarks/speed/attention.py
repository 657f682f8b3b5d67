"""Attention of as many rows as a batch has views: what the libraries' best kernels reach."""

from __future__ import annotations

import torch
from ceilings import Work
from harness import Step
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import normalize, scaled_dot_product_attention
from views import correlated_views

ATTENTION = "attention of the 2B views (cuDNN)"
DIMENSION = 128
_BACKENDS = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION]
"""The first that this card and torch have."""


def attention(batch_size: int, device: torch.device) -> Step:
    """Return forward and backward pass of one head in bfloat16, queries, keys and values alike."""
    rows = normalize(torch.cat(correlated_views(batch_size, DIMENSION, device=device)).detach())
    queries = rows.bfloat16()[None, None].requires_grad_()

    def step() -> None:
        queries.grad = None
        with sdpa_kernel(_BACKENDS, set_priority=True):
            found = scaled_dot_product_attention(queries, queries, queries)
        torch.autograd.backward(found.sum())

    return step


def work(batch_size: int) -> Work:
    """Return its products, two forward and five backward, and the rows that it moves."""
    rows = 2 * batch_size
    return Work(14 * rows * rows * DIMENSION, 2 * 4 * rows * DIMENSION)
