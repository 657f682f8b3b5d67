"""Optuna's storage, for runs that take longer than a server's restart.

Imported only where a sweep opens its storage, because Optuna takes its time to load.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy.exc import SQLAlchemyError

# What a server takes to be there again.
_PATIENCE_SECONDS = 60


class PatientStorage(RDBStorage):
    """A storage that leaves a beat out, and waits with the results of a run, while it is away."""

    def record_heartbeat(self, trial_id: int) -> None:
        """Record that a run goes on; a missed beat is none to end the run for."""
        with suppress(StorageInternalError, SQLAlchemyError):
            super().record_heartbeat(trial_id)

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Store what a run has found. Hours of work hang on it, and it may be tried again."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                return super().set_trial_user_attr(trial_id, key, value)
            except (StorageInternalError, SQLAlchemyError):
                # A file comes back by no waiting: the disk is full, or it is damaged.
                if self.engine.dialect.name == "sqlite" or time.monotonic() > deadline:
                    raise
                time.sleep(1)
