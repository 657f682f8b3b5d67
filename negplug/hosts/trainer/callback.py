"""``NegativeControl``: negative control as a Lightning callback.

This is its behaviour, on either Lightning and without importing one;
:mod:`negplug.hosts.trainer.lightnings` joins it with the ``Callback`` class in use.

Order of hooks that matters: ``setup`` (inject, if the loss exists) → ``load_state_dict`` (stash)
→ ``on_fit_start`` (inject, restore) → training → ``teardown`` (give the model back).
"""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from typing import Any

from torch import nn

from negplug.contract.dataset import DatasetAccess
from negplug.contract.objective import Objective
from negplug.contract.sampler import NegativeSampler
from negplug.hosts import call_record, watch
from negplug.hosts.injection import Injection, NoLossFoundError, treat
from negplug.hosts.trainer.encoder import RecipeEncoder
from negplug.hosts.trainer.indexes import IndexRecorder
from negplug.hosts.trainer.strategies import untested_strategy
from negplug.hosts.treatment import Treatment
from negplug.kernels.distributed import everyones, rank, world_size

logger = logging.getLogger("negplug")

_OF_THE_HOST = "of the host"


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
        self.treatment = Treatment.of(sampler, objective, temperature)
        self.target = target
        self.injection: Injection | None = None
        self._from_environment = from_environment
        self._saved: dict[str, Any] | None = None
        self._checked = False
        self._calls_before: dict[str, int] = {}
        self._recorder: IndexRecorder | None = None
        self._encoder: RecipeEncoder | None = None

    @property
    def state_key(self) -> str:
        """The key of this callback's state in checkpoints, whatever its arguments."""
        return "negplug"

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Treat the losses that exist already, so that a tuner sees the treated recipe."""
        if stage != "fit":
            return
        watch.pause(self)
        if self.treatment.wants_indexes:
            # Now, before any loader is iterated.
            self._recorder = IndexRecorder(trainer)
        if self.injection is not None:
            # The same callback in a second fit continues where it stopped.
            self._saved = self.injection.state_dict()
        self.injection = None
        self._checked = False
        try:
            self.injection = self._inject(trainer, pl_module)
        except NoLossFoundError:
            logger.debug("no loss at setup; trying again at on_fit_start")

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Treat every loss, those made since setup too, and restore the samplers' state."""
        if self.injection is not None:
            # Anew: what a tuner did in between is no part of the run.
            self.injection.remove()
            self.injection = None
        try:
            self.injection = self._inject(trainer, pl_module)
        except NoLossFoundError as error:
            if not self._from_environment:
                raise
            self._leave_alone(trainer, pl_module, str(error))
            return
        self._encoder = RecipeEncoder(pl_module, self.injection.losses.values())
        if all(site.reads_metadata for site in self.injection.sites):
            self._stop_recording()
        if self._saved is not None:
            self.injection.load_state_dict(self._saved)
            self._saved = None
        for experiment in trainer.loggers:
            experiment.log_hyperparams(self._hyperparameters())

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin to count the epoch's calls."""
        if self.injection is not None:
            self._calls_before = self._calls()

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, *_: Any) -> None:
        """Say whose samples the batch holds; measure the steps that will be logged."""
        if self.injection is not None:
            self._provide(batch)
            every = trainer.log_every_n_steps
            due = every > 0 and (trainer.global_step + 1) % every == 0
            for treated in self.injection.losses.values():
                treated.loss.observe = due

    def on_validation_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, *_: Any, **__: Any
    ) -> None:
        """Say what labels the batch has; its indexes would be those of another data set."""
        if self.injection is not None:
            for site in self.injection.sites:
                self.injection.losses[site.name].provide(site.metadata(batch))

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        """Close the step; after the first one, insist that every treated loss was called."""
        if self.injection is None:
            return
        self.injection.end_step()
        if not self._checked:
            self._checked = True
            uncalled = self._uncalled()
            probe = len(uncalled) == len(self.injection.losses) and call_record.recorded_here()
            if probe and self._from_environment:
                # An evaluation of a model that was pretrained, treated, in this process.
                self.injection.remove()
                self.injection = None
                reason = f"its training does not call {', '.join(uncalled)}"
                self._leave_alone(trainer, pl_module, reason)
                return
            self._insist(uncalled, pl_module, "the first training batch")
        for name, treated in self.injection.losses.items():
            if treated.loss.observe:
                for metric, value in treated.loss.observed.items():
                    pl_module.log(f"negplug/{name}/{metric}", value)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Insist that every treated loss was called in the epoch: a host may have replaced it."""
        if self.injection is not None and self._checked:
            self._insist(self._uncalled(), pl_module, f"epoch {trainer.current_epoch}")

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Give the model back as it was; the samplers' state stays for checkpoints."""
        self._give_back()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Give the model back as it was."""
        self._give_back()

    def state_dict(self) -> dict[str, Any]:
        """Return the expressions and all state: tensors and built-in types only."""
        losses = self._saved
        if self.injection is not None:
            # Another callback may save at the end of a batch before this one has closed it.
            self.injection.end_step()
            losses = self.injection.state_dict()
            if any(part.per_rank for part in self.injection.samplers()):
                # Lightning asks every rank and writes what rank 0 answers.
                return self._choice() | {"losses": {}, "ranks": everyones(losses)}
        return self._choice() | {"losses": losses or {}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Keep the state until the model is treated.

        Raises:
            ValueError: If the checkpoint was written with another sampler or objective or, where
                ranks have state of their own, by another number of ranks.
        """
        ranks = state.get("ranks")
        if not (state["losses"] or ranks):
            return
        for kind, own in self._choice().items():
            if state[kind] != own:
                raise ValueError(
                    f"the checkpoint was written with the {kind} {state[kind] or _OF_THE_HOST}, "
                    f"this run has {own or _OF_THE_HOST}; resume with the same expression"
                )
        if ranks is not None and len(ranks) != world_size():
            raise ValueError(
                f"the checkpoint holds the sampler state of {len(ranks)} ranks, this run has "
                f"{world_size()}; resume with as many"
            )
        self._saved = state["losses"] if ranks is None else ranks[rank()]

    def _choice(self) -> dict[str, str | None]:
        """Return what a run that resumes must have chosen too."""
        objective = self.treatment.objective
        return {
            "sampler": str(self.treatment.sampler),
            "objective": None if objective is None else str(objective),
        }

    def _inject(self, trainer: Any, model: nn.Module) -> Injection:
        injection = treat(model, self.treatment, self.target)
        for treated in injection.losses.values():
            # Otherwise one backward pass closes a step, also when a closure runs it again; a
            # manual optimisation may run several in one.
            treated.loss.steps_by_backward = bool(model.automatic_optimization)
        if strategy := untested_strategy(trainer):
            injection.remove()
            raise ValueError(
                f"negplug is untested with {strategy}, which shards or rewrites the model; "
                f"use a single device or DDP"
            )
        return injection

    def _provide(self, batch: Any) -> None:
        assert self.injection is not None
        assert self._encoder is not None
        self._encoder.offer()
        indexes, reason = None, ""
        if self._recorder is not None:
            indexes = self._recorder.advance()
            reason = self._recorder.reason
        for site in self.injection.sites:
            if not site.reads_metadata:
                known = replace(site.metadata(batch), indexes=indexes, unindexed=reason)
                self.injection.losses[site.name].provide(known)

    def _give_back(self) -> None:
        if self.injection is not None:
            self.injection.remove()
            for treated in self.injection.losses.values():
                treated.dataset = DatasetAccess()  # lets go of the model
        self._encoder = None
        self._stop_recording()
        watch.resume(self)

    def _stop_recording(self) -> None:
        if self._recorder is not None:
            self._recorder.remove()
            self._recorder = None

    def _leave_alone(self, trainer: Any, model: nn.Module, reason: str) -> None:
        self._stop_recording()
        if trainer.is_global_zero:
            logger.warning("negplug leaves %s alone: %s", type(model).__name__, reason)

    def _uncalled(self) -> list[str]:
        """Return the losses that were not called in this epoch so far."""
        calls = self._calls()
        return [name for name in calls if calls[name] == self._calls_before[name]]

    def _calls(self) -> dict[str, int]:
        assert self.injection is not None
        return {name: treated.calls for name, treated in self.injection.losses.items()}

    def _insist(self, uncalled: list[str], model: nn.Module, when: str) -> None:
        if uncalled:
            raise RuntimeError(
                f"negplug treated {', '.join(uncalled)} of {type(model).__name__}, but {when} "
                f"never called it: the host took another path, and the run would go on untreated"
            )

    def _hyperparameters(self) -> dict[str, Any]:
        given = {
            "sampler": self.treatment.sampler,
            "objective": self.treatment.objective,
            "temperature": self.treatment.temperature,
            "target": self.target,
        }
        return {f"negplug/{key}": str(value) for key, value in given.items() if value is not None}
