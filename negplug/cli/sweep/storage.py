"""Opening the storage of a study, which several sweeps may do at the same moment."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from negplug.cli.terminal import plain, shortened

if TYPE_CHECKING:
    from sqlite3 import Connection as SQLite

    from optuna import Study
    from optuna.storages import RDBStorage
    from sqlalchemy import Connection

# A killed process is noticed after the grace period; a beat is one small write.
_HEARTBEAT_SECONDS = 3
_GRACE_SECONDS = 12

# How long another sweep may take to make its tables, or a study that it has begun to make.
_PATIENCE_SECONDS = 60

# How long to wait while another sweep writes to the same SQLite file.
_LOCK_SECONDS = 60

# How every SQLite database begins.
_SQLITE = b"SQLite format 3\0"


class StorageError(Exception):
    """A study cannot be read or written; the message says why, as a clause."""


def open_storage(where: Path | str) -> RDBStorage:
    """Open a storage, making its tables if it is new.

    Args:
        where: A file for SQLite, under any name, or the SQLAlchemy URL of a storage.

    Raises:
        ValueError: If it cannot be opened.
        OSError: If the file cannot be read or made.
    """
    import optuna
    from sqlalchemy import event
    from sqlalchemy.exc import DatabaseError

    from negplug.cli.sweep.patient_storage import PatientStorage

    url, engine = _connection(where)
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            with warnings.catch_warnings():
                # The heartbeat is marked experimental, which no user of a sweep can act on.
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                storage = PatientStorage(
                    url,
                    engine_kwargs=engine,
                    heartbeat_interval=_HEARTBEAT_SECONDS,
                    grace_period=_GRACE_SECONDS,
                )
            if storage.engine.dialect.name == "sqlite":
                event.listen(storage.engine, "begin", _lock_before_reading)
            return storage
        except DatabaseError as error:
            # Optuna makes its tables in no atomic act: who comes second fails, but only once. No
            # waiting helps where no connection is made, or where the file is damaged.
            connected, damaged = error.statement is not None, type(error) is DatabaseError
            if not connected or damaged or time.monotonic() > deadline:
                raise ValueError(_unopened(error)) from None
            time.sleep(0.5)
        except Exception as error:  # of Optuna, SQLAlchemy, a driver: there is nothing of ours
            raise ValueError(_unopened(error)) from None


def _connection(where: Path | str) -> tuple[str, dict[str, Any]]:
    """Return a URL as Optuna takes it, and arguments for SQLAlchemy's engine."""
    if isinstance(where, str):
        # Optuna fills in what is in braces.
        url = where.replace("{", "{{").replace("}", "}}")
        if where.startswith("sqlite"):
            # Two sweeps write to one SQLite file: wait for the other's lock.
            return url, {"connect_args": {"timeout": _LOCK_SECONDS}}
        # A server that was started anew has closed the connections that it had.
        return url, {"pool_pre_ping": True}
    file = where.absolute()
    if file.exists() and not (file.is_file() or file.is_dir()):  # opening a pipe waits for another
        raise ValueError(f"{where} is no file; move it away")
    with file.open("a+b") as opened:
        opened.seek(0)
        head = opened.read(len(_SQLITE))
    if head not in (b"", _SQLITE):
        raise ValueError(f"{where} is no SQLite database; move it away")

    def connect() -> SQLite:
        import sqlite3

        return sqlite3.connect(file, timeout=_LOCK_SECONDS, check_same_thread=False)

    # In a URL `?` and `%` have a meaning, which differs between versions of SQLAlchemy.
    return "sqlite:///study.db", {"creator": connect}


@contextmanager
def told() -> Iterator[None]:
    """Raise what goes wrong in Optuna and below it as a :class:`StorageError`.

    A damaged database shows in errors of any type, so nothing of ours belongs inside.
    """
    try:
        yield
    except StorageError:
        raise
    except Exception as error:
        raise StorageError(reason(error)) from error


def is_outage(error: BaseException) -> bool:
    """Return whether an error is of a server that went in the middle of a word."""
    shown: BaseException | None = error
    while shown is not None and not getattr(shown, "connection_invalidated", False):
        shown = shown.__cause__ or shown.__context__
    return shown is not None


def reason(error: BaseException) -> str:
    """Return the first line of what the database said: Optuna's own errors say little of it."""
    shown: BaseException | None = error
    while shown is not None:
        said = getattr(shown, "orig", None)  # the driver's error, without the SQL
        if said is not None:
            error = said
            break
        shown = shown.__cause__ or shown.__context__
    lines = plain(str(error)).strip().splitlines()
    return shortened(lines[0] if lines else type(error).__name__)


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


def open_study(storage: RDBStorage, name: str, settings: dict[str, Any], minimize: bool) -> Study:
    """Open a study, made with these settings if it is new.

    Args:
        storage: Where it is.
        name: Its name in the storage.
        settings: Become its attribute ``settings`` if it is new.
        minimize: Whether less is better of what its trials report, if it is new.
    """
    import optuna

    try:
        direction = optuna.study.StudyDirection.MINIMIZE
        if not minimize:
            direction = optuna.study.StudyDirection.MAXIMIZE
        study = optuna.create_study(storage=storage, study_name=name, direction=direction)
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
    return (
        f"the storage cannot be opened ({reason(error)}); check its URL, and that it can be reached"
    )
