"""Contrastive losses that nobody treats, found by their own calls.

No search of a model finds a loss in a list, a dictionary or a closure, or one that is made inside
``training_step``; and no adapter knows a loss of the recipe's own. But whatever trains is called.
Behind every module's forward pass torch has a global hook: a module that an adapter knows and that
is not treated, or whose scalar is a contrastive loss by its form
(:mod:`negplug.hosts.loss_form`), would train on as the host has it.
"""

from __future__ import annotations

import traceback
import weakref
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from negplug.contract.adapter import LossSite
from negplug.contract.declarations import full_name
from negplug.contract.provenance import blaming
from negplug.hosts.loss_form import contrasts
from negplug.kernels.torch_private import outside_graphs
from negplug.loss.contrastive import ContrastiveLoss
from negplug.plugins.manager import Provided, plugins

_STEPS = 3
"""For how many steps a Trainer's losses are watched: alternating losses take turns."""

_OURS = ("torch", "negplug", "negplug_lightly", "negplug_solo")


class UntreatedLossError(RuntimeError):
    """A contrastive loss trains on without the treatment that was asked for."""


class Judge:
    """Says which of the modules that are called are contrastive losses that nobody treats.

    Args:
        ignore: Losses to leave alone, by the name of their class or of their attribute.
        model: The model that trains, in which attributes have names.
    """

    def __init__(self, ignore: Collection[str] = (), model: nn.Module | None = None) -> None:
        self._adapters: Sequence[Provided] = plugins().provided("adapter")
        self._ignore = ignore
        self._model = model
        self._known_to_be_none: weakref.WeakSet[nn.Module] = weakref.WeakSet()

    def site_of(self, module: nn.Module) -> LossSite | None:
        """Return the site of a known loss that is neither treated nor ignored."""
        for adapter in self._adapters:
            if adapter.spec.site_of is not None:
                with blaming(adapter.plugin, "site_of()"):
                    site = adapter.spec.site_of(module)
                if site is not None:
                    return None if self._is_ignored(module) else site
        return None

    def unknown(self, module: nn.Module, given: Any, output: Tensor) -> str | None:
        """Return the name of a contrastive loss that no adapter can treat, None if it is none."""
        if module in self._known_to_be_none:
            return None
        if (
            not self._is_ignored(module)
            and not isinstance(module, ContrastiveLoss)
            and not self._holds_a_known_loss(module)
            and contrasts(output, given)
            and not self._is_vouched_for(module)
        ):
            return self.name(module)
        self._known_to_be_none.add(module)
        return None

    def name(self, module: nn.Module) -> str:
        """Return the path of a module in the model, or the name of its class."""
        return self._path(module) or type(module).__name__

    def _path(self, module: nn.Module) -> str:
        inside = () if self._model is None else self._model.named_modules()
        return next((path for path, other in inside if other is module), "")

    def _is_ignored(self, module: nn.Module) -> bool:
        if not self._ignore:
            return False
        return type(module).__name__ in self._ignore or self._path(module) in self._ignore

    def _holds_a_known_loss(self, module: nn.Module) -> bool:
        """Whether it is a treated loss, or a module around one."""
        for adapter in self._adapters:
            with blaming(adapter.plugin, "sites()"):
                if any(True for _ in adapter.spec.sites(module)):
                    return True
        return False

    def _is_vouched_for(self, module: nn.Module) -> bool:
        """Whether it is a host's own, of which the adapter says that it has no negatives."""
        kind = type(module)
        package = kind.__module__.partition(".")[0]
        for adapter in self._adapters:
            if adapter.spec.name == package:
                with blaming(adapter.plugin, "methods()"):
                    reports = [r for r in adapter.spec.methods() if r.method == kind.__name__]
                return any(not r.treatable and not r.contrastive for r in reports)
        return False


class Lookout:
    """Watches the first steps of a Trainer whose losses are treated.

    Args:
        model: The model that trains.
        treated: Names of its losses that are treated.
        ignore: Losses to leave alone, by the name of their class or of their attribute.
    """

    def __init__(
        self, model: nn.Module, treated: Iterable[str], ignore: Collection[str] = ()
    ) -> None:
        self._judge = Judge(ignore, model)
        self._those = f"{', '.join(treated)} of {type(model).__name__}"
        self._left = _STEPS
        self._found: dict[str, str] = {}
        self._hook: Any = register_module_forward_hook(self._after_forward, with_kwargs=True)

    def end_step(self) -> None:
        """Insist that the step called no contrastive loss but those that are treated.

        Raises:
            UntreatedLossError: If it did; names each and the place of its call.
        """
        if self._hook is None:
            return
        self._left -= 1
        if self._left <= 0 or self._found:
            self.stop()
        if self._found:
            others = "; ".join(f"{name} {why}" for name, why in self._found.items())
            first = next(iter(self._found))
            raise UntreatedLossError(
                f"negplug treats {self._those}, but its training also calls contrastive losses "
                f"that stay untreated: {others}. To treat them, make them attributes of the model "
                f"and declare what no adapter knows (treat=…, NEGPLUG_TREAT); to leave them alone, "
                f"say ignore={first!r} (NEGPLUG_IGNORE={first}), or name the one to treat as target"
            )

    def stop(self) -> None:
        """Watch no further steps."""
        if self._hook is not None:
            self._hook.remove()
            self._hook = None

    def _after_forward(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        # What most modules return; checked here, so that a compiled graph goes on through them.
        if isinstance(output, Tensor) and not output.ndim and output.requires_grad:
            self._after_scalar(module, (args, kwargs), output)

    @outside_graphs
    def _after_scalar(self, module: nn.Module, given: Any, output: Tensor) -> None:
        where = f"(called at {place()[0]})"
        if self._judge.site_of(module) is not None:
            name = self._judge.name(module)
            self._found[name] = f"{where}, which is out of reach of the model's modules"
        elif (unknown := self._judge.unknown(module, given, output)) is not None:
            self._found[unknown] = f"{where}, a {full_name(type(module))} that no adapter knows"


def place() -> tuple[str, tuple[str, int]]:
    """Return where the recipe's code is at this moment, for a message and as a key."""
    for frame, line in traceback.walk_stack(None):
        if frame.f_globals.get("__name__", "").partition(".")[0] not in _OURS:
            path = frame.f_code.co_filename
            return f"{Path(path).name}:{line}", (path, line)
    return "an unknown place", ("", 0)
