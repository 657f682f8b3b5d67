"""What a plugin can contribute: the hook specification and its records.

A distribution announces its plugin module in the entry-point group ``negplug``::

    [project.entry-points.negplug]
    my-samplers = "my_package.negplug_plugin"

and the module implements any of the hooks below. Hooks return records, so that negplug always
knows which distribution a name came from.

The specification has a version of its own, ``HOOKSPEC_VERSION``: major and minor. It covers the
hooks, the records, and every public name of ``negplug`` that a sampler, an objective or an adapter
is made of. The minor version rises where something is added, the major one where a plugin may have
to change. A plugin may say which one it needs, and is left out with one sentence elsewhere::

    REQUIRES_HOOKSPEC = (1, 0)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from torch import nn

    from negplug.contract.adapter import LossSite, MethodReport
    from negplug.contract.objective import Objective
    from negplug.contract.sampler import NegativeSampler

PROJECT = "negplug"

#: Major and minor version of the hook specification.
HOOKSPEC_VERSION = (1, 1)

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@dataclass(frozen=True)
class SamplerSpec:
    """A sampler on offer.

    Attributes:
        name: The name used in expressions, a Python identifier.
        factory: Builds the sampler; its keyword arguments are those of the expression.
        summary: One line for listings.
        paper: Where the method comes from.
    """

    name: str
    factory: Callable[..., NegativeSampler]
    summary: str
    paper: str = ""


@dataclass(frozen=True)
class ObjectiveSpec:
    """An objective on offer; attributes as in :class:`SamplerSpec`."""

    name: str
    factory: Callable[..., Objective]
    summary: str
    paper: str = ""


@dataclass(frozen=True)
class AdapterSpec:
    """A host that negplug can treat.

    Attributes:
        name: The host's name, such as ``"lightly"``.
        sites: Finds the contrastive losses of a model; returns none for a model of another
            host. Must not import the host: a model of a host that is not loaded cannot exist.
        methods: Reports every method of the installed host and what can be done to it. May
            import the host.
        summary: One line for listings.
        site_of: Gives the site of a module that is itself a loss, unless it is treated already,
            for scripts without a Trainer (:mod:`negplug.hosts.watch`). None if the host has none.
    """

    name: str
    sites: Callable[[nn.Module], Iterable[LossSite]]
    methods: Callable[[], Iterable[MethodReport]]
    summary: str
    site_of: Callable[[nn.Module], LossSite | None] | None = None


@hookspec
def negplug_samplers() -> Iterable[SamplerSpec]:
    """Offer samplers.

    Example::

        @hookimpl
        def negplug_samplers():
            yield SamplerSpec("nearest", Nearest, "the nearest keys", "Doe et al. 2025")
    """
    return ()


@hookspec
def negplug_objectives() -> Iterable[ObjectiveSpec]:
    """Offer objectives.

    Example::

        @hookimpl
        def negplug_objectives():
            yield ObjectiveSpec("margin", Margin, "InfoNCE with a margin", "Doe et al. 2025")
    """
    return ()


@hookspec
def negplug_adapters() -> Iterable[AdapterSpec]:
    """Offer adapters to further hosts.

    Example::

        @hookimpl
        def negplug_adapters():
            yield AdapterSpec("myhost", find_losses, report_methods, "MyHost's criteria")
    """
    return ()
