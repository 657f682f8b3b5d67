"""The hook returns a name instead of a record."""

from negplug import hookimpl


@hookimpl
def negplug_samplers() -> list[str]:
    """Offer a string."""
    return ["stumbling"]
