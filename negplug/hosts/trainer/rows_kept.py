"""Whether a recipe keeps the rows of its batches in order, between its loader and its loss.

The collate function is watched where it works (:mod:`negplug.hosts.trainer.collate`). Behind it
come the hooks that transfer a batch, and ``training_step``: either may shuffle, drop or repeat
rows, or mix them. In the first steps both run with rows that are marked
(:mod:`negplug.hosts.trainer.row_marks`), and the marks are looked at where the loss is called.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from negplug.hosts.nested import tensors_in
from negplug.hosts.trainer.collate import INSTEAD
from negplug.hosts.trainer.row_marks import MIXED, RowMarks
from negplug.hosts.treated_loss import TreatedLoss

_STEPS = 2
_HOOKS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")


class RowsKept:
    """Watches the first steps of a fit.

    Args:
        trainer: The Trainer, before it fetches a batch.
        model: What it fits.
        losses: The treated losses that need to know whose rows theirs are.

    Attributes:
        size: How many samples the batch has that is trained on; None if nobody says it.
        reason: Why the rows of batches are not those that were drawn, as a clause; empty if they
            are, as far as is known.
    """

    def __init__(self, trainer: Any, model: nn.Module, losses: Iterable[TreatedLoss]) -> None:
        self.reason = ""
        self.size: int | None = None
        self._trainer = trainer
        self._losses = list(losses)
        self._marks = RowMarks()
        self._left = _STEPS
        self._size = 1
        self._put_back: list[Callable[[], None]] = []
        self._hooks: list[str] = []
        if any(_is_compiled(module) for module in model.modules()):
            return  # it would be compiled anew
        owners = [model, *filter(None, [getattr(trainer, "datamodule", None)])]
        self._hooks = [
            self._watch(owner, name) for owner in owners for name in _HOOKS if _is_own(owner, name)
        ]
        self._watch(model, "training_step")
        for treated in self._losses:
            treated.looks = self._look

    def end_step(self) -> None:
        """Watch one step less."""
        self._left -= 1
        if self._left <= 0:
            self.stop()

    def stop(self) -> None:
        """Watch nothing more."""
        while self._put_back:
            self._put_back.pop()()
        for treated in self._losses:
            treated.looks = None

    def _watch(self, owner: Any, name: str) -> str:
        own, was_set = getattr(owner, name), name in vars(owner)

        @functools.wraps(own)
        def watched(*args: Any, **kwargs: Any) -> Any:
            if not self._trainer.training or torch.compiler.is_compiling():
                return own(*args, **kwargs)
            # Behind the hooks nothing is known of what they have made by other means.
            size, before = _size((args, kwargs)), self._size
            if name not in _HOOKS:
                self._size = size = self.size or size
            if name in _HOOKS or not self._hooks:
                self._marks.begin((args, kwargs), size)
            try:
                with self._marks:
                    return own(*args, **kwargs)
            finally:
                self._size = before  # of the step that has samples outside the batch embedded

        # Lightning looks through one wrapper alone.
        watched.__wrapped__ = inspect.unwrap(own)

        def put_back() -> None:
            if vars(owner).get(name) is watched:
                if was_set:
                    setattr(owner, name, own)
                else:
                    delattr(owner, name)

        setattr(owner, name, watched)
        self._put_back.append(put_back)
        return name

    def _look(self, treated: TreatedLoss, given: tuple[Any, ...]) -> None:
        with torch._C.DisableTorchFunction():
            tensors = [t for t in tensors_in(given) if t.is_floating_point() and t.ndim > 1]
            marks = [rows for t in tensors if (rows := self._marks.of(t)) is not None]
            for rows in marks:
                wrong = _first_wrong(rows.flatten(), self._size)
                if wrong is not None:
                    self._say(treated, *wrong)
                    return

    def _say(self, treated: TreatedLoss, row: int, sample: int) -> None:
        where = ", ".join([*self._hooks, "training_step"])
        what = "is made of several samples" if sample == MIXED else f"is sample {sample}"
        self.reason = (
            f"{where} moves, drops, repeats or mixes rows of a batch (row {row} of what the loss "
            f"gets {what}), {INSTEAD}"
        )
        treated.disown(self.reason)


def _first_wrong(rows: Tensor, size: int) -> tuple[int, int] | None:
    """Return the first row that is another sample than its place says, and that sample."""
    mixed = rows == MIXED
    if mixed.any():
        return int(mixed.nonzero()[0]), MIXED
    views, places = len(rows) // size, torch.arange(len(rows), dtype=rows.dtype)
    if torch.equal(rows, places % size) or int(rows.max()) >= size:
        return None  # in order; or of a batch of another form, in which views follow one another
    if views > 1 and torch.equal(rows, places // views):
        return None
    row = int((rows != places % size).nonzero()[0])
    return row, int(rows[row])


def _size(batch: Any) -> int:
    """Return how many samples a batch has, at most: the fewest rows of a tensor of several."""
    lengths = [len(tensor) for tensor in tensors_in(batch) if tensor.ndim]
    return min((length for length in lengths if length > 1), default=1)


def _is_own(owner: Any, name: str) -> bool:
    """Return whether a hook is the recipe's own."""
    home = getattr(getattr(owner, name, None), "__module__", None) or "lightning"
    return home.partition(".")[0] not in ("lightning", "pytorch_lightning")


def _is_compiled(module: nn.Module) -> bool:
    compiled = getattr(module, "_compiled_call_impl", None) is not None
    return compiled or type(module).__name__ == "OptimizedModule"
