"""Features of a validation batch, without a trace in the training."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from negplug.kernels.rng_states import isolated_rng


def labelled(batch: Any) -> tuple[Tensor, Tensor] | tuple[None, None]:
    """Return a batch's images ``[n, …]`` and labels ``[n]``, if it begins with both."""
    if not isinstance(batch, (list, tuple)) or len(batch) < 2:
        return None, None
    images, labels = batch[0], batch[1]
    if not (isinstance(images, Tensor) and isinstance(labels, Tensor)):
        return None, None
    counted = labels.ndim == 1 and images.ndim > 1 and len(images) == len(labels)
    if not counted or labels.is_floating_point() or not images.is_floating_point():
        return None, None
    return images, labels


@torch.no_grad()
def embed(encoder: nn.Module, images: Tensor) -> Tensor:
    """Return features ``[n, d]`` in float32 on the CPU.

    The encoder is in eval mode meanwhile; its mode and the global generators are put back.

    Args:
        encoder: Maps images to features ``[n, …]``.
        images: ``[n, …]``.

    Raises:
        ValueError: If the encoder returns no tensor.
    """
    weight = next(encoder.parameters(), images)
    with _evaluating(encoder), isolated_rng(weight.device):
        features = encoder(images.to(weight.device, weight.dtype))
    if not isinstance(features, Tensor):
        raise ValueError(
            f"the encoder {type(encoder).__name__} must return a tensor [n, …], got "
            f"{type(features).__name__}; name another attribute with encoder=…"
        )
    return features.flatten(1).float().cpu()


@contextlib.contextmanager
def _evaluating(encoder: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in encoder.modules()]
    encoder.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
