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
from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader

from negplug.contract.batch import ContrastiveBatch
from negplug.contract.composer import Composer
from negplug.hosts.composing.epochs import ComposedEpochs
from negplug.hosts.composing.shares import Shares
from negplug.hosts.injection import Injection
from negplug.hosts.trainer import private
from negplug.hosts.trainer.composed_batches import (
    ComposedBatches,
    replaced_in,
    shares_of,
    uncomposable,
)
from negplug.kernels.announcing import default_device, exchanged
from negplug.kernels.distributed import world_size
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
        self._epochs = ComposedEpochs(composer)
        self._forget()

    def _forget(self) -> None:
        self._trainer: Any = None
        self._epochs.bank, self._epochs.seed = None, 0
        self._resumed = 0
        self._composed: tuple[object, Tensor] | None = None

    def begin(self, trainer: Any) -> None:
        """Begin a fit, which knows nothing of the fits before; all ranks take rank 0's seed."""
        self._forget()
        self._trainer, self._epochs.seed = trainer, seed_of_run(None)
        if world_size() > 1:
            self._epochs.seed = int(exchanged(str(self._epochs.seed), default_device())[0])

    def end(self) -> None:
        """End the fit; what was learnt stays for checkpoints."""
        if self._trainer is not None:
            self._resumed = self._epoch()
        self._trainer = self._composed = None

    @property
    def keeps(self) -> str:
        """Whose state is kept under data set indexes: the composer, or nobody."""
        return str(self.composer) if self._epochs.bank is not None else ""

    def place(self, loader: DataLoader[Any], own: Any) -> Any:
        """Return the batch sampler for a loader whose own one is ``own``."""
        if uncomposable(loader):
            return own  # check() says why, if training is what the loader is for
        return ComposedBatches(own, functools.partial(self._batches, own, loader.dataset))

    def watch(self, injection: Injection) -> None:
        """Keep the embeddings that a treated model computes, if the composer wants them."""
        if self.collects:
            for treated in injection.losses.values():
                treated.numbered_inside = False  # they are told positions, as the bank needs
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
        order = self._order(shares_of(own, loader.dataset), loader.dataset)
        batches = "" if order is None else zlib.crc32(order.numpy().tobytes())
        return f"compose={self.composer}, seed {self._epochs.seed}, batches {batches}"

    def end_epoch(self) -> None:
        """Make all ranks' embeddings the same; a collective."""
        if self._epochs.bank is not None:
            self._epochs.bank.merge()

    def state_dict(self) -> dict[str, Any]:
        """Return the state: tensors and built-in types. A collective where ranks trained."""
        return self._epochs.state_dict(self._resumed if self._trainer is None else self._epoch())

    def load_state_dict(self, state: Any) -> None:
        """Go on where a checkpoint was written.

        Args:
            state: What :meth:`state_dict` of the same composer returned.

        Raises:
            ValueError: If the state is damaged.
        """
        self._resumed = self._epochs.load_state_dict(state)

    def _epoch(self) -> int:
        # A loader may be iterated before Lightning has restored its count.
        return max(self._resumed, private.epochs_done(self._trainer))

    def _batches(self, own: BatchSampler, dataset: Any) -> Iterable[list[int]] | None:
        # A loader may serve validation too, or a loop after the fit.
        if self._trainer is None or not self._trainer.training:
            return None
        shares = shares_of(own, dataset)
        order = self._order(shares, dataset)
        return None if order is None else shares.of_rank(order)

    def _order(self, shares: Shares, dataset: Any) -> Tensor | None:
        """Return the samples of the epoch, batch after batch, once and for all of its passes."""
        key = self._epoch(), shares
        if self._composed is None or self._composed[0] != key:
            if not self._epochs.ready:
                return None
            self._composed = key, self._epochs.order(*key, dataset)
        return self._composed[1]

    def _collect(self, batch: ContrastiveBatch) -> None:
        """Keep the embeddings of a training call."""
        if batch.anchors.indexes is None:
            raise ValueError(
                f"compose={self.composer} needs the data set index of every sample, but "
                f"{batch.unindexed or 'the loss was called without indexes='}"
            )
        self._epochs.learn(batch.anchors, len(private.training_loader(self._trainer).dataset))
