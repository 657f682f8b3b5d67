"""Plain PyTorch loops under ``negplug run``: a loss is treated at its first training call.

A script without a Trainer does not say when its model is complete, but it calls its loss. Torch
has a global hook behind every module's forward pass. The first time that a module which an
adapter knows as a loss returns a scalar with a gradient, it is treated, and the treated loss takes
the place of what it returned; from then on its own forward is not run. (The hook ahead of the
forward pass would be too late for that first call: torch has looked ``forward`` up by then.)

Each loss has samplers of its own, and a step ends with its backward pass. Data set indexes are
out of reach. While a Trainer fits, its callback does the treating and the hook is away.
"""

from __future__ import annotations

import weakref
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from negplug.contract.adapter import LossSite
from negplug.contract.objective import Objective
from negplug.contract.provenance import blaming
from negplug.contract.sampler import NegativeSampler
from negplug.hosts.injection import Injection
from negplug.hosts.treatment import Treatment
from negplug.kernels.torch_private import outside_graphs
from negplug.plugins.manager import plugins

_UNINDEXED = (
    "a plain PyTorch loop does not say which samples it trains on; call negplug.inject() in the "
    "script and say it with handle.provide(indexes=…), or train with a Lightning Trainer"
)

_watch: Watch | None = None


class Watch:
    """Treats the losses that this process trains with, until :meth:`stop`; one at a time.

    Args:
        sampler: A sampler or an expression. Each loss gets a copy with state of its own.
        objective: Replaces the host's form of the loss.
        temperature: Replaces the host's temperature.

    Attributes:
        injections: The handles of the losses treated so far, by name, in order of their calls.

    Raises:
        ValueError, TypeError: If an argument cannot be used.
    """

    def __init__(
        self,
        sampler: NegativeSampler | str,
        objective: Objective | str | None = None,
        temperature: float | None = None,
    ) -> None:
        global _watch
        self.injections: dict[str, Injection] = {}
        self._treatment = Treatment.of(sampler, objective, temperature)
        self._adapters = [a for a in plugins().provided("adapter") if a.spec.site_of is not None]
        self._fitting: weakref.WeakSet[object] = weakref.WeakSet()
        self._hook: Any = None
        _watch = self
        self._update()

    def stop(self) -> None:
        """Restore the losses, and treat no others."""
        global _watch
        _watch = None
        self._update()
        for injection in self.injections.values():
            injection.remove()

    def pause(self, fitting: object) -> None:
        """Take the hook away, until :meth:`resume` is called with the same object."""
        self._fitting.add(fitting)
        self._update()

    def resume(self, fitting: object) -> None:
        """Undo :meth:`pause`, if there was one."""
        self._fitting.discard(fitting)
        self._update()

    def _update(self) -> None:
        if self._hook is not None:
            self._hook.remove()
            self._hook = None
        if _watch is self and not self._fitting:
            self._hook = register_module_forward_hook(self._after_forward, with_kwargs=True)

    def _after_forward(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> Any:
        """Return the treated loss in place of ``output``, or None to leave that."""
        # What most modules return; checked here, so that a compiled graph goes on through them.
        if not isinstance(output, Tensor) or output.ndim or not output.requires_grad:
            return None
        return self._after_scalar(module, args, kwargs)

    @outside_graphs
    def _after_scalar(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        for adapter in self._adapters:
            with blaming(adapter.plugin, "site_of()"):
                site = adapter.spec.site_of(module)
            if site is not None:
                self._treat(site)
                return module.forward(*args, **kwargs)
        return None

    def _treat(self, site: LossSite) -> None:
        # Of a name of its own, from which the seed of its draws is made.
        number = len(self.injections)
        site.name = f"{site.name}.{number}" if number else site.name
        injection = Injection([site], [self._treatment.at(site)])
        injection.provide(unindexed=_UNINDEXED)
        self.injections[site.name] = injection


def pause(fitting: object) -> None:
    """Leave losses alone while a Trainer fits; does nothing where nothing is watched."""
    if _watch is not None:
        _watch.pause(fitting)


def resume(fitting: object) -> None:
    """Undo :func:`pause`; does nothing where nothing was paused."""
    if _watch is not None:
        _watch.resume(fitting)
