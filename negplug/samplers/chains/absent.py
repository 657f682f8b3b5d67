"""Chain states outside the batch: their embeddings, remembered or made anew, and their logits."""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from negplug.contract.batch import ContrastiveBatch
from negplug.contract.ids import UNKNOWN
from negplug.contract.inputs import check_embeddings
from negplug.contract.negatives import Columns, Negatives
from negplug.contract.rows import Rows
from negplug.kernels.rng_states import isolated_rng
from negplug.kernels.states import Compared, compare, view_weights
from negplug.kernels.unit import unit_rows
from negplug.samplers.chains.step import ChainStep


class AbsentStates(NamedTuple):
    """States of anchors outside the batch.

    Attributes:
        pool: Rows of views of samples, one view after another. May carry gradient.
        compared: What anchors have to do with them.
    """

    pool: Rows
    compared: Compared

    @classmethod
    def of(
        cls, batch: ContrastiveBatch, step: ChainStep, state: Tensor, pool: Rows, known: Tensor
    ) -> AbsentStates:
        """Compare anchors with their states.

        Args:
            batch: The anchors.
            step: Says which states lie outside.
            state: ``[N]`` int64, which of the pool's samples the states are; -1 = none.
            pool: V·m rows.
            known: ``[V, m]`` bool, which of them are known.
        """
        table = pool.embeddings.detach().view(*known.shape, -1)
        anchors = batch.anchors.embeddings.detach()
        compared = compare(
            table, known, state, step.place, step.initial, anchors, batch.temperature
        )
        return cls(pool, compared)

    @classmethod
    def anew(
        cls, name: str, batch: ContrastiveBatch, step: ChainStep, chains: Tensor, seed: int
    ) -> AbsentStates:
        """Return the states of some chains ``[n]`` int64, see :func:`embedded`."""
        samples, number = torch.unique(step.state[chains], return_inverse=True)
        state = torch.full_like(step.state, UNKNOWN).index_copy_(0, chains, number)
        views = embedded(name, batch, samples, seed)
        known = torch.ones(views.shape[:2], dtype=torch.bool, device=views.device)
        with torch.enable_grad():
            rows = views.flatten(0, 1)
        indexes = samples.expand(len(views), -1).flatten()
        pool = Rows(rows, torch.full_like(indexes, UNKNOWN), indexes=indexes)
        return cls.of(batch, step, state, pool, known)

    def drawn(self, weight: Tensor) -> Negatives:
        """Return draws of states outside the batch, spread over their views.

        Args:
            weight: ``[N]``, of the draws of each anchor; 0 where its state is not among them.
        """
        log_weight = view_weights(self.compared, weight)
        return Negatives(self.pool, Columns(self.compared.columns), log_weight, "posterior")


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
    with _seeded_rng(seed, batch.anchors.embeddings.device), torch.enable_grad():
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
def _seeded_rng(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's, numpy's and Python's global generators, and put them back afterwards."""
    with isolated_rng(device):
        # Not torch.manual_seed(): it formats a stack trace for each device not yet in use.
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            torch.cuda.default_generators[device.index or 0].manual_seed(seed)
        random.seed(seed)
        if "numpy" in sys.modules:
            sys.modules["numpy"].random.seed(seed % (1 << 32))
        yield
