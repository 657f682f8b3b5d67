"""Logits of states where values are free to read: see :mod:`negplug.kernels.states`.

By numpy but for the products: of a few numbers its operations take a tenth of the time of torch's.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from negplug.kernels.states.result import Compared


def compared_on_host(
    table: Tensor,
    known: Tensor,
    state: Tensor,
    place: Tensor,
    initial: Tensor,
    anchors: Tensor,
    temperature: float,
) -> Compared:
    """Return logits of states; see :func:`negplug.kernels.states.compare`."""
    views, length = known.shape
    sample = state.numpy()
    away = (sample >= 0) & (place.numpy() < 0)
    here = np.minimum(np.maximum(sample, 0), length - 1)
    present = known.numpy()[:, here] & (away & (sample < length))
    rows = table.index_select(1, torch.from_numpy(here)).to(anchors)
    logits = rows.mul_(anchors).sum(2).div_(temperature).numpy()
    logits[~present] = -np.inf
    log_number = np.log(np.maximum(present.sum(0), 1).astype(logits.dtype))
    scores = np.logaddexp.reduce(logits, 0) - log_number
    columns = here[:, None] + length * np.arange(views)
    initials = np.where(away, scores, initial.numpy())
    return Compared(*map(torch.from_numpy, (columns, logits, log_number, scores, initials)))
