"""The global contrastive loss of a finite set of views, and its exact gradient.

For n images with V views each and embeddings z of unit length (Yuan et al. 2022,
arXiv:2202.12387; Yau et al. 2024, EMC², arXiv:2404.10575, section 2),

    L = mean over anchors a of [ −s(a, a⁺)/τ + log Σ_{b ∈ negatives(a)} exp(s(a, b)/τ) ],

where a⁺ are the other views of the anchor's image (their mean, if there are several) and the
negatives are all views of all other images: the positive is not part of the sum. The gradient

    ∇L = (1/τ) · mean over a of [ −∇s(a, a⁺) + Σ_b p(b | a) ∇s(a, b) ],   p = softmax(s/τ),

goes through both arguments of s. Everything here is dense, O((nV)²): a reference, not a method.
"""

from __future__ import annotations

import math

import torch
from data import embed
from torch import Tensor, nn


def log_posterior(embeddings: Tensor, temperature: float) -> Tensor:
    """Return log p(b | a) of every view b as negative of every view a.

    Args:
        embeddings: ``[n, V, d]``, of any length.
        temperature: τ.

    Returns:
        ``[nV, nV]``, −inf where b shows the anchor's own image.
    """
    return _logits(embeddings, temperature).log_softmax(dim=1)


def global_loss(embeddings: Tensor, temperature: float) -> Tensor:
    """Return L.

    Args:
        embeddings: ``[n, V, d]``, of any length; their directions count.
        temperature: τ.
    """
    unit = nn.functional.normalize(embeddings, dim=2)
    size, views, _ = unit.shape
    # ⟨z_v, Σ_w z_w⟩ holds the anchor with itself, which is 1.
    with_self = (unit * unit.sum(dim=1, keepdim=True)).sum(dim=2)
    positive = (with_self - 1) / (views - 1)
    partition = _logits(embeddings, temperature).logsumexp(dim=1).view(size, views)
    return (partition - positive / temperature).mean()


def embedding_gradient(embeddings: Tensor, temperature: float) -> Tensor:
    """Return ∂L/∂embeddings, ``[n, V, d]``."""
    leaf = embeddings.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(global_loss(leaf, temperature), leaf)
    return gradient


def parameter_gradient(
    network: nn.Module, views: Tensor, temperature: float
) -> tuple[float, Tensor]:
    """Return L, and its gradient with respect to all parameters of a network, as one vector.

    Args:
        network: Images to embeddings, each a function of its own image.
        views: ``[n, V, 3, height, width]``, all images of the data set.
        temperature: τ.
    """
    loss = global_loss(embed(network, views), temperature)
    gradients = torch.autograd.grad(loss, list(network.parameters()))
    return loss.item(), torch.cat([gradient.flatten() for gradient in gradients])


def _logits(embeddings: Tensor, temperature: float) -> Tensor:
    """Return s(a, b)/τ, −inf between views of one image."""
    size, views, _ = embeddings.shape
    unit = nn.functional.normalize(embeddings, dim=2).flatten(0, 1)
    image = torch.arange(size, device=unit.device).repeat_interleave(views)
    return (unit @ unit.T / temperature).masked_fill(image[:, None] == image, -math.inf)
