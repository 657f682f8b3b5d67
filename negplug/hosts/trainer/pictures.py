"""Pictures for the loggers of a Lightning Trainer, through what each of them offers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def log_picture(loggers: Iterable[Any], name: str, picture: Any, step: int) -> None:
    """Hand a picture to every logger that takes pictures.

    Lightning's own interface has none for pictures, so a logger is asked for what it has:
    ``log_image`` (Weights & Biases and those modelled on it), or an experiment with ``add_image``
    (TensorBoard). Others, such as CSV, take none.

    Args:
        loggers: ``trainer.loggers``.
        name: What the picture is called.
        picture: ``[H, W, 3]`` uint8, a NumPy array.
        step: The optimizer step that it is of.
    """
    for logger in loggers:
        if callable(getattr(logger, "log_image", None)):
            logger.log_image(key=name, images=[picture], step=step)
        elif callable(getattr(logger.experiment, "add_image", None)):
            logger.experiment.add_image(name, picture, step, dataformats="HWC")
