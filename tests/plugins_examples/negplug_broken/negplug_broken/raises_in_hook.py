"""The hook offers a sampler and then fails, so that nothing of it counts."""

from collections.abc import Iterable

from negplug import SamplerSpec, hookimpl
from negplug_broken.stumbles import Stumbling


@hookimpl
def negplug_samplers() -> Iterable[SamplerSpec]:
    """Offer ``half`` and fail."""
    yield SamplerSpec("half", Stumbling, "offered before the failure")
    raise LookupError("no table of samplers")
