"""Guides: embeddings of another model, which does not learn, one for each sample of the data set.

They are given as a table, or as a function that embeds samples (a frozen encoder on images without
augmentation). The function is asked once for every sample, in the first training step, so that
later steps look up rows of a table in either case.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import normalize

from negplug.contract.dataset import DatasetAccess
from negplug.kernels.rng_states import isolated_rng
from negplug.samplers.common.metadata_given import read_table
from negplug.samplers.common.metadata_table import MetadataTable

Embedder: TypeAlias = Callable[[Tensor], Tensor]
"""Maps data set indexes ``[n]`` int64, on the CPU, to embeddings ``[n, d]``."""

_AT_ONCE = 256  # samples, as a batch has them


class Guide(MetadataTable):
    """Embeddings ``[n, d]`` of unit length, looked up by data set index.

    Args:
        name: The sampler's name, for messages.
        guide: The path of a ``.npy`` file, a tensor, or a function that embeds.
        parent: Whether it is of the data set that the training ``Subset`` was taken from.

    Raises:
        TypeError, ValueError: If a table cannot be used.
    """

    def __init__(self, name: str, guide: str | Tensor | Embedder, parent: bool) -> None:
        self._embed: Embedder | None = None
        if isinstance(guide, Tensor) or not callable(guide):
            super().__init__(name, unit_embeddings(*read_table(name, "guide", guide)), parent)
            return
        super().__init__(name, torch.empty(0, 1), parent)
        self._embed, self._unread = guide, True

    def __str__(self) -> str:
        """Return what tells this guide from others; of a function its name."""
        if self._embed is None:
            return super().__str__()
        return f"function {getattr(self._embed, '__qualname__', type(self._embed).__name__)}"

    def _fit(self, dataset: DatasetAccess) -> None:
        if self._embed is not None and self._unread:
            self._given = self.table = self._embedded(self._embed, dataset)
            self._unread = False
        super()._fit(dataset)

    @torch.no_grad()
    def _embedded(self, embed: Embedder, dataset: DatasetAccess) -> Tensor:
        """Return the embeddings of all samples.

        Raises:
            TypeError, ValueError: If their number is unknown, or the function returns others.
        """
        of_parent = self.parent and dataset.parent is not None
        size = dataset.parent.size if of_parent and dataset.parent else dataset.size
        if size is None:
            raise ValueError(
                f"{self.name}: guide=… is a function of data set indexes, but the number of "
                f"samples is unknown; a plain loop has to call provide(dataset=…) of what inject "
                f"returned, or give the embeddings themselves as a tensor"
            )
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        parts = []
        with isolated_rng(device):  # dropout, say, of an encoder that is not in eval mode
            for first in range(0, size, _AT_ONCE):
                asked = torch.arange(first, min(first + _AT_ONCE, size), device="cpu")
                part = embed(asked)
                found = tuple(part.shape) if isinstance(part, Tensor) else type(part).__name__
                if not isinstance(part, Tensor) or part.ndim != 2 or len(part) != len(asked):
                    raise ValueError(
                        f"{self.name}: guide must return embeddings [n, d] for indexes [n], got "
                        f"{found} for {len(asked)}"
                    )
                parts.append(part.detach().to(torch.device("cpu")))
        return unit_embeddings(f"{self.name}: guide", torch.cat(parts))


def unit_embeddings(what: str, table: Tensor) -> Tensor:
    """Return embeddings ``[n, d]`` at length one in float32.

    Raises:
        TypeError, ValueError: If they are none.
    """
    if not table.is_floating_point():
        raise TypeError(f"{what} must hold floating-point embeddings, got {table.dtype}")
    if table.ndim != 2 or not table.numel():
        raise ValueError(f"{what} must hold embeddings, [n, d], got {tuple(table.shape)}")
    if not table.isfinite().all():
        raise ValueError(f"{what} must hold finite embeddings, got NaN or infinity")
    return normalize(table.to(torch.float64), dim=1).to(torch.float32)
