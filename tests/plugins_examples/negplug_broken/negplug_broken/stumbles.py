"""Loads, registers, builds, and fails in a training step."""

from collections.abc import Iterable

from torch import Tensor

from negplug import (
    ContrastiveBatch,
    Negatives,
    NegativeSampler,
    Sampled,
    SamplerSpec,
    hookimpl,
)


class Stumbling(NegativeSampler):
    """Fails in ``sample``, or with ``late=True`` in ``update``."""

    def __init__(self, late: bool = False) -> None:
        super().__init__()
        self.late = late

    def sample(self, batch: ContrastiveBatch) -> Sampled:
        """Fail, or hand on the batch."""
        if not self.late:
            raise ZeroDivisionError("stumbled over the batch")
        return Sampled(Negatives(batch.keys), seen=batch.keys.ids)

    def update(self, seen: Tensor) -> None:
        """Fail."""
        raise OverflowError("stumbled over the update")


@hookimpl
def negplug_samplers() -> Iterable[SamplerSpec]:
    """Offer ``stumbling``."""
    yield SamplerSpec("stumbling", Stumbling, "fails in a training step")
