"""What is wrong here, for the first lines of ``negplug doctor``: one sentence each."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from negplug.contract import variables

if TYPE_CHECKING:
    from negplug.plugins.manager import Plugins


def problems(
    found: Plugins, hosts: Mapping[str, Mapping[str, Any]], kernels: Mapping[str, str | None]
) -> Iterator[str]:
    """Yield what a user has to mend.

    Args:
        found: The plugins.
        hosts: Of each adapter what it reports, or its ``error``.
        kernels: Of each operation why nothing computes it here, None if something does.
    """
    yield from map(str, found.failures)
    yield from found.clashes()
    for host, report in hosts.items():
        if "error" in report:
            yield f"{host} cannot be imported: {report['error']}"
    yield from dict.fromkeys(why for why in kernels.values() if why is not None)
    yield from variables.unknown(os.environ)
    yield from _of_variables()


def _of_variables() -> Iterator[str]:
    """Yield why the treatment that the environment asks for cannot be had."""
    from negplug.contract.declarations import all_declared
    from negplug.hosts import environment
    from negplug.hosts.trainer.autoload import asked_diagnostics

    said = list(environment.refusals())
    readers = environment.asked, environment.accumulate, asked_diagnostics, all_declared
    for read in readers:
        try:
            read()
        except ValueError as error:
            said.append(str(error))
    yield from dict.fromkeys(said)
    if os.environ.get("NEGPLUG_SAMPLER") and os.environ.get("TORCH_DEVICE_BACKEND_AUTOLOAD") == "0":
        yield (
            "TORCH_DEVICE_BACKEND_AUTOLOAD=0 keeps NEGPLUG_SAMPLER from plain scripts; unset it, "
            "or use 'negplug run'"
        )
