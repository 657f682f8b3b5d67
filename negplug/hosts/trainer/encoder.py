"""``RecipeEncoder``: embeddings of samples outside the batch, from the recipe itself.

The recipe's own ``training_step`` knows how a sample becomes an embedding that the loss compares.
So it is run again, on a batch of the samples asked for: the training loader's data set and
collate function, Lightning's transfer to the device, the recipe's precision, the current
parameters. The treated losses are in capture mode meanwhile: they keep the batch that the
adapter forms, whose keys are the embeddings with their graph, and end the step there.

A step is run for what it computes alone (:mod:`negplug.hosts.trainer.dry_run`), as if in a single
process: one rank may encode while another does not. A recipe whose step writes to parameters or
buffers, or communicates over ranks, before it calls the loss is refused. The first encoding is
watched for that with copies of all values: samplers ask for it on every rank, in their first
training step.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from negplug.contract.adapter import Metadata
from negplug.contract.batch import ContrastiveBatch
from negplug.contract.dataset import DatasetAccess
from negplug.hosts.columns import Columns
from negplug.hosts.subsets import Parents, length
from negplug.hosts.trainer.dataset.fingerprint import dataset_of
from negplug.hosts.trainer.dry_run import Writes, quiet
from negplug.hosts.trainer.indexes.recorder import unknowable
from negplug.hosts.trainer.private import (
    batches_taken,
    converts_batches,
    on_device,
    training_loader,
)
from negplug.hosts.trainer.strategies import sharding_strategy
from negplug.hosts.treated_loss import StepOver, TreatedLoss
from negplug.kernels.distributed import alone, collectives

_INSTEAD = "use out_of_batch='cached'"


class RecipeEncoder:
    """Embeds samples of the training data set as a Lightning recipe does.

    The model is all that it holds of the run, so that a copy of the model has an encoder of its
    own and a pickled one does not drag the Trainer along.

    Args:
        model: The ``LightningModule``.
        losses: Its treated losses that may ask.
        beside: Those of other callbacks, which are called in its training step too.
    """

    def __init__(
        self, model: Any, losses: Iterable[TreatedLoss], beside: Iterable[TreatedLoss]
    ) -> None:
        self._model = model
        self._losses = list(losses)
        self._beside = list(beside)
        self._tried: list[tuple[TreatedLoss, int]] = []
        self._parents = Parents()
        self._columns = Columns()

    def begin_epoch(self) -> None:
        """Look the data set over anew: a recipe may change it between epochs, in place."""
        self._parents.read_again()
        self._columns.read_again()

    def offer(self) -> None:
        """Give the losses access to the data set that the step to come is trained on."""
        for treated in self._losses:
            treated.dataset = self._access(treated)

    def encode(self, treated: TreatedLoss, indexes: Tensor) -> tuple[Tensor, ...]:
        """Return the embeddings of samples as the loss call in progress gets its keys.

        Args:
            treated: The loss. Of several calls in a step, the keys are those of the same number.
            indexes: ``[n]`` int64 data set indexes, n ≥ 1.

        Returns:
            V views ``[n, d]``, rows of unit length, with a graph to the current parameters; of
            momentum keys without one, as the recipe has them.

        Raises:
            ValueError: If there is no such sample, or the recipe cannot be run in this way.
        """
        asked, dataset = indexes.detach().cpu(), self._dataset(treated)
        self._check(asked, dataset)
        call = treated.loss.call
        tried = (treated, call) in self._tried
        writes = Writes(self._model, by_value=not tried)
        communicated = collectives()
        try:
            captured = self._capture(treated, call, asked, dataset)
        finally:
            written = writes.undo()
        if written or collectives() != communicated:
            what = f"writes to {_listed(written)}" if written else "communicates over ranks"
            raise self._refusal(f"{what} before it calls the loss, so it cannot be run again")
        if not tried:
            self._tried.append((treated, call))
        return self._views(captured, asked)

    def _capture(
        self, treated: TreatedLoss, call: int, asked: Tensor, dataset: Any
    ) -> ContrastiveBatch:
        """Run the training step on the samples; return what the loss call is given."""
        with contextlib.ExitStack() as inside:
            inside.enter_context(alone())
            inside.enter_context(quiet(self._model))
            captured = {}
            for loss in [*self._losses, *self._beside]:
                # Where the recipe's batch says whose samples it holds, it is not told.
                metadata = Metadata() if loss.numbered_inside else Metadata(indexes=asked)
                last = call if loss is treated else None
                captured[loss] = inside.enter_context(loss.capturing(metadata, last))
            arguments = self._arguments(asked, dataset)
            inside.enter_context(self._model.trainer.precision_plugin.train_step_context())
            with contextlib.suppress(StepOver):
                self._model.training_step(*arguments)
        batches = captured[treated]
        if len(batches) <= call:
            raise self._refusal(
                f"calls the loss {len(batches)} times for samples outside the batch and at least "
                f"{call + 1} times for the batch"
            )
        return batches[call]

    def _arguments(self, asked: Tensor, dataset: Any) -> tuple[Any, ...]:
        """Return what Lightning would pass to ``training_step`` for a batch of the samples."""
        model, trainer = self._model, self._model.trainer
        loader = training_loader(trainer)
        batch = loader.collate_fn(_samples(dataset, asked.tolist()))
        batch = on_device(trainer, model, batch)
        if not _takes_number(model.training_step):
            return (batch,)
        return batch, batches_taken(trainer) - 1

    def _views(self, batch: ContrastiveBatch, asked: Tensor) -> tuple[Tensor, ...]:
        """Return the keys by view, once it is certain whose they are."""
        if batch.keys.indexes is None:
            raise self._refusal(f"gives the loss no rows of known samples: {batch.unindexed}")
        found, count = batch.keys.indexes.cpu(), len(batch.keys) // len(asked)
        if not torch.equal(found, asked.repeat(count)):
            raise self._refusal(
                f"gets the samples {_listed(found.tolist())} where the positions "
                f"{_listed(asked.tolist())} of the training data set were asked for; put what "
                f"numbers the samples outermost, around any Subset"
            )
        return batch.keys.embeddings.reshape(count, len(asked), -1).unbind()

    def _access(self, treated: TreatedLoss) -> DatasetAccess:
        loader, dataset = training_loader(self._model.trainer), self._dataset(treated)
        size = None if getattr(loader, "dataset", None) is None else length(dataset)
        reason = self._unencodable(loader)
        encode = None if reason else functools.partial(self.encode, treated)
        # What a recipe's own batches number may be the parent's samples already.
        parent = None if treated.numbered_inside else self._parents.of(dataset)
        column = functools.partial(self._column, treated)
        return DatasetAccess(size, encode, reason, parent, column)

    def _dataset(self, treated: TreatedLoss) -> Any:
        """Return the data set that the loss's indexes count."""
        loader = training_loader(self._model.trainer)
        return dataset_of(loader, numbered_inside=treated.numbered_inside)

    def _column(self, treated: TreatedLoss, name: str) -> Tensor:
        """Return a column of the data set that the loss's indexes count."""
        return self._columns.of(self._dataset(treated), name)

    def _unencodable(self, loader: Any) -> str:
        """Return why the recipe cannot be run for chosen samples, or the empty string."""
        if not self._model.automatic_optimization:
            return "the recipe optimises by hand, so its training_step cannot be run for them alone"
        if not converts_batches(self._model.trainer) and str(self._model.trainer.precision) == "64":
            return "this Lightning cannot convert their images to precision 64, as 2.0 and later do"
        if strategy := sharding_strategy(self._model.trainer):
            return f"{strategy} shards the model, so that no rank can run it alone"
        reason = unknowable(loader)
        return reason or _unusual(self._model.training_step)

    def _check(self, asked: Tensor, dataset: Any) -> None:
        if asked.ndim != 1 or not len(asked):
            raise ValueError(f"encode takes indexes [n] with n >= 1, got {list(asked.shape)}")
        size = length(dataset)
        least, most = int(asked.min()), int(asked.max())
        if least < 0 or (size is not None and most >= size):
            wrong = least if least < 0 else most
            raise ValueError(f"there is no sample {wrong} in the training data set of {size}")
        for name, module in self._model.named_modules():
            if isinstance(module, _BatchNorm) and module.running_mean is None:
                raise self._refusal(
                    f"runs the BatchNorm {name!r}, which keeps no running statistics, and a single "
                    f"image has none of its own"
                )

    def _refusal(self, why: str) -> ValueError:
        return ValueError(f"{type(self._model).__name__}.training_step {why}; {_INSTEAD}")


def _samples(dataset: Any, indexes: list[int]) -> list[Any]:
    """Return the samples as a ``DataLoader`` takes them."""
    together = getattr(dataset, "__getitems__", None)
    return together(indexes) if together else [dataset[index] for index in indexes]


def _takes_number(step: Any) -> bool:
    """Whether Lightning passes ``batch_idx`` too: whatever its name, by the rule of both."""
    parameters = inspect.signature(inspect.unwrap(step)).parameters.values()
    kinds = [parameter.kind for parameter in parameters]
    named = [kind for kind in kinds if kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    return len(named) > 1 or inspect.Parameter.VAR_POSITIONAL in kinds


def _unusual(step: Any) -> str:
    """Return which arguments of a training step only Lightning can give, as a clause."""
    parameters = list(inspect.signature(inspect.unwrap(step)).parameters.values())
    needed = [p.name for p in parameters[2:] if p.default is p.empty and "VAR" not in p.kind.name]
    extra = needed + [p.name for p in parameters if p.name == "dataloader_iter"]
    return f"training_step takes {', '.join(extra)}, not a batch alone" if extra else ""


def _listed(values: list[Any]) -> str:
    shown = ", ".join(map(str, values[:3]))
    return f"{shown}, …" if len(values) > 3 else shown
