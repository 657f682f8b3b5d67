"""The samples of a pool where values are free to read: see :mod:`negplug.kernels.samples`.

By numpy: of a few integers its operations take a tenth of the time of torch's.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from negplug.kernels.random.hashing import integers_on_host
from negplug.kernels.samples.sorting import grouped_by_sorting


def grouped_on_host(
    indexes: Tensor, views: Tensor, number: int, empty: int
) -> tuple[Tensor, Tensor]:
    """Return samples and their rows; see :func:`negplug.kernels.samples.group`."""
    index, most = indexes.numpy(), len(indexes) // number
    order = index.argsort(kind="stable")
    samples = index[order[::number]]
    rows = np.ascontiguousarray(order.reshape(most, number).T)
    # Each sample once, and its rows in the order of their views, as those of a batch are.
    once = (samples[1:] > samples[:-1]).all()
    if once and (views.numpy()[rows].T == np.arange(number)).all():
        return torch.from_numpy(samples), torch.from_numpy(rows)
    return grouped_by_sorting(indexes, views, number, empty)


def shuffled_on_host(
    samples: Tensor, rows: Tensor, seed: int, empty: int | None
) -> tuple[Tensor, Tensor]:
    """Return samples and rows in order; see :func:`negplug.kernels.samples.shuffle`."""
    keys, index = integers_on_host(len(samples), seed), samples.numpy()
    if empty is not None:
        keys[index == empty] = np.iinfo(keys.dtype).max
    order = keys.argsort(kind="stable")
    return torch.from_numpy(index[order]), torch.from_numpy(rows.numpy().take(order, 1))


def found_on_host(samples: Tensor, wanted: Tensor) -> Tensor:
    """Return columns; see :func:`negplug.kernels.samples.find`."""
    index, names = samples.numpy(), wanted.numpy()
    order = index.argsort()
    place = index[order].searchsorted(names)
    column = order[np.minimum(place, len(order) - 1)]
    return torch.from_numpy(np.where(index[column] == names, column, -1))
