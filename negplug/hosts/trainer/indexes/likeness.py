"""Images found again that were changed: scaled, shifted, converted, overlaid with some noise.

A normalisation changes every value of an image and keeps what tells it from others. So each place
of the images is standardised over the batch, which undoes any scale and shift that all of them
have had there and does not depend on their order. An image is that sample which is then far nearer
than every other one. Crops and flips leave no such sample, and nothing is said of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

FEWEST = 4
"""Of fewer samples an image and its negative are too much alike."""
_VALUES = 32
"""Rows of fewer values are no images."""
_PLACES = 64
_NEAR = 0.3
"""At most so much of the variance of a place may differ, and of the distance to the next sample."""


def nearest_samples(rows: Any, fields: Sequence[Sequence[Any]]) -> list[int | None]:
    """Return which sample each row is, None where none is much nearer than the others.

    Args:
        rows: ``[n, …]`` images of a batch.
        fields: Of each field of the samples, its value in every one, arrays of one size.
    """
    found: list[int | None] = [None] * len(rows)
    shape = tuple(rows.shape[1:])
    given = _few([rows[row] for row in range(len(rows))], shape)
    samples = [each for each in (_few(values, shape) for values in fields) if each is not None]
    if given is None or not samples or len(fields[0]) < FEWEST:
        return found
    for same in (_as_they_are, _standardised_each):
        near = _nearest(same(given), [same(each) for each in samples])
        if 4 * near.count(None) < len(near):
            return near
    return found


def _nearest(rows: Tensor, fields: list[Tensor]) -> list[int | None]:
    """Return the nearest sample of each row ``[n, p]`` among those of fields, ``[m, p]`` each."""
    number = len(fields[0])
    rows, varies = _standardised(rows)
    known = [_standardised(values) for values in fields]
    for _, in_field in known:
        varies = varies & in_field
    if int(varies.sum()) < _PLACES // 4:
        return [None] * len(rows)
    distances = torch.stack([torch.cdist(rows[:, varies], each[:, varies]) for each, _ in known])
    least = distances.amin(0).square() / int(varies.sum())  # of each row to each sample
    near, which = least.topk(min(2, number), largest=False)
    sure = (near[:, 0] < _NEAR) & (near[:, 0] < _NEAR * near[:, -1])
    return [int(of) if yes else None for of, yes in zip(which[:, 0], sure, strict=True)]


def _standardised(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return rows with mean 0 and variance 1 at each place, and whether they differ there."""
    spread, mean = torch.std_mean(rows, dim=0, correction=0)
    varies = spread > 1e-5 * (mean.abs() + rows.abs().amax())
    return (rows - mean) / spread.clamp_min(torch.finfo(rows.dtype).tiny), varies


def _as_they_are(rows: Tensor) -> Tensor:
    return rows


def _standardised_each(rows: Tensor) -> Tensor:
    """Return rows that were standardised each for itself, as by a normalisation of each image."""
    standardised: Tensor = torch.nn.functional.layer_norm(rows, rows.shape[1:])
    return standardised


def _few(values: Sequence[Any], shape: tuple[int, ...]) -> Tensor | None:
    """Return some places of images ``[n, p]`` in float32; None if they are of other sizes."""
    few = []
    for value in values:
        if tuple(value.shape) != shape:
            if value.ndim != 3 or (value.shape[2], *value.shape[:2]) != shape:
                return None
            value = value.transpose(2, 0, 1) if hasattr(value, "astype") else value.permute(2, 0, 1)
        flat = value.reshape(-1)
        if len(flat) < _VALUES:
            return None
        # Apart by no multiple of a width.
        places = flat[:: max(1, len(flat) // _PLACES) | 1]
        few.append(torch.as_tensor(places.astype("f4") if hasattr(places, "astype") else places))
    return torch.stack(few).float() if few else None
