"""Handwritten digits in random colours, sizes and places on cluttered backgrounds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torchvision.datasets import VisionDataset

Floats = npt.NDArray[np.float64]

_SIDE = 32  # pixels of a rendered image
_GRID = 5  # colours along one side of the smooth background
_DISCS = 4  # coloured discs scattered over the background
_SOURCES = {True: 1437, False: 360}
_BACKGROUND = 3 * _GRID**2 + 6 * _DISCS  # random numbers that describe a background
_DRAWS = 1 + 3 + 3 + _BACKGROUND  # and an image


class ClutteredDigits(VisionDataset):  # type: ignore[misc]  # torchvision has no stubs
    """A small colour data set that needs no download: cluttered 32x32 digits in ten classes.

    Each image shows one of scikit-learn's 8x8 handwritten digits, scaled to 16-26 pixels, at a
    random place and in a random bright colour, over a smooth darker texture with coloured discs.
    Raw pixels say little about the class, and a small network trained with labels reads nearly
    all of them: representations in between can be told apart.

    Every image is a function of ``seed``, ``train`` and its index alone. Rendering uses only
    additions, products and comparisons in a fixed order, so that the bytes are the same on every
    machine. Training and test images are drawn from disjoint sets of handwritten digits.

    Args:
        train: Whether to draw from the 1,437 training digits or from the 360 test digits.
        size: Number of images. Default: 4,000 for training, 1,000 for testing.
        seed: Seed of all images.
        cameras: Number of fixed cameras, each with one background for all of its images; test
            images are of other cameras. Default: each image has a background of its own.
        transform: Maps a PIL image to what the data set returns as image.
        target_transform: Maps a label to what the data set returns as label.

    Attributes:
        data: The images.
            Shape: (size, 32, 32, 3), unsigned bytes
        targets: The digit that each image shows.
        camera: The camera of each image, from 0 on.
        classes: The class names, ``"0"`` to ``"9"``.

    Examples:
        >>> from cluttered_digits import ClutteredDigits
        >>> image, label = ClutteredDigits(train=False, size=10)[0]
        >>> image.size
        (32, 32)
    """

    classes: ClassVar[list[str]] = [str(digit) for digit in range(10)]

    def __init__(
        self,
        train: bool = True,
        size: int | None = None,
        seed: int = 0,
        cameras: int | None = None,
        transform: Callable[..., Any] | None = None,
        target_transform: Callable[..., Any] | None = None,
    ) -> None:
        super().__init__(transform=transform, target_transform=target_transform)
        if size is None:
            size = 4000 if train else 1000
        if size < 1:
            raise ValueError(f"size must be at least 1, got {size}.")
        if cameras is not None and cameras < 1:
            raise ValueError(f"cameras must be at least 1, got {cameras}.")
        self.train = train
        glyphs, labels = _source_digits(train)
        # One generator per image: image i stays the same whatever the size of the data set.
        draws = np.stack(
            [np.random.default_rng([seed, int(train), i]).random(_DRAWS) for i in range(size)]
        )
        chosen = (draws[:, 0] * len(labels)).astype(np.int64)
        self.camera = list(range(size))
        if cameras is not None:
            # The first number of its own background says whose an image gets instead.
            backgrounds = np.random.default_rng([seed, int(train)]).random((cameras, _BACKGROUND))
            shared = (draws[:, -_BACKGROUND] * cameras).astype(np.int64)
            draws[:, -_BACKGROUND:] = backgrounds[shared]
            self.camera = shared.tolist()
        # Some images at a time: intermediate arrays that fit the cache make this 4 times faster.
        parts = np.array_split(np.arange(size), -(-size // 32))
        self.data = np.concatenate([_render(glyphs[chosen[p]], draws[p, 1:]) for p in parts])
        self.targets: list[int] = labels[chosen].tolist()

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        """Returns image ``index`` and its label, after the transforms."""
        image: Any = Image.fromarray(self.data[index])
        target: Any = self.targets[index]
        if self.transform is not None:
            image = self.transform(image)
        if self.target_transform is not None:
            target = self.target_transform(target)
        return image, target

    def __len__(self) -> int:
        """Returns the number of images."""
        return len(self.data)


def _source_digits(train: bool) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Returns the handwritten digits of one half of a fixed stratified split.

    Returns:
        glyphs: Ink in [0, 1].
            Shape: (num_digits, 8, 8)
        labels: The digit that each glyph shows.
            Shape: (num_digits,)
    """
    digits = load_digits()
    halves = train_test_split(
        np.arange(len(digits.target)),
        train_size=_SOURCES[True],
        test_size=_SOURCES[False],
        stratify=digits.target,
        random_state=0,
    )
    rows = halves[0] if train else halves[1]
    return digits.images[rows] / 16.0, digits.target[rows].astype(np.int64)


def _render(glyphs: Floats, draws: Floats) -> npt.NDArray[np.uint8]:
    """Renders one image per glyph.

    Args:
        glyphs: Ink in [0, 1].
            Shape: (size, 8, 8)
        draws: Uniform random numbers that decide on everything else.
            Shape: (size, _DRAWS - 1)

    Returns:
        Images.
            Shape: (size, 32, 32, 3)
    """
    size = len(glyphs)
    placement, ink, grid, discs = np.split(draws, np.cumsum([3, 3, 3 * _GRID**2]), axis=1)

    # The texture: a coarse grid of dark colours around their mean, interpolated.
    mean = 0.55 * grid[:, :3]
    colours = mean[:, None, None] + 0.3 * (grid.reshape(size, _GRID, _GRID, 3) - 0.5)
    steps = np.broadcast_to(np.arange(_SIDE) * ((_GRID - 1) / (_SIDE - 1)), (size, _SIDE))
    canvas = _interpolate(colours, steps, steps)  # (size, 32, 32, 3)

    # The clutter: discs that lighten or darken each channel.
    rows, columns = np.mgrid[:_SIDE, :_SIDE]  # (32, 32) each
    for disc in np.split(discs, _DISCS, axis=1):
        y, x = disc[:, 0, None, None] * _SIDE, disc[:, 1, None, None] * _SIDE
        radius = 1.5 + 3.0 * disc[:, 2, None, None]
        inside = (rows - y) ** 2 + (columns - x) ** 2 < radius**2  # (size, 32, 32)
        canvas = canvas + 0.4 * inside[..., None] * (disc[:, None, None, 3:] - 0.5)

    # The digit: for each row and column of the image, its position on the 8x8 glyph.
    extent = 16.0 + 10.0 * placement[:, :1]
    # A glyph's first and last column are nearly empty: they may lie outside of the image.
    margin = extent * np.array([0.0, 1.0 / 8.0])
    origin = placement[:, 1:] * (_SIDE - extent + 2.0 * margin) - margin
    on_glyph = (np.arange(_SIDE)[:, None, None] - origin) / extent * 7.0  # (32, size, 2)
    alpha = _interpolate(glyphs[..., None], on_glyph[..., 0].T, on_glyph[..., 1].T)
    colour = 0.6 + 0.4 * ink
    canvas = canvas + alpha * (colour[:, None, None] - canvas)
    return (np.clip(canvas, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)


def _interpolate(grid: Floats, rows: Floats, columns: Floats) -> Floats:
    """Samples grids bilinearly, one set of positions per grid; outside of a grid is zero.

    Args:
        grid: Values.
            Shape: (size, height, width, channels)
        rows: Row positions, in units of grid cells.
            Shape: (size, num_rows)
        columns: Column positions, in units of grid cells.
            Shape: (size, num_columns)

    Returns:
        Sampled values.
            Shape: (size, num_rows, num_columns, channels)
    """

    def along_axis(values: Floats, positions: Floats) -> Floats:
        # values: (size, length, ...), positions: (size, m) -> (size, m, ...)
        last = values.shape[1] - 1
        images = np.arange(len(values))[:, None]
        below = np.clip(np.floor(positions), 0, last - 1).astype(np.int64)
        weight = np.clip(positions - below, 0.0, 1.0)
        weight = weight.reshape(weight.shape + (1,) * (values.ndim - 2))
        sampled = (1.0 - weight) * values[images, below] + weight * values[images, below + 1]
        outside = (positions < 0) | (positions > last)
        sampled[outside] = 0.0
        return sampled

    sampled = along_axis(grid, rows)
    return along_axis(sampled.swapaxes(1, 2), columns).swapaxes(1, 2)
