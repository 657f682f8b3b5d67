"""``NegativeControl``: negative control as a Lightning callback.

This is its behaviour, on either Lightning and without importing one;
:mod:`negplug.hosts.trainer.lightnings` joins it with the ``Callback`` class in use.

Order of hooks that matters: ``setup`` (inject, if the loss exists) → ``load_state_dict`` (stash)
→ ``on_fit_start`` (inject, restore) → ``on_train_start`` and each ``on_train_epoch_start`` (is it
still the data set that the state is of?) → training → ``teardown`` (give the model back).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Collection
from dataclasses import replace
from typing import Any

from torch import nn

from negplug.contract.dataset import DatasetAccess
from negplug.contract.declarations import Declarations, as_declared
from negplug.contract.inputs import check_integer
from negplug.contract.objective import Objective
from negplug.hosts import call_record, notices, watch
from negplug.hosts.injection import Injection, NoLossFoundError, inject_where
from negplug.hosts.trainer import several
from negplug.hosts.trainer.accumulated_step import AccumulatedStep, accumulated_step
from negplug.hosts.trainer.call_counts import CallCounts, insist
from negplug.hosts.trainer.encoder import RecipeEncoder
from negplug.hosts.trainer.evaluation import EvaluationMixin, say_untreated
from negplug.hosts.trainer.ownership import KeptState
from negplug.hosts.trainer.saved import losses_of
from negplug.hosts.trainer.strategies import refusal
from negplug.hosts.treatment import Samplers, Treatment
from negplug.kernels.distributed import everyones

logger = logging.getLogger("negplug")


class NegativeControlMixin(EvaluationMixin):
    """The callback's behaviour, on either Lightning.

    Args:
        sampler: A sampler or an expression; or a mapping of such by the names of the losses to
            treat, each with a state of its own.
        objective: Replaces the host's form of the loss.
        temperature: Replaces the host's temperature.
        target: Name of the one loss to treat. Several callbacks of a Trainer have one each.
        ignore: Contrastive losses that may stay untreated, by name or class.
        treat: As :func:`negplug.inject` takes it.
        accumulate: Number of micro-batches that a training step is split into, so that a large
            batch fits a small memory (:mod:`negplug.hosts.accumulation.cache`).
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
        sampler: Samplers,
        objective: Objective | str | None = None,
        temperature: float | None = None,
        target: str | None = None,
        ignore: str | Collection[str] = (),
        treat: Declarations | None = None,
        accumulate: int = 1,
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
        self._every = self.treatment.targets(target) is None
        self.target = target
        self.ignore = frozenset([ignore] if isinstance(ignore, str) else ignore)
        self._declared = as_declared(treat)
        self.accumulate = check_integer("NegativeControl", "accumulate", accumulate, 1)
        self._accumulated: AccumulatedStep | None = None
        self.injection: Injection | None = None
        self._from_environment = from_environment
        self._kept = KeptState()
        self._stage: str | None = None
        self._checked = False
        self._counts: CallCounts | None = None
        self._recorder: several.SharedRecorder | None = None
        self._encoder: RecipeEncoder | None = None

    @property
    def state_key(self) -> str:
        """The key of this callback's state in checkpoints: ``negplug``, or ``negplug/TARGET``."""
        return several.state_key(self.target, new=id(self) if self._stage is None else None)

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Treat the losses that exist already, so that a tuner sees the treated recipe.

        Raises:
            ValueError: If another callback of the Trainer treats the same loss.
        """
        self._stage = stage
        watch.pause(self)
        if stage != "fit":
            say_untreated(trainer, stage)
            return
        others = self._others(trainer)
        several.check_targets(self.target, [other.target for other in others])
        several.check_accumulate(self.accumulate, [other.accumulate for other in others])
        if self.treatment.wants_indexes:
            # Now, before any loader is iterated.
            self._recorder = several.shared_recorder(trainer, [each._recorder for each in others])
        # A tuner sets up too, and trains without this callback's other hooks.
        trained = self.injection if self._counts is not None else None
        self._kept.take_over(trained, pl_module)
        self.injection = self._counts = None
        self._checked = False
        try:
            self.injection = self._inject(trainer, pl_module)
        except NoLossFoundError:
            logger.debug("no loss at setup; trying again at on_fit_start")

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Treat every loss, those made since setup too, and restore the samplers' state."""
        if self.injection is not None:
            # Anew: what a tuner did in between is no part of the run.
            self._remove(self.injection)
            self.injection = None
        try:
            self.injection = self._inject(trainer, pl_module)
        except NoLossFoundError as error:
            if not self._from_environment:
                raise
            self._leave_alone(trainer, pl_module, str(error))
            return
        if self._every:
            self.injection.look_out(pl_module, self.ignore)
        notices.treats(self.injection.sites, self.treatment)
        if all(site.reads_metadata for site in self.injection.sites):
            self._stop_recording()
        self._kept.restore(self.injection)
        prefix = self.state_key if self._others(trainer) else "negplug"
        chosen = several.hyperparameters(self.treatment, self.target, prefix)
        for experiment in trainer.loggers:
            experiment.log_hyperparams(chosen)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Look at the data set; a fit with another one than before starts afresh."""
        if self.injection is not None:
            beside = several.losses_of(each.injection for each in self._others(trainer))
            self._encoder = RecipeEncoder(pl_module, self.injection.losses.values(), beside)
            self._counts = CallCounts(self.injection)
            self._kept.check(trainer, self.injection)
            notices.untrained(self.injection.losses, trainer.optimizers)

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin to count the epoch's calls; insist on the same data set."""
        if self.injection is not None and self._counts is not None:
            self._counts.begin()
            self._kept.check(trainer, self.injection, f"from epoch {trainer.current_epoch} on")

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, *_: Any) -> None:
        """Say whose samples the batch holds; measure the steps that will be logged."""
        if self.injection is not None:
            # Until on_train_batch_end: a manual optimisation may run several backward passes.
            self.injection.begin_step()
            self.injection.set_epoch(trainer.current_epoch)
            self._provide(batch)
            every = trainer.log_every_n_steps
            due = every > 0 and (trainer.global_step + 1) % every == 0
            for treated in self.injection.losses.values():
                treated.loss.observe = due

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        """Close the step; after the first one, insist that every treated loss was called."""
        if self.injection is None:
            return
        self.injection.end_step()
        if not self._checked:
            assert self._counts is not None
            self._checked = True
            uncalled = self._counts.uncalled()
            probe = len(uncalled) == len(self.injection.losses) and call_record.recorded_here()
            if probe and self._from_environment:
                # An evaluation of a model that was pretrained, treated, in this process.
                reason = f"its training does not call {', '.join(uncalled)}"
                self._leave_alone(trainer, pl_module, reason)
                return
            insist(uncalled, pl_module, "the first training batch")
        for name, treated in self.injection.losses.items():
            if treated.loss.observe:
                for metric, value in treated.loss.observed.items():
                    pl_module.log(f"negplug/{name}/{metric}", value)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Insist that every treated loss was called in the epoch: a host may have replaced it."""
        if self.injection is not None and self._counts is not None and self._checked:
            insist(self._counts.uncalled(), pl_module, f"epoch {trainer.current_epoch}")

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Give the model back as it was; the samplers' state stays for checkpoints."""
        self._give_back(pl_module)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Give the model back as it was."""
        self._give_back(pl_module)

    def state_dict(self) -> dict[str, Any]:
        """Return the expressions and all state: tensors and built-in types only."""
        losses, dataset = self._kept.saved, self._kept.owner.dataset
        if self.injection is not None:
            # Another callback may save at the end of a batch before this one has closed it.
            self.injection.end_step()
            losses = self.injection.state_dict()
            if any(part.per_rank for part in self.injection.samplers()):
                # Lightning asks every rank and writes what rank 0 answers.
                whose = {"dataset": everyones(dataset), "losses": {}}
                return self._choice() | whose | {"ranks": everyones(losses)}
        return self._choice() | {"dataset": dataset, "losses": losses or {}}

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Find the state where a callback with another target has saved it.

        Raises:
            ValueError: If the checkpoint holds the state of other losses alone.
        """
        states = checkpoint.get("callbacks", {})
        if self._stage in (None, "fit") and self.state_key not in states:
            state = several.saved_elsewhere(states, self.target)
            if state is not None:
                self.load_state_dict(state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Keep the state until the model is treated; a stage outside ``fit`` has no use for it.

        Raises:
            ValueError: As :func:`losses_of`.
        """
        if self._stage in (None, "fit") and (saved := losses_of(state, self._choice())):
            self._kept.resume(saved, state.get("dataset"))

    def _choice(self) -> dict[str, str | None]:
        """Return what a run that resumes must have chosen too."""
        objective = self.treatment.objective
        return {
            "sampler": self.treatment.describe(),
            "objective": None if objective is None else str(objective),
        }

    def _others(self, trainer: Any) -> list[NegativeControlMixin]:
        """Return the other callbacks of this kind in a Trainer."""
        kind = NegativeControlMixin
        return [each for each in trainer.callbacks if isinstance(each, kind) and each is not self]

    def _inject(self, trainer: Any, model: nn.Module) -> Injection:
        # First, so that what a site does around a step, it does around all micro-batches.
        self._accumulated = accumulated_step(model, self.accumulate)
        try:
            injection = inject_where(
                model, self.treatment, self.target, self.ignore, self._declared
            )
        except Exception:
            self._stop_accumulating()
            raise
        if refused := refusal(trainer):
            self._remove(injection)
            raise refused
        if self._accumulated is not None:
            self._accumulated.serve(injection.losses.values())
        injection.set_epoch(trainer.current_epoch)
        return injection

    def _remove(self, injection: Injection) -> None:
        injection.remove()
        if self._accumulated is not None:
            self._accumulated.leave(injection.losses.values())
        self._stop_accumulating()

    def _stop_accumulating(self) -> None:
        if self._accumulated is not None:
            self._accumulated.remove()
            self._accumulated = None

    def _provide(self, batch: Any) -> None:
        assert self.injection is not None
        assert self._encoder is not None
        self._encoder.offer()
        indexes, reason = None, ""
        if self._recorder is not None:
            indexes = self._recorder.indexes(self)
            reason = self._recorder.reason
        for site in self.injection.sites:
            if not site.reads_metadata:
                known = replace(site.metadata(batch), indexes=indexes, unindexed=reason)
                self.injection.losses[site.name].provide(known)

    def _give_back(self, model: nn.Module) -> None:
        if self._stage == "fit":
            self._kept.owner.take(model)
        if self.injection is not None:
            self._remove(self.injection)
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
        # From here on its losses are those of a plain loop.
        self._give_back(model)
        self.injection = None
        if trainer.is_global_zero:
            logger.warning("negplug leaves %s alone: %s", type(model).__name__, reason)
