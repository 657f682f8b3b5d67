"""Reading a checkpoint without running what is in it.

A checkpoint is a pickle, and a pickle may call anything. torch reads one in which only tensors and
built-in types occur (``weights_only``). Recipes put more beside them: paths, configurations, enums.
Each such class is replaced by an empty one of its name, so that the rest can be read.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

# Of what torch says of a file, in characters.
_LONGEST = 300


class Unread:
    """Stands for an object of a class that only the writer of a checkpoint has."""

    def __new__(cls, *_: Any, **__: Any) -> Unread:
        """Take any arguments, and do nothing with them."""
        return object.__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        """Take any arguments, and do nothing with them."""

    def __setstate__(self, _: Any) -> None:
        """Take any state, and do nothing with it."""


def read_checkpoint(path: str | Path) -> Any:
    """Return what ``torch.save`` or a Trainer has written, on the CPU.

    Tensors stay on the disk until they are used. No code of the file runs: what is neither a
    tensor nor of a built-in type becomes an :class:`Unread`.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is no checkpoint, a damaged one, or one that asks for what torch blocks.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(
            f"{path} is a folder, as sharded checkpoints are; name a file that one process wrote"
        )
    with path.open("rb"):
        pass  # so that what cannot be opened says so in the system's words
    try:
        names = get_unsafe_globals_in_checkpoint(str(path))
        with safe_globals([_stand_in(name) for name in names]):
            return torch.load(str(path), map_location="cpu", weights_only=True, mmap=True)
    except OSError:
        raise
    except Exception as error:  # of any kind: an unpickler believes what it reads
        # torch wraps what it found in the advice to run the code.
        found = error.__context__ if isinstance(error, pickle.UnpicklingError) else error
        why = " ".join(str(found or error).split())[:_LONGEST]
        raise ValueError(f"{path} cannot be read as a checkpoint of torch.save: {why}") from error


def _stand_in(name: str) -> type[Unread]:
    """Return an empty class of the full name of another."""
    module, _, own = name.rpartition(".")
    return type(own, (Unread,), {"__module__": module, "__qualname__": own})
