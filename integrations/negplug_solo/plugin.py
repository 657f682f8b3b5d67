"""solo-learn's methods as loss sites.

A method module imports its loss function by name, so the function is swapped in that module,
and only while the treated model's own ``training_step`` runs: other models, and subclasses that
call ``super().training_step()``, see what they should.

solo-learn has two generations, told apart by the signature of the loss function. To treat a
further method, add a line to ``_METHODS``; for a further signature, one to ``_SIGNATURES``.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator
from types import ModuleType
from typing import Any, NamedTuple

from torch import Tensor, nn

from negplug.adapter import Contrast, LossSite, MethodReport
from negplug.hookspecs import AdapterSpec, hookimpl
from negplug.provenance import installed_version
from negplug_solo import losses
from negplug_solo.metadata import read_metadata

Treatment = Callable[..., Tensor]


class Method(NamedTuple):
    """A method class and its loss.

    Attributes:
        module: Where the class is defined.
        name: The class.
        functions: The loss functions that its module may call, of both generations; the first
            names the site in both.
        note: For ``negplug doctor``.
    """

    module: str
    name: str
    functions: tuple[str, ...]
    note: str


_METHODS = (
    Method(
        "solo.methods.simclr",
        "SimCLR",
        ("simclr_loss_func", "manual_simclr_loss_func"),
        "every sampler, multi-crop and supervised included",
    ),
    Method(
        "solo.methods.mocov2plus",
        "MoCoV2Plus",
        ("mocov2plus_loss_func", "moco_loss_func"),
        "every sampler; queue() takes its size and keeps one queue per view",
    ),
)

_NOT_YET = ("All4One", "MoCoV3", "NNCLR", "ReSSL", "SupCon")
"""Contrastive methods without an adapter so far."""

_SIGNATURES: dict[tuple[str, ...], Treatment] = {
    ("z", "indexes", "temperature"): losses.simclr_by_index,
    ("z1", "z2", "temperature", "extra_pos_mask"): losses.simclr_pairs,
    ("z", "pos_mask", "neg_mask", "temperature"): losses.simclr_masks,
    ("query", "key", "queue", "temperature"): losses.moco,
}
"""Parameters of a host's loss function → its treatment."""


class TreatedStep:
    """A ``training_step`` with the method's loss functions swapped while it runs.

    A plain object, so that the model stays picklable; ``__wrapped__`` shows Lightning the
    host's own step and its signature.
    """

    def __init__(
        self,
        step: Callable[..., Any],
        module: ModuleType,
        swaps: dict[str, Treatment],
        model: nn.Module,
        contrast: Contrast,
    ) -> None:
        self.__wrapped__ = step
        self._module = module.__name__
        self._swaps = swaps
        self._model = model
        self._contrast = contrast

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the host's step."""
        batch = kwargs.get("batch", args[0] if args else None)
        self._contrast.metadata = read_metadata(self._model, batch)
        names = vars(sys.modules[self._module])
        before = {name: names[name] for name in self._swaps}
        names.update(self._swaps)
        try:
            return self.__wrapped__(*args, **kwargs)
        finally:
            names.update(before)


class MethodSite(LossSite):
    """The contrastive loss of a solo-learn method."""

    reads_metadata = True

    def __init__(self, model: nn.Module, method: Method, module: ModuleType) -> None:
        self.queue_size = getattr(model, "queue_size", None)
        self.name = method.functions[0]
        self.host = f"solo-learn {installed_version('solo-learn') or '(from source)'} {method.name}"
        self._model = model
        self._module = module
        self._functions = [name for name in method.functions if hasattr(module, name)]
        self._before: dict[str, Any] = {}

    def treat(self, contrast: Contrast) -> None:
        """Wrap the model's ``training_step``."""
        if not self._functions:
            raise ValueError(
                f"{self.host}: {self._module.__name__} has no {self.name}, which this adapter "
                f"expects; use another version of solo-learn or of negplug"
            )
        own = vars(self._model)
        if isinstance(own.get("training_step"), TreatedStep):
            raise ValueError(f"{self.host}: the model is treated already; remove() that first")
        swaps: dict[str, Treatment] = {
            name: functools.partial(self._treatment(name), contrast) for name in self._functions
        }
        self._before = {"training_step": own["training_step"]} if "training_step" in own else {}
        step: Any = self._model.training_step
        own["training_step"] = TreatedStep(step, self._module, swaps, self._model, contrast)

    def restore(self) -> None:
        """Uncover the class's own ``training_step``."""
        del vars(self._model)["training_step"]
        vars(self._model).update(self._before)

    def _treatment(self, name: str) -> Treatment:
        parameters = tuple(inspect.signature(getattr(self._module, name)).parameters)
        if parameters not in _SIGNATURES:
            expected = " or ".join(f"({', '.join(known)})" for known in _SIGNATURES)
            raise ValueError(
                f"{self.host}: {name} takes ({', '.join(parameters)}), but this adapter expects "
                f"{expected}; use another version of solo-learn or of negplug"
            )
        return _SIGNATURES[parameters]


def find_methods(model: nn.Module) -> Iterator[LossSite]:
    """Yield the loss of ``model`` if it is a known solo-learn method."""
    for method in _METHODS:
        module = sys.modules.get(method.module)
        if module is not None and isinstance(model, getattr(module, method.name)):
            yield MethodSite(model, method, module)


def report_methods() -> Iterator[MethodReport]:
    """Yield every method of the installed solo-learn and what can be done to it."""
    try:
        methods = importlib.import_module("solo.methods")
    except ImportError:
        return
    notes = {method.name: method.note for method in _METHODS}
    classes = {value.__name__ for value in methods.METHODS.values() if inspect.isclass(value)}
    for name in sorted(classes):
        if name in notes:
            yield MethodReport(name, True, notes[name])
        elif not name.startswith(("Base", "Linear")):
            note = "contrastive, no adapter yet" if name in _NOT_YET else "no negatives to choose"
            yield MethodReport(name, False, note)


@hookimpl
def negplug_adapters() -> Iterable[AdapterSpec]:
    """Offer the solo-learn adapter."""
    yield AdapterSpec("solo-learn", find_methods, report_methods, "method classes of solo.methods")
