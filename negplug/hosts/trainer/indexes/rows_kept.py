"""Whether a recipe keeps the rows of its batches in order, between its loader and its loss.

The collate function is watched where it works (:mod:`.collate`). Behind it come the hooks that
transfer a batch, those that callbacks have at its start, and ``training_step``: each may shuffle,
drop or repeat rows, or mix them. In the first steps of a fit, and in the first of each epoch, they
run with rows that are marked (:mod:`.row_marks`), and the marks are looked at where the loss is
called.
"""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from negplug.hosts.nested import tensors_in, tensors_of_batch
from negplug.hosts.trainer.indexes.row_marks import MIXED, RowMarks
from negplug.hosts.trainer.indexes.watched_collate import INSTEAD
from negplug.hosts.trainer.stand_in import HookStandIn
from negplug.hosts.treated_loss import TreatedLoss
from negplug.kernels.torch_private import is_compiled

_STEPS = 2
_TRANSFERS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")
_START = "on_train_batch_start"
_NOT_ITS_LABELS = "so the labels that its loader gave are not known to be those of the rows"

_Wrong: TypeAlias = tuple[int, int] | None
"""A row, and the sample that it is of or :data:`MIXED`; None if no row is wrong."""


class RowsKept:
    """Watches the first steps of a fit.

    Args:
        trainer: The Trainer, before it fetches a batch.
        model: What it fits.
        losses: The treated losses that need to know whose rows theirs are.

    Attributes:
        size: How many samples the batch has that is trained on; None if nobody says it.
        unindexed: Why the rows of batches are not those that were drawn, as a clause; empty if they
            are, as far as is known.
        unlabeled: Why they are not those of the labels that were read off the batch, likewise.
    """

    def __init__(self, trainer: Any, model: nn.Module, losses: Iterable[TreatedLoss]) -> None:
        self.unindexed = self.unlabeled = ""
        self.size: int | None = None
        self._trainer = trainer
        self._losses = list(losses)
        self._marks = RowMarks()
        self._left = _STEPS
        self._size = 1
        self._again = self._followed = self._told = False
        self._moved: list[str] = []
        self._hooks: list[HookStandIn] = []
        self._model = model
        if any(_is_compiled(module) for module in model.modules()):
            self._left = 0  # it would be compiled anew
        else:
            self._start()

    def end_step(self) -> None:
        """Watch one step less; before an epoch begins, its first one."""
        self._left = max(0, self._left - 1)
        if self._hooks and not self._left:
            self.stop()
            self._again = True
        elif self._again and self._looks_on and self._trainer.is_last_batch:
            self._left = 1
            self._start()

    def stop(self) -> None:
        """Watch nothing more."""
        while self._hooks:
            self._hooks.pop().take_off()
        for treated in self._losses:
            treated.looks = None

    def reading(self) -> contextlib.AbstractContextManager[Any]:
        """Return a context inside which what is read off a batch keeps its marks."""
        return self._marks if self._hooks else contextlib.nullcontext()

    @property
    def _looks_on(self) -> bool:
        """Whether a loss uses what has not been found to be of other rows."""
        return any(
            (loss.wants_indexes and not self.unindexed)
            or (loss.wants_labels and not self.unlabeled)
            for loss in self._losses
        )

    def _start(self) -> None:
        owners = [self._model, *filter(None, [getattr(self._trainer, "datamodule", None)])]
        hooks = [(owner, name) for owner in owners for name in _TRANSFERS]
        hooks += [(owner, _START) for owner in (*self._trainer.callbacks, self._model)]
        hooks = [(owner, name) for owner, name in hooks if _is_own(owner, name)]
        transfers = any(name in _TRANSFERS for _, name in hooks)
        for number, (owner, name) in enumerate([*hooks, (self._model, "training_step")]):
            # Behind it nothing is known of what a hook has made by other means.
            self._watch(owner, name, begins=name in _TRANSFERS or (not transfers and not number))
        for treated in self._losses:
            treated.looks = self._look

    def _watch(self, owner: Any, name: str, begins: bool) -> None:
        own = getattr(owner, name)
        of_callback = name == _START and owner is not self._model
        said = f"{type(owner).__name__}.{name}" if of_callback else name

        @functools.wraps(own)
        def watched(*args: Any, **kwargs: Any) -> Any:
            if hook.over or not self._trainer.training or torch.compiler.is_compiling():
                return own(*args, **kwargs)
            # A callback is given the Trainer and the model ahead of the batch.
            batch = [*args, *kwargs.values()][2 if of_callback else 0]
            given, before = list(tensors_of_batch(batch)), (self._size, self._followed)
            size = _size(given)
            if name == "training_step":
                self._size = size = self.size or size
            if begins:
                self._marks.begin(given, size)
                self._mark_samples(batch, size)
            if name == "training_step":
                self._followed = bool(self._marks_in(given))
            try:
                with self._marks:
                    result = own(*args, **kwargs)
            finally:
                # Those of a step that has samples outside the batch embedded, or of none.
                self._size, self._followed = before
            if name != "training_step" and self._wrong_in(
                tensors_of_batch([batch, result]), _in_order(size)
            ):
                self._moved.append(said)
            return result

        hook = HookStandIn(watched, owner, name)

        setattr(owner, name, hook)
        self._hooks.append(hook)

    def _mark_samples(self, batch: Any, size: int) -> None:
        """Mark what is in lists with an entry for each sample, where nothing is stacked yet."""
        if isinstance(batch, Mapping):
            batch = list(batch.values())
        if not isinstance(batch, (list, tuple)):
            return
        for number, part in enumerate(batch):
            if len(batch) != size:
                self._mark_samples(part, size)
                continue
            for tensor in tensors_of_batch(part):
                if self._marks.of(tensor) is None:
                    self._marks.set(tensor, torch.tensor(number, dtype=torch.int32))

    def _marks_in(self, tensors: Iterable[Tensor]) -> list[Tensor]:
        """Return the marks of embeddings and images."""
        rows = [t for t in tensors if t.is_floating_point() and t.ndim > 1]
        return [marks for t in rows if (marks := self._marks.of(t)) is not None]

    def _wrong_in(self, tensors: Iterable[Tensor], order: Tensor) -> _Wrong:
        with torch._C.DisableTorchFunction():
            wrong = (_first_wrong(rows.flatten(), order) for rows in self._marks_in(tensors))
            return next(filter(None, wrong), None)

    def _look(self, treated: TreatedLoss, arguments: tuple[Any, ...]) -> None:
        given = list(tensors_in(arguments))
        places, labels = _in_order(self._size), treated.metadata.labels
        moved, unlike = self._wrong_in(given, places), None
        if labels is not None:
            # A hook may have moved both alike, before the labels were read.
            order = self._marks.of(labels)
            unlike = self._wrong_in(given, places if order is None or not order.ndim else order)
        used = treated.wants_indexes or (treated.wants_labels and labels is not None)
        if moved or unlike:
            self._say(treated, moved, unlike)
        elif used and self._followed and not self._told and not self._marks_in(given):
            self._told = True
            what = "indexes" if treated.wants_indexes else "labels"
            warnings.warn(
                f"{treated.loss.sampler}: the rows that {treated.name} gets cannot be followed "
                f"from the batch to the loss (what NumPy or torch.func makes has no trace of "
                f"them), and row b is taken for sample b; if it is not, hand {what} over in "
                f"training_step, by provide({what}=…) of the callback's injection",
                stacklevel=2,
            )

    def _say(self, treated: TreatedLoss, moved: _Wrong, unlike: _Wrong) -> None:
        """Have a loss know what its rows are not, for one wrong row of each kind."""
        where = ", ".join(dict.fromkeys(self._moved)) or "training_step"
        if moved is not None:
            self.unindexed = f"{where} {_described(*moved)}, {INSTEAD}"
            treated.disown_indexes(self.unindexed)
        if unlike is not None:
            self.unlabeled = f"{where} {_described(*unlike)}, {_NOT_ITS_LABELS}"
            treated.disown_labels(self.unlabeled)


def _described(row: int, sample: int) -> str:
    what = "is made of several samples" if sample == MIXED else f"is sample {sample}"
    return (
        f"moves, drops, repeats or mixes rows of a batch (row {row} of what the loss gets {what})"
    )


def _in_order(size: int) -> Tensor:
    return torch.arange(size, dtype=torch.int32, device="cpu")


def _first_wrong(rows: Tensor, order: Tensor) -> _Wrong:
    """Return the first row that is another sample than its place says, and that sample.

    Args:
        rows: ``[R]``, the sample of each row.
        order: ``[B]``, the sample of each place.
    """
    mixed = rows == MIXED
    if mixed.any():
        return int(mixed.nonzero()[0]), MIXED
    views, places = len(rows) // len(order), torch.arange(len(rows))
    expected = order[places % len(order)]
    if torch.equal(rows, expected) or int(rows.max()) > int(order.max()):
        return None  # in order; or of a batch of another form, in which views follow one another
    if views > 1 and torch.equal(rows, order.repeat_interleave(views)):
        return None
    row = int((rows != expected).nonzero()[0])
    return row, int(rows[row])


def _size(tensors: Iterable[Tensor]) -> int:
    """Return how many samples a batch has, at most: the fewest rows of a tensor of several."""
    lengths = [len(tensor) for tensor in tensors if tensor.ndim]
    return min((length for length in lengths if length > 1), default=1)


def _is_own(owner: Any, name: str) -> bool:
    """Return whether a hook is the recipe's own."""
    home = getattr(getattr(owner, name, None), "__module__", None) or "lightning"
    return home.partition(".")[0] not in ("lightning", "pytorch_lightning", "negplug")


def _is_compiled(module: nn.Module) -> bool:
    """Whether a module is compiled; a Trainer compiles ``forward`` and the steps of a recipe."""
    if getattr(module, "_compiled_call_impl", None) is not None:
        return True
    methods = (getattr(module, name, None) for name in ("forward", "training_step"))
    return type(module).__name__ == "OptimizedModule" or any(map(is_compiled, methods))
