"""A treated recipe under Lightning's tuners: what they try is what will be trained.

``LearningRateFinder`` and ``BatchSizeFinder``, and with them ``Tuner``, train for some steps and
then put the weights back. For these steps they take all callbacks away from the Trainer, so that
nobody would say whose samples a batch holds. ``NegativeControl`` therefore stands ahead of them,
to treat the recipe first, and takes part in their steps. Afterwards the samplers' state is what it
was before, as the weights are.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

from negplug.hosts.injection import Injection
from negplug.hosts.trainer.call_counts import CallCounts
from negplug.hosts.trainer.encoder import RecipeEncoder
from negplug.hosts.trainer.ownership import KeptState
from negplug.hosts.trainer.stand_in import HookStandIn

_TUNES = {"LearningRateFinder": "lr_find", "BatchSizeFinder": "scale_batch_size"}
"""Lightning's callback that tunes → its method that does it, given the Trainer and the model."""


class TuningMixin:
    """The side of ``NegativeControl`` that is about tuners.

    Attributes:
        injection: The treated losses, while they are treated.
    """

    injection: Injection | None
    _kept: KeptState
    _checked: bool
    _counts: CallCounts | None
    _encoder: RecipeEncoder | None

    def _stand_ahead(self, trainer: Any) -> None:
        """Put the Trainer's tuners behind, in ``setup``, and take part in what they run."""
        if self not in trainer.callbacks:  # of an inspection, which leaves no tuner there either
            return
        place = trainer.callbacks.index(self) + 1
        ahead, behind = trainer.callbacks[:place], trainer.callbacks[place:]
        tuners = [each for each in ahead if _method_of(each)]
        # Another list: Lightning is in the middle of the old one.
        trainer.callbacks = [each for each in ahead if each not in tuners] + tuners + behind
        for tuner in trainer.callbacks:
            name = _method_of(tuner)
            if name and _hook_of(tuner) is None:  # that of another NegativeControl does
                tuned = functools.partial(_tuned, tuner, getattr(tuner, name))
                setattr(tuner, name, HookStandIn(tuned, tuner, name))

    @contextlib.contextmanager
    def _as_before(self, model: Any) -> Iterator[None]:
        """Have the treated losses, and what is known of them, afterwards be as before."""
        assert self.injection is not None
        kept, owner = self._kept, self._kept.owner
        known = dict(vars(kept)), dict(vars(owner)), (self._encoder, self._counts, self._checked)
        state = self.injection.state_dict()
        self._checked = False  # in the middle of a fit, Lightning may end an epoch without a step
        try:
            yield
        finally:
            vars(kept).update(known[0])
            vars(owner).update(known[1])
            self._encoder, self._counts, self._checked = known[2]
            self.injection.load_state_dict(state)
            owner.take(model)  # the weights are those of before, but were written to


def stand_back(trainer: Any) -> None:
    """Give a Trainer's tuners their own methods back."""
    for callback in trainer.callbacks:
        _uncover(callback)


def _tuned(tuner: Any, tune: Callable[[Any, Any], None], trainer: Any, pl_module: Any) -> None:
    """Run a tuner, with the Trainer's ``NegativeControl`` callbacks among its own."""
    controls: list[Any] = [each for each in trainer.callbacks if isinstance(each, TuningMixin)]
    loop, run = trainer.fit_loop, trainer.fit_loop.run

    def run_with_controls() -> None:
        # Behind the tuner's own, which it finds by its place.
        own, trainer.callbacks = trainer.callbacks, [*trainer.callbacks, *controls]
        try:
            run()
        finally:
            trainer.callbacks = own

    with contextlib.ExitStack() as inside:
        for control in controls:
            if control.injection is not None:
                inside.enter_context(control._as_before(pl_module))
        loop.run = hook = HookStandIn(functools.wraps(run)(run_with_controls), loop, "run")
        inside.callback(hook.take_off)
        try:
            tune(trainer, pl_module)
        except BaseException as error:
            if any(each not in trainer.callbacks for each in controls):
                # It failed, and Lightning will tell the callbacks that the tuner has left it.
                _uncover(tuner)
                inside.close()
                for control in controls:
                    control.on_exception(trainer, pl_module, error)
            raise


def _method_of(callback: Any) -> str:
    """Return by which method a callback of Lightning tunes; empty if it does not."""
    for kind in type(callback).__mro__:
        if kind.__module__.partition(".")[0] in ("lightning", "pytorch_lightning"):
            if kind.__name__ in _TUNES:
                return _TUNES[kind.__name__]
    return ""


def _hook_of(tuner: Any) -> HookStandIn | None:
    hook = vars(tuner).get(_method_of(tuner))
    return hook if isinstance(hook, HookStandIn) else None


def _uncover(tuner: Any) -> None:
    if (hook := _hook_of(tuner)) is not None:
        hook.take_off()
