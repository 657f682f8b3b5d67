"""The hook builds its records and forgets to return them."""

from negplug import SamplerSpec, hookimpl
from negplug_broken.stumbles import Stumbling


@hookimpl
def negplug_samplers() -> None:
    """Offer nothing."""
    [SamplerSpec("forgotten", Stumbling, "never returned")]
