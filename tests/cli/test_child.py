"""One run as a child process: its output is bounded, its time too, and nothing of it stays."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from sweeps import wait_for
from systems import IS_LINUX, has_ended, skip_without_process_groups

from negplug.cli import child
from negplug.cli.child import RunFailedError, run_child
from negplug.cli.terminal import plain, shortened
from negplug.hosts.trainer.recording import Record


def run(folder: Path, code: str, timeout: float | None = None) -> list[Record | None]:
    """Run code as a run of a sweep; returns what it was seen to record."""
    skip_without_process_groups()
    seen: list[Record | None] = []
    run_child([sys.executable, "-c", code], folder, seen.append, timeout)
    return seen


def process_of(file: Path) -> int:
    """The process whose number is in a file."""
    wait_for(lambda: file.exists() and file.read_text())
    return int(file.read_text())


@pytest.mark.parametrize(
    "code",
    [
        "print('x' * 10**7, end='')",
        "print('x' * 10**7); print('y' * 10**7)",
        "print('x\\n' * 10**6)",
        "import sys; sys.stdout.buffer.write(b'\\xff' * 10**6)",
    ],
    ids=["no end of line", "two lines", "many lines", "no text"],
)
def test_an_error_quotes_little_of_a_long_log(tmp_path: Path, code: str) -> None:
    with pytest.raises(RunFailedError) as caught:
        run(tmp_path, f"{code}; raise SystemExit('the last word')")
    message = str(caught.value)
    assert message.startswith(f"exit code 1, see {tmp_path / 'log.txt'}:\n")
    assert message.endswith("the last word")
    assert len(message) < 6_000


def test_an_error_quotes_no_escape_codes_and_no_command(tmp_path: Path) -> None:
    code = (
        "print('\\x1b[31mred\\x1b[0m \\x1b]0;title\\x07plain\\x1b[2J\\x1bc \\x9b5n\\x08.')\n"
        "raise SystemExit(3)"
    )
    with pytest.raises(RunFailedError) as caught:
        run(tmp_path, code)
    assert str(caught.value) == f"exit code 3, see {tmp_path / 'log.txt'}:\nred plain 5n."


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\tb\nc", "a\tb\nc"),
        ("\x1b[1;31mé\x1b[0m", "é"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1b", ""),
        ("\r\x00\x7f\x85", ""),
        ("\ud800x", "x"),
        ("\u202etxt.exe\u2066", "txt.exe"),
    ],
)
def test_plain_text_has_no_control_characters(text: str, expected: str) -> None:
    assert plain(text) == expected


def test_shortened_text_keeps_both_ends() -> None:
    assert shortened("abc", 3) == "abc"
    assert shortened("a" * 50 + "b" * 50, 10) == "aaaaa … 90 characters … bbbbb"


def test_a_run_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    code = (
        "import os, time, pathlib\n"
        "pathlib.Path('pid').write_text(str(os.getpid()))\n"
        "print('still here', flush=True)\n"
        "time.sleep(600)"
    )
    program = f"import os; os.chdir({str(tmp_path)!r})\n{code}"
    for seconds in (3, 30, 120):  # as many as Python takes to start
        with pytest.raises(RunFailedError, match=f"^no end after {seconds} s, see ") as caught:
            run(tmp_path, program, timeout=seconds)
        if str(caught.value).endswith("still here"):
            break
    assert str(caught.value).endswith("still here")
    assert has_ended(process_of(tmp_path / "pid"))
    # One that is quicker is not.
    run(tmp_path, "", timeout=600)


FORKING = """
import os, pathlib, signal, sys, time
os.chdir({folder!r})
if os.fork() == 0:
    if {stubborn}:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    pathlib.Path("part").write_text(str(os.getpid()))
    os.rename("part", "pid")
    time.sleep(600)
while not os.path.exists("pid"):
    time.sleep(0.01)
sys.exit({code})
"""


@pytest.mark.parametrize(("stubborn", "code"), [(False, 0), (True, 0), (True, 4)])
def test_what_a_run_has_forked_ends_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stubborn: bool, code: int
) -> None:
    monkeypatch.setattr(child, "_GRACE_SECONDS", 0.3)
    program = FORKING.format(folder=str(tmp_path), stubborn=stubborn, code=code)
    if code:
        with pytest.raises(RunFailedError, match=f"exit code {code}"):
            run(tmp_path, program)
    else:
        run(tmp_path, program)
    wait_for(partial(has_ended, process_of(tmp_path / "pid")))


STRAYS = {
    "a session of its own": "if os.fork() == 0:\n    os.setsid(); stay()",
    "a daemon": "if os.fork() == 0:\n    os.setsid()\n    os.fork() or stay()\n    os._exit(0)",
    "a program in a session of its own": "subprocess.Popen([sys.executable, '-c', STAY], "
    "start_new_session=True)",
}
STAY = """
import os, pathlib, time
pathlib.Path("part").write_text(str(os.getpid()))
os.rename("part", "pid")
time.sleep(600)
"""


@pytest.mark.skipif(not IS_LINUX, reason="elsewhere they are not found")
@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize("way", STRAYS)
def test_what_has_left_the_group_ends_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str, killed: bool
) -> None:
    """Whether the run ends by itself, or the sweep that watches it is killed."""
    monkeypatch.setattr(child, "_GRACE_SECONDS", 0.3)
    program = (
        f"import os, subprocess, sys, time\nos.chdir({str(tmp_path)!r})\nSTAY = {STAY!r}\n"
        f"def stay():\n    exec(STAY)\n{STRAYS[way]}\n"
        "while not os.path.exists('pid'):\n    time.sleep(0.01)\n"
    )
    if not killed:
        run(tmp_path, program)
    else:
        program = (
            "from negplug.cli.child import die_with_parent\ndie_with_parent()\n"
            f"{program}time.sleep(600)"
        )
        sweep = (
            "import pathlib, sys\nfrom negplug.cli.child import run_child\n"
            f"command = [sys.executable, '-c', {program!r}]\n"
            f"run_child(command, pathlib.Path({str(tmp_path)!r}), lambda _: None)"
        )
        watching = subprocess.Popen([sys.executable, "-c", sweep])
        wait_for((tmp_path / "pid").exists)
        watching.kill()
        watching.wait()
    wait_for(partial(has_ended, process_of(tmp_path / "pid")))


def test_a_child_of_a_good_run_may_end_by_itself(tmp_path: Path) -> None:
    program = (
        f"import os, pathlib, time; os.chdir({str(tmp_path)!r})\n"
        "if os.fork() == 0:\n"
        "    time.sleep(0.2); pathlib.Path('written').touch(); os._exit(0)\n"
    )
    run(tmp_path, program)
    assert (tmp_path / "written").exists()


def test_what_was_recorded_last_is_seen(tmp_path: Path) -> None:
    skip_without_process_groups()
    told = tmp_path / "told"
    program = (
        "import os, time\n"
        "file = open(os.environ['NEGPLUG_METRICS'], 'w')\n"
        'print(\'{"epoch": 1}\\n{"epoch": 2}\', file=file, flush=True)\n'
        f"while not os.path.exists({str(told)!r}):\n    time.sleep(0.01)\n"
    )

    def see(record: Record | None) -> None:
        if record == {"epoch": 2, "metrics": {}}:
            told.touch()

    run_child([sys.executable, "-c", program], tmp_path, see, timeout=240)
    assert told.exists()


def test_a_log_that_is_gone_is_no_error_of_the_sweep(tmp_path: Path) -> None:
    program = f"import os; os.remove({str(tmp_path / 'log.txt')!r}); os._exit(2)"
    with pytest.raises(RunFailedError, match="the log cannot be read: No such file"):
        run(tmp_path, program)
