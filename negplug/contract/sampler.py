"""The base class of samplers: which rows serve as negatives, how many, with what weight."""

from __future__ import annotations

import abc
import inspect
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from negplug.contract.batch import ContrastiveBatch
from negplug.contract.negatives import Negatives
from negplug.contract.provenance import blaming
from negplug.contract.shapes import check_negatives
from negplug.kernels.precision import not_inference

if TYPE_CHECKING:
    from negplug.contract.adapter import LossSite
    from negplug.contract.provenance import PluginInfo


class NegativeSampler(nn.Module, abc.ABC):
    """Chooses the negatives of a batch.

    A subclass implements :meth:`sample`; one that remembers something across steps also
    implements :meth:`update` and keeps its memory where ``state_dict`` finds it. Samplers
    compose: one that reads another takes it as its argument ``source`` and calls it,
    ``self.source(batch)``.

    Attributes:
        expression: The expression it was built from.
        provider: The plugin it came from, blamed for its errors.
        stream: Its number inside the expression, which keys its random draws.
        wants_indexes: Whether it uses the data set index of each sample, so that a recipe which
            does not hand them over is watched for them.
        remembers: Whether it offers rows of past steps, and so starts with none.
        per_rank: Whether its state differs between ranks, so that each rank's is saved.
        most: The most rows that it can ever offer an anchor; None if the batch decides.
    """

    expression: str = ""
    provider: PluginInfo | None = None
    stream: int = 0
    wants_indexes: bool = False
    remembers: bool = False
    per_rank: bool = False
    most: int | None = None

    def __init__(self) -> None:
        super().__init__()
        self._pending: list[tuple[ContrastiveBatch, Negatives]] = []

    @abc.abstractmethod
    def sample(self, batch: ContrastiveBatch) -> Negatives:
        """Return the negatives of ``batch``. Must not change what :meth:`update` changes."""

    def update(self, batch: ContrastiveBatch, negatives: Negatives) -> None:
        """Take in a training step that was sampled; by default nothing is remembered.

        Args:
            batch: The step's batch, detached.
            negatives: What :meth:`sample` returned for it, detached.
        """

    def metrics(self, batch: ContrastiveBatch, negatives: Negatives) -> dict[str, float]:
        """Return what is worth logging of a call that was sampled; by default nothing.

        Args:
            batch: The batch.
            negatives: What :meth:`sample` returned for it.
        """
        return {}

    def fit_host(self, site: LossSite | None) -> None:
        """Take from the host what was not given, such as its queue size; by default nothing.

        Args:
            site: The loss to treat; None if there is no host.

        Raises:
            ValueError: If something is needed that neither the user nor the host gives.
        """

    def forward(self, batch: ContrastiveBatch) -> Negatives:
        """Sample, check the result, and keep it for :meth:`flush` if this is training.

        Asked again for the same batch, by a second sampler that reads this one, it gives the same
        negatives and remembers them once.
        """
        if self in batch.memo:
            known: Negatives = batch.memo[self]
            return known
        with blaming(self.provider, "sample()"):
            negatives = self.sample(batch)
            if not isinstance(negatives, Negatives):
                raise TypeError(f"sample() must return Negatives, got {type(negatives).__name__}")
            check_negatives(negatives, batch.anchors)
        if batch.training and self.updates:
            self._pending.append((batch.detach(), negatives.detach()))
        batch.memo[self] = negatives
        return negatives

    def forget(self, batch: ContrastiveBatch) -> None:
        """Drop what :meth:`forward` kept of a batch whose loss could not be computed."""
        for sampler in self.all_samplers():
            if batch.memo.pop(sampler, None) is not None and batch.training and sampler.updates:
                sampler._pending.pop()

    def drop(self) -> None:
        """Drop all that is pending here and in the sources: another state is about to be loaded."""
        for sampler in self.all_samplers():
            sampler._pending.clear()

    def check_state(self, state: dict[str, Any]) -> None:
        """Raise ``ValueError`` if an extra state cannot be loaded; by default any can.

        Called for every sampler before the first one is loaded.
        """

    @property
    def updates(self) -> bool:
        """Whether this sampler itself, not its sources, changes with training."""
        return type(self).update is not NegativeSampler.update

    def all_samplers(self) -> Iterator[NegativeSampler]:
        """Yield this sampler and every sampler inside it, each once."""
        for module in self.modules():
            if isinstance(module, NegativeSampler):
                yield module

    def flush(self) -> None:
        """Apply the pending updates of this sampler and of its sources.

        Called after the backward pass of the calls that are pending: writing into a pool before
        would change what autograd saved.
        """
        for sampler in self.all_samplers():
            pending, sampler._pending = sampler._pending, []
            for batch, negatives in pending:
                with blaming(sampler.provider, "update()"), not_inference():
                    sampler.update(batch, negatives)

    def generator(self, batch: ContrastiveBatch) -> torch.Generator:
        """Return this sampler's own generator for this call, on the batch's device."""
        return batch.draws.generator(self.stream, batch.anchors.device)

    def __str__(self) -> str:
        """Return the expression, or what describes a sampler that was made without one."""
        if self.expression:
            return self.expression
        given = (name for name in inspect.signature(type(self)).parameters if hasattr(self, name))
        arguments = ", ".join(f"{name}={getattr(self, name)}" for name in given)
        return f"{type(self).__name__}({arguments})"
