"""The data sets of the study: what is trained on, what chooses a setting, what is reported."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from neighbours import ClutteredDigits, Part, Parts, dataset_info, fashion, load, shape_of, view
from torch import Tensor

TESTED = 5_000
"""How many test images score a run."""

_MEAN, _STD = 0.36, 0.21  # of the digits' pixels


@functools.lru_cache(1)
def digits(size: int, held_out: int, device: str) -> Parts:
    """Return drawn digits, each before a background of its own, ``[3, 32, 32]``.

    Validation images follow those of training: other backgrounds, places and colours, and the same
    handwritten digits. Those of the test are other digits too.
    """
    known = _digits(True, size + held_out, device)
    parts = [Part(known.images[kept], known.labels[kept]) for kept in _divided(size)]
    return Parts(*parts, _digits(False, TESTED, device))


def _digits(train: bool, size: int, device: str) -> Part:
    dataset = ClutteredDigits(train, size, transform=shape_of(dataset_info("digits")))
    images, labels = load(dataset, torch.device("cpu"))
    return Part(((images.float() / 255 - _MEAN) / _STD).to(device), labels)


def _divided(size: int) -> tuple[slice, slice]:
    return slice(size), slice(size, None)


LOADERS: dict[str, Callable[[int, int, str], Parts]] = {
    "fashion-mnist": functools.partial(fashion, tested=TESTED),
    "digits": digits,
}
"""Name → training images, validation images and device → the parts."""

VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "fashion-mnist": view,
    # Smaller crops cut the digits out, and a mirrored digit is none.
    "digits": functools.partial(view, smallest=0.6, mirrored=False),
}
"""Name → what makes a view of a batch."""

CHANNELS = {"fashion-mnist": 1, "digits": 3}
