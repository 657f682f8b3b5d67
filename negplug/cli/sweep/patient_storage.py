"""Optuna's storage, for runs that take longer than a server's restart.

Imported only where a sweep opens its storage, because Optuna takes its time to load.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from sqlalchemy import event
from sqlalchemy.exc import SQLAlchemyError

# What a server takes to be there again.
_PATIENCE_SECONDS = 60

_T = TypeVar("_T")


class PatientStorage(RDBStorage):
    """A storage that waits for its server while that is away, from its opening on.

    What asks for a connection waits, be it for a read or a write; a beat and a result that were
    under way as the server went are left out and sent again.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._away = -math.inf  # when it was so last
        super().__init__(*args, **kwargs)
        # Not earlier: a URL or a password that is wrong gets no better; and no file comes back.
        if self.engine.dialect.name != "sqlite":
            event.listen(self.engine, "do_connect", self._connect)

    def _connect(self, dialect: Any, record: Any, args: Any, params: Any) -> Any:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                return dialect.connect(*args, **params)
            except dialect.dbapi.Error:
                self._away = time.monotonic()
                if self._away > deadline:
                    raise
                time.sleep(1)

    def record_heartbeat(self, trial_id: int) -> None:
        """Record that a run goes on; a missed beat is none to end the run for."""
        with suppress(StorageInternalError, SQLAlchemyError):
            super().record_heartbeat(trial_id)

    def _get_stale_trial_ids(self, study_id: int) -> list[int]:
        """Return the runs that have no beat any more, none right after nobody could send one."""
        if time.monotonic() - self._away < (self.grace_period or 0):
            return []
        return super()._get_stale_trial_ids(study_id)

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Any = None) -> bool:
        """Store a state; who takes a run gives a first beat, without which it is never stale."""
        if state is TrialState.RUNNING:
            self.record_heartbeat(trial_id)
        store = partial(super().set_trial_state_values, trial_id, state, values)
        return self._insist(store, stored=True)

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Store what a run has found."""
        store = partial(super().set_trial_user_attr, trial_id, key, value)
        self._insist(store)

    def _insist(self, store: Callable[[], _T], stored: _T | None = None) -> _T:
        """Store something. Hours of work hang on it, and it may be tried again.

        Args:
            store: Does it.
            stored: What it returns if a run that is over by now was ended by a try before, of
                which the word was lost.
        """
        deadline, tries = time.monotonic() + _PATIENCE_SECONDS, 0
        while True:
            try:
                return store()
            except UpdateFinishedTrialError:
                if not tries or stored is None:
                    raise
                return stored
            except (StorageInternalError, SQLAlchemyError):
                # A file comes back by no waiting: the disk is full, or it is damaged.
                if self.engine.dialect.name == "sqlite" or time.monotonic() > deadline:
                    raise
                tries += 1
                time.sleep(1)
