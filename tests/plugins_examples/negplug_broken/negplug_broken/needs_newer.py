"""Asks for a newer hook specification, one with further hooks."""

from collections.abc import Iterable

from negplug import SamplerSpec, hookimpl

REQUIRES_HOOKSPEC = (1, 99)


@hookimpl
def negplug_schedules() -> Iterable[SamplerSpec]:
    """Never asked for."""
    return []
