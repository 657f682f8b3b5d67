"""The hook offers one sampler after the other, and never comes to an end."""

from collections.abc import Iterable

from negplug import SamplerSpec, hookimpl
from negplug_broken.stumbles import Stumbling


@hookimpl
def negplug_samplers() -> Iterable[SamplerSpec]:
    """Offer the same sampler again and again."""
    while True:
        yield SamplerSpec("endless", Stumbling, "one of many")
