"""Tensors of one process: what is spread over ranks as a ``DTensor`` is no rank's own."""

from __future__ import annotations

from torch import Tensor


def check_local(name: str, tensor: Tensor) -> None:
    """Raise ``TypeError`` if a tensor is a ``DTensor``.

    Models that ``fully_shard`` has sharded return plain tensors; a ``DTensor`` comes of other
    parallelism, or of a parameter.
    """
    # By a method: to import the class takes long, and this is asked in each call.
    if type(tensor) is not Tensor and hasattr(tensor, "full_tensor"):
        placed = getattr(tensor, "placements", ())
        raise TypeError(
            f"{name} is a DTensor placed as {placed}, but a loss takes what each rank "
            f"has of its own; hand over {name}.to_local() if the ranks have samples of their own, "
            f"else {name}.full_tensor()"
        )
