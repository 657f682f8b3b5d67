"""Notices of what is treated, where nobody has said what becomes of log messages."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from negplug.contract.adapter import LossSite
from negplug.hosts.treatment import Treatment
from negplug.kernels.distributed import rank

logger = logging.getLogger("negplug")


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


def show() -> None:
    """Show what negplug says from ``INFO`` on, unless logging is set up already."""
    if not logger.handlers and logger.level == logging.NOTSET:
        logger.addHandler(_UnlessConfigured())
        logger.setLevel(logging.INFO)
