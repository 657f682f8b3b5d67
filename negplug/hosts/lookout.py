"""Looks out for untreated contrastive losses in the first steps of a training that is treated."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from negplug.contract.declarations import full_name
from negplug.contract.variables import FORMS
from negplug.hosts import environment
from negplug.hosts.functions import FunctionWatch
from negplug.hosts.loss_form import losses_in, parameters_of
from negplug.hosts.place import place
from negplug.hosts.treated_loss import TreatedLoss
from negplug.hosts.untreated import Judge, UntreatedLossError
from negplug.kernels.distributed import rank
from negplug.kernels.graph_marks import mark
from negplug.kernels.torch_private import outside_graphs
from negplug.loss.contrastive import ContrastiveLoss

logger = logging.getLogger("negplug")

STEPS = 3
"""For how many steps losses are watched: alternating losses take turns."""


class _Beside(NamedTuple):
    """An untreated loss: where and why it is untreated, what to do, and what it trains."""

    why: str
    mend: str
    parameters: set[Tensor]


class Lookout:
    """Watches the first steps of a Trainer whose losses are treated.

    Args:
        model: The model that trains.
        treated: Names of its losses that are treated.
        ignore: Losses to leave alone, by the name of their class, attribute or function.
    """

    def __init__(
        self, model: nn.Module, treated: Iterable[str], ignore: Collection[str] = ()
    ) -> None:
        self._judge = Judge(ignore, model)
        self._ignore = frozenset(ignore) | environment.ignored()
        self._those = f"{', '.join(treated)} of {type(model).__name__}"
        self._left = STEPS
        self._found: dict[str, _Beside] = {}
        self._compiled: dict[str, nn.Module] = {}
        self._said: set[str] = set()
        self._functions = FunctionWatch()
        # Weakly, so that it goes with the model; the treated losses or their handle keep it.
        myself = weakref.ref(self)

        def after_forward(*given: Any) -> None:
            lookout = myself()
            if lookout is not None:
                lookout._after_forward(*given)

        self._hook: Any = register_module_forward_hook(after_forward, with_kwargs=True)
        weakref.finalize(self, _leave, self._hook, self._functions).atexit = False

    def end_step(self) -> None:
        """Insist that the step called no contrastive loss but those that are treated.

        Raises:
            UntreatedLossError: If it did; names each and the place of its call.
        """
        if self._hook is None:
            return
        self._left -= 1
        if self._left <= 0:
            self.stop()
        self.check()

    def check(self, trained: set[Tensor] | None = None) -> None:
        """Say what was found beside the treated losses.

        Args:
            trained: Parameters that an untreated loss has to train too; None for any loss.

        Raises:
            UntreatedLossError: If a module was found.
        """
        say_functions(self._functions.take(self._ignore, trained), self._those)
        self._say_compiled()
        beside = {
            name: each
            for name, each in self._found.items()
            if trained is None or not each.parameters.isdisjoint(trained)
        }
        if beside:
            self.stop()
            others = "; ".join(f"{name} {each.why}" for name, each in beside.items())
            first = next(iter(beside))
            raise UntreatedLossError(
                f"negplug treats {self._those}, but its training also calls {others}, untreated: "
                f"{beside[first].mend}, or leave it alone with ignore={first!r} "
                f"(NEGPLUG_IGNORE={first})"
            )

    def stop(self) -> None:
        """Watch no further steps."""
        self._functions.stop()
        if self._hook is not None:
            self._hook.remove()
            self._hook = None

    def _after_forward(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        # Most modules return something else, and ours needs no judgement; checked here, so that a
        # compiled graph goes on through them.
        losses = losses_in(output)
        if losses and not isinstance(module, ContrastiveLoss):
            if torch.compiler.is_compiling():
                self._compiled[type(module).__name__] = module
            else:
                for loss in losses:
                    self._after_loss(module, (args, kwargs), loss)

    def _say_compiled(self) -> None:
        """Warn of what may return losses in compiled code, of which autograd keeps no graph."""
        met, self._compiled = self._compiled, {}
        hidden = [name for name, module in met.items() if self._judge.may_be_contrastive(module)]
        new = [name for name in hidden if name not in self._said]
        self._said.update(new)
        if new and rank() == 0:
            logger.warning(
                "negplug treats %s, but cannot see whether %s, which is compiled, is a contrastive "
                "loss that stays untreated; if it is, call it outside of what is compiled, and if "
                "not, leave it alone with ignore=%r (NEGPLUG_IGNORE=%s)",
                self._those,
                ", ".join(new),
                new[0],
                new[0],
            )

    @outside_graphs
    def _after_loss(self, module: nn.Module, given: Any, output: Tensor) -> None:
        where = f"(called at {place()[0]})"
        if self._judge.site_of(module) is not None:
            name, why = self._judge.name(module), f"{where}, out of reach of the model"
            mend = "make it an attribute of the model"
        elif (unknown := self._judge.unknown(module, given, output)) is not None:
            kind = full_name(type(module))
            name, why = unknown, f"{where}, a {kind} that no adapter knows"
            others = ", ".join(FORMS[1:])
            mend = f"declare it, treat='{kind}=ntxent' (NEGPLUG_TREAT) or {others}, whichever it is"
        else:
            if self._judge.leaves_alone(module):
                self._functions.leave_to(module)
                mark(output)
            return
        self._functions.leave_to(module)
        self._found[name] = _Beside(why, mend, parameters_of(output))


class PlainLookout(Lookout):
    """Watches the first steps of a loop without a Trainer, which says nothing of its steps.

    What trains none of the parameters that a treated loss trains is another training's.

    Args:
        model: The model whose losses are treated.
        treated: These losses, by name.
        ignore: As of :class:`Lookout`.
    """

    def __init__(
        self, model: nn.Module, treated: Mapping[str, TreatedLoss], ignore: Collection[str] = ()
    ) -> None:
        self._treated = list(treated.values())
        self._begun: dict[TreatedLoss, int] = {}
        self._trained: set[Tensor] = set()
        for each in self._treated:
            each.watcher = self._after_treated
        super().__init__(model, treated, ignore)

    def end_step(self) -> None:
        """Do nothing: the treated losses tell of their steps."""

    def stop(self) -> None:
        """Watch no further steps."""
        for each in self._treated:
            each.watcher = None
        super().stop()

    @outside_graphs
    def _after_treated(self, treated: TreatedLoss, loss: Tensor) -> None:
        step = treated.loss.next_step
        if step - self._begun.setdefault(treated, step) >= STEPS:
            self.stop()
        self._trained |= parameters_of(loss)
        self.check(self._trained)

    @outside_graphs
    def _after_loss(self, module: nn.Module, given: Any, output: Tensor) -> None:
        super()._after_loss(module, given, output)
        self.check(self._trained)


def _leave(hook: Any, functions: FunctionWatch) -> None:
    hook.remove()
    functions.stop()


def say_functions(found: list[str], those: str) -> None:
    """Warn of contrastive losses that functions compute beside those that are treated."""
    if found and rank() == 0:
        first = found[0].partition(" ")[0]
        logger.warning(
            "negplug treats %s, but contrastive losses computed by functions stay untreated: %s; "
            "make a module of it and declare that (treat=, NEGPLUG_TREAT), or leave it alone with "
            "ignore=%r (NEGPLUG_IGNORE=%s)",
            those,
            "; ".join(found),
            first,
            first,
        )
