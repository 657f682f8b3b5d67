"""``ContactSheet``: what a treated loss compares, as pictures, from a Lightning Trainer.

This is its behaviour, on either Lightning and without importing one;
:mod:`negplug.hosts.trainer.lightnings` joins it with the ``Callback`` class in use.

The step's own draws are shown. The treated loss tells of the batch and the negatives that it was
computed from (:attr:`negplug.loss.contrastive.ContrastiveLoss.witness`); nothing is drawn for the
sheet, and the generators of the CPU are put back where the data set is asked for a picture.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from negplug.contract.batch import ContrastiveBatch
from negplug.contract.negatives import Negatives
from negplug.diagnostics.contact_sheet.draws import AnchorDraws, draws_of
from negplug.diagnostics.contact_sheet.html import page_of, png_of
from negplug.diagnostics.contact_sheet.images import Images
from negplug.diagnostics.contact_sheet.sheet import Sheet, figure, pixels, sheet_of
from negplug.hosts.injection import Injection
from negplug.hosts.trainer.callback import NegativeControlMixin
from negplug.hosts.trainer.diagnostics import refuse_twice
from negplug.hosts.trainer.pictures import log_picture
from negplug.hosts.trainer.private import batches_taken, training_loader

logger = logging.getLogger("negplug")


class ContactSheetMixin:
    """Writes contact sheets: an anchor, its positive and its drawn negatives as pictures.

    With the similarity of each and its label, where the batch has labels, so that false negatives
    can be seen. In the last batch of an epoch it keeps what the treated loss was computed from,
    in its first call of the step, and writes ``EPOCH-LOSS.html`` and ``.png``; the loggers get the
    picture, as far as they take pictures, and ``negplug/LOSS/false_negatives``: the fraction of
    the shown anchors' negatives that have the anchor's label. Draws, losses and the samplers'
    state are those of a run without it.

    A negative that is no row of this rank's batch, from a queue, say, is shown as the data set
    gives it now, if its index is known.

    Args:
        num_anchors: How many anchors a sheet shows: the first of the batch.
        num_negatives: How many negatives of each it shows: the most similar.
        every: After every so many epochs, and after the last.
        directory: Where the sheets go; by default ``contact_sheets`` in the folder of the run,
            ``trainer.log_dir``.
        from_environment: Set by negplug itself when ``NEGPLUG_DIAGNOSTICS`` asks for the callback:
            a recipe that is not treated is then left alone.

    Raises:
        ValueError: If an argument is out of range, ``NEGPLUG_DIAGNOSTICS`` asks for it too or, in
            training, no loss of the Trainer is treated.
        ImportError: If matplotlib is not installed.

    Example:
        >>> control = NegativeControl("uniform(num_negatives=10)")
        >>> trainer = Trainer(callbacks=[control, ContactSheet(every=50)])
    """

    def __init__(
        self,
        num_anchors: int = 8,
        num_negatives: int = 12,
        every: int = 10,
        directory: str | Path | None = None,
        *,
        from_environment: bool = False,
    ) -> None:
        super().__init__()
        refuse_twice("contact_sheet", self, from_environment)
        given = {"num_anchors": num_anchors, "num_negatives": num_negatives, "every": every}
        for name, number in given.items():
            if number < 1:
                raise ValueError(f"{name} must be at least 1, got {number}")
        _check_matplotlib()  # if it is missing, now and not after an epoch
        self.num_anchors = num_anchors
        self.num_negatives = num_negatives
        self.every = every
        self.directory = None if directory is None else Path(directory)
        self._from_environment = from_environment
        self._folder = Path()
        self._images: Images | None = None
        self._draws: dict[str, tuple[str, list[AnchorDraws]]] = {}
        self._written = 0
        self._watches = False

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Find the folder of the run, which all ranks have to ask for."""
        self._folder = self.directory or Path(trainer.log_dir or ".") / "contact_sheets"
        self._written, self._watches = 0, False

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Insist on a treated loss, and on a folder for its sheets.

        Raises:
            ValueError: If there is none.
        """
        self._watches = any(injections_of(trainer))
        if self._watches:
            self._make_folder()  # on every rank, so that all of them fail
            return
        what = f"no loss of {type(pl_module).__name__} is treated"
        if not self._from_environment:
            raise ValueError(f"{what}, and ContactSheet shows treated ones; add a NegativeControl")
        if trainer.is_global_zero:
            logger.warning("negplug writes no contact sheets: %s", what)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, *_: Any) -> None:
        """Have the treated losses tell of the step to come, if it is to be shown."""
        if not (self._watches and trainer.is_global_zero and self._due(trainer)):
            return
        self._draws = {}
        dataset = getattr(training_loader(trainer), "dataset", None)
        injections = injections_of(trainer)
        numbered = any(site.reads_metadata for each in injections for site in each.sites)
        self._images = Images(batch, dataset, numbered)
        for injection in injections:
            for name, treated in injection.losses.items():
                sampler = str(treated.loss.sampler)
                treated.loss.witness = functools.partial(self._keep, name, sampler)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        """Write the sheets of the step."""
        self._write_all(trainer, pl_module)

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        """Say so if there was nothing to show."""
        if self._watches and trainer.is_global_zero and not self._written:
            logger.warning(
                "negplug wrote no contact sheet: the fit ended before the last batch of an epoch, "
                "or no treated loss was called in one (a captured CUDA graph calls none)"
            )

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Let go of the losses and the batch."""
        self._let_go(trainer)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Let go of the losses and the batch."""
        self._let_go(trainer)

    def _due(self, trainer: Any) -> bool:
        steps = trainer.max_steps
        if steps is not None and 0 < steps <= trainer.global_step + 1:
            return True
        epoch = trainer.current_epoch + 1
        if epoch % self.every and epoch != trainer.max_epochs:
            return False
        # Lightning 1.9 does not count a limited batch as the last.
        return bool(trainer.is_last_batch) or batches_taken(trainer) >= trainer.num_training_batches

    def _keep(
        self, name: str, sampler: str, batch: ContrastiveBatch, negatives: Sequence[Negatives]
    ) -> None:
        """Keep what the first call of a loss was computed from."""
        if self._images is not None and name not in self._draws:
            limits = self._images.size, self.num_anchors, self.num_negatives
            self._draws[name] = sampler, draws_of(batch, negatives, *limits)

    def _write_all(self, trainer: Any, pl_module: Any) -> None:
        if self._images is None:
            return
        for name, (sampler, draws) in self._draws.items():
            sheet = sheet_of(self._title(name, sampler, trainer), draws, self._images)
            self._write(trainer, pl_module, name, sheet)
        self._let_go(trainer)

    def _when(self, trainer: Any) -> tuple[int, int]:
        """Return epoch and step."""
        return trainer.current_epoch, trainer.global_step

    def _title(self, name: str, sampler: str, trainer: Any) -> str:
        epoch, step = self._when(trainer)
        return f"{name} with {sampler}, epoch {epoch}, step {step}"

    def _make_folder(self) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(
                f"contact sheets cannot be written to {str(self._folder)!r} ({error.strerror}); "
                f"give another directory"
            ) from None

    def _write(self, trainer: Any, module: Any, name: str, sheet: Sheet) -> None:
        picture = pixels(figure(sheet))
        stem = f"epoch={self._when(trainer)[0]:04d}-{re.sub(r'[^0-9A-Za-z_.-]+', '_', name)}"
        page = self._folder / f"{stem}.html"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            page.with_suffix(".png").write_bytes(png_of(picture))
            page.write_text(page_of(sheet), encoding="utf-8")
        except OSError as error:
            self._give_up(page, error)
            return
        self._keep_written(page, sheet)
        if not self._written:
            logger.info("negplug writes contact sheets to %s", self._folder)
        self._written += 1
        log_picture(trainer.loggers, f"negplug/{name}/contact_sheet", picture, trainer.global_step)
        if math.isfinite(sheet.false_negatives):
            self._log(module, f"negplug/{name}/false_negatives", sheet.false_negatives)
            self._log(module, f"negplug/{name}/false_negative_share", sheet.false_negative_share)

    def _give_up(self, page: Path, error: OSError) -> None:
        """Warn of a sheet that the disk has no room for; no picture is worth a training."""
        for file in (page, page.with_suffix(".png")):
            with contextlib.suppress(OSError):
                file.unlink()
        logger.warning(
            "negplug could not write the contact sheet %s (%s)", page, error.strerror or error
        )

    def _keep_written(self, page: Path, sheet: Sheet) -> None:
        """Be told of a page that was written."""

    def _log(self, module: Any, name: str, value: float) -> None:
        # Of the epoch: a step is handed to the loggers only if it is one of those to log.
        how = {"on_step": False, "on_epoch": True, "rank_zero_only": True}
        module.log(name, value, batch_size=1, **how)

    def _let_go(self, trainer: Any) -> None:
        if self._images is None:
            return
        self._images = None
        self._draws = {}
        for injection in injections_of(trainer):
            for treated in injection.losses.values():
                treated.loss.witness = None


def injections_of(trainer: Any) -> list[Injection]:
    """Return the handles of what the Trainer's callbacks treat."""
    controls = (each for each in trainer.callbacks if isinstance(each, NegativeControlMixin))
    return [each.injection for each in controls if each.injection is not None]


def _check_matplotlib() -> None:
    """Raise ``ImportError`` unless matplotlib is installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ImportError("contact sheets need matplotlib; install negplug[diagnostics]") from error
