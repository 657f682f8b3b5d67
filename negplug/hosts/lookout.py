"""Looks out for untreated contrastive losses in the first steps of a training that is treated."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from negplug.contract.declarations import full_name
from negplug.hosts import environment
from negplug.hosts.cover import contrast_of
from negplug.hosts.functions import FunctionWatch
from negplug.hosts.graph_parameters import parameters_of
from negplug.hosts.loss_form import losses_in
from negplug.hosts.place import place
from negplug.hosts.treated_loss import TreatedLoss
from negplug.hosts.untreated import Judge, UntreatedLossError, mend_of
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

    def __init__(self, model: nn.Module, treated: Iterable[str], ignore: Collection[str]) -> None:
        self._judge = Judge(ignore, model)
        self._ignore = frozenset(ignore) | environment.ignored()
        self._those = f"{', '.join(treated)} of {type(model).__name__}"
        self._left = 0
        self._found: dict[str, _Beside] = {}
        self._compiled: dict[str, nn.Module] = {}
        self._said: set[str] = set()
        self._functions = FunctionWatch()
        self._leave: weakref.finalize[Any, Any] | None = None
        self.start()

    def start(self, steps: int = STEPS) -> None:
        """Watch so many steps from here on.

        Args:
            steps: Their number.
        """
        self._left = max(steps, self._left if self.watches else 0)
        if self.watches:
            return
        self._functions.start()
        # Weakly, so that it goes with the model; the treated losses or their handle keep it.
        myself = weakref.ref(self)

        def after_forward(*given: Any) -> None:
            lookout = myself()
            if lookout is not None:
                lookout._after_forward(*given)

        hook = register_module_forward_hook(after_forward, with_kwargs=True)
        self._leave = weakref.finalize(self, _leave, hook, self._functions)
        self._leave.atexit = False

    @property
    def watches(self) -> bool:
        """Whether steps are watched just now."""
        return self._leave is not None and self._leave.alive

    def end_step(self) -> None:
        """Insist that the step called no contrastive loss but those that are treated.

        Raises:
            UntreatedLossError: If it did; names each and the place of its call.
        """
        if self.watches:
            self._left -= 1
            if self._left <= 0:
                self.rest()
            self.check()

    def check(self, trained: set[Tensor] | None = None) -> None:
        """Say what was found beside the treated losses.

        Args:
            trained: Parameters that an untreated loss has to train too; None for any loss.

        Raises:
            UntreatedLossError: If a module was found.
        """
        say_functions(self._functions, self._ignore, self._those, trained)
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

    def rest(self) -> None:
        """Watch no further steps until :meth:`start`."""
        if self._leave is not None:
            self._leave()

    def stop(self) -> None:
        """Watch no further steps."""
        self.rest()

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
        treated = None if self._judge.leaves_alone(module) else contrast_of(module)
        if isinstance(treated, TreatedLoss) and treated.copied:
            if not self._judge.trains_the_model(output):
                return  # of a copy of the model, that is looked at or trained by itself
            name = self._judge.name(module)
            why = f"{where}, a copy that was made of a treated loss and that nobody looks after"
            mend = "copy it before it is treated, or call the loss itself"
        elif self._judge.site_of(module) is not None:
            name, why = self._judge.name(module), f"{where}, out of reach of the model"
            mend = "make it an attribute of the model"
            if self._judge.is_in_model(module):
                why = f"{where}, which was made after the model was treated"
                mend = "make it before the training, once, and change its attributes afterwards"
        elif (unknown := self._judge.unknown(module, given, output)) is not None:
            name = unknown
            why = f"{where}, a {full_name(type(module))} that no adapter knows"
            mend = mend_of(module, "declare it, treat='{kind}' (NEGPLUG_TREAT)")
        else:
            if self._judge.leaves_alone(module):
                self._functions.leave_to(module)
                mark(output)
            return
        self._functions.leave_to(module)
        self._found[name] = _Beside(why, mend, parameters_of(output))


def _leave(hook: Any, functions: FunctionWatch) -> None:
    hook.remove()
    functions.stop()


def say_functions(
    functions: FunctionWatch,
    ignore: Collection[str],
    those: str,
    trained: set[Tensor] | None = None,
) -> None:
    """Warn of contrastive losses that functions compute beside those that are treated.

    Args:
        functions: Has noted them.
        ignore: Functions to leave alone.
        those: The treated losses, for messages.
        trained: Parameters that an untreated loss has to train too; None for any loss.
    """
    found, hidden = functions.take(ignore, trained)
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
    if hidden and rank() == 0:
        first = hidden[0].partition(" ")[0]
        logger.warning(
            "negplug treats %s, but cannot see whether a compiled or fused function computes a "
            "contrastive loss that stays untreated: %s; if it does, make a module of it and "
            "declare that (treat=, NEGPLUG_TREAT), and if not, leave it alone with ignore=%r "
            "(NEGPLUG_IGNORE=%s)",
            those,
            "; ".join(hidden),
            first,
            first,
        )
