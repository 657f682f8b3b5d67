"""Pictures of samples: those in the loader's batch, and those that the data set gives by index."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

from negplug.diagnostics.contact_sheet.whose import Row
from negplug.kernels.rng_states import isolated_rng

if TYPE_CHECKING:
    import numpy as np

    Picture: TypeAlias = np.ndarray[Any, np.dtype[np.uint8]]
    """``[H, W, 3]`` uint8."""

_DEPTH = 4
"""How deep batches and samples are searched."""


def views_in(batch: Any) -> list[Tensor]:
    """Return the tensors of images in a loader's batch, ``[B, C, H, W]`` each, in its order.

    A tensor ``[B, V, C, H, W]`` counts as V of them. Those of another B than the first are left
    out.
    """
    found: list[Tensor] = []
    for tensor in _tensors(batch, 0):
        if tensor.ndim == 4:
            found.append(tensor)
        elif tensor.ndim == 5:
            found += tensor.unbind(1)
    return [view for view in found if len(view) == len(found[0])]


class Images:
    """Pictures of the rows of one loss call.

    Args:
        batch: The loader's batch, as ``training_step`` gets it.
        dataset: What data set indexes count; None if there is no such thing.
        numbered: Whether each sample of the data set begins with its own index, which then has
            to be the one asked for.

    Attributes:
        reason: Why the data set gave no picture, the last time that it gave none; else empty.
    """

    def __init__(self, batch: Any, dataset: Any = None, numbered: bool = False) -> None:
        self._views = views_in(batch)
        self._dataset = dataset
        self._numbered = numbered
        self._known: dict[int, Picture | None] = {}
        self.reason = ""

    @property
    def size(self) -> int:
        """B, the number of samples in the batch; 0 if it holds no images."""
        return len(self._views[0]) if self._views else 0

    def of(self, row: Row) -> Picture | None:
        """Return the picture of a row; None if there is none.

        Of a row whose view is unknown it is the sample's first.
        """
        if row.place is not None and row.place < self.size:
            view = row.view if row.view is not None and row.view < len(self._views) else 0
            return as_picture(self._views[view][row.place])
        if row.index is None or self._dataset is None:
            return None
        if row.index not in self._known:
            self._known[row.index] = self._from_dataset(row.index)
        return self._known[row.index]

    def _from_dataset(self, index: int) -> Picture | None:
        try:
            with isolated_rng(torch.device("cpu")):
                sample = self._dataset[index]
        except Exception as error:  # of the data set, which may be anything
            self.reason = f"the data set gave no sample {index}: {type(error).__name__}: {error}"
            return None
        if self._numbered and not _begins_with(sample, index):
            self.reason = f"sample {index} of the training data set has another index of its own"
            return None
        image = next(_images(sample, 0), None)
        if image is None:
            self.reason = "samples of the data set hold no image"
        return image


def as_picture(image: Tensor) -> Picture:
    """Return an image ``[C, H, W]`` to look at, whatever it was normalised with.

    Values from 0 to 1 and integers from 0 to 255 are shown as they are, others are stretched
    from the least to the largest. Of other numbers of channels than 1 and 3 the first serve.
    """
    values = image.detach().cpu()
    if values.dtype == torch.uint8:
        values = values.float() / 255
    values = values.float().nan_to_num(0.0, 0.0, 0.0)
    values = values[:3] if len(values) >= 3 else values[:1].expand(3, -1, -1)
    low, high = float(values.min()), float(values.max())
    if low < 0 or high > 1:
        values = (values - low) / max(high - low, 1e-12)
    pixels: Picture = (values * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    return pixels


def _tensors(value: Any, depth: int) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif depth < _DEPTH:
        for part in _parts(value):
            yield from _tensors(part, depth + 1)


def _images(value: Any, depth: int) -> Iterator[Picture]:
    """Yield the images in a sample: tensors ``[C, H, W]``, arrays ``[H, W, C]``, PIL images."""
    if isinstance(value, Tensor):
        if value.ndim == 3:
            yield as_picture(value)
        elif value.ndim == 4:  # views, stacked
            yield as_picture(value[0])
    elif hasattr(value, "convert") or (hasattr(value, "dtype") and getattr(value, "ndim", 0) == 3):
        import numpy as np

        array = np.asarray(value.convert("RGB") if hasattr(value, "convert") else value)
        yield as_picture(torch.from_numpy(array.copy()).permute(2, 0, 1))
    elif depth < _DEPTH:
        for part in _parts(value):
            yield from _images(part, depth + 1)


def _parts(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return list(value.values())
    return list(value) if isinstance(value, (list, tuple)) else []


def _begins_with(sample: Any, index: int) -> bool:
    try:
        return int(sample[0]) == index
    except (TypeError, ValueError, LookupError):
        return False
