"""The hook's name is misspelt."""

from collections.abc import Iterable

from negplug import SamplerSpec, hookimpl


@hookimpl
def negplug_sampler() -> Iterable[SamplerSpec]:
    """Never asked for."""
    return []
