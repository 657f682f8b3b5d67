"""Asks for what is no version."""

from collections.abc import Iterable

from negplug import SamplerSpec, hookimpl

REQUIRES_HOOKSPEC = "1.0"


@hookimpl
def negplug_samplers() -> Iterable[SamplerSpec]:
    """Never asked for."""
    return []
