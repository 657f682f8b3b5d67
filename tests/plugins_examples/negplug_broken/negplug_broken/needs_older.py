"""Was written for a hook specification that there is no more."""

from collections.abc import Iterable

from negplug import SamplerSpec, hookimpl

REQUIRES_HOOKSPEC = (0, 3)


@hookimpl
def negplug_samplers() -> Iterable[SamplerSpec]:
    """Never asked for."""
    return []
