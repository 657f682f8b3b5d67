"""``queue(size=K)``: a first-in-first-out queue of past keys as negatives.

Source: He et al., "Momentum contrast" (MoCo, 2020, arXiv:1911.05722, section 3.2); Wang et al.,
"Cross-batch memory" (2020, arXiv:1912.06798) for keys of the encoder itself. A ring of K rows:
after each training step its B keys take the places of the K's oldest,

    queue[(t + b) mod K] ← k_b,   b = 0 … B−1,     t ← (t + B) mod K.

What differs from the hosts' queues: only rows ever written serve (theirs start as random noise,
which is the easiest negative); a batch that crosses the end goes on at the start (Lightly drops
its tail, solo-learn wants K divisible by B); where data set indexes are known, an anchor's own
past and its positives' are excluded by id; keys enter once per step, after the backward pass, in
place, so that the pool is the ring itself and never a copy.

Without a momentum encoder, keys of early training are soon far from what the encoder would make of
the samples now; ``schedule(in_batch(), queue(…), from_epochs=(0, 10))`` brings the queue in later.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from negplug.contract.batch import ContrastiveBatch
from negplug.contract.hookspecs import SamplerSpec, hookimpl
from negplug.contract.inputs import check_integer
from negplug.contract.sampler import NegativeSampler, Sampled
from negplug.samplers.common.remembering import Arriving, RememberingSampler
from negplug.samplers.uniform import Uniform

if TYPE_CHECKING:
    from negplug.contract.adapter import LossSite


class Queue(RememberingSampler):
    """All rows of a ring of past keys.

    Args:
        size: K, in keys of all ranks together if ``gather``; None takes the host's.
        gather: Whether the keys of every rank enter, so that all ranks hold the same queue.

    Raises:
        TypeError, ValueError: If ``size`` is no integer above 0, or ``gather`` no flag.
    """

    next: int

    def __init__(self, size: int | None = None, gather: bool = True) -> None:
        super().__init__(gather)
        self.size = None if size is None else check_integer("queue", "size", size, 1)
        self.add_state("next", 0, ranks=self.ranks)
        self.expression = f"queue(size={size}, gather={gather})"

    @property
    def most(self) -> int | None:  # type: ignore[override]
        """K."""
        return self.size

    def fit_host(self, site: LossSite | None) -> None:
        """Take the host's queue size if none was given."""
        if self.size is None:
            self.size = None if site is None else site.queue_size
        if self.size is None:
            where = "there is no host" if site is None else f"{site.host} has no queue of negatives"
            raise ValueError(f"queue: size is required, because {where}; give size=…")

    def sample(self, batch: ContrastiveBatch) -> Sampled:
        """Return the rows written so far.

        Raises:
            ValueError: If the keys of a step do not fit into the queue.
        """
        sampled = super().sample(batch)
        arriving = 0 if sampled.seen is None else len(sampled.seen.keys)
        if self.size is None or arriving > self.size:
            raise ValueError(
                f"queue: size={self.size} is less than the {arriving} keys of one step; enlarge it"
            )
        return sampled

    def update(self, seen: Arriving) -> None:
        """Write the step's keys over the oldest ones."""
        assert self.size is not None
        keys, names = seen
        if not self.count:
            self.reserve(self.size, keys)
        # Two slices at most, where an index of the places would be copied row by row.
        first = min(len(keys), self.size - self.next)
        for start, part in ((self.next, slice(0, first)), (0, slice(first, len(keys)))):
            if length := len(keys[part]):
                self.rows[start : start + length] = keys[part]
                self.names[:, start : start + length] = names[:, part]
        self.count = min(self.count + len(keys), self.size)
        self.next = (self.next + len(keys)) % self.size

    def settings(self) -> dict[str, Any]:
        """Return the size."""
        return {"size": self.size}

    def check_values(self, values: dict[str, Any]) -> None:
        """Raise ``ValueError`` unless the saved ring has this size and holds its next place."""
        super().check_values(values)
        length, place, count = len(values["rows"]), values["next"], values["count"]
        # Until it is full, the next place follows the last one written.
        follows = place < length if count == self.size else place == count
        if length not in (0, self.size) or not follows:
            raise ValueError(
                f"{self}: the saved ring has {length} rows, {count} of them written, and its next "
                f"place is {place}, which do not fit size={self.size}; the file is damaged"
            )


def queue(
    size: int | None = None, num_negatives: int | None = None, gather: bool = True
) -> NegativeSampler:
    """Return a queue, or M uniform draws per anchor from one.

    Args:
        size: As in :class:`Queue`.
        num_negatives: M; None uses all rows.
        gather: As in :class:`Queue`.
    """
    ring = Queue(size, gather)
    return ring if num_negatives is None else Uniform(num_negatives, source=ring)


@hookimpl
def negplug_samplers() -> Iterable[SamplerSpec]:
    """Offer ``queue``."""
    yield SamplerSpec(
        "queue", queue, "first-in-first-out of past keys", "He et al. 2020, arXiv:1911.05722"
    )
