"""Plain PyTorch loops: a loss is treated at its first training call.

A script without a Trainer does not say when its model is complete, but it calls its loss. Torch
has a global hook behind every module's forward pass. The first time that a module which an
adapter knows as a loss returns a scalar with a gradient, it is treated, and the treated loss takes
the place of what it returned; from then on its own forward is not run. (The hook ahead of the
forward pass would be too late for that first call: torch has looked ``forward`` up by then.)

Each loss has samplers of its own, and a step ends with its backward pass. One that is made once and
then trains another model, as with folds or seeds, begins anew. Data set indexes are out of reach.
While a Trainer fits a model that its callback treats, the hook is away.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from negplug.contract.adapter import LossSite
from negplug.contract.inputs import check_untransformed
from negplug.contract.objective import Objective
from negplug.contract.sampler import NegativeSampler
from negplug.hosts import environment, notices, resumed, unheeded
from negplug.hosts.first_call import FirstCall, free_name
from negplug.hosts.first_pass import may_be_checkpointed
from negplug.hosts.functions import bypassed_at, modules_around
from negplug.hosts.functions_beside import FunctionsBeside
from negplug.hosts.graph_parameters import parameters_of
from negplug.hosts.injection import Injection
from negplug.hosts.loss_form import losses_in
from negplug.hosts.nested import tensors_in
from negplug.hosts.place import place
from negplug.hosts.treatment import Treatment
from negplug.hosts.untreated import Judge, UntreatedLossError, mend_of
from negplug.kernels.rng_states import RngStates
from negplug.kernels.torch_private import inside_function, outside_graphs

_UNINDEXED = (
    "a plain PyTorch loop does not say which samples it trains on; call negplug.inject() in the "
    "script, in place of the variable or option, and say it with handle.provide(indexes=…), or "
    "train with a Lightning Trainer"
)

_watch: Watch | None = None
_fitting: weakref.WeakSet[object] = weakref.WeakSet()


class Watch:
    """Treats the losses that this process trains with, until :meth:`stop`; one at a time.

    Args:
        sampler: A sampler or an expression. Each loss gets a copy with state of its own.
        objective: Replaces the host's form of the loss.
        temperature: Replaces the host's temperature.
        ignore: Losses to leave alone, by the name of their class.

    Attributes:
        injections: The handles of the treated losses that there are, by name, in order of their
            first calls.
        asked: What the environment asked for if it started this watch; a loss that is called after
            it has changed gets what it asks for then.

    Raises:
        ValueError, TypeError: If an argument cannot be used.
    """

    def __init__(
        self,
        sampler: NegativeSampler | str,
        objective: Objective | str | None = None,
        temperature: float | None = None,
        ignore: Collection[str] = (),
    ) -> None:
        global _watch
        self.injections = weakref.WeakValueDictionary[str, Injection]()
        self.asked: tuple[environment.Asked, Collection[str]] | None = None
        self._treatment = Treatment.of(sampler, objective, temperature)
        self._judge = Judge(ignore)
        self._ignore = frozenset(ignore) | environment.ignored()
        self._beside = FunctionsBeside(self.injections, self._ignore)
        self._first_calls: dict[tuple[type, tuple[str, int]], FirstCall] = {}
        self._succeeded: set[tuple[str, int]] = set()  # the places of which it was said
        self._restarted: set[tuple[str, int]] = set()  # likewise, with another model
        self._hook: Any = None
        if _watch is not None:
            _watch.stop()
        _watch = self
        self._update()

    def stop(self) -> None:
        """Restore the losses, and treat no others."""
        global _watch
        if _watch is self:
            _watch = None
        self._update()
        self._give_back()

    def rest(self) -> None:
        """Restore the losses, and wait until the environment asks for a treatment again."""
        self.asked = environment.Asked("", None, None), ()
        self._give_back()

    def _give_back(self) -> None:
        self._beside.stop()
        for injection in self.injections.values():
            injection.remove()

    def _update(self) -> None:
        if self._hook is not None:
            self._hook.remove()
            self._hook = None
        if _watch is self and not _fitting:
            self._hook = register_module_forward_hook(self.after_forward, with_kwargs=True)

    def after_forward(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> Any:
        """Return the treated loss in place of ``output``, or None to leave that."""
        # What most modules return; checked here, so that a compiled graph goes on through them.
        losses = losses_in(output)
        if not losses:
            if may_be_checkpointed(module, output):
                return self._after_scalar(module, args, kwargs, output)
            return None
        if torch.compiler.is_compiling() and type(module).__module__.startswith("torch."):
            return None
        if losses[0] is output and not output.ndim:
            return self._after_scalar(module, args, kwargs, output)
        self._refuse(module, args, kwargs, losses)
        return None

    @outside_graphs
    def _after_scalar(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor
    ) -> Any:
        if (current := self._current()) is not self:
            return current and current.after_forward(module, args, kwargs, output)
        site = self._judge.site_of(module)
        if site is not None or self._judge.leaves_alone(module):
            self._beside.leave_to(module, output)
        if site is not None:
            for each in tensors_in([args, kwargs]):
                check_untransformed(f"what {type(module).__name__} is given", each)
            first_call = self._treat(site, module, output)
            # Some losses embed the batch themselves, again here: draws to come stay as they were.
            draws = RngStates.now(output.device)
            treated: Tensor = module.forward(*args, **kwargs)
            draws.restore()
            if treated.requires_grad:
                treated.register_hook(first_call.end_step)  # type: ignore[no-untyped-call]
            return treated
        self._refuse_bypassed(module)
        self._refuse(module, args, kwargs, [output])
        return None

    def _refuse_bypassed(self, module: nn.Module) -> None:
        """Refuse a known loss inside of which a module is called, if nobody calls it itself."""
        for loss in modules_around():
            where = "" if loss is module else bypassed_at(loss)
            if where and self._judge.site_of(loss) is not None:
                name = type(loss).__name__
                raise UntreatedLossError(
                    f"{name} is called by its method forward() at {where}, where nothing can "
                    f"take its place: call the loss itself, criterion(…), or leave it alone with "
                    f"NEGPLUG_IGNORE={name}"
                )

    @outside_graphs
    def _refuse(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], losses: list[Tensor]
    ) -> None:
        """Refuse a contrastive loss that no adapter knows."""
        for loss in losses if self._current() is self else ():
            name = self._judge.unknown(module, (args, kwargs), loss)
            if name is not None:
                mend = mend_of(module, "treat it with NEGPLUG_TREAT={kind}")
                raise UntreatedLossError(
                    f"{name}, called at {place()[0]}, is a contrastive loss that no adapter knows: "
                    f"{mend}, or leave it alone with NEGPLUG_IGNORE={name}"
                )

    def _current(self) -> Watch | None:
        """Return the watch that the environment asks for by now; this one if it started without."""
        return self if self.asked is None else from_environment()

    def _treat(self, site: LossSite, module: nn.Module, output: Tensor) -> FirstCall:
        where, key = place()
        environment.refuse_of_trainers(f"{type(module).__name__} at {where}")
        trained, named = parameters_of(output), f"{type(module).__name__}, called at {where}"
        earlier = self._first_calls.get((type(module), key))
        if earlier is not None:
            earlier.insist_on_another(named, trained)
        site.name = free_name(site.name, self.injections)
        treated = self._treatment.at(site)
        if earlier is not None and key not in self._succeeded and earlier.is_succeeded(trained):
            self._succeeded.add(key)
            notices.succeeds(named, treated)
        injection = Injection([site], [treated])
        injection.provide(unindexed=_UNINDEXED)
        treated.loss.ranks.beside = treated.loss.ranks.name = ""  # which a rank's own losses number
        self._beside.follow(injection, treated)
        self.injections[site.name] = injection
        notices.treats([site], self._treatment, f", called at {where}")
        if len(self.injections) == 1 and resumed.is_resumed():
            notices.begins_anew(site, treated)
        first_call = self._first_calls[type(module), key] = FirstCall(treated, trained)

        # The handle is kept by its loss, and by nothing else.
        def ahead(own: Callable[[], Tensor], injection: Injection = injection) -> Tensor | None:
            if self._current() is not self:
                return own()  # nobody asks for the treatment any more
            if not (torch.is_grad_enabled() or inside_function()):
                return own()  # an evaluation, of which a criterion beside the model is not told
            if first_call.is_repeated(own):
                self._beside.leave_to(module, own())
            if first_call.is_of_another_training(own):
                notices.begins_with_another_model(site.name, treated, key in self._restarted)
                self._restarted.add(key)
                injection.remove()
                self.injections.pop(site.name, None)  # its name, of which draws are made, is free
                return own()  # behind which it is treated as at a first call
            return None

        treated.ahead = ahead
        return first_call


def from_environment() -> Watch | None:
    """Return the watch that is at work, or one that the environment asks for.

    Returns:
        None if the environment asks for none any more, and none was started without it.

    Raises:
        ValueError, TypeError: If what the environment asks for cannot be had.
    """
    treatment, ignored = environment.asked(), environment.ignored()
    asked = None if treatment is None else (treatment, ignored)
    if _watch is not None and _watch.asked in (None, asked):
        return _watch
    if treatment is None:
        if _watch is not None:
            _watch.rest()
        notices.treats_no_longer()
        return None
    notices.show()
    environment.check_parts()
    watch = Watch(*treatment, ignored)
    watch.asked = asked
    return watch


def take_over(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor
) -> Any:
    """Start the watch that the environment asks for with this call, unless it is at work.

    Returns:
        The treated loss in place of ``output``, or None to leave that.
    """
    at_work, found = _watch, from_environment()
    if found is None or found is at_work or _fitting:
        return None
    unheeded.trains()
    return found.after_forward(module, args, kwargs, output)


def is_at_work() -> bool:
    """Return whether there is a watch in this process."""
    return _watch is not None


def pause(fitting: object) -> None:
    """Leave losses alone while a Trainer fits, until :func:`resume` with the same object."""
    _fitting.add(fitting)
    _update()


def resume(fitting: object) -> None:
    """Undo :func:`pause`; does nothing where nothing was paused."""
    _fitting.discard(fitting)
    _update()


def _update() -> None:
    if _watch is not None:
        _watch._update()
