"""Keys of all ranks that no rank holds at once: what may sample them, and what may use them.

They go around a ring of ranks in blocks (:mod:`negplug.kernels.ring`). What an objective learns of
them is their log-sum-exp; a sampler that chooses among rows would need to see them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from negplug.contract.batch import ContrastiveBatch
from negplug.contract.gathering import STREAMED
from negplug.contract.negatives import EveryRank, Negatives, Whole
from negplug.contract.objective import Objective
from negplug.contract.sampler import NegativeSampler
from negplug.kernels.distributed import world_size


def check_streams(objective: Objective, sampler: NegativeSampler) -> None:
    """Raise ``ValueError`` if something needs rows that come around a ring.

    Args:
        objective: What is to use the negatives.
        sampler: The outermost sampler.
    """
    parts = list(sampler.all_samplers())
    streaming = [part for part in parts if part.streams]
    if not streaming:
        return
    for part in reversed(parts):  # what is inside comes first, and is named
        inside = [other for other in part.all_samplers() if other.streams]
        if inside and not part.streams:
            raise ValueError(
                f"{part} looks at single rows, and those of {inside[-1]} go around a ring, so that "
                f"no rank holds them all; leave ring=True out, or let the ring stand alone"
            )
    if not objective.takes_streams:
        raise ValueError(
            f"{objective} needs more of its negatives than their log-sum-exp, which is all that "
            f"comes of {streaming[-1]}; leave ring=True out, or choose infonce(), decoupled(), "
            f"ifm() or rince()"
        )


def every_ranks_keys(batch: ContrastiveBatch) -> Negatives:
    """Return every rank's keys as negatives that go around a ring.

    They are a whole pool in one process, and if they are gathered already.
    """
    if world_size() == 1 or batch.gathering is not None:
        return batch.gathered().all_keys()
    # Even a rank whose objective never reaches the ring takes part in the call's last exchange.
    tie_to(batch, batch.keys.embeddings.new_zeros(()))
    return Negatives(replace(batch.keys, name=STREAMED), EveryRank())


def tie_to(batch: ContrastiveBatch, token: Tensor) -> None:
    """Let the loss of a call depend on an exchange, by its token."""
    before = batch.context.memo.get("token")
    batch.context.memo["token"] = token if before is None else before + token


def streamed(pools: Sequence[Negatives]) -> bool:
    """Return whether some of the negatives go around a ring."""
    return any(isinstance(part.choice, EveryRank) for part in pools)


def of_this_rank(pools: tuple[Negatives, ...]) -> tuple[Negatives, ...]:
    """Return the negatives, of those that go around a ring this rank's."""
    if not streamed(pools):
        return pools
    return tuple(
        replace(part, choice=Whole()) if isinstance(part.choice, EveryRank) else part
        for part in pools
    )
