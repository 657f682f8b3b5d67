"""How a script may leave `negplug run`, and that nothing of ours stays in the temporary folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import pytest
from around import around
from sweeps import wait_for
from systems import forks, kills

CALL = "from negplug.hosts import call_record; call_record.record_call()\n"


CALLED = "import pathlib; pathlib.Path('called').touch()\n"


def indented(line: str) -> str:
    return f"    {line}"


LEAVING = {
    "called": "import os; os._exit(0)",
    "called with what a parent sees as 0": "import os; os._exit(256)",
    "imported": "from os import _exit; _exit(status=0)",
    "at exit": "import atexit, os; atexit.register(os._exit, 0)",
    "looked up at exit": "import atexit, os; atexit.register(lambda: os._exit(0))",
    "in a thread": (
        "import os, threading\n"
        "t = threading.Thread(target=os._exit, args=(0,))\n"
        "t.start()\n"
        "t.join()"
    ),
}


@pytest.mark.parametrize("way", LEAVING)
def test_a_script_without_a_treated_loss_leaves_with_no_success(tmp_path: Path, way: str) -> None:
    done = around(tmp_path, LEAVING[way])
    assert done.returncode == 1
    assert done.stderr.count("negplug: no loss was called\n") == 1


@pytest.mark.parametrize(
    ("script", "code"),
    [
        *((CALLED + script, 0) for script in LEAVING.values()),
        ("import os; os._exit(7)", 7),
        ("raise SystemExit(7)", 7),
        # A child that leaves at once, as every child of multiprocessing does, is not asked.
        pytest.param(
            "import os\nchild = os.fork()\nif child == 0: os._exit(0)\n"
            "assert os.waitpid(child, 0)[1] == 0\n" + CALLED,
            0,
            marks=forks,
        ),
        # And neither is one that goes on behind the script's last line.
        pytest.param(
            "import os\nif os.fork():\n    os.wait()\n" + indented(CALLED), 0, marks=forks
        ),
        # Python waits for a thread before it ends.
        (
            "import threading, time\ndef late():\n    time.sleep(0.2)\n"
            + indented(CALLED)
            + "threading.Thread(target=late).start()",
            0,
        ),
    ],
)
def test_any_other_leaving_is_the_scripts_own(tmp_path: Path, script: str, code: int) -> None:
    done = around(tmp_path, script)
    assert (done.returncode, done.stderr) == (code, "")


@pytest.mark.parametrize(
    ("leaving", "good"),
    [("", True), ("0", True), ("None", True), ("256", True), ("7", False), ("0.0", False)],
)
def test_the_end_of_a_script_is_what_its_parent_sees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, leaving: str, good: bool
) -> None:
    from negplug.cli.script import execute

    for name in ("argv", "path", "excepthook"):
        monkeypatch.setattr(sys, name, getattr(sys, name))
    monkeypatch.setattr(sys, "path", sys.path.copy())
    for name in ("__main__", "__mp_main__"):  # which become the script
        monkeypatch.setitem(sys.modules, name, sys.modules["__main__"])
    (tmp_path / "script.py").write_text(f"raise SystemExit({leaving})")
    with nullcontext() if good else pytest.raises(SystemExit):
        execute(str(tmp_path / "script.py"), [], module=False)


def start(folder: Path, script: str) -> subprocess.Popen[str]:
    """Start `negplug run` on a script, with a temporary folder of its own."""
    (folder / "temporary").mkdir()
    (folder / "script.py").write_text(script)
    return subprocess.Popen(
        [sys.executable, "-m", "negplug", "run", "--sampler", "in_batch()", "script.py"],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(folder / "temporary")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_run_checks_how_its_script_leaves(tmp_path: Path) -> None:
    process = start(tmp_path, LEAVING["called"])
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert errors.count("\n") == 1
    assert errors.startswith("negplug: script.py ended without calling any contrastive loss")


WAITING = (
    CALL + "import os, pathlib, time\n"
    "assert os.environ['NEGPLUG_CALL_RECORD']\n"
    "pathlib.Path('started').touch()\n"
    "time.sleep(600)\n"
)


@kills
@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM"])
def test_a_signal_leaves_nothing_in_the_temporary_folder(tmp_path: Path, name: str) -> None:
    process = start(tmp_path, WAITING)
    wait_for((tmp_path / "started").exists)
    process.send_signal(getattr(signal, name))
    process.communicate(timeout=240)
    wait_for(partial(is_empty, tmp_path / "temporary"))


def is_empty(folder: Path) -> bool:
    return not list(folder.iterdir())


def test_a_record_without_files_in_memory_is_a_file_that_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the system has none, or the build of Python does not know that it has."""
    from negplug.hosts import call_record

    monkeypatch.delattr(os, "memfd_create", raising=False)
    monkeypatch.setattr(call_record.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(call_record, "_recorded", "")
    with call_record.opened() as calls:
        assert len(list(tmp_path.iterdir())) == 1
        assert not calls().any
        call_record.record_call()
        assert calls().any
    assert not list(tmp_path.iterdir())
    # A process that outlives the record has nobody to tell.
    monkeypatch.setenv(call_record.RECORD_VARIABLE, str(tmp_path / "gone" / "record"))
    monkeypatch.setattr(call_record, "_recorded", "")
    call_record.record_call()
    assert not list(tmp_path.iterdir())


def test_a_record_is_found_without_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """A script may clear the environment."""
    from negplug.hosts import call_record

    monkeypatch.setattr(call_record, "_recorded", "")
    with call_record.opened() as calls:
        monkeypatch.delenv(call_record.RECORD_VARIABLE)
        call_record.record_call()
        assert calls() == (True, [])


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="no file in memory")
def test_a_record_that_was_closed_is_not_taken_for_the_file_that_has_its_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scripts that become daemons close all that is open, and open files of their own."""
    from negplug.hosts import call_record

    monkeypatch.setattr(call_record, "_recorded", "")
    with (tmp_path / "theirs").open("w+") as theirs, call_record.opened() as calls:
        number = int(os.environ[call_record.RECORD_VARIABLE].rpartition("/")[2])
        os.dup2(theirs.fileno(), number)
        theirs.write("3 4\n")
        theirs.flush()
        assert not calls().any
        call_record.record_call()
        assert calls() == (True, [])
    assert os.pread(number, 10, 0) == b"3 4\n"
    os.close(number)


def test_no_file_of_others_is_taken_for_a_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The variable may reach another machine, on which its number is another process's."""
    from negplug.hosts import call_record

    precious = tmp_path / "precious"
    precious.write_text("data\n")
    with precious.open() as file:
        for path in (str(precious), f"/proc/{os.getpid()}/fd/{file.fileno()}"):
            monkeypatch.setenv(call_record.RECORD_VARIABLE, path)
            monkeypatch.setattr(call_record, "_recorded", "")
            call_record.record_call()
    assert precious.read_text() == "data\n"


@pytest.mark.parametrize("named", ["light:InfoNCE", "nowhere:Nothing"])
def test_what_a_child_has_treated_is_not_said_to_be_missing_by_its_parent(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, named: str
) -> None:
    """A script that spawns its ranks knows none of their classes itself."""
    from negplug.hosts import call_record, unheeded

    monkeypatch.setattr(call_record, "_recorded", "")
    monkeypatch.setattr(call_record, "_others", False)
    monkeypatch.setenv("NEGPLUG_SAMPLER", "in_batch()")
    monkeypatch.setenv("NEGPLUG_TREAT", f"{named}=infonce")
    with call_record.opened():
        unheeded.say("has made 10 steps")
        assert len(caplog.messages) == 2
        child = "from negplug.hosts import call_record; call_record.record_call()"
        subprocess.run([sys.executable, "-c", child], check=True)
        unheeded.say("has made 10 steps")
    unheeded.say("ends")
    assert len(caplog.messages) == 2
