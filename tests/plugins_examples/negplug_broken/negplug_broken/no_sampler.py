"""The factories register, but what they build is not what was promised."""

from collections.abc import Iterable

from negplug import ContrastiveBatch, NegativeSampler, SamplerSpec, hookimpl


class Empty(NegativeSampler):
    """Returns no negatives."""

    def sample(self, batch: ContrastiveBatch) -> None:  # type: ignore[override]
        """Return nothing."""


@hookimpl
def negplug_samplers() -> Iterable[SamplerSpec]:
    """Offer ``nothing``, ``empty`` and ``crashing``."""
    yield SamplerSpec("nothing", lambda: None, "the factory returns None")  # type: ignore
    yield SamplerSpec("empty", Empty, "sample() returns None")
    yield SamplerSpec("crashing", {}.popitem, "the factory fails, and refuses no value")
