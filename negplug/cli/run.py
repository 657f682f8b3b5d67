"""``negplug run``: an unmodified script, with its negatives chosen from the command line."""

import os
import runpy
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Annotated, NoReturn

import typer

from negplug.metrics import METRICS_VARIABLE, Record, read_records

__all__ = [
    "BASELINE",
    "METRICS_FILE",
    "RunFailedError",
    "check_expressions",
    "fail",
    "run",
    "run_child",
]

#: The "sampler" that leaves the host as it is.
BASELINE = "baseline"

#: Name of the recorder's file in the folder of a run.
METRICS_FILE = "metrics.jsonl"

#: Number of an open pipe end; it is closed when the process that wants this run is gone.
_LIFELINE_VARIABLE = "NEGPLUG_LIFELINE"

_TREATMENT_VARIABLES = {
    "sampler": "NEGPLUG_SAMPLER",
    "objective": "NEGPLUG_OBJECTIVE",
    "temperature": "NEGPLUG_TEMPERATURE",
}

# How much of a failed run's log its error quotes.
_LOG_LINES = 12


class RunFailedError(Exception):
    """A run ended with an error; the message holds the last lines of its log."""


def run(
    script: Annotated[str, typer.Argument(metavar="SCRIPT", help="The training script.")],
    sampler: Annotated[
        str,
        typer.Option(
            "--sampler",
            metavar="EXPR",
            help="Sampler expression, or 'baseline' for the script untouched.",
        ),
    ],
    args: Annotated[
        list[str] | None,
        typer.Argument(metavar="ARGS", help="Handed to SCRIPT untouched, options included."),
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option(
            "--objective", metavar="EXPR", help="Objective expression; default: the script's own."
        ),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option("--temperature", metavar="T", help="Default: the script's own."),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed",
            metavar="N",
            min=0,
            max=2**32 - 1,
            help="Seed torch, numpy and random before SCRIPT starts. "
            "A script that seeds itself overrides it.",
        ),
    ] = None,
    module: Annotated[
        bool, typer.Option("-m", help="SCRIPT is the name of a module, as in python -m.")
    ] = False,
) -> None:
    """Run SCRIPT as python would, with the negatives of its contrastive losses replaced.

    SCRIPT needs no change. It is an error if SCRIPT ends without having called a treated loss.
    """
    _die_with_parent()
    treated = sampler != BASELINE
    if not treated and (objective is not None or temperature is not None):
        option = "--objective" if objective is not None else "--temperature"
        fail(f"{option} has no effect with --sampler {BASELINE}; remove it or name a sampler.")
    if treated:
        check_expressions([sampler], objective, temperature)
    if module:
        sys.path[0] = os.getcwd()
    if not (_module_exists(script) if module else Path(script).is_file()):
        fail(f"SCRIPT {script!r} is no {'module' if module else 'file'}; check its name.")

    # The command line says all: what it leaves out is the host's own, whatever was set before.
    given = {"sampler": sampler, "objective": objective, "temperature": temperature}
    for name, variable in _TREATMENT_VARIABLES.items():
        os.environ.pop(variable, None)
        if treated and given[name] is not None:
            os.environ[variable] = str(given[name])
    if seed is not None:
        _seed(seed)

    main_process = _is_main_process()  # before the script: Lightning sets the rank variables
    _execute(script, args or [], module)
    if treated and main_process:
        from negplug import ledger

        if ledger.calls() == 0:
            fail(
                f"{script} ended without calling any contrastive loss that negplug treats, so "
                f"--sampler {sampler} had no effect; 'negplug doctor' lists the hosts it knows.",
                code=1,
            )


def fail(message: str, code: int = 2) -> NoReturn:
    """End the command with one sentence on standard error."""
    typer.echo(f"negplug: {message}", err=True)
    raise typer.Exit(code)


def check_expressions(
    samplers: Iterable[str], objective: str | None, temperature: float | None
) -> None:
    """End the command with one sentence unless all of a treatment can be built.

    Args:
        samplers: Sampler expressions, without ``baseline``.
        objective: Objective expression, or ``None`` for the host's.
        temperature: Temperature, or ``None`` for the host's.
    """
    import negplug

    if temperature is not None and not 0 < temperature < float("inf"):
        fail(f"--temperature {temperature} is not a positive number; give one, such as 0.1.")
    for sampler in samplers:
        try:
            negplug.make_sampler(sampler)
        except (TypeError, ValueError, OSError) as error:
            fail(f"--sampler {sampler!r}: {error}")
    if objective is not None:
        try:
            negplug.make_objective(objective)
        except (TypeError, ValueError, OSError) as error:
            fail(f"--objective {objective!r}: {error}")


def _execute(script: str, args: list[str], module: bool) -> None:
    """Run the script as ``__main__`` in this process; ends the process if the script failed."""
    # Ranks beyond the first are started by Lightning as `python sys.argv[0] …`, without negplug:
    # they find the treatment in the environment.
    sys.argv = [script, *args]
    # typer installs a hook of its own, which is not how python shows a traceback.
    sys.excepthook = sys.__excepthook__
    try:
        if module:
            runpy.run_module(script, run_name="__main__", alter_sys=True)
        else:
            if not getattr(sys.flags, "safe_path", False):  # python 3.11 and later
                sys.path[0] = str(Path(script).resolve().parent)
            runpy.run_path(os.path.abspath(script), run_name="__main__")
    except SystemExit as leaving:
        # `sys.exit()` and `sys.exit(0)` are a normal end, which is checked like any other.
        if leaving.code not in (None, 0):
            raise
    except BaseException as error:
        sys.excepthook(type(error), error, _skip_own_frames(error))
        raise SystemExit(130 if isinstance(error, KeyboardInterrupt) else 1) from None


def _skip_own_frames(error: BaseException) -> TracebackType | None:
    """Cut the frames between this command and the script's first line from the traceback."""
    traceback = error.__traceback__
    while traceback and traceback.tb_frame.f_globals.get("__name__") in (__name__, "runpy"):
        traceback = traceback.tb_next
    error.__traceback__ = traceback
    return traceback


def _module_exists(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _is_main_process() -> bool:
    """Whether no launcher (torchrun, srun) made this process another rank than the first."""
    ranks = (os.environ.get(name) for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"))
    return next((rank for rank in ranks if rank is not None), "0") == "0"


def _seed(seed: int) -> None:
    """Seed every generator a script may draw from, and Lightning's relaunched ranks."""
    import random

    import torch

    random.seed(seed)
    torch.manual_seed(seed)
    if find_spec("numpy") is not None:
        import numpy as np

        np.random.seed(seed)
    os.environ["PL_GLOBAL_SEED"] = str(seed)


def run_child(
    command: Sequence[str], directory: Path, on_tick: Callable[[Sequence[Record]], None]
) -> None:
    """Run ``negplug run …`` in a process group of its own, to its end.

    Args:
        command: The command line.
        directory: Gets ``log.txt``, all that the run prints, and ``metrics.jsonl``.
        on_tick: Told twice a second what the run has recorded.

    Raises:
        RunFailedError: The run ended with an error.
    """
    directory.mkdir(parents=True, exist_ok=True)
    log, metrics = directory / "log.txt", directory.absolute() / METRICS_FILE
    metrics.unlink(missing_ok=True)  # of an earlier attempt
    theirs, ours = os.pipe()
    environment = {
        **os.environ,
        METRICS_VARIABLE: str(metrics),
        _LIFELINE_VARIABLE: str(theirs),
        "PYTHONUNBUFFERED": "1",
    }
    with log.open("w", encoding="utf-8") as output:
        print("$", shlex.join(command), file=output, flush=True)
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            pass_fds=[theirs],
            start_new_session=True,
        )
    os.close(theirs)
    try:
        while child.poll() is None:
            on_tick(read_records(metrics))
            with suppress(subprocess.TimeoutExpired):
                child.wait(0.5)
    except BaseException:
        _end(child, grace=5)
        raise
    finally:
        os.close(ours)
    if child.returncode != 0:
        _end(child, grace=0)  # what is left of the group: other ranks, data loaders
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        tail = "\n".join(lines[1:][-_LOG_LINES:])
        raise RunFailedError(f"exit code {child.returncode}, see {log}:\n{tail}")


def _end(child: "subprocess.Popen[bytes]", grace: float) -> None:
    """End a child's whole process group, politely first."""
    with suppress(ProcessLookupError):
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                child.wait(grace)
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _die_with_parent() -> None:
    """End this process group when the process that started this run has been killed.

    ``negplug sweep`` keeps the other end of a pipe open. If the sweep is killed outright the
    pipe closes; without this the run would go on, unseen, beside its own repetition.
    """
    number = os.environ.pop(_LIFELINE_VARIABLE, None)
    if number is None:
        return

    def wait_and_end() -> None:
        os.read(int(number), 1)  # returns when the last writer is gone
        os.killpg(os.getpgid(0), signal.SIGKILL)

    threading.Thread(target=wait_and_end, name="negplug-lifeline", daemon=True).start()
