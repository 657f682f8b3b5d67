"""A sweep on PostgreSQL, which is started anew and lost while a run goes on."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from sweeps import wait_for

pytest.importorskip("optuna")
pytest.importorskip("psycopg")

# Debian's packages put the server's programs on nobody's path.
PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))
PG_CTL = shutil.which("pg_ctl") or (str(PROGRAMS[-1]) if PROGRAMS else None)
IS_POSIX = os.name == "posix"  # elsewhere there are no sockets in folders
pytestmark = pytest.mark.skipif(
    PG_CTL is None or not IS_POSIX, reason="PostgreSQL is not installed"
)

# The server refuses to run as root.
SERVANT = "postgres" if IS_POSIX and os.geteuid() == 0 else None


class Server:
    """A server of its own, reached through a socket in its folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = f"postgresql+psycopg://postgres@/postgres?host={folder}"
        self.control("initdb", "-o", "-U postgres -A trust --no-sync")

    def control(self, *arguments: str) -> None:
        assert PG_CTL is not None
        subprocess.run(
            [PG_CTL, *arguments, "-s", "-D", str(self.folder / "data")],
            cwd=self.folder,
            user=SERVANT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            check=True,
            timeout=120,
        )

    def start(self) -> None:
        options = f"-c listen_addresses='' -c fsync=off -k {self.folder}"
        self.control("start", "-w", "-l", str(self.folder / "log"), "-o", options)

    def stop(self) -> None:
        self.control("stop", "-w", "-m", "immediate")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    # Not in pytest's folder, into which another user may not look.
    with tempfile.TemporaryDirectory() as folder:
        if SERVANT is not None:
            shutil.chown(folder, SERVANT)
        server = Server(Path(folder))
        server.start()
        yield server
        server.control("stop", "-m", "immediate")


def test_a_run_that_outlives_a_restart_of_the_server_is_stored(server: Server) -> None:
    from negplug.cli.sweep.study import Result, Run, Settings, SweepStudy

    run, settings = Run("baseline", 0), Settings("a.py", (), None, None)
    study = SweepStudy(server.url, "restarted", settings)

    def execute(run: Run) -> Result:
        server.stop()
        server.start()
        return Result(run, 1.0, {"acc": 0.5})

    study.work([run], execute, lambda runs: None)
    assert [result.metrics for result in study.results()] == [{"acc": 0.5}]


@pytest.mark.parametrize(
    ("user", "database", "reason"),
    [("postgres", "none_such", "does not exist"), ("nobody", "postgres", "does not exist")],
)
def test_a_storage_that_waiting_does_not_open_is_refused_at_once(
    server: Server, monkeypatch: pytest.MonkeyPatch, user: str, database: str, reason: str
) -> None:
    from negplug.cli.sweep import storage
    from negplug.cli.sweep.study import Settings, SweepStudy

    monkeypatch.delattr(storage.time, "sleep")
    url = f"postgresql+psycopg://{user}@/{database}?host={server.folder}"
    with pytest.raises(ValueError, match=reason):
        SweepStudy(url, "refused", Settings("a.py", (), None, None))


@contextmanager
def away(server: Server) -> Iterator[None]:
    """A server that is away at first, and is back a little later."""
    server.stop()
    back = threading.Timer(1, server.start)
    back.start()
    try:
        yield
    finally:
        back.join()


def test_a_sweep_waits_while_the_server_is_away_between_runs(server: Server) -> None:
    from negplug.cli.sweep.study import Result, Run, Settings, SweepStudy

    run, settings = Run("baseline", 0), Settings("a.py", (), None, None)
    study = SweepStudy(server.url, "between", settings)
    with away(server):
        study.work([run], lambda run: Result(run, 1.0, {"acc": 0.5}), lambda runs: None)
    assert [result.run for result in study.results()] == [run]


def test_a_sweep_goes_on_that_lost_its_connection_within_a_statement(server: Server) -> None:
    import psycopg

    from negplug.cli.sweep.study import Result, Run, Settings, SweepStudy

    run = Run("baseline", 0)
    study = SweepStudy(server.url, "cut", Settings("a.py", (), None, None))
    cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    work = partial(study.work, [run], lambda run: Result(run, 1.0, {}), lambda runs: None)
    worker = threading.Thread(target=work)
    connect = partial(psycopg.connect, host=str(server.folder), user="postgres")
    with connect(autocommit=True) as watching:
        with connect() as other:
            other.execute("LOCK TABLE trials IN ACCESS EXCLUSIVE MODE")
            worker.start()
            wait_for(lambda: watching.execute(cut).fetchall())
        worker.join()
    assert [result.run for result in study.results()] == [run]


@pytest.mark.filterwarnings("ignore:Heartbeat of storage")
def test_no_run_is_taken_for_dead_right_after_nobody_could_send_a_beat(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    from negplug.cli.sweep import storage
    from negplug.cli.sweep.study import Run, Settings, SweepStudy

    monkeypatch.setattr(storage, "_GRACE_SECONDS", 3)
    study = SweepStudy(server.url, "beats", Settings("a.py", (), None, None))
    study.enqueue([Run("baseline", 0)])
    study._study.ask()
    stale = partial(study._study._storage._get_stale_trial_ids, study._study._study_id)
    wait_for(stale)
    with away(server):
        study.results()
        assert not stale()


def test_a_server_that_stays_away_is_told_and_the_study_goes_on(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    from negplug.cli.sweep import patient_storage
    from negplug.cli.sweep.storage import StorageError
    from negplug.cli.sweep.study import Result, Run, Settings, SweepStudy

    monkeypatch.setattr(patient_storage, "_PATIENCE_SECONDS", 0)
    runs, settings = [Run("baseline", seed) for seed in (0, 1)], Settings("a.py", (), None, None)
    study = SweepStudy(server.url, "lost", settings)

    def lose(run: Run) -> Result:
        if run.seed == 1:
            server.stop()
        return Result(run, 1.0, {"acc": 0.5})

    with pytest.raises(StorageError, match="connection") as caught:
        study.work(runs, lose, lambda runs: None)
    assert "\n" not in str(caught.value)
    server.start()
    again = SweepStudy(server.url, "lost", settings)
    assert [result.run for result in again.results()] == runs[:1]
