"""solo-learn's methods as loss sites.

A method module imports its loss function by name, so the function is swapped in that module,
and only while the treated model's own ``training_step`` runs: other models, and subclasses that
call ``super().training_step()``, see what they should.

solo-learn has two generations, told apart by the form of the loss function: its parameters and
whether it gathers. To treat a further method, add a line to ``_METHODS``; a further loss function
needs a ``Form``.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator
from types import ModuleType
from typing import Any, NamedTuple

from torch import Tensor, nn

from negplug.contract.adapter import Contrast, LossSite, MethodReport
from negplug.contract.hookspecs import AdapterSpec, hookimpl
from negplug.contract.labels import Targets
from negplug.contract.provenance import installed_version
from negplug.hosts.cover import Cover, shown_signature
from negplug_solo import losses, private
from negplug_solo.metadata import indexes_in, read_metadata

Treatment = Callable[..., Tensor]


class Form(NamedTuple):
    """What a loss function of the host looks like, and how it is treated.

    Attributes:
        parameters: Its parameters.
        gathers: The host's helper with which it gathers over ranks, if it does.
        treatment: What takes its place.
    """

    parameters: tuple[str, ...]
    gathers: str
    treatment: Treatment


_KEYS = "concat_all_gather_no_grad"
_BY_INDEX = Form(("z", "indexes", "temperature"), "gather", losses.simclr_by_index)
_BY_CLASS = Form(("z", "indexes", "temperature"), "gather", losses.simclr_by_class)
_PAIRS = Form(("z1", "z2", "temperature", "extra_pos_mask"), "", losses.simclr_pairs)
_MASKS = Form(("z", "pos_mask", "neg_mask", "temperature"), "", losses.simclr_masks)
_MOCO = Form(("query", "key", "queue", "temperature"), "", losses.moco)
_MOCO_V3 = Form(("query", "key", "temperature"), _KEYS, losses.mocov3)
_NNCLR = (
    Form(("nn", "p", "temperature"), "gather", losses.nnclr_gathered),
    Form(("nn", "p", "temperature"), "", losses.nnclr),
)
_RESSL = Form(("q", "k", "queue", "temperature_q", "temperature_k"), "", losses.ressl)


class Method(NamedTuple):
    """A method class and its loss.

    Attributes:
        name: The class.
        functions: The loss functions that its module may call, of both generations, and the forms
            that each may have; the first names the site in both.
        note: For ``negplug doctor``.
        has_queue: Whether the model's ``queue_size`` is of a queue of negatives.
    """

    name: str
    functions: dict[str, tuple[Form, ...]]
    note: str
    has_queue: bool = False


_METHODS = (
    Method(
        "SimCLR",
        {"simclr_loss_func": (_BY_INDEX, _PAIRS), "manual_simclr_loss_func": (_MASKS,)},
        "every sampler, multi-crop and supervised included",
    ),
    Method(
        "SupCon",
        {"simclr_loss_func": (_BY_CLASS,)},
        "every sampler, multi-crop included; keys of the anchor's class are positives, so there "
        "are none of its own stratum",
    ),
    Method(
        "MoCoV2Plus",
        {"mocov2plus_loss_func": (_MOCO,), "moco_loss_func": (_MOCO,)},
        "every sampler; queue() takes its size and keeps one queue per view",
        has_queue=True,
    ),
    Method(
        "MoCoV3",
        {"mocov3_loss_func": (_MOCO_V3,)},
        "every sampler, of momentum keys; the factor 2*temperature stays",
    ),
    Method(
        "NNCLR",
        {"nnclr_loss_func": _NNCLR},
        "every sampler, of predictions; queue() needs a size, the host's holds neighbours",
    ),
    Method(
        "All4One",
        {"nnclr_loss_func": _NNCLR},
        "its four contrastive losses, as NNCLR; the feature loss has no negatives",
    ),
    Method(
        "ReSSL",
        {"ressl_loss_func": (_RESSL,)},
        "in_batch() is the host's queue, whose rows have no labels, queue() one of our own of its "
        "size, which have; at least two negatives, and none drawn from a softmax",
        has_queue=True,
    ),
)


class TreatedFunction:
    """A loss function of the host, rerouted. A plain object, so that the model stays picklable."""

    def __init__(
        self,
        model: nn.Module,
        own: Callable[..., Tensor],
        form: Form,
        contrast: Contrast,
    ) -> None:
        self._model = model
        self._own = own
        self._names = form.parameters
        self._treatment = form.treatment
        self._contrast = contrast

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return the loss of what the host's function is given."""
        own = functools.partial(self._own, *args, **kwargs)
        named = dict(zip(self._names, args, strict=False)) | kwargs
        treated = functools.partial(self._treated, **named)
        return self._contrast.returned(own, treated, self._model.training)

    def _treated(self, **named: Any) -> Tensor:
        with self._contrast.together(*named.values()):
            return self._treatment(self._contrast, **named)


class TreatedStep(Cover):
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
        self.contrast = contrast
        self._targets = Targets()

    @property
    def __signature__(self) -> inspect.Signature | None:
        """Show Lightning which arguments the recipe's own has."""
        return shown_signature(self.__wrapped__)

    def covered(self) -> Any:
        """Return the host's own step."""
        return self.__wrapped__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the host's step."""
        batch = kwargs.get("batch", args[0] if args else None)
        metadata = read_metadata(self._model, batch, self.contrast.metadata, self._targets)
        with self.contrast.knowing(metadata), private.swapped(self._module, self._swaps):
            return self.__wrapped__(*args, **kwargs)


class MethodSite(LossSite):
    """The contrastive loss of a solo-learn method."""

    reads_metadata = True
    rows_by_view = True
    shared = ("queue",)
    own_indexes = staticmethod(indexes_in)

    def __init__(self, model: nn.Module, method: Method, module: ModuleType) -> None:
        self.queue_size = private.own_queue_size(model) if method.has_queue else None
        self.name = next(iter(method.functions))
        self.host = f"solo-learn {installed_version('solo-learn') or '(from source)'} {method.name}"
        self._model = model
        self._name = module.__name__  # a handle that holds a module cannot be copied
        self._forms = {n: forms for n, forms in method.functions.items() if hasattr(module, n)}
        self._before: dict[str, Any] = {}

    @property
    def _module(self) -> ModuleType:
        return sys.modules[self._name]

    def treat(self, contrast: Contrast) -> None:
        """Wrap the model's ``training_step``."""
        if not self._forms:
            raise ValueError(
                f"{self.host}: {self._module.__name__} has no {self.name}, which this adapter "
                f"expects; use another version of solo-learn or of negplug"
            )
        own = vars(self._model)
        if isinstance(own.get("training_step"), TreatedStep):
            raise ValueError(f"{self.host}: the model is treated already; remove() that first")
        swaps: dict[str, Treatment] = {}
        for name in self._forms:
            host = getattr(self._module, name)
            swaps[name] = TreatedFunction(self._model, host, self._form(name), contrast)
        self._before = {"training_step": own["training_step"]} if "training_step" in own else {}
        step: Any = self._model.training_step
        own["training_step"] = TreatedStep(step, self._module, swaps, self._model, contrast)

    def restore(self) -> None:
        """Uncover the class's own ``training_step``."""
        del vars(self._model)["training_step"]
        vars(self._model).update(self._before)

    def _form(self, name: str) -> Form:
        parameters, gathers = private.loss_form(self._module, name, ("gather", _KEYS))
        for form in self._forms[name]:
            if (form.parameters, form.gathers) == (parameters, gathers):
                return form
        found = _described(parameters, gathers)
        expected = " or ".join(_described(f.parameters, f.gathers) for f in self._forms[name])
        raise ValueError(
            f"{self.host}: {name} takes {found}, but this adapter expects {expected}; use another "
            f"version of solo-learn or of negplug"
        )


def _described(parameters: tuple[str, ...], gathers: str) -> str:
    how = f"gathers with {gathers}" if gathers else "does not gather"
    return f"({', '.join(parameters)}) and {how}"


def find_methods(model: nn.Module) -> Iterator[LossSite]:
    """Yield the loss of ``model`` if it is a known solo-learn method."""
    for method in _METHODS:
        module = private.module_of(model, method.name)
        if module is not None:
            yield MethodSite(model, method, module)


def report_methods() -> Iterator[MethodReport]:
    """Yield every method of the installed solo-learn and what can be done to it."""
    notes = {method.name: method.note for method in _METHODS}
    for name, kind in sorted(private.method_classes().items()):
        if name in notes:
            yield MethodReport(name, True, notes[name] + _own_fault(kind))
        elif not name.startswith(("Base", "Linear")):
            yield MethodReport(name, False, "no negatives to choose")


def _own_fault(method: type) -> str:
    """Return what keeps ``method`` from training, treated or not."""
    # 1.0.2's momentum methods; Lightning's own says what is passed.
    hook = "on_train_batch_end"
    own = inspect.signature(getattr(method, hook)).parameters.values()
    lightning = next(base for base in reversed(method.__mro__) if hook in vars(base))
    passed = inspect.signature(getattr(lightning, hook)).parameters
    missing = [p.name for p in own if p.default is p.empty and p.name not in passed]
    if not missing:
        return ""
    return (
        f"; but it does not train, treated or not: its {hook} asks for {', '.join(missing)}, which "
        f"the installed Lightning does not pass"
    )


@hookimpl
def negplug_adapters() -> Iterable[AdapterSpec]:
    """Offer the solo-learn adapter."""
    yield AdapterSpec("solo-learn", find_methods, report_methods, "method classes of solo.methods")
