"""Unit mixtures of two rows in torch operations, on any device."""

from __future__ import annotations

import torch
from torch import Tensor

from negplug.kernels.torch_private import pair_products


def plain_mixtures(
    pool: Tensor, columns: Tensor, numbers: Tensor | int, drawn: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return columns and coefficients; see :func:`negplug.kernels.mixing.unit_mixtures`."""
    place, step, share = drawn.unbind()
    place = (place * numbers).long()
    step = (step * (numbers - 1)).long()
    places = torch.stack([place, step.add_(place).add_(1).remainder_(numbers)])
    first, second = columns.expand(2, -1, -1).gather(2, places)
    rows = pool.contiguous()
    similarities = pair_products(rows, rows, first.view(-1), second.view(-1)).view(first.shape)
    return first, second, unit_coefficients(share, similarities)


def unit_coefficients(first: Tensor, similarities: Tensor) -> Tensor:
    """Return what unit mixtures take of two rows of unit length, ``[N, M, 2]``.

    Args:
        first: ``[N, M]``, the share of the first row, in [0, 1].
        similarities: ``[N, M]``, ⟨u, v⟩; the coefficients are of this type.
    """
    second = 1 - first
    both = first * second
    # The middle of two opposite rows has no direction: it stays short, it is not blown-up noise.
    squared = (both * similarities.clamp(min=-1)).sub_(both).mul_(2).add_(1)
    scale = squared.clamp_(min=torch.finfo(similarities.dtype).eps).rsqrt_()
    coefficients = similarities.new_empty(*similarities.shape, 2)
    torch.mul(first, scale, out=coefficients[..., 0])
    torch.mul(second, scale, out=coefficients[..., 1])
    return coefficients
