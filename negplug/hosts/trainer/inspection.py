"""A contact sheet of a checkpoint: a recipe is run up to its first loss, and trains no step.

``negplug inspect CHECKPOINT SCRIPT`` asks for it by :func:`ask`; the next fit of a Trainer in this
process is then an inspection. It gives the model its saved weights and the samplers their saved
state, draws once for the loader's first batch, and ends the process at the backward pass. The other
callbacks of the recipe are taken away and its loggers put out, so that nothing is saved, evaluated
or logged.
"""

from __future__ import annotations

import functools
import importlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from negplug.diagnostics.contact_sheet.sheet import Sheet
from negplug.diagnostics.saved.states import SavedTreatment
from negplug.hosts import environment
from negplug.hosts.trainer.callback import NegativeControlMixin
from negplug.hosts.trainer.contact_sheet import ContactSheetMixin, injections_of
from negplug.hosts.trainer.lightnings import callback_class


@dataclass(frozen=True)
class Asked:
    """An inspection.

    Attributes:
        name: Of the checkpoint, for titles.
        checkpoint: What a Trainer has written, read.
        treatments: What it says of its negatives.
        directory: Where the sheets go.
        num_anchors: How many anchors a sheet shows.
        num_negatives: How many negatives of each.
        written: Gets the pages and their sheets.
    """

    name: str
    checkpoint: dict[str, Any]
    treatments: tuple[SavedTreatment, ...]
    directory: Path
    num_anchors: int
    num_negatives: int
    written: list[tuple[Path, Sheet]] = field(default_factory=list)


_asked: Asked | None = None


def ask(inspection: Asked | None) -> None:
    """Make the fits to come inspections, or no longer."""
    global _asked
    _asked = inspection


class InspectionMixin(ContactSheetMixin):
    """Writes the contact sheets of a checkpoint, and ends the process.

    Args:
        inspection: What was asked for.
        framework: The Lightning of the Trainer, ``"lightning.pytorch"`` or
            ``"pytorch_lightning"``.
    """

    def __init__(self, inspection: Asked, framework: str) -> None:
        limits = inspection.num_anchors, inspection.num_negatives
        super().__init__(*limits, directory=inspection.directory, from_environment=True)
        self._inspection = inspection
        self._framework = framework

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Treat the recipe as the checkpoint says, unless it treats itself; put all else out.

        Raises:
            ValueError: If there are several ranks, or the checkpoint is of another treatment.
        """
        if stage != "fit":
            return
        if trainer.world_size > 1:
            raise ValueError(
                f"negplug inspect draws in one process, but this Trainer has {trainer.world_size} "
                f"ranks; give the script the arguments that make it train on one device"
            )
        controls = [each for each in trainer.callbacks if isinstance(each, NegativeControlMixin)]
        if not controls:
            controls = [self._control()]
            controls[0].setup(trainer, pl_module, stage)
        trainer.callbacks = [*controls, self]
        states = self._inspection.checkpoint["callbacks"]
        for control in controls:
            if control.state_key in states:
                control.load_state_dict(states[control.state_key])
            else:
                control.on_load_checkpoint(trainer, pl_module, self._inspection.checkpoint)

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Give the model its saved weights."""
        super().on_fit_start(trainer, pl_module)
        checkpoint = self._inspection.checkpoint
        pl_module.on_load_checkpoint(checkpoint)
        strict = getattr(pl_module, "strict_loading", True)
        pl_module.load_state_dict(checkpoint["state_dict"], strict=strict)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, *_: Any) -> None:
        """Say which epoch it is, for samplers that go by it, and watch the losses."""
        for injection in injections_of(trainer):
            injection.set_epoch(self._when(trainer)[0])
        super().on_train_batch_start(trainer, pl_module, batch)

    def on_before_backward(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        """Leave once every treated loss was called: no gradient is computed."""
        if self._draws and self._draws.keys() >= self._names(trainer):
            self._leave(trainer, pl_module)

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        """Leave before weights change, where a recipe calls ``backward`` itself."""
        if self._draws:
            self._leave(trainer, pl_module)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        """Leave with what there is, where a recipe steps its optimizer itself."""
        self._leave(trainer, pl_module)

    def _names(self, trainer: Any) -> set[str]:
        return {name for each in injections_of(trainer) for name in each.losses}

    def _leave(self, trainer: Any, pl_module: Any) -> NoReturn:
        self._write_all(trainer, pl_module)
        raise SystemExit(0)

    def _control(self) -> Any:
        """Return the callback that treats as ``negplug run`` did."""
        first, *others = self._inspection.treatments
        if others or first.key != "negplug" or str(first.sampler).startswith("{"):
            raise ValueError(
                f"{self._inspection.name} was written with a sampler for each loss, which only a "
                f"recipe with NegativeControl callbacks can choose, and this one has none; run "
                f"the script that wrote it"
            )
        return callback_class("NegativeControl", self._framework)(
            *(first.sampler, first.objective, first.temperature),
            ignore=environment.ignored(),
            compose=first.compose,
            from_environment=True,
        )

    def _due(self, trainer: Any) -> bool:
        return True

    def _when(self, trainer: Any) -> tuple[int, int]:
        saved = self._inspection.checkpoint
        return int(saved["epoch"]), int(saved["global_step"])

    def _title(self, name: str, sampler: str, trainer: Any) -> str:
        return f"{super()._title(name, sampler, trainer)} of {self._inspection.name}"

    def _give_up(self, page: Path, error: OSError) -> None:
        raise SystemExit(
            f"negplug: {page} cannot be written ({error.strerror or error}); give another --out"
        )

    def _keep_written(self, page: Path, sheet: Sheet) -> None:
        self._inspection.written.append((page, sheet))

    def _log(self, module: Any, name: str, value: float) -> None:
        """Log nothing."""


def callback(framework: str) -> Any | None:
    """Return the callback of the inspection that was asked for; None if none was.

    Args:
        framework: ``"lightning.pytorch"`` or ``"pytorch_lightning"``, whose Trainer is being made.
    """
    if _asked is None:
        return None
    _silence(framework)
    return callback_class("Inspection", framework)(_asked, framework)


@functools.cache
def _silence(framework: str) -> None:
    """Have the fits of this process log to nothing, and check no validation first.

    Ahead of them, because a fit begins with opening its loggers.
    """
    kind = importlib.import_module(framework).Trainer
    dummy = importlib.import_module(f"{framework}.loggers.logger").DummyLogger
    original = kind.fit

    @functools.wraps(original)
    def fit(trainer: Any, *args: Any, **kwargs: Any) -> Any:
        if _asked is not None:
            trainer.num_sanity_val_steps = 0
            trainer.loggers = [dummy()] if trainer.loggers else []
        return original(trainer, *args, **kwargs)

    kind.fit = fit
