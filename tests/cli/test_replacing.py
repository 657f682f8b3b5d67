"""A script under `negplug run` that replaces itself with a program: `os.execv` and its kin."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from around import AROUND, around
from sweeps import wait_for
from systems import forks

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has no exec")

# A program that may say that a loss was called, and how it ends.
PYTHON = "import os, sys\npython, program = sys.executable, ['python', '-I', '-S', '-c', {!r}]\n"
CALLED = "open('called', 'w'); "

WAYS = {
    "execv": "os.execv(python, program)",
    "execve": "os.execve(python, program, {'PATH': ''})",
    "execl": "os.execl(python, *program)",
    "execvpe": "os.execvpe(python, program, os.environ)",
    "execlp": "os.chdir('.'); os.execlp(python, *program)",
    "imported": "from os import execv; execv(python, tuple(program))",
    "at exit": "import atexit; atexit.register(os.execv, python, program)",
    "in a thread": (
        "import threading; t = threading.Thread(target=os.execv, args=(python, program)); t.start()"
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_the_end_of_what_took_its_place_is_checked(tmp_path: Path, way: str) -> None:
    done = around(tmp_path, PYTHON.format("") + WAYS[way])
    assert done.returncode == 1
    assert done.stderr.count("negplug: no loss was called\n") == 1
    told = f"negplug: the script replaces itself with {sys.executable!r}"
    assert told in done.stderr


@pytest.mark.parametrize(
    ("ending", "code"),
    [
        ("", 0),
        ("raise SystemExit(7)", 7),
        ("import os; os.kill(os.getpid(), 15)", -signal.SIGTERM),
        ("import os; os.kill(os.getpid(), 9)", -9),
    ],
)
def test_it_ends_as_that_does(tmp_path: Path, ending: str, code: int) -> None:
    done = around(tmp_path, PYTHON.format(CALLED + ending) + WAYS["execv"])
    assert done.returncode == code
    assert done.stderr.count("\n") == 1


def test_what_cannot_be_started_is_the_scripts_to_handle(tmp_path: Path) -> None:
    text = (
        "import os\n"
        "for start in (os.execv, os.execvp):\n"
        "    try:\n"
        "        start('no-such-program', ['no-such-program'])\n"
        "    except FileNotFoundError:\n"
        "        print('handled')\n"
        "open('called', 'w')\n"
    )
    done = around(tmp_path, text)
    assert (done.returncode, done.stdout, done.stderr) == (0, "handled\nhandled\n", "")


@forks
def test_a_child_replaces_itself_truly(tmp_path: Path) -> None:
    text = (
        "import os, sys\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    show = f'import os; print(os.getpid() == {os.getpid()})'\n"
        "    os.execv(sys.executable, ['python', '-I', '-S', '-c', show])\n"
        "assert os.waitpid(child, 0)[1] == 0\n"
        "open('called', 'w')\n"
    )
    done = around(tmp_path, text)
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")


def test_a_signal_reaches_it(tmp_path: Path) -> None:
    program = CALLED + "import time; time.sleep(600)"
    (tmp_path / "script.py").write_text(PYTHON.format(program) + WAYS["execv"])
    with subprocess.Popen([sys.executable, "-c", AROUND], cwd=tmp_path) as process:
        wait_for((tmp_path / "called").exists)
        process.terminate()
        assert process.wait(timeout=120) == -signal.SIGTERM


def test_run_hears_of_treated_losses_there(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import os, sys\n"
        "if not sys.argv[1:]:\n"
        "    os.execv(sys.executable, [sys.executable, __file__, 'again'])\n"
        "from negplug.hosts import call_record\n"
        "print(os.environ['NEGPLUG_SAMPLER'])\n"
        "call_record.record_call()\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "negplug", "run", "--sampler", "in_batch()", "script.py"],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "in_batch()\n"), done.stderr
