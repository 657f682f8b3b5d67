"""``negplug run``: an unmodified script, with its negatives chosen from the command line."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Annotated

import typer

from negplug.cli.child import die_with_parent
from negplug.cli.leaving import checked_leaving
from negplug.cli.live import display_of_run
from negplug.cli.script import execute, look_first_in, script_exists
from negplug.cli.treatment import (
    BASELINE,
    check_diagnostics,
    check_treatment,
    fail,
    name_overruled,
)
from negplug.contract.variables import TREAT_VARIABLE
from negplug.hosts import call_record
from negplug.hosts.trainer import progress
from negplug.hosts.trainer.autoload import DIAGNOSTICS


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
    accumulate: Annotated[
        int | None,
        typer.Option(
            "--accumulate",
            metavar="K",
            min=1,
            help="Run each step of a Lightning Trainer in K micro-batches, with the loss and the "
            "gradient of the whole batch, so that it fits a small memory.",
        ),
    ] = None,
    compose: Annotated[
        str | None,
        typer.Option(
            "--compose",
            metavar="EXPR",
            help="Compose the batches of a Lightning Trainer, as random_walk() does, so that hard "
            "negatives meet; default: the script's own batches.",
        ),
    ] = None,
    treat: Annotated[
        list[str] | None,
        typer.Option(
            "--treat",
            metavar="PKG.MODULE:CLASS=FORM",
            help="Treat a class that no adapter knows as this form of loss, such as ntxent. Repeat "
            "for several.",
        ),
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
    diagnose: Annotated[
        list[str] | None,
        typer.Option(
            "--diagnose",
            metavar="NAME",
            help=f"Measure what each Lightning Trainer trains: {', '.join(DIAGNOSTICS)}. "
            "Repeat for several.",
        ),
    ] = None,
    module: Annotated[
        bool, typer.Option("-m", help="SCRIPT is the name of a module, as in python -m.")
    ] = False,
) -> None:
    """Run SCRIPT as python would, with the negatives of its contrastive losses replaced.

    SCRIPT needs no change, whether it has a Lightning Trainer or a loop of its own. It is an
    error if SCRIPT ends without having called a treated loss.
    """
    die_with_parent()
    treated = sampler != BASELINE
    options = {"--objective": objective, "--temperature": temperature, "--treat": treat or None}
    options |= {"--accumulate": accumulate, "--compose": compose}
    given = [option for option, value in options.items() if value is not None]
    if not treated and given:
        fail(f"{given[0]} has no effect with --sampler {BASELINE}; remove it or name a sampler.")
    if module:
        look_first_in(os.getcwd())  # as python -m does
    if not script_exists(script, module):
        fail(f"SCRIPT {script!r} is no {'module' if module else 'file'}; check its name.")
    check_treatment([sampler], objective, temperature, treat or (), compose)
    check_diagnostics(diagnose or ())
    asked: dict[str, str | float | None] = {"OBJECTIVE": objective, "TEMPERATURE": temperature}
    asked |= {"ACCUMULATE": accumulate, "COMPOSE": compose}
    asked |= {"DIAGNOSTICS": ",".join(diagnose or ()) or None}
    name_overruled(asked)
    for name, value in {"SAMPLER": sampler if treated else None, **asked}.items():
        _set_variable(f"NEGPLUG_{name}", value)
    if treat:  # else what the environment declares stays
        _set_variable(TREAT_VARIABLE, ",".join(treat))
    if seed is not None:
        _seed(seed)
    from negplug.hosts import unheeded

    if treated:
        from negplug.hosts import environment, notices
        from negplug.hosts.watch import Watch

        notices.show()
        Watch(sampler, objective, temperature, environment.ignored())  # where no Trainer treats

    if unheeded.may_be_said(os.environ):
        unheeded.wait()
    progress.show_in(display_of_run(script, sampler))
    launched = _is_launched()  # before the script: Lightning sets the rank variables
    with call_record.opened() as calls:

        def problem() -> str | None:
            if not treated:
                return None
            if not calls().any:
                return (
                    f"{script} ended without calling any contrastive loss that negplug treats, so "
                    f"--sampler {sampler} had no effect; 'negplug doctor' lists the hosts it knows."
                )
            if launched or not calls().missing:
                return None
            missing = ", ".join(map(str, calls().missing))
            return (
                f"{script} ended without a call of a treated loss in rank {missing}, which trained "
                f"without --sampler {sampler} if it trained."
            )

        with checked_leaving(problem):
            execute(script, args or [], module)


def _set_variable(name: str, value: str | float | None) -> None:
    # The command line says all: what it leaves out is the host's own, whatever was set before.
    os.environ.pop(name, None)
    if value is not None:
        os.environ[name] = str(value)


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


def _is_launched() -> bool:
    """Whether a launcher (torchrun, srun, mpirun) started every rank, each with its own record.

    So are those of other nodes, each of which has a ``negplug run`` that is told its number. A
    batch script of Slurm has ``SLURM_PROCID`` too, and is no rank of several: srun alone says how
    many tasks its step has, an interactive shell's one.
    """
    if not {"RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK"}.isdisjoint(os.environ):
        return True
    counts = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")
    return any(os.environ.get(name, "1") != "1" for name in counts)
