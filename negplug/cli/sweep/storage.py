"""Opening the storage of a study, which several sweeps may do at the same moment."""

from __future__ import annotations

import time
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optuna import Study
    from optuna.storages import RDBStorage
    from sqlalchemy import Connection

# A killed process is noticed after the grace period; a beat is one small write.
_HEARTBEAT_SECONDS = 3
_GRACE_SECONDS = 12

# How long another sweep may take to make its tables, or a study that it has begun to make.
_PATIENCE_SECONDS = 10


def open_storage(url: str) -> RDBStorage:
    """Open a storage, making its tables if it is new.

    Args:
        url: SQLAlchemy URL.

    Raises:
        ValueError: If it cannot be opened.
    """
    import optuna
    from sqlalchemy import event
    from sqlalchemy.exc import ArgumentError, DatabaseError

    # Two sweeps write to one SQLite file: wait for the other's lock.
    patience = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {}
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            with warnings.catch_warnings():
                # The heartbeat is marked experimental, which no user of a sweep can act on.
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                storage = optuna.storages.RDBStorage(
                    url,
                    engine_kwargs=patience,
                    heartbeat_interval=_HEARTBEAT_SECONDS,
                    grace_period=_GRACE_SECONDS,
                )
            if storage.engine.dialect.name == "sqlite":
                event.listen(storage.engine, "begin", _lock_before_reading)
            return storage
        except (ArgumentError, ImportError) as error:
            raise ValueError(_unopened(error)) from None
        except DatabaseError as error:
            # Optuna makes its tables in no atomic act: who comes second fails, but only once.
            if time.monotonic() > deadline:
                raise ValueError(_unopened(error)) from None
            time.sleep(0.5)


def _lock_before_reading(connection: Connection) -> None:
    """Take SQLite's lock where a transaction begins, not where it first writes.

    Optuna reads that a trial is waiting and then writes that it runs. Other databases lock the row
    that is read; SQLite has no such lock, and two sweeps could read it and both run the trial. This
    is what SQLAlchemy's documentation of the dialect advises.
    """
    driver = connection.connection.dbapi_connection
    assert driver is not None
    driver.isolation_level = None  # or Python's module begins transactions of its own
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def open_study(storage: RDBStorage, name: str, settings: dict[str, Any]) -> Study:
    """Open a study, made with these settings if it is new.

    Args:
        storage: Where it is.
        name: Its name in the storage.
        settings: Become its attribute ``settings`` if it is new.
    """
    import optuna

    try:
        study = optuna.create_study(storage=storage, study_name=name)
    except optuna.exceptions.DuplicatedStudyError:
        study = optuna.load_study(storage=storage, study_name=name)
        # Whoever made the study says its settings next, unless it was killed in between.
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while "settings" not in study.user_attrs and time.monotonic() < deadline:
            time.sleep(0.1)
    if "settings" not in study.user_attrs:
        study.set_user_attr("settings", settings)
    return study


def _unopened(error: Exception) -> str:
    reason = str(error).strip().splitlines()[0]
    return f"the storage cannot be opened ({reason}); check its URL, and that it can be reached"
