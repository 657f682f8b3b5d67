"""Moving averages of the keys of samples, one slot each, written without waiting for a device.

How many samples are new is not known beforehand, so slots are found by the index that they hold.
A new one takes the next free slot, in ascending order of the new indexes.

Kernels: :mod:`negplug.kernels.averages.fused`, in Triton, on a GPU;
:mod:`negplug.kernels.averages.sorting`, in torch operations, on any device.
"""

from __future__ import annotations

from torch import Tensor

from negplug.kernels.averages.sorting import average_by_sorting
from negplug.kernels.choice import Kernel, Operation, lazily, triton_refusal

__all__ = ["AVERAGING", "average_"]

# Keys of which each is compared with all: beyond, a sort takes less time.
_MOST = 2**15


AVERAGING: Operation[int] = Operation(
    "moving averages",
    512,
    (
        Kernel(
            "triton",
            lazily("averages.fused", "fused_average"),
            triton_refusal,
            lambda count: count <= _MOST,
        ),
        Kernel("torch", lambda: average_by_sorting),
    ),
)


def average_(
    rows: Tensor, names: Tensor, keys: Tensor, arriving: Tensor, momentum: float, empty: int
) -> Tensor:
    """Write the mean direction of each sample's keys into its slot.

    Args:
        rows: ``[C, d]``, the slots, of unit length; those that are not written are 0. New samples
            that find no room share the last one.
        names: ``[c, C]`` int64, names of the slots, the second of which is the data set index.
        keys: ``[n, d]``.
        arriving: ``[c, n]`` int64, their names; a slot takes those of its first key.
        momentum: The share of the old value that an update keeps.
        empty: The index of a slot that is not written.

    Returns:
        How many slots the samples need, ``[]`` int64: more than C where there was no room.
    """
    kernel = AVERAGING.kernel(rows.device, len(keys))
    needed: Tensor = kernel(rows, names, keys, arriving, momentum, empty)
    return needed
