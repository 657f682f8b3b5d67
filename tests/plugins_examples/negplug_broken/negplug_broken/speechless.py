"""The hook fails with an error that cannot even be printed."""

from collections.abc import Iterable

from negplug import SamplerSpec, hookimpl


class Speechless(Exception):
    """Its message needs what is not there."""

    def __str__(self) -> str:
        """Fail."""
        raise AttributeError("no message")


@hookimpl
def negplug_samplers() -> Iterable[SamplerSpec]:
    """Fail."""
    raise Speechless
