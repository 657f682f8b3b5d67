"""Chain states outside the batch: their embeddings, remembered or made anew, and their logits."""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from negplug.contract.batch import ContrastiveBatch
from negplug.contract.inputs import check_embeddings
from negplug.kernels.unit import unit_rows
from negplug.samplers.chains.grouping import sample_logits


@dataclass(frozen=True, eq=False)
class AbsentStates:
    """States outside the batch of some of its N anchors.

    Attributes:
        here: ``[N]`` bool, True at the anchors whose states these are.
        samples: ``[m]`` int64, the states, as data set indexes.
        place: ``[N]`` int64, which of them is each anchor's; 0 where it is none.
        rows: ``[V, m, d]``, their views, some row where ``known`` is False. May carry gradient.
        known: ``[V, m]`` bool.
        logits: ``[V, N]``, of each anchor with the views of its state; -inf if unknown.
        log_number: ``[N]``, the logarithm of how many views of its state are known.
        scores: ``[N]``, the logit of each anchor's state, over its views.
    """

    here: Tensor
    samples: Tensor
    place: Tensor
    rows: Tensor
    known: Tensor
    logits: Tensor
    log_number: Tensor
    scores: Tensor

    @classmethod
    def of(
        cls,
        batch: ContrastiveBatch,
        here: Tensor,
        samples: Tensor,
        place: Tensor | None,
        rows: Tensor,
        known: Tensor,
    ) -> AbsentStates:
        """Compare anchors with their states; see the attributes for the arguments.

        Where ``place`` is None there is a state for each anchor, in the same order.
        """
        present, pairs = known, rows.detach()
        if place is None:
            place = torch.arange(len(here), device=here.device)
        else:
            present, pairs = known.index_select(1, place), pairs.index_select(1, place)
        products = (pairs * batch.anchors.embeddings.detach()).sum(2)
        logits = products.div_(batch.temperature).masked_fill_(~present, -torch.inf)
        log_number = present.sum(0).clamp_(min=1).to(logits).log_()
        scores = sample_logits(logits, log_number)
        return cls(here, samples, place, rows, known, logits, log_number, scores)

    @classmethod
    def anew(
        cls, name: str, batch: ContrastiveBatch, state: Tensor, chains: Tensor, seed: int
    ) -> AbsentStates:
        """Return the states ``[N]`` of some anchors ``[n]`` int64, see :func:`embedded`."""
        samples, number = torch.unique(state[chains], return_inverse=True)
        place = torch.zeros_like(state).index_copy_(0, chains, number)
        here = torch.zeros_like(state, dtype=torch.bool).index_fill_(0, chains, True)
        rows = embedded(name, batch, samples, seed)
        known = torch.ones(rows.shape[:2], dtype=torch.bool, device=rows.device)
        return cls.of(batch, here, samples, place, rows, known)


def embedded(name: str, batch: ContrastiveBatch, indexes: Tensor, seed: int) -> Tensor:
    """Return the views of samples that are not in the batch, ``[V, n, d]``, with gradient.

    Args:
        name: Who asks, for messages.
        batch: Knows the way to the data set.
        indexes: ``[n]`` int64 data set indexes, distinct.
        seed: Of the augmentations; the global generators of torch, numpy and ``random`` are put
            back afterwards.

    Raises:
        ValueError: If there is no way to embed them, or what came back does not fit.
    """
    encode = batch.context.dataset.encode
    if encode is None:
        raise ValueError(
            f"{name}: out_of_batch='recompute' embeds samples that are not in the batch, but "
            f"{batch.context.dataset.unencoded}; use out_of_batch='cached'"
        )
    with _forked_generators(seed, batch.anchors.embeddings.device), torch.enable_grad():
        try:
            views = encode(indexes)
        except LookupError as error:
            raise ValueError(
                f"{name}: encode knows no sample {indexes.tolist()[:8]}: {error}; the state that "
                f"was loaded is of another data set, or damaged"
            ) from error
        for number, view in enumerate(views):
            check_embeddings(f"{name}: view {number} of encode", view)
        shapes = [tuple(view.shape) for view in views]
        expected = (len(indexes), batch.anchors.embeddings.shape[1])
        if not shapes or any(shape != expected for shape in shapes):
            raise ValueError(
                f"{name}: encode must return a tuple of views {list(expected)} for "
                f"{len(indexes)} indexes, got {[list(shape) for shape in shapes]}"
            )
        return torch.stack([unit_rows(view).to(batch.anchors.embeddings) for view in views])


@contextlib.contextmanager
def _forked_generators(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's, numpy's and Python's global generators, and put them back afterwards."""
    numpy = sys.modules.get("numpy")  # unless it is loaded, nothing draws from it
    pythons, numpys = random.getstate(), numpy and numpy.random.get_state()
    devices = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices):
            # Not torch.manual_seed(): it formats a stack trace for each device not yet in use.
            torch.default_generator.manual_seed(seed)
            for used in devices:
                torch.cuda.default_generators[used.index or 0].manual_seed(seed)
            random.seed(seed)
            if numpy:
                numpy.random.seed(seed % (1 << 32))
            yield
    finally:
        random.setstate(pythons)
        if numpy:
            numpy.random.set_state(numpys)
