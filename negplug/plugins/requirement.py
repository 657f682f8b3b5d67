"""The version of the hook specification that a plugin asks for.

A plugin that says ``REQUIRES_HOOKSPEC = (1, 2)`` works with 1.2, 1.3 and so on, and not with 2.0.
One that says nothing is taken as it is.
"""

from __future__ import annotations

from negplug.contract.hookspecs import HOOKSPEC_VERSION, PROJECT
from negplug.contract.provenance import installed_version

#: The attribute of a plugin.
REQUIRES = "REQUIRES_HOOKSPEC"


def written(version: tuple[int, int]) -> str:
    """Return a version as listings and messages show it."""
    return "{}.{}".format(*version)


def check_requirement(plugin: object) -> None:
    """Check that this negplug has the hook specification that a plugin asks for.

    Args:
        plugin: A module, or an object with hooks.

    Raises:
        TypeError: If what it asks for is no version.
        RuntimeError: If it asks for one that is newer, or was written for an older major version.
    """
    needed = getattr(plugin, REQUIRES, HOOKSPEC_VERSION)
    if not (
        isinstance(needed, tuple)
        and len(needed) == 2
        and all(isinstance(part, int) and not isinstance(part, bool) for part in needed)
    ):
        raise TypeError(f"{REQUIRES} must be two integers, such as (1, 0), got {needed!r}")
    if needed[0] == HOOKSPEC_VERSION[0] and needed <= HOOKSPEC_VERSION:
        return
    fix = "negplug" if needed > HOOKSPEC_VERSION else "plugin"
    raise RuntimeError(
        f"needs hook specification {written(needed)}, and negplug "
        f"{installed_version(PROJECT) or '(from source)'} has {written(HOOKSPEC_VERSION)}; "
        f"install a newer {fix}"
    )
