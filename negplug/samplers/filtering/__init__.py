"""What makes a negative a suspected false one: criteria of ``filtered``, each for itself."""

from __future__ import annotations

from torch import Tensor

from negplug.contract.negatives import Columns, Negatives


def at_entries(part: Negatives, values: Tensor) -> Tensor:
    """Return what is known of each entry's row, ``[1 or N, E]``, from values of the rows, ``[K]``.

    Args:
        part: Negatives that are rows of a pool.
        values: ``[K]``, one of each row.
    """
    return values[part.choice.columns] if isinstance(part.choice, Columns) else values[None]
