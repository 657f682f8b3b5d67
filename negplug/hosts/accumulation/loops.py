"""``accumulated``: the gradient cache for plain PyTorch loops."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import nn

from negplug.contract.inputs import check_integer
from negplug.hosts.accumulation.cache import GradientCache
from negplug.hosts.accumulation.rerouting import Loss
from negplug.hosts.injection import Injection
from negplug.loss.contrastive import ContrastiveLoss


def accumulated(
    step: Callable[[Any], Any],
    accumulate: int,
    *,
    model: nn.Module,
    loss: ContrastiveLoss | Injection | Iterable[ContrastiveLoss | Injection],
    scaler: torch.amp.GradScaler | None = None,
) -> Callable[[Any], Any]:
    """Return a step for large batches in the memory of small ones.

    It computes what ``step`` does for the whole batch, loss and gradient, and runs it twice for
    each micro-batch (:mod:`negplug.hosts.accumulation.cache`). Gradients are kept in between, so
    call ``backward()`` on what it returns once, before the next step.

    Args:
        step: Maps a batch to the loss, from ``model`` and ``loss``; or to a mapping with it under
            ``"loss"``.
        accumulate: Number of micro-batches, which each batch is split into along its rows.
        model: All that the step trains, ``DistributedDataParallel`` included.
        loss: What the step calls for its contrastive losses, or the handle of a model that
            :func:`negplug.inject` has treated. ``provide`` takes what is known of the whole batch.
        scaler: The ``GradScaler`` that scales the loss before ``backward()``, if there is one.

    Raises:
        ValueError, TypeError: If an argument cannot be used.

    Example:
        >>> step = accumulated(lambda x: loss_fn(net(x[0]), net(x[1])), 8, model=net, loss=loss_fn)
        >>> step(batch).backward()
    """
    if not callable(step):
        raise TypeError(f"accumulated: step must be a function of a batch, got {step!r}")
    accumulate = check_integer("accumulated", "accumulate", accumulate, 1)
    if not isinstance(model, nn.Module):
        raise TypeError(f"accumulated: model must be a torch.nn.Module, got {type(model).__name__}")
    if next(model.parameters(), None) is None:
        raise ValueError(f"accumulated: model has no parameters, so nothing trains, got {model}")
    losses = list(dict.fromkeys(_losses(loss)))
    cache = GradientCache(model, losses, accumulate, insists=True)
    return lambda batch: cache.run(step, batch, scaler) if torch.is_grad_enabled() else step(batch)


def _losses(given: Any) -> Iterator[Loss]:
    single = isinstance(given, (ContrastiveLoss, Injection)) or not isinstance(given, Iterable)
    for each in [given] if single else given:
        if isinstance(each, ContrastiveLoss):
            yield each
        elif isinstance(each, Injection):
            yield from each.losses.values()
        else:
            raise TypeError(
                f"accumulated: loss must be a negplug.ContrastiveLoss or what negplug.inject() "
                f"returned, or several of them, got {type(each).__name__}"
            )
