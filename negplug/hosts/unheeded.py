"""Variables that have had no effect, named once a process has trained a little.

A method without negatives, a class that is spelt otherwise, diagnostics of a Trainer in a loop
without one: nothing fails there. So the steps of all optimizers are counted, and after the first
few of them, or where the process ends before, each variable without effect is named.
"""

from __future__ import annotations

import atexit
import difflib
import logging
import os
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

STEPS = 10
"""Steps of optimizers until it is said."""

_OF_LOSSES = ("NEGPLUG_TREAT", "NEGPLUG_IGNORE")
# Not NEGPLUG_METRICS: a sweep sets it for scripts of any kind, which may write there themselves.
_OF_TRAINERS = ("NEGPLUG_DIAGNOSTICS",)

logger = logging.getLogger("negplug")

_waiting = False
_trains = False
_steps = 0


def may_be_said(environ: Mapping[str, str]) -> bool:
    """Return whether there is a variable of which something may be said."""
    return any(environ.get(name) for name in ("NEGPLUG_SAMPLER", *_OF_LOSSES, *_OF_TRAINERS))


def wait() -> None:
    """Count the steps of this process from now on."""
    global _waiting
    if not _waiting:
        _waiting = True
        register_optimizer_step_post_hook(_after_step)
        atexit.register(_at_exit)


def trains() -> None:
    """Take note that this process has a loss, whether an optimizer steps or not."""
    global _trains
    _trains = True


def say(by_now: str, sampler: bool = True) -> None:
    """Warn of each variable that has had no effect.

    Args:
        by_now: What this process has done so far, as a clause.
        sampler: Whether a sampler that no loss was treated with is one of them.
    """
    from negplug.hosts import call_record

    here, treated = call_record.recorded_here(), call_record.recorded()
    asked = bool(os.environ.get("NEGPLUG_SAMPLER"))
    if asked and not treated and sampler:
        logger.warning(
            "negplug: NEGPLUG_SAMPLER (or --sampler) is set, but this process %s without having "
            "called any contrastive loss that negplug treats; %s",
            by_now,
            _untreated() or _HOSTS,
        )
    for name in _given(_OF_LOSSES) if not (asked or treated) else ():
        logger.warning(
            "negplug: %s is set, but this process %s and nothing in it was treated; set "
            "NEGPLUG_SAMPLER too, or unset %s",
            *(name, by_now, name),
        )
    # Where a process that this one has started was treated, its classes are that one's.
    if here or (asked and not treated):
        _say_undeclared(by_now)
    autoload = sys.modules.get("negplug.hosts.trainer.autoload")
    for name in _given(_OF_TRAINERS) if autoload is None or not autoload.was_asked() else ():
        logger.warning(
            "negplug: %s is set, but is about what a Lightning Trainer does, and this process %s "
            "without one; unset it",
            *(name, by_now),
        )


def _given(names: Iterable[str]) -> list[str]:
    return [name for name in names if os.environ.get(name)]


_HOSTS = "'negplug doctor' lists the hosts it knows, and NEGPLUG_TREAT declares a class of your own"


def _untreated() -> str:
    """Return a clause on the known losses that exist and were not called as modules."""
    import gc

    from negplug.hosts.untreated import Judge

    judge = Judge()
    modules = [each for each in gc.get_objects() if issubclass(type(each), nn.Module)]
    kinds = {type(each).__name__ for each in modules if judge.site_of(each) is not None}
    if not kinds:
        return ""
    return (
        f"there is a {' and a '.join(sorted(kinds))}, which is treated where it is called itself, "
        f"criterion(…), and not a method of it"
    )


def _say_undeclared(by_now: str) -> None:
    """Warn of each declared class of which no module was found."""
    from negplug.contract import declarations

    for name in declarations.unmet():
        close = _nearest(name)
        logger.warning(
            "negplug: NEGPLUG_TREAT (or --treat) names %s, but this process %s without a loss of "
            "that class; %s",
            *(name, by_now, f"did you mean {close}?" if close else "check its module and name"),
        )


def _nearest(name: str) -> str | None:
    """Return the class of modules whose name is most like one, as declarations have it."""
    from negplug.contract.declarations import full_name

    kinds, todo = set[str](), [nn.Module]
    while todo:
        found = todo.pop().__subclasses__()
        todo += [kind for kind in found if full_name(kind) not in kinds]
        kinds.update(map(full_name, found))
    kinds.discard(name)
    own = name.partition(":")[2]
    same = sorted(kind for kind in kinds if kind.partition(":")[2] == own)
    return next(iter(same or difflib.get_close_matches(name, sorted(kinds), n=1)), None)


def _after_step(*_: Any) -> None:
    global _steps
    # The hook stays: torch goes through its hooks at this moment.
    if _waiting and _steps < STEPS:
        _steps += 1
        if _steps == STEPS:
            _say_once(f"has made {STEPS} optimizer steps")


def _at_exit() -> None:
    # Of a command, which has run a script, the last word on its sampler is its own.
    command = "negplug.cli" in sys.modules
    failed = hasattr(sys, "last_value")
    if _steps < STEPS and (_steps or _trains or command) and not failed:
        _say_once("ends", sampler=not command)


def _say_once(by_now: str, sampler: bool = True) -> None:
    from negplug.kernels.distributed import rank

    if rank() == 0:
        say(by_now, sampler)
