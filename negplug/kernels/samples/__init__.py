"""The samples of a pool: which rows are views of the same one, their order, where one is.

Kernels: :mod:`negplug.kernels.samples.fused`, programs in Triton that compare all with all, on a
GPU; :mod:`negplug.kernels.samples.host`, in numpy, where values are free to read;
:mod:`negplug.kernels.samples.sorting`, in torch operations, on any device.
"""

from __future__ import annotations

from torch import Tensor

from negplug.kernels.choice import Kernel, Operation, lazily, numpy_refusal, triton_refusal
from negplug.kernels.samples.host import found_on_host, grouped_on_host, shuffled_on_host
from negplug.kernels.samples.sorting import (
    found_by_sorting,
    grouped_by_sorting,
    shuffled_by_sorting,
)

__all__ = ["FINDING", "GROUPING", "SHUFFLING", "find", "group", "shuffle"]


# Beyond so many rows a sort takes less time than to compare each with all.
_MOST = 2**15


def _few(count: int) -> bool:
    return count <= _MOST


GROUPING: Operation[int] = Operation(
    "samples of a pool",
    512,
    (
        Kernel("triton", lazily("samples.fused", "fused_groups"), triton_refusal, _few),
        Kernel("numpy", lambda: grouped_on_host, numpy_refusal),
        Kernel("torch", lambda: grouped_by_sorting),
    ),
)
SHUFFLING: Operation[int] = Operation(
    "order of samples",
    256,
    (
        Kernel("triton", lazily("samples.fused", "fused_shuffle"), triton_refusal, _few),
        Kernel("numpy", lambda: shuffled_on_host, numpy_refusal),
        Kernel("torch", lambda: shuffled_by_sorting),
    ),
)
FINDING: Operation[int] = Operation(
    "look-up of samples",
    256,
    (
        Kernel("triton", lazily("samples.fused", "fused_find"), triton_refusal, _few),
        Kernel("numpy", lambda: found_on_host, numpy_refusal),
        Kernel("torch", lambda: found_by_sorting),
    ),
)


def group(indexes: Tensor, views: Tensor, number: int, empty: int) -> tuple[Tensor, Tensor]:
    """Group rows by sample.

    Args:
        indexes: ``[K]`` int64, the sample of each row.
        views: ``[K]`` int64, its view; each sample is there as often in any view as in another.
        number: V, of the views.
        empty: Stands for a sample where there are fewer than K/V; larger than any.

    Returns:
        The samples ``[K/V]`` int64, ascending, and for each view the row of each, ``[V, K/V]``
        int64: the first, where a view of a sample is there twice. Of an empty sample, -1 or rows
        that are no sample's.
    """
    kernel = GROUPING.kernel(indexes.device, len(indexes))
    grouped: tuple[Tensor, Tensor] = kernel(indexes, views, number, empty)
    return grouped


def shuffle(
    samples: Tensor, rows: Tensor, seed: int | Tensor, empty: int | None = None
) -> tuple[Tensor, Tensor]:
    """Return samples ``[C]`` and rows ``[V, C]`` in random order; empty samples stay the last.

    Sample c has the place of ⌊h_c/2⌋ of :mod:`negplug.kernels.random` among those of all.

    Args:
        samples: ``[C]`` int64.
        rows: ``[V, C]`` int64.
        seed: A signed 64-bit integer; or an int64 ``[]``, which only torch operations read.
        empty: What stands for a sample that is none; None if all are some.
    """
    if isinstance(seed, Tensor):
        return shuffled_by_sorting(samples, rows, seed, empty)
    kernel = SHUFFLING.kernel(samples.device, len(samples))
    shuffled: tuple[Tensor, Tensor] = kernel(samples, rows, seed, empty)
    return shuffled


def find(samples: Tensor, wanted: Tensor) -> Tensor:
    """Return the column of each of ``wanted`` ``[…]`` int64 among ``samples`` ``[C]``, or -1."""
    found: Tensor = FINDING.kernel(samples.device, len(samples))(samples, wanted)
    return found
