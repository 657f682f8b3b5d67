"""Without what Linux alone has: everything is imported, computes, and refuses in one sentence.

Windows has none of what is taken away here. macOS lacks files in memory and Triton.
"""

from __future__ import annotations

import ast
import re
import subprocess

import pytest
from distributions import CHECKOUT, python

MODULES = ("fcntl", "grp", "pty", "pwd", "resource", "termios", "tty")

# Other packages know what they may use where; they are imported before anything is taken away.
WITHOUT = """
import multiprocessing.forkserver, os, pkgutil, signal, sys, tempfile
import torch, torch.distributed.nn, torch.multiprocessing, typer.testing, rich.progress
try:
    import numba
except ImportError:
    pass

for name in (*MODULES, "triton"):
    sys.modules[name] = None
for module, names in {
    os: (
        "fork forkpty register_at_fork getpgid getpgrp setpgid killpg setsid getuid geteuid "
        "sysconf memfd_create pread pwrite mkfifo sched_getaffinity uname wait wait3 wait4 waitid"
    ),
    signal: "SIGHUP SIGKILL SIGALRM SIGCHLD SIGUSR1 SIGUSR2 alarm setitimer pthread_sigmask",
}.items():
    for name in names.split():
        if hasattr(module, name):
            delattr(module, name)
"""

IMPORT_ALL = """
OPTIONAL = ("numba", "optuna", "sqlalchemy", "matplotlib", "lightly", "solo")
import negplug, negplug_adapters, negplug_lightly, negplug_solo
needing_triton = []
for package in (negplug, negplug_adapters, negplug_lightly, negplug_solo):
    prefix = f"{package.__name__}."
    for found in pkgutil.walk_packages(package.__path__, prefix):
        if found.name == "negplug.__main__":
            continue
        try:
            __import__(found.name)
        except ModuleNotFoundError as error:
            if error.name not in OPTIONAL:
                assert error.name.partition(".")[0] == "triton", (found.name, error)
                needing_triton.append(found.name)
print(needing_triton)
"""

COMPUTE = """
from negplug import ContrastiveLoss
from negplug.hosts import call_record
for sampler in ("in_batch()", "queue(size=64)", "uniform(num_negatives=3)", "emc2(size=8)"):
    loss_fn = ContrastiveLoss(sampler)
    for _ in range(2):
        views = torch.randn(2, 8, 4, requires_grad=True)
        loss_fn(*views, indexes=torch.arange(8)).backward()
        assert views.grad.isfinite().all()
with call_record.opened() as calls:
    assert os.path.exists(os.environ[call_record.RECORD_VARIABLE])
    call_record.record_call(1, 2)
    assert calls() == (True, [0]) == calls()
try:
    ContrastiveLoss("queue(size=4611686018427387903)")(*views)
except ValueError as error:
    print(error)
"""

COMMANDS = """
from negplug.cli import app
call_record._recorded = ""  # as in a process of its own
open("script.py", "w").write("from negplug.hosts.call_record import record_call; record_call()")
options = ["--sampler", "in_batch()"]
for command in (
    ["plugins"], ["run", *options, "script.py"],
    ["sweep", *options, "--seeds", "1", "--out", "out", "script.py"],
):
    done = typer.testing.CliRunner().invoke(app, command)
    print([command[0], done.exit_code, done.stderr])
"""


def succeeded(done: subprocess.CompletedProcess[str]) -> list[str]:
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_what_linux_alone_has_is_not_needed(tmp_path):
    script = f"MODULES = {MODULES}\n" + WITHOUT + IMPORT_ALL + COMPUTE + COMMANDS
    # Other plugins may need what they like.
    done = python("-c", script, cwd=tmp_path, NEGPLUG_DISABLE_AUTOLOAD="1", OMP_NUM_THREADS="1")
    needing_triton, refused, *commands = succeeded(done)
    assert {name.split(".")[1] for name in ast.literal_eval(needing_triton)} == {"kernels"}
    assert refused.startswith("queue: size=4611686018427387903 needs ")
    plugins, run, sweep = map(ast.literal_eval, commands)
    assert plugins == ["plugins", 0, ""]
    assert run[:2] == ["run", 0]
    assert sweep[:2] == ["sweep", 1]
    assert sweep[2].count("\n") == 1
    assert sweep[2].startswith("negplug: sweep ends its runs through process groups, which this ")


def test_the_tests_are_collected_without_it():
    needing = re.compile(rf"(?m)^(?:import|from) (?:{'|'.join(MODULES)})\b")
    texts = {path: path.read_text() for path in (CHECKOUT / "tests").rglob("*.py")}
    files = [path for path, text in texts.items() if needing.search(text)]
    assert not files, "ask with pytest.importorskip()"


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "cp932"])
@pytest.mark.parametrize("command", ["samplers", "plugins", "sweep --help"])
def test_listings_are_printed_in_any_encoding(encoding, command):
    """As into a pipe on Windows, which has the code page of its country."""
    from typer.testing import CliRunner

    from negplug.cli import app

    done = CliRunner(charset=encoding).invoke(app, command.split())
    assert done.exit_code == 0, done.exception
    assert done.stdout
