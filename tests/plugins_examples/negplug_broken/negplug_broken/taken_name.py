"""Offers a name that negplug itself offers: no fault until that name is asked for."""

from collections.abc import Iterable

from negplug import SamplerSpec, hookimpl
from negplug_broken.stumbles import Stumbling


@hookimpl
def negplug_samplers() -> Iterable[SamplerSpec]:
    """Offer another ``uniform``."""
    yield SamplerSpec("uniform", Stumbling, "not the uniform of negplug")
