"""A plugin that takes its time is named: what hangs cannot be told from what is slow."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from negplug.contract.hookspecs import PROJECT
from negplug.contract.provenance import PluginInfo

#: After so long a plugin is named.
SECONDS = 10.0


@contextmanager
def named_if_slow(plugin: PluginInfo, stage: str) -> Iterator[None]:
    """Say on standard error which third-party plugin keeps everything waiting, and go on waiting.

    Args:
        plugin: Whose code runs inside the ``with`` block.
        stage: What it is doing there.
    """
    if plugin.distribution == PROJECT:
        yield
        return

    def tell() -> None:
        print(
            f"negplug: still waiting for plugin {plugin} at {stage}, after {SECONDS:g} s; "
            f"NEGPLUG_DISABLED_PLUGINS={plugin.name} leaves it out",
            file=sys.stderr,
            flush=True,
        )

    timer = threading.Timer(SECONDS, tell)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
