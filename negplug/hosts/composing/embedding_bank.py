"""``EmbeddingBank``: of each sample of a data set the embedding that was computed last.

Training steps compute the embeddings anyway; to keep them costs a few operations and reads nothing
back. Each rank keeps those of its own steps until :meth:`EmbeddingBank.merge` makes all ranks' the
same.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import normalize

from negplug.contract.rows import Rows
from negplug.kernels.distributed import rank, world_size

_NEVER = -1


class EmbeddingBank:
    """One row for each sample; which of several writes counts does not depend on the device.

    Args:
        size: Number of samples.

    Attributes:
        size: Number of samples.
        rows: ``[size, d]``; None until the first write.
        written: How many rows were written, samples that came again included.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.rows: Tensor | None = None
        self.written = 0
        self._stamps = torch.full((size,), _NEVER)  # the number of the write that each row is of
        self._merged = 0

    def write(self, anchors: Rows) -> None:
        """Take the embeddings of a step's anchors; of a sample's views the mean.

        Args:
            anchors: With data set indexes.
        """
        assert anchors.indexes is not None
        rows, indexes = anchors.embeddings.detach(), anchors.indexes
        if anchors.num_views not in (None, 1):
            # View after view.
            rows = rows.view(anchors.num_views, -1, rows.shape[1]).mean(0)
            indexes = indexes[: len(rows)]
        if self.rows is None:
            self.rows = rows.new_zeros(self.size, rows.shape[1])
        if self.rows.device != rows.device or self._stamps.device != rows.device:
            self.rows, self._stamps = self.rows.to(rows), self._stamps.to(rows.device)
        stamps = torch.arange(self.written, self.written + len(rows), device=rows.device)
        # Of a sample that is there twice the later row, whatever order a device writes in.
        self._stamps.scatter_reduce_(0, indexes, stamps, "amax")
        last = self._stamps.index_select(0, indexes) - self.written
        self.rows.index_copy_(0, indexes, rows.index_select(0, last).to(self.rows))
        self.written += len(rows)

    @property
    def merged(self) -> bool:
        """Whether every rank has all that was written."""
        return world_size() == 1 or self.rows is None or self._merged == self.written

    def merge(self) -> None:
        """Give every rank the rows that were written last on any; a collective, once for all."""
        if self.rows is None or self.merged:
            return
        ranks = world_size()
        own = self._stamps * ranks + (ranks - 1 - rank())
        last = own.clone()
        dist.all_reduce(last, dist.ReduceOp.MAX)
        # One rank's, and zero from the others: no sum rounds.
        self.rows = self.rows.where((own == last)[:, None], 0)
        dist.all_reduce(self.rows)
        self._stamps = last.div(ranks, rounding_mode="floor")
        self._merged = self.written

    def unit_rows(self, indexes: Tensor) -> Tensor | None:
        """Return the rows of samples ``[n]`` at length one, ``[n, d]``; None if there are none.

        A row that was never written, or is not finite, is zero.
        """
        if self.rows is None:
            return None
        rows = self.rows.index_select(0, indexes.to(self.rows.device))
        finite = rows.isfinite().all(1, keepdim=True)
        return normalize(rows.where(finite, 0))

    def state_dict(self) -> dict[str, Any]:
        """Return the rows of all ranks; a collective, as :meth:`merge`."""
        self.merge()
        rows = torch.zeros(self.size, 0) if self.rows is None else self.rows.clone()
        return {"rows": rows, "stamps": self._stamps.clone(), "written": self.written}

    @classmethod
    def from_state(cls, state: Any) -> EmbeddingBank:
        """Return what :meth:`state_dict` was of.

        Raises:
            ValueError: If the state is damaged.
        """
        state = state if isinstance(state, dict) else {}
        rows, stamps, written = (state.get(name) for name in ("rows", "stamps", "written"))
        if not (
            isinstance(rows, Tensor)
            and isinstance(stamps, Tensor)
            and rows.ndim == 2
            and rows.is_floating_point()
            and stamps.dtype == torch.int64
            and stamps.shape == rows.shape[:1]
            and type(written) is int
            and _largest(stamps) < written
        ):
            raise ValueError(
                "the checkpoint's embeddings of the composer do not fit together; the file is "
                "damaged"
            )
        bank = cls(len(rows))
        bank.rows = rows.clone() if rows.shape[1] else None
        bank._stamps, bank.written, bank._merged = stamps.clone(), written, written
        return bank


def _largest(stamps: Tensor) -> int:
    return int(stamps.max()) if len(stamps) else _NEVER
