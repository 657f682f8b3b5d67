"""``Composition``: a composer at work in one Trainer.

The recipe's own batches are what an epoch has as long as nothing is known that the composer needs:
the first epoch, for one that needs embeddings. The embeddings are those that the first treated loss
is given, kept in a bank as the steps compute them. At the end of an epoch the ranks' banks become
one, so that each rank composes the same batches of the next epoch, from that bank, the seed and the
number of the epoch alone. Bank and seed are in the checkpoint.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader

from negplug.contract.batch import ContrastiveBatch
from negplug.contract.composer import Composer
from negplug.contract.dataset import DatasetAccess
from negplug.hosts.columns import Columns
from negplug.hosts.embedding_bank import EmbeddingBank
from negplug.hosts.injection import Injection
from negplug.hosts.subsets import Parents
from negplug.hosts.trainer import private
from negplug.hosts.trainer.composed_batches import (
    ComposedBatches,
    Shares,
    replaced_in,
    uncomposable,
)
from negplug.kernels import late
from negplug.kernels.announcing import default_device, exchanged
from negplug.kernels.distributed import world_size
from negplug.kernels.errors import RanksError
from negplug.loss.agreement import seed_of_run


class Composition:
    """Composes the batches of a Trainer's epochs.

    Args:
        composer: Says who meets whom.

    Attributes:
        composer: The composer.
        collects: Whether it keeps the embeddings that steps compute.
    """

    def __init__(self, composer: Composer) -> None:
        self.composer = composer
        self.collects = composer.wants_embeddings
        self._columns, self._parents = Columns(), Parents()
        self._forget()

    def _forget(self) -> None:
        self._trainer: Any = None
        self._bank: EmbeddingBank | None = None
        self._seed = 0
        self._resumed = 0
        self._composed: tuple[object, Tensor] | None = None

    def begin(self, trainer: Any) -> None:
        """Begin a fit, which knows nothing of the fits before; all ranks take rank 0's seed."""
        self._forget()
        self._trainer, self._seed = trainer, seed_of_run(None)
        if world_size() > 1:
            self._seed = int(exchanged(str(self._seed), default_device())[0])

    def end(self) -> None:
        """End the fit; what was learnt stays for checkpoints."""
        if self._trainer is not None:
            self._resumed = self._epoch()
        self._trainer = self._composed = None

    @property
    def keeps(self) -> str:
        """Whose state is kept under data set indexes: the composer, or nobody."""
        return str(self.composer) if self._bank is not None else ""

    def place(self, loader: DataLoader[Any], own: Any) -> Any:
        """Return the batch sampler for a loader whose own one is ``own``."""
        if uncomposable(loader):
            return own  # check() says why, if training is what the loader is for
        return ComposedBatches(own, functools.partial(self._batches, own, loader.dataset))

    def watch(self, injection: Injection) -> None:
        """Keep the embeddings that a treated model computes, if the composer wants them."""
        if self.collects:
            next(iter(injection.losses.values())).collect_for(self._collect)

    def check(self) -> str:
        """See that the training loader is composed; return what the ranks must have in common.

        Raises:
            ValueError: If its batches cannot be composed.
        """
        loader = private.training_loader(self._trainer)
        reason, own = uncomposable(loader), replaced_in(loader)
        if not reason and self._trainer.overfit_batches > 0:
            reason = "overfit_batches trains on the same batches again and again"
        if not reason and own is None:
            reason = "the training DataLoader was exchanged during fit"
        if own is None or reason:
            raise ValueError(
                f"compose={self.composer} cannot compose the batches, because {reason}; give the "
                f"Trainer one DataLoader with a batch_size and no sampler of its own, or leave "
                f"compose out"
            )
        order = self._order(Shares.of(own, loader.dataset), loader.dataset)
        batches = "" if order is None else zlib.crc32(order.numpy().tobytes())
        return f"compose={self.composer}, seed {self._seed}, batches {batches}"

    def end_epoch(self) -> None:
        """Make all ranks' embeddings the same; a collective."""
        if self._bank is not None:
            self._bank.merge()

    def state_dict(self) -> dict[str, Any]:
        """Return the state: tensors and built-in types. A collective where ranks trained."""
        bank = None if self._bank is None else self._bank.state_dict()
        epoch = self._resumed if self._trainer is None else self._epoch()
        return {"composer": str(self.composer), "seed": self._seed, "epoch": epoch, "bank": bank}

    def load_state_dict(self, state: Any) -> None:
        """Go on where a checkpoint was written.

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
        self._seed, self._resumed = seed, epoch
        self._bank = None if bank is None else EmbeddingBank.from_state(bank)

    def _epoch(self) -> int:
        # A loader may be iterated before Lightning has restored its count.
        return max(self._resumed, private.epochs_done(self._trainer))

    def _batches(self, own: BatchSampler, dataset: Any) -> Iterable[list[int]] | None:
        # A loader may serve validation too, or a loop after the fit.
        if self._trainer is None or not self._trainer.training:
            return None
        shares = Shares.of(own, dataset)
        order = self._order(shares, dataset)
        return None if order is None else shares.of_rank(order)

    def _order(self, shares: Shares, dataset: Any) -> Tensor | None:
        """Return the samples of the epoch, batch after batch, once and for all of its passes."""
        key = self._epoch(), shares
        if self._composed is not None and self._composed[0] == key:
            return self._composed[1]
        if self.collects and (self._bank is None or self._bank.rows is None):
            return None
        if self._bank is not None and self._bank.size != shares.samples:
            raise ValueError(
                f"compose={self.composer} has embeddings of {self._bank.size} samples, but the "
                f"training data set has {shares.samples}; train on one data set"
            )
        about = DatasetAccess(
            size=shares.samples,
            parent=self._parents.of(dataset),
            column=functools.partial(self._columns.of, dataset),
        )
        order = shares.composed(self.composer, self._seed, key[0], about, self._bank)
        self._composed = key, order
        return order

    def _collect(self, batch: ContrastiveBatch) -> None:
        """Keep the embeddings of a training call."""
        anchors = batch.anchors
        if anchors.indexes is None:
            raise ValueError(
                f"compose={self.composer} needs the data set index of every sample, but "
                f"{batch.unindexed or 'the loss was called without indexes='}"
            )
        if self._bank is None:
            loader = private.training_loader(self._trainer)
            self._bank = EmbeddingBank(len(loader.dataset))
        indexes, size = anchors.indexes, self._bank.size

        def error() -> ValueError:
            lowest, highest = map(int, indexes.aminmax())
            return ValueError(
                f"compose={self.composer} needs indexes of the data set, from 0 to {size - 1}, but "
                f"those that were provided go from {lowest} to {highest}; provide places in the "
                f"data set, or none"
            )

        late.check("indexes of a composer", ((indexes < 0) | (indexes >= size)).any(), error)
        self._bank.write(anchors)


def compare(everyones: Sequence[str]) -> None:
    """Raise ``RanksError`` unless all ranks say the same of what they compose."""
    for rank, said in enumerate(everyones):
        if said != everyones[0]:
            raise RanksError(
                f"the ranks compose different batches: rank 0 has {everyones[0]}, rank {rank} has "
                f"{said}; all ranks of a run need the same"
            )


def check_same(state: Any, composer: Composer | None) -> None:
    """Raise ``ValueError`` unless a checkpoint was composed as this run is.

    Args:
        state: Of the checkpoint's composition; None if it has none.
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
