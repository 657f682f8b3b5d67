"""``ComposedEpochs``: a composer and what it has learnt of one data set.

The order of an epoch follows from the embeddings of the epochs before, the seed and the number of
the epoch alone. As long as a composer lacks the embeddings that it needs, it composes nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from negplug.contract.composer import Composer
from negplug.contract.dataset import DatasetAccess
from negplug.contract.rows import Rows
from negplug.hosts.columns import Columns
from negplug.hosts.composing.embedding_bank import EmbeddingBank
from negplug.hosts.composing.shares import Shares
from negplug.hosts.subsets import Parents
from negplug.kernels import late
from negplug.kernels.errors import RanksError


class ComposedEpochs:
    """Composes epochs of one data set after another.

    Args:
        composer: Says who meets whom.

    Attributes:
        composer: The composer.
        seed: Of its draws.
        bank: The embeddings that steps have computed; None before the first ones.
    """

    def __init__(self, composer: Composer) -> None:
        self.composer = composer
        self.seed = 0
        self.bank: EmbeddingBank | None = None
        self._columns, self._parents = Columns(), Parents()

    @property
    def ready(self) -> bool:
        """Whether there is all that the composer needs."""
        learnt = self.bank is not None and self.bank.rows is not None
        return learnt or not self.composer.wants_embeddings

    def order(self, epoch: int, shares: Shares, dataset: Any) -> Tensor:
        """Return the samples of an epoch, batch after batch; at random if it is not ready.

        Raises:
            ValueError: If the embeddings are of another data set.
        """
        if self.bank is not None and self.bank.size != shares.samples:
            raise ValueError(
                f"{self.composer} has embeddings of {self.bank.size} samples, but the training "
                f"data set has {shares.samples}; train on one data set"
            )
        self._parents.read_again()
        self._columns.read_again()
        about = DatasetAccess(
            size=shares.samples,
            parent=self._parents.of(dataset),
            column=functools.partial(self._columns.of, dataset),
        )
        composer = self.composer if self.ready else None
        return shares.composed(composer, self.seed, epoch, about, self.bank)

    def learn(self, anchors: Rows, size: int) -> None:
        """Keep the embeddings of a step.

        Args:
            anchors: With data set indexes.
            size: Number of samples of the data set.

        Raises:
            ValueError: If an index is of no sample, or the width is not that of the steps before.
        """
        assert anchors.indexes is not None
        if self.bank is None:
            self.bank = EmbeddingBank(size)
        indexes, size, width = anchors.indexes, self.bank.size, anchors.embeddings.shape[1]
        if self.bank.rows is not None and self.bank.rows.shape[1] != width:
            raise ValueError(
                f"{self.composer} has embeddings of width {self.bank.rows.shape[1]} and was given "
                f"some of width {width}; give those of one head"
            )

        def error() -> ValueError:
            lowest, highest = map(int, indexes.aminmax())
            return ValueError(
                f"{self.composer} needs indexes of the data set, from 0 to {size - 1}, but those "
                f"that were provided go from {lowest} to {highest}; provide places in the data "
                f"set, or none"
            )

        late.check("indexes of a composer", ((indexes < 0) | (indexes >= size)).any(), error)
        self.bank.write(anchors)

    def state_dict(self, epoch: int) -> dict[str, Any]:
        """Return the state in epoch ``epoch``: tensors and built-in types.

        A collective where ranks have learnt what is not merged.
        """
        bank = None if self.bank is None else self.bank.state_dict()
        return {"composer": str(self.composer), "seed": self.seed, "epoch": epoch, "bank": bank}

    def load_state_dict(self, state: Any) -> int:
        """Go on where a checkpoint was written; return its epoch.

        Args:
            state: What :meth:`state_dict` of the same composer returned.

        Raises:
            ValueError: If the state is damaged.
        """
        seed, epoch, bank = state.get("seed"), state.get("epoch"), state.get("bank")
        if type(seed) is not int or type(epoch) is not int or epoch < 0:
            raise ValueError(
                f"the checkpoint's state of the composer has the seed {str(seed)[:40]} and the "
                f"epoch {str(epoch)[:40]}; the file is damaged"
            )
        restored = None if bank is None else EmbeddingBank.from_state(bank)
        self.seed, self.bank = seed, restored
        return epoch


def check_same(state: Any, composer: Composer | None) -> None:
    """Raise ``ValueError`` unless a checkpoint was composed as this run is.

    Args:
        state: Of the checkpoint's composer; None if it has none.
        composer: Of this run; None if it has none.
    """
    saved = None if state is None else state.get("composer") if isinstance(state, dict) else "?"
    own = None if composer is None else str(composer)
    if saved != own:
        names = [f"compose={str(name)[:1000]}" if name else "no compose" for name in (saved, own)]
        raise ValueError(
            f"the checkpoint was written with {names[0]}, this run has {names[1]}; resume with the "
            f"same expression"
        )


def compare(everyones: Sequence[str]) -> None:
    """Raise ``RanksError`` unless all ranks say the same of what they compose."""
    for rank, said in enumerate(everyones):
        if said != everyones[0]:
            raise RanksError(
                f"the ranks compose different batches: rank 0 has {everyones[0]}, rank {rank} has "
                f"{said}; all ranks of a run need the same"
            )
