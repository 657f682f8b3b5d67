"""What negplug says of its treatment, shown even where a script has not set up logging."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from negplug.contract.adapter import LossSite
from negplug.hosts.treated_loss import TreatedLoss
from negplug.hosts.treatment import Treatment
from negplug.kernels.distributed import rank
from negplug.loss import optimizers

logger = logging.getLogger("negplug")

_said_so = False  # that nothing is treated any more


class _UnlessConfigured(logging.StreamHandler):  # type: ignore[type-arg]
    """Prints to standard error until the script sets up logging of its own."""

    def emit(self, record: logging.LogRecord) -> None:
        if not logging.getLogger().handlers:
            super().emit(record)


def treats(sites: Iterable[LossSite], treatment: Treatment, where: str = "") -> None:
    """Say which losses are treated, and with what; once for all ranks."""
    if rank() != 0:
        return
    names = ", ".join(f"{site.name} ({site.host}{where})" for site in sites)
    logger.info("negplug treats %s with %s", names, treatment.describe())


def treats_no_longer() -> None:
    """Warn that the variable is gone, by a notebook's wish or a script's cleared environment."""
    global _said_so
    if not _said_so and rank() == 0:
        logger.warning(
            "negplug: NEGPLUG_SAMPLER was set in this process and is set no longer, so it treats "
            "no loss from here on; what the script itself treats goes on"
        )
    _said_so = True


def begins_anew(site: LossSite, treated: TreatedLoss) -> None:
    """Warn that a script resumes and a loss does not, if that makes a difference; on one rank."""
    kept = _what_lasts(treated)
    if kept and rank() == 0:
        logger.warning(
            "negplug: the script has loaded an optimizer's state, so it goes on with an earlier "
            "run, but %s of %s begins empty, for the script saves nothing of it; call "
            "negplug.inject() in the script in place of NEGPLUG_SAMPLER or --sampler, save "
            "handle.state_dict() beside the model and load it with handle.load_state_dict()",
            kept,
            site.name,
        )


def was_untreated(treatment: Treatment) -> None:
    """Warn that a run which is treated goes on with one that was not; on one rank.

    Args:
        treatment: What the run has from here on.
    """
    if rank() == 0:
        logger.warning(
            "negplug: the checkpoint is of a run that was not treated, so its weights "
            "were trained with other negatives, and %s begins there; to compare the two, train "
            "from the start and keep checkpoints of each run in a folder of its own",
            treatment.describe(),
        )


def succeeds(named: str, treated: TreatedLoss) -> None:
    """Warn that a loss takes the place of one that is gone, if that makes a difference.

    Args:
        named: The loss, with the place of its call.
        treated: What treats it.
    """
    kept = _what_lasts(treated)
    if kept and rank() == 0:
        logger.warning(
            "negplug: %s, is made anew while the same model trains on, in each epoch perhaps, and "
            "%s begins anew with it; make the criterion once, before the first epoch",
            *(named, kept),
        )


def begins_with_another_model(name: str, treated: TreatedLoss, known: bool) -> None:
    """Say that a loss begins anew with another model; on one rank.

    Args:
        name: Of the loss.
        treated: What has treated it.
        known: Whether it was said before, so that once more is enough.
    """
    if rank() == 0:
        kept = _what_lasts(treated) or "what it draws"
        logger.log(
            logging.INFO if known else logging.WARNING,
            "negplug: %s now trains another model, and %s begins anew, as with the next fold or "
            "seed; if the models are copies of one that goes on, call negplug.inject() in the "
            "script, whose handle lasts",
            *(name, kept),
        )


def _what_lasts(treated: TreatedLoss) -> str:
    """Return what of a treated loss goes on from step to step, empty if nothing does."""
    parts = (*treated.loss.sampler.parts_inside(), *treated.loss.objective.parts_inside())
    lasting = [part for part in parts if part.updates or getattr(part, "turns", 1) > 1]
    return ", ".join(map(str, lasting))


def untrained(losses: Mapping[str, TreatedLoss], theirs: Iterable[Any]) -> None:
    """Warn of what a treated loss learns if no optimizer trains it; once for all ranks.

    Args:
        losses: The treated losses by name.
        theirs: All optimizers of the training.
    """
    trained = {id(p) for optimizer in theirs for p in optimizers.parameters(optimizer)}
    for site, treated in losses.items():
        every = treated.loss.named_parameters()
        left = [name for name, p in every if p.requires_grad and id(p) not in trained]
        if left and rank() == 0:
            logger.warning(
                "negplug: %s of %s learns, but is in no optimizer of the recipe, so it stays as it "
                "is; give it as a number, or train with a ContrastiveLoss in a loop of your own",
                ", ".join(left),
                site,
            )


def show() -> None:
    """Show what negplug says from ``INFO`` on, unless logging is set up already."""
    global _said_so
    _said_so = False
    if not logger.handlers and logger.level == logging.NOTSET:
        logger.addHandler(_UnlessConfigured())
        logger.setLevel(logging.INFO)
