"""Who is whom in a batch of views: the same in every step, so made once and kept.

Where a host hands over V views of B samples, the rows' numbers, ids, views and positives follow
from V and B alone. A GPU would be asked for them by half a dozen launches in every step, a CPU by
as many operations.

A layout is kept for later calls of any loss in this process, so nobody may write to its tensors.
One that was written to all the same is made anew.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import torch
from torch import Tensor

from negplug.contract.ids import of_this_batch
from negplug.kernels.distributed import rank, world_size
from negplug.kernels.precision import not_inference
from negplug.kernels.torch_private import write_count

_MOST = 8  # a recipe's losses, each with its last, smaller batch


class Layout(NamedTuple):
    """What is known of the N = V·B rows of a batch, view after view, before it is seen.

    Attributes:
        rows: ``[N]`` int64, 0 … N − 1.
        ids: ``[N]`` int64, which number the samples of this batch; one for all views of a sample.
        views: ``[N]`` int64, the view of each row.
        positives: ``[N, V − 1]`` int64, the rows of the sample's other views; of a single view,
            whose keys are other rows, ``[N, 1]``, the key of the same number.
    """

    rows: Tensor
    ids: Tensor
    views: Tensor
    positives: Tensor


def layout_of(views: int, size: int, like: Tensor) -> Layout:
    """Return the layout of ``views`` · ``size`` rows, to be read only.

    Args:
        views: V ≥ 1.
        size: B ≥ 1.
        like: A tensor on the device where the rows are.
    """
    place = views, size, like.device, rank(), world_size()
    if not _lasting(like):
        return _made(*place)
    layout = _kept(*place)
    if any(map(write_count, layout)):
        _kept.cache_clear()
        layout = _kept(*place)
    return layout


def _lasting(like: Tensor) -> bool:
    """Return whether what is made here and now serves later calls."""
    if torch.compiler.is_compiling() or type(like) is not Tensor:
        return False  # what a compiler traces, and what it puts in a tensor's place
    if like.device.type != "cuda":
        return True
    # In its other streams a device computes what no call elsewhere waits for. CUDA graphs are
    # captured there, whose memory is their own and holds no values before they are replayed.
    return torch.cuda.current_stream(like.device) == torch.cuda.default_stream(like.device)


def _made(views: int, size: int, device: torch.device, *_: int) -> Layout:
    rows = torch.arange(views * size, device=device)
    others = size * torch.arange(min(1, views - 1), views, device=device)
    positives = (rows[:, None] + others) % (views * size)
    return Layout(rows, of_this_batch(rows % size), rows // size, positives)


@functools.lru_cache(maxsize=_MOST)
def _kept(*place: Any) -> Layout:
    # Else a training call after one in inference mode could not save it for its backward pass.
    with not_inference():
        return _made(*place)
