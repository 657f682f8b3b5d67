"""Errors inside a training step name the plugin that raised them; they are never swallowed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from negplug.contract.provenance import PluginInfo


class PluginError(RuntimeError):
    """A plugin is at fault; the message names it and its distribution."""


@contextlib.contextmanager
def blaming(plugin: PluginInfo | None, where: str) -> Iterator[None]:
    """Re-raise what a third-party plugin raises as a ``PluginError`` that names it.

    negplug's own errors (``plugin`` is None or of this distribution) pass as they are.
    """
    try:
        yield
    except PluginError:
        raise
    except Exception as error:
        if plugin is None or plugin.distribution == "negplug":
            raise
        raise PluginError(
            f"plugin {plugin} failed in {where}: {type(error).__name__}: {error}"
        ) from error
