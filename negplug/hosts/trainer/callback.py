"""``NegativeControl``: negative control as a Lightning callback.

This is its behaviour, on either Lightning and without importing one;
:mod:`negplug.hosts.trainer.lightnings` joins it with the ``Callback`` class in use.

Order of hooks that matters: ``setup`` (inject, if the loss exists) → ``load_state_dict`` (stash)
→ ``on_fit_start`` (inject, restore) → ``on_train_start`` and each ``on_train_epoch_start`` (is it
still the data set that the state is of?) → training → ``teardown`` (give the model back).
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Collection
from typing import Any

from torch import nn

from negplug.contract.composer import Composer
from negplug.contract.dataset import DatasetAccess
from negplug.contract.declarations import Declarations, as_declared
from negplug.contract.inputs import check_integer
from negplug.contract.objective import Objective
from negplug.hosts import call_record, notices, watch
from negplug.hosts.injection import Injection, NoLossFoundError
from negplug.hosts.lookout import Lookout
from negplug.hosts.trainer import several
from negplug.hosts.trainer.accumulated_step import inject_accumulated
from negplug.hosts.trainer.call_counts import CallCounts, insist
from negplug.hosts.trainer.checkpoint import CheckpointMixin
from negplug.hosts.trainer.composition import Composition
from negplug.hosts.trainer.encoder import RecipeEncoder
from negplug.hosts.trainer.evaluation import EvaluationMixin, say_untreated
from negplug.hosts.trainer.indexes.batch_metadata import BatchMetadata
from negplug.hosts.trainer.ownership import KeptState
from negplug.hosts.trainer.strategies import refusal
from negplug.hosts.trainer.tuning import TuningMixin, stand_back
from negplug.hosts.treatment import Samplers, Treatment
from negplug.plugins.build import as_composer

logger = logging.getLogger("negplug")


class NegativeControlMixin(EvaluationMixin, CheckpointMixin, TuningMixin):
    """The callback's behaviour, on either Lightning.

    Args:
        sampler: A sampler or an expression; or a mapping of such by the names of the losses to
            treat, each with a state of its own.
        objective: Replaces the host's form of the loss.
        temperature: Replaces the host's temperature.
        target: Name of the one loss to treat. Several callbacks of a Trainer have one each.
        ignore: Contrastive losses that may stay untreated, by name or class.
        treat: As :func:`negplug.inject` takes it.
        accumulate: Number of micro-batches of a step (:mod:`negplug.hosts.accumulation.cache`).
        compose: A composer of batches or an expression, such as ``"random_walk()"``: it decides
            which samples meet in a batch, in place of the recipe's own order.
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
        compose: Composer | str | None = None,
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
        self.composition = None if compose is None else Composition(as_composer(compose))
        self.injection: Injection | None = None
        self._from_environment = from_environment
        self._kept = KeptState()
        self._stage: str | None = None
        self._untreated_before = False
        self._checked = False
        self._counts: CallCounts | None = None
        self._metadata: BatchMetadata | None = None
        self._encoder: RecipeEncoder | None = None

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Treat the losses that exist already.

        Raises:
            ValueError: If another callback of the Trainer treats the same loss, or if this one is
                in the middle of another Trainer's fit.
            RanksError: If the ranks were given different arguments or variables.
        """
        several.check_idle(self._encoder is not None)
        self._stage = stage
        watch.pause(self)
        if stage != "fit":
            say_untreated(trainer, stage)
            return
        several.check_once(self, trainer.callbacks)
        self._stand_ahead(trainer)
        others = self._others(trainer)
        several.check_targets(self.target, [other.target for other in others])
        several.check_accumulate(self.accumulate, [other.accumulate for other in others])
        several.check_compose(self.composition, [other.composition for other in others])
        # Before the Trainer's own first exchange, which ranks that differ may not all reach.
        given = {
            "accumulate": self.accumulate,
            "ignore": sorted(self.ignore),
            "treat": self._declared,
        }
        several.insist_on_same_arguments(self._chosen() | given)
        # Now, before any loader is iterated.
        beside = [each._metadata for each in others]
        self._metadata = BatchMetadata(trainer, self.treatment, self.composition, beside)
        trained = self.injection if self._counts is not None else None
        self._kept.take_over(trained, pl_module)
        self.injection = self._counts = None
        self._checked = self._untreated_before = False
        with contextlib.suppress(NoLossFoundError):  # another try is at on_fit_start
            self.injection = self._inject(trainer, pl_module)

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Treat every loss, those made since setup too, and restore the samplers' state."""
        if self.injection is not None:
            self.injection.remove()
            self.injection = None
        try:
            self.injection = self._inject(trainer, pl_module)
        except NoLossFoundError as error:
            if not self._from_environment:
                raise
            self._leave_alone(trainer, pl_module, str(error))
            return
        if self._every:
            self.injection.lookout = Lookout(pl_module, self.injection.losses, self.ignore)
        notices.treats(self.injection.sites, self.treatment)
        if self._metadata is not None:
            self._metadata.watch(pl_module, self.injection, follow=self.accumulate == 1)
        if self.composition is not None:
            self.composition.watch(self.injection)
        self._kept.restore(self.injection)
        prefix = self.state_key if self._others(trainer) else "negplug"
        for experiment in trainer.loggers:
            experiment.log_hyperparams(self._chosen(f"{prefix}/"))

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Look at the data set; a fit with another one than before starts afresh."""
        if self.injection is not None:
            beside = several.losses_of(each.injection for each in self._others(trainer))
            self._encoder = RecipeEncoder(pl_module, self.injection.losses.values(), beside)
            self._counts = CallCounts(self.injection)
            self._kept.check(trainer, self.injection, composition=self.composition)
            notices.untrained(self.injection.losses, trainer.optimizers)
            if self._untreated_before:
                notices.was_untreated(self.treatment)

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin to count the epoch's calls; insist on the same data set."""
        if self.injection is not None and self._counts is not None:
            self._counts.begin()
            self.injection.look_again()
            assert self._encoder is not None
            self._encoder.begin_epoch()
            when = f"from epoch {trainer.current_epoch} on"
            self._kept.check(trainer, self.injection, when, self.composition)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, *_: Any) -> None:
        """Say whose samples the batch holds; measure the steps that will be logged."""
        if self.injection is not None:
            # Until on_train_batch_end: a manual optimisation may run several backward passes.
            self.injection.begin_step()
            self.injection.set_epoch(trainer.current_epoch)
            assert self._encoder is not None
            self._encoder.offer()
            if self._metadata is not None:
                self._metadata.tell(self, batch, self.injection, self._kept.apart)
            every = trainer.log_every_n_steps
            due = every > 0 and (trainer.global_step + 1) % every == 0
            for treated in self.injection.losses.values():
                treated.loss.observe = due

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        """Close the step; after the first one, insist that every treated loss was called."""
        if self.injection is None:
            return
        self.injection.end_step(told=pl_module.automatic_optimization)  # by hand it may be skipped
        if self._metadata is not None:
            self._metadata.end_step()
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
            if self.composition is not None:
                self.composition.end_epoch()

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Give the model back as it was; the samplers' state stays for checkpoints."""
        stand_back(trainer)
        self._give_back(pl_module)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Give the model back as it was."""
        self.teardown(trainer, pl_module, "fit")

    def _others(self, trainer: Any) -> list[NegativeControlMixin]:
        """Return the other callbacks of this kind in a Trainer."""
        kind = NegativeControlMixin
        return [each for each in trainer.callbacks if isinstance(each, kind) and each is not self]

    def _chosen(self, prefix: str = "") -> dict[str, str]:
        composer = None if self.composition is None else self.composition.composer
        return several.hyperparameters(self.treatment, self.target, prefix, composer)

    def _inject(self, trainer: Any, model: nn.Module) -> Injection:
        how = self.treatment, self.target, self.ignore, self._declared
        injection = inject_accumulated(self.accumulate, model, *how)
        if refused := refusal(trainer):
            injection.remove()
            raise refused
        injection.set_epoch(trainer.current_epoch)
        return injection

    def _give_back(self, model: nn.Module) -> None:
        if self._encoder is not None:  # it has trained
            self._kept.owner.take(model)
        if self._metadata is not None:
            self._metadata.stop_watching()
        if self.injection is not None:
            self.injection.remove()
            for treated in self.injection.losses.values():
                treated.dataset = DatasetAccess()  # lets go of the model
        self._encoder = None
        self._stop_recording()
        watch.resume(self)

    def _stop_recording(self) -> None:
        if self._metadata is not None:
            self._metadata.stop()
            self._metadata = None
        if self.composition is not None:
            self.composition.end()

    def _leave_alone(self, trainer: Any, model: nn.Module, reason: str) -> None:
        # From here on its losses are those of a plain loop.
        self._give_back(model)
        self.injection = None
        if trainer.is_global_zero:
            logger.warning("negplug leaves %s alone: %s", type(model).__name__, reason)
