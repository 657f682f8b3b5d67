"""Metadata as a user gives it: a ``.npy`` file or a tensor of numbers, or the name of a column."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from negplug.contract.ids import UNKNOWN
from negplug.contract.labels import whole_numbers

_OTHER_FILES = (".csv", ".json", ".npy", ".npz", ".parquet", ".pkl", ".pt", ".pth", ".tsv", ".txt")


def check_column(name: str, by: object, otherwise: str) -> str:
    """Return the name of a column of the data set; raise unless it can be one.

    Args:
        name: The sampler's name.
        by: What was given.
        otherwise: What else ``by`` may be.

    Raises:
        TypeError, ValueError: If it is no text, empty, or the path of a file of another kind.
    """
    wanted = f"{name}: by must be {otherwise} or the name of a column of the data set, got {by!r}"
    if not isinstance(by, str):
        raise TypeError(wanted)
    if not by.strip() or "/" in by or by.endswith(_OTHER_FILES):
        raise ValueError(f"{wanted}; other metadata can be saved with numpy.save")
    return by


def read_table(name: str, argument: str, given: str | Tensor) -> tuple[str, Tensor]:
    """Return how to call a table in messages, and its numbers.

    Args:
        name: The sampler's name.
        argument: What the sampler calls the table.
        given: The path of a ``.npy`` file, or a tensor.

    Raises:
        TypeError, ValueError: If it is neither, or holds no numbers.
        ModuleNotFoundError: If the file needs NumPy and there is none.
    """
    if isinstance(given, Tensor):
        return f"{name}: {argument}", given.detach().clone()
    if not isinstance(given, str):
        raise TypeError(
            f"{name}: {argument} must be the path of a .npy file or a tensor of numbers, "
            f"got {type(given).__name__}"
        )
    what = f"{name}: {argument}={given!r}"
    if not given.endswith(".npy"):
        raise ValueError(
            f"{what} must be the path of a .npy file; other metadata can be saved with numpy.save"
        )
    return what, _load(what, given)


def check_classes(what: str, table: Tensor, kind: str = "strata") -> Tensor:
    """Return a table ``[n]`` of classes as int64; raise unless it holds integers from -1 on."""
    if table.is_floating_point() or table.is_complex() or table.dtype == torch.bool:
        raise TypeError(f"{what} must hold integers, got {table.dtype}")
    if table.ndim != 1 or not len(table):
        raise ValueError(f"{what} must be one-dimensional and not empty, got {tuple(table.shape)}")
    table = whole_numbers(what, table)
    if int(table.min()) < UNKNOWN:
        raise ValueError(
            f"{what} must hold {kind} from 0 upwards, or -1 where unknown, got {int(table.min())}"
        )
    return table


def _load(what: str, path: str) -> Tensor:
    try:
        import numpy as np
    except ImportError:
        raise ModuleNotFoundError(
            f"{what} is read with NumPy, which is not installed; pip install numpy, "
            f"or give a tensor"
        ) from None
    if not Path(path).is_file():
        raise ValueError(f"{what} names no file; the path is relative to {Path.cwd()}")
    try:
        array = np.load(path, allow_pickle=False)
    except Exception as error:  # a damaged header may say anything
        raise ValueError(
            f"{what} holds no array of numbers that numpy.load can read: {str(error)[:200]}"
        ) from None
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{what} is an archive of arrays; save one with numpy.save")
    if array.dtype.kind in "fc?":
        return torch.from_numpy(array.astype(array.dtype.newbyteorder("=")))
    if array.dtype.kind not in "iu":
        raise TypeError(f"{what} must hold integers, got {array.dtype}")
    if array.size and array.max() > np.iinfo(np.int64).max:
        raise ValueError(f"{what} must be below 2**63, got {array.max()}")
    return torch.from_numpy(array.astype(np.int64))
