"""``NegativeControl``: negative control as a Lightning callback.

There are two Lightnings with two ``Callback`` classes. The behaviour is one mixin; the class for
the Lightning in use is put together by :func:`callback_class`. Nothing here imports Lightning.

Order of hooks that matters: ``setup`` (inject, if the loss exists) → ``load_state_dict`` (stash)
→ ``on_fit_start`` (inject at the latest, restore) → training → ``teardown`` (give the model back).
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import logging
import os
import sys
from typing import TYPE_CHECKING, Any

from torch import nn

from negplug.injection import Injection, NoLossFoundError, inject
from negplug.loss import as_objective, as_sampler, check_temperature
from negplug.objective import Objective
from negplug.sampler import NegativeSampler

logger = logging.getLogger("negplug")

_UNTESTED = ("FSDP", "Sharded", "DeepSpeed", "ModelParallel")
"""Parts of the names of strategies that shard or rewrite the model."""


class NegativeControlMixin:
    """The callback's behaviour, on either Lightning.

    Args:
        sampler: A sampler or an expression.
        objective: Replaces the host's form of the loss.
        temperature: Replaces the host's temperature.
        target: Name of the one loss to treat.
        from_environment: Set by negplug itself when ``NEGPLUG_SAMPLER`` asks for the callback: a
            model without a known loss is then left alone.

    Raises:
        ValueError, TypeError: If an argument cannot be used, or if ``NEGPLUG_SAMPLER`` is set
            and the recipe passes the callback as well.

    Example:
        >>> trainer = Trainer(callbacks=[NegativeControl("uniform(num_negatives=10)")])
    """

    def __init__(
        self,
        sampler: NegativeSampler | str,
        objective: Objective | str | None = None,
        temperature: float | None = None,
        target: str | None = None,
        *,
        from_environment: bool = False,
    ) -> None:
        super().__init__()
        if os.environ.get("NEGPLUG_SAMPLER") and not from_environment:
            raise ValueError(
                "NEGPLUG_SAMPLER is set and the recipe passes a NegativeControl callback too; "
                "unset the variable or drop the callback"
            )
        self.sampler = as_sampler(sampler)
        self.objective = None if objective is None else as_objective(objective)
        self.temperature = None if temperature is None else check_temperature(temperature)
        self.target = target
        self.injection: Injection | None = None
        self._from_environment = from_environment
        self._saved: dict[str, Any] | None = None
        self._checked = False

    @property
    def state_key(self) -> str:
        """The key of this callback's state in checkpoints, whatever its arguments."""
        return "negplug"

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Treat the model, if its loss exists already."""
        if stage != "fit":
            return
        strategy = type(trainer.strategy).__name__
        if any(part in strategy for part in _UNTESTED):
            raise ValueError(
                f"negplug is untested with {strategy}, which shards or rewrites the model; "
                f"use a single device or DDP"
            )
        if self.injection is not None:
            # The same callback in a second fit continues where it stopped.
            self._saved = self.injection.state_dict()
        self.injection = None
        self._checked = False
        try:
            self._inject(pl_module)
        except NoLossFoundError:
            logger.debug("no loss at setup; trying again at on_fit_start")

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Treat the model at the latest, and restore the samplers' state."""
        if self.injection is None:
            try:
                self._inject(pl_module)
            except NoLossFoundError as error:
                if not self._from_environment:
                    raise
                if trainer.is_global_zero:
                    logger.warning("negplug leaves %s alone: %s", type(pl_module).__name__, error)
                return
        assert self.injection is not None
        if self._saved is not None:
            self.injection.load_state_dict(self._saved)
            self._saved = None
        for experiment in trainer.loggers:
            experiment.log_hyperparams(self._hyperparameters())

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        """Measure the steps that will be logged."""
        if self.injection is not None:
            due = (trainer.global_step + 1) % trainer.log_every_n_steps == 0
            for treated in self.injection.losses.values():
                treated.loss.observe = due

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        """Close the step; after the first one, insist that every treated loss was called."""
        if self.injection is None:
            return
        self.injection.end_step()
        if not self._checked:
            self._checked = True
            missed = self.injection.uncalled()
            if missed:
                raise RuntimeError(
                    f"negplug treated {', '.join(missed)} of {type(pl_module).__name__}, but the "
                    f"first training batch never called it: the host took another path, and the "
                    f"run would go on untreated"
                )
        for name, treated in self.injection.losses.items():
            if treated.loss.observe and treated.loss.num_negatives is not None:
                pl_module.log(f"negplug/{name}/num_negatives", treated.loss.num_negatives)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Give the model back as it was; the samplers' state stays for checkpoints."""
        if self.injection is not None:
            self.injection.remove()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Give the model back as it was."""
        if self.injection is not None:
            self.injection.remove()

    def state_dict(self) -> dict[str, Any]:
        """Return the expression and all sampler state: tensors and built-in types only."""
        losses = self._saved if self.injection is None else self.injection.state_dict()
        return {"sampler": str(self.sampler), "losses": losses or {}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Keep the state until the model is treated.

        Raises:
            ValueError: If the checkpoint was written with another sampler.
        """
        if not state["losses"]:
            return
        if state["sampler"] != str(self.sampler):
            raise ValueError(
                f"the checkpoint was written with the sampler {state['sampler']}, this run has "
                f"{self.sampler}; resume with the same expression"
            )
        self._saved = state["losses"]

    def _inject(self, model: nn.Module) -> None:
        self.injection = inject(model, self.sampler, self.objective, self.temperature, self.target)

    def _hyperparameters(self) -> dict[str, Any]:
        given = {
            "sampler": self.sampler,
            "objective": self.objective,
            "temperature": self.temperature,
            "target": self.target,
        }
        return {f"negplug/{key}": str(value) for key, value in given.items() if value is not None}


if TYPE_CHECKING:

    class NegativeControl(NegativeControlMixin):
        """What ``negplug_lightly.NegativeControl`` and ``negplug_solo.NegativeControl`` are."""


def callback_class(*preferred: str) -> type[NegativeControlMixin]:
    """Return the callback class for the Lightning in use.

    Args:
        *preferred: Module names that hold a ``Callback``, the usual one first. Those that are
            imported already are in use; if none is, the first that is installed.

    Raises:
        ImportError: If no Lightning is installed.
    """
    used = [name for name in preferred if name in sys.modules]
    if not used:
        used = [name for name in preferred if _installed(name)][:1]
    if not used:
        raise ImportError(f"NegativeControl needs one of {', '.join(preferred)}; install it")
    return _derive(tuple(importlib.import_module(name).Callback for name in used))


@functools.cache
def _derive(bases: tuple[type, ...]) -> type[NegativeControlMixin]:
    def reduce(control: NegativeControlMixin) -> tuple[Any, ...]:
        # The class is made on the fly, so pickle (ddp_spawn's ranks) makes it anew.
        return _blank, bases, vars(control)

    body = {"__module__": __name__, "__doc__": NegativeControlMixin.__doc__, "__reduce__": reduce}
    return type("NegativeControl", (NegativeControlMixin, *bases), body)


def _blank(*bases: type) -> NegativeControlMixin:
    cls = _derive(bases)
    return cls.__new__(cls)


def _installed(name: str) -> bool:
    return importlib.util.find_spec(name.partition(".")[0]) is not None
