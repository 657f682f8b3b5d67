"""What an adapter needs for a host whose losses are modules: a table of classes.

A loss is found anywhere in a model by its class, and treated by covering one method on the
instance: its identity, its hooks, its place in the model and its ``state_dict`` stay as they are.
An adapter says of each class how it forms its batch, in a function with the host's own arguments::

    def ntxent(call, z_i, z_j):
        batch = ContrastiveBatch.from_views((z_i, z_j), **call.known_of(z_i))
        return call.contrast(batch, objective=InfoNCE(), temperature=call.loss.temperature)

    HOST = LossModules("my-host", "my_host.losses", {"NTXent": KnownLoss(ntxent, "every sampler")})
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor, nn

from negplug.contract.adapter import Contrast, LossSite, MethodReport
from negplug.contract.hookspecs import AdapterSpec
from negplug.contract.labels import FIELDS, Targets
from negplug.contract.provenance import installed_version
from negplug.hosts.cover import insist_on_own, is_covered, put_on, take_off
from negplug.hosts.functions import modules_around
from negplug.hosts.treated_method import LossCall, TreatedMethod


@dataclass(frozen=True)
class KnownLoss:
    """How a class of losses is treated.

    Attributes:
        treated: Returns the treated loss, given a :class:`LossCall` and the host's arguments, under
            the host's names.
        note: For ``negplug doctor``.
        attributes: What it reads of the loss.
        method: The method that is covered.
        parts: Further methods that make up the host's loss; a subclass may override none.
        refusal: Why a loss cannot be treated as it is configured, given it and the wrappers
            around it; None if it can.
    """

    treated: Callable[..., Tensor]
    note: str
    attributes: tuple[str, ...] = ("temperature",)
    method: str = "forward"
    parts: tuple[str, ...] = ()
    refusal: Callable[[Any, tuple[nn.Module, ...]], str | None] | None = None


class Found(NamedTuple):
    """A loss in a model.

    Attributes:
        name: Its path in the model; of a loss inside of other losses of the host that of these.
        loss: The module.
        kind: Which class of the table it is of, or which one that cannot be treated.
        around: The host's wrappers that it is inside of, from the outermost.
    """

    name: str
    loss: nn.Module
    kind: str
    around: tuple[nn.Module, ...]


@dataclass(frozen=True)
class LossModules:
    """A host whose losses are modules.

    Attributes:
        distribution: Its name, as it is installed.
        package: The module that has the classes of its losses.
        known: Those that can be treated, by name; a subclass stands before its base.
        refused: Contrastive ones that cannot be treated → why.
        harmless: Those without negatives. One that is in none of the three is reported as refused.
        wrappers: Classes that hold another loss of the host and call it.
        past_keys: Those of them that give it past keys.
    """

    distribution: str
    package: str
    known: Mapping[str, KnownLoss]
    refused: Mapping[str, str] = field(default_factory=dict)
    harmless: Collection[str] = ()
    wrappers: Collection[str] = ()
    past_keys: Collection[str] = ()

    def adapter(self, summary: str) -> AdapterSpec:
        """Return the record of the adapter.

        Args:
            summary: One line for listings.
        """
        return AdapterSpec(self.distribution, self.sites, self.report, summary, self.site_of)

    def sites(self, model: nn.Module) -> Iterator[LossSite]:
        """Yield the losses of a model, each once."""
        for found in self._find(model):
            yield LossModuleSite(self, found)

    def site_of(self, module: nn.Module) -> LossSite | None:
        """Return the site of a loss that is called just now and not treated so far."""
        kind = self.kind_of(module)
        if kind is None or is_covered(module, self.method_of(kind)):
            return None
        own = [m for m in modules_around() if m is not module and self._wraps(m)]
        found = Found(type(module).__name__, module, kind, tuple(reversed(own)))
        return LossModuleSite(self, found)

    def report(self) -> Iterator[MethodReport]:
        """Yield every loss of the installed host and what can be done to it.

        Raises:
            ImportError: If the host is installed and cannot be imported.
        """
        if installed_version(self.distribution) is None:
            return
        classes = vars(importlib.import_module(self.package)).items()
        for name, value in sorted(classes):
            if not (inspect.isclass(value) and issubclass(value, nn.Module)):
                continue
            if name in self.known:
                yield MethodReport(name, True, self.known[name].note)
            elif name in self.harmless:
                yield MethodReport(name, False, "no negatives to choose")
            else:
                why = self.refused.get(name, "not known to this adapter")
                yield MethodReport(name, False, why, contrastive=True)

    def kind_of(self, module: nn.Module) -> str | None:
        """Return which loss of the host a module is, None if it is none that has negatives."""
        # Of a host that is not loaded there are no modules.
        package = sys.modules.get(self.package)
        if package is None:
            return None
        names = (*self.known, *self.refused)
        kinds = (name for name in names if isinstance(module, getattr(package, name, ())))
        return next(kinds, None)

    def method_of(self, kind: str) -> str:
        """Return the name of the method of a loss that is covered."""
        return self.known[kind].method if kind in self.known else "forward"

    def base(self, kind: str) -> type:
        """Return the host's class of this name."""
        base: type = getattr(sys.modules[self.package], kind)
        return base

    def _wraps(self, module: nn.Module) -> bool:
        own = self.package.partition(".")[0]
        classes = type(module).__mro__ if self.wrappers else ()
        return any(
            kind.__name__ in self.wrappers and kind.__module__.partition(".")[0] == own
            for kind in classes
        )

    def _find(self, model: nn.Module) -> Iterator[Found]:
        seen: set[int] = set()
        todo: list[tuple[str, nn.Module, tuple[str, ...], tuple[nn.Module, ...]]]
        todo = [("", model, (), ())]
        while todo:
            path, module, names, around = todo.pop()
            if id(module) in seen:
                continue
            seen.add(id(module))
            if (kind := self.kind_of(module)) is not None:
                name = (*names, path or type(module).__name__)[0]
                yield Found(name, module, kind, around)
                continue
            if self._wraps(module):
                names, around = (*names, path or type(module).__name__), (*around, module)
            else:
                names, around = (), ()
            for name, child in reversed(list(module.named_children())):
                # A LightningModule inside another does not run its training step, so its loss is
                # not this model's.
                if not (hasattr(child, "training_step") and hasattr(child, "configure_optimizers")):
                    inner = f"{path}.{name}" if path else name
                    todo.append((inner, child, names, around))


class LossModuleSite(LossSite):
    """A loss inside a model.

    Args:
        host: The host's table.
        found: The loss.
    """

    rows_by_view = True

    def __init__(self, host: LossModules, found: Found) -> None:
        self.name = found.name
        version = installed_version(host.distribution) or "(unknown version)"
        self.host = f"{host.distribution} {version} {type(found.loss).__name__}"
        self.past_keys = any(type(m).__name__ in host.past_keys for m in found.around)
        self._host, self._found = host, found
        self._targets = Targets()

    def treat(self, contrast: Contrast) -> None:
        """Cover the loss's method."""
        loss, kind = self._found.loss, self._found.kind
        method = self._host.method_of(kind)
        mend = "put a negplug.ContrastiveLoss in its place"
        insist_on_own(loss, method, (self.host, self.name), mend)
        if kind in self._host.refused:
            raise ValueError(
                f"{self.host}: {self.name!r} cannot be treated: {self._host.refused[kind]}; leave "
                f"it alone with ignore={self.name!r} (NEGPLUG_IGNORE={self.name})"
            )
        known, own, base = self._host.known[kind], type(loss), self._host.base(kind)
        for part in (method, *known.parts):
            if not hasattr(base, part):
                raise self._changed(f"{kind} has no method {part}")
            if getattr(own, part) is not getattr(base, part):
                raise ValueError(
                    f"{self.host}: {self.name!r} overrides the {part} of {kind}, so its loss is "
                    f"not known; put a negplug.ContrastiveLoss in its place"
                )
        arguments = list(inspect.signature(getattr(own, method)).parameters)[1:]
        expected = list(inspect.signature(known.treated).parameters)[1:]
        if arguments != expected:
            raise self._changed(f"its {method} takes {arguments}, not {expected}")
        if missing := [name for name in known.attributes if not hasattr(loss, name)]:
            raise self._changed(f"it has no {' and no '.join(missing)}")
        why = None if known.refusal is None else known.refusal(loss, self._found.around)
        if why is not None:
            raise ValueError(f"{self.host}: {self.name!r} cannot be treated: {why}")
        call = LossCall(contrast, loss, self._found.around)
        put_on(TreatedMethod(call, known.treated, method), loss, method)

    def _changed(self, what: str) -> ValueError:
        distribution = self._host.distribution
        return ValueError(
            f"{self.host}: {what}, as this adapter expects; use another version of {distribution} "
            f"or of negplug"
        )

    def labels(self, batch: Any) -> Tensor | None:
        """Return the labels of a batch that is a mapping, or of its first view that has some."""
        if not isinstance(batch, Mapping):
            return None
        views = batch.get("views", batch)
        for part in views.values() if isinstance(views, Mapping) else views:
            if isinstance(part, Mapping) and any(name in part for name in FIELDS):
                return self._targets.read("a view of the batch", part)
        return self._targets.read("the batch", batch)

    def restore(self) -> None:
        """Uncover the class's own method."""
        take_off(self._found.loss, self._host.method_of(self._found.kind))
