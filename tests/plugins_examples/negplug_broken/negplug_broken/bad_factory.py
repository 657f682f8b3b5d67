"""The record's factory cannot be called."""

from collections.abc import Iterable

from negplug import SamplerSpec, hookimpl


@hookimpl
def negplug_samplers() -> Iterable[SamplerSpec]:
    """Offer a sampler that nobody can build."""
    yield SamplerSpec("unbuildable", "Unbuildable", "a factory by name")  # type: ignore[arg-type]
