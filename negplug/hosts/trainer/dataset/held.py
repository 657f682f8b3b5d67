"""What a data set holds out of sight: in functions, in readers of its own, in files.

A data set may read its samples by a function that was given to it, and the data are what that
function has closed over or was bound to. Or an object of its own reads them from a file, opened
when the first sample is asked for. Nothing is called or opened here but the files themselves, whose
first bytes, last bytes and some between are read: two of one size may hold other samples.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import os
import sys
import types
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from torch.utils.data import Dataset

from negplug.hosts.trainer.dataset.paths import is_path

_DEPTH = 3
_FILES = 16
"""Of a folder with more entries nothing is read."""
_BLOCKS, _BYTES = 8, 512
"""Of a file, so many blocks of so many bytes are read."""
_FETCH = ("__getitem__", "__getitems__")
_CHANGES = ("transform", "augment", "collate")
"""In names of what changes samples, and holds none."""
_LOCKS = ("lock", "journal", "wal", "shm")
"""In names of files beside a database, which change as it is read."""

_PLAIN = (bool, int, float, str, bytes)
_FOREIGN = {*sys.stdlib_module_names, "numpy", "torch", "torchvision"}


def held_by(dataset: Any) -> Iterator[tuple[str, Any]]:
    """Yield what is in functions and readers that a data set holds, and what these are called."""
    own = sorted(getattr(dataset, "__dict__", {}).items())
    own += [(name, getattr(type(dataset), name, None)) for name in _FETCH]
    for name, value in own:
        if not any(word in name for word in _CHANGES) and value is not dataset:
            for inner, held in _inside(value, name, 0):
                if held is not dataset:
                    yield inner, held


def contents(value: Any) -> set[str]:
    """Return what tells the file, or the files of the folder, that a path or a handle is of.

    Where they lie does not matter. Nothing of anything else, and of folders with many entries.
    """
    path = _path_of(value)
    if path is None:
        return set()
    try:
        files = [path] if os.path.isfile(path) else _files_in(path)
        return {_digest(file) for file in files}
    except OSError:
        return set()


def _inside(value: Any, name: str, depth: int) -> Iterator[tuple[str, Any]]:
    """Yield what a function was given, or what a reader keeps but for its plain settings."""
    inner: list[tuple[str, Any]] = []
    if depth >= _DEPTH:
        return
    if isinstance(value, functools.partial):
        inner = [("func", value.func), *_numbered(value.args), *value.keywords.items()]
    elif isinstance(value, types.MethodType):
        inner = [("self", value.__self__)]
    elif isinstance(value, types.FunctionType):
        cells = zip(value.__code__.co_freevars, value.__closure__ or (), strict=True)
        inner = [(free, cell.cell_contents) for free, cell in cells if _is_full(cell)]
        inner += [*_numbered(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).items()]
    elif _is_reader(value):
        kept = sorted(vars(value).items())
        inner = [each for each in kept if is_path(each[1]) or not isinstance(each[1], _PLAIN)]
    for key, held in inner:
        if not isinstance(held, (type, types.ModuleType)):
            yield f"{name}.{key}", held
            yield from _inside(held, f"{name}.{key}", depth + 1)


def _numbered(values: tuple[Any, ...]) -> list[tuple[str, Any]]:
    return [(str(number), value) for number, value in enumerate(values)]


def _is_full(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:  # not assigned yet
        return False


def _is_reader(value: Any) -> bool:
    """Return whether a value is an object of the recipe's own."""
    if isinstance(value, (type, types.ModuleType, Dataset, nn.Module, Tensor)):
        return False
    home = type(value).__module__.partition(".")[0]
    return hasattr(value, "__dict__") and home not in _FOREIGN


def _path_of(value: Any) -> str | None:
    """Return a path, or that of an open file: Python's own, or numpy's, h5py's, zipfile's."""
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    elif not isinstance(value, str):
        name = getattr(value, "name", None) if hasattr(value, "close") else None
        value = getattr(value, "filename", None) or name
    if not isinstance(value, str) or "\0" in value:
        return None
    return value if is_path(value) or os.path.isfile(value) else None


def _files_in(folder: Any) -> list[str]:
    with os.scandir(folder) as found:
        entries = list(itertools.islice(found, _FILES + 1))
    if len(entries) > _FILES:
        return []
    files = [entry.path for entry in entries if entry.is_file()]
    return [file for file in files if not any(w in os.path.basename(file) for w in _LOCKS)]


def _digest(file: Any) -> str:
    """Return the size of a file and a digest of some of its bytes."""
    size = os.path.getsize(file)
    digest = hashlib.blake2b(digest_size=8)
    with open(file, "rb") as data:
        for block in range(_BLOCKS):
            data.seek(max(0, size - _BYTES) * block // (_BLOCKS - 1))
            digest.update(data.read(_BYTES))
    return f"{size} {digest.hexdigest()}"
