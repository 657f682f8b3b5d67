"""The ``negplug`` command.

Nothing heavy is imported here: torch, Lightning, Optuna and matplotlib load inside the commands
that need them, so ``negplug --help`` answers at once.
"""

from __future__ import annotations

import os
import sys
from io import TextIOWrapper

import typer

from negplug.cli import listing, run
from negplug.cli.inspection import command as inspection
from negplug.cli.os_errors import needs_no_traceback
from negplug.cli.recommend import main as recommend
from negplug.cli.sweep import main as sweep
from negplug.cli.treatment import fail
from negplug.contract.provenance import installed_version

app = typer.Typer(
    name="negplug",
    help="Control the negatives of contrastive recipes without editing the recipe.",
    no_args_is_help=True,
    add_completion=False,
    # A script's own traceback has to look as `python script.py` would show it.
    pretty_exceptions_enable=False,
)


@app.callback()
def _ahead_of_each(context: typer.Context) -> None:
    if installed_version("negplug") is None:
        fail(
            "this Python finds negplug's folder, but negplug is not installed in it, so neither "
            "its adapters nor its entry points in torch and Lightning are there; install it, with "
            "'pip install -e .' in a checkout.",
            code=1,
        )
    # A pipe on Windows, or a terminal without UTF-8, has no sign for each that a plugin may use.
    # What a script prints is the script's own.
    for stream in (sys.stdout, sys.stderr):
        if context.invoked_subcommand != "run" and isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")


app.command("samplers")(listing.samplers)
app.command("plugins")(listing.plugins)
app.command("doctor")(listing.doctor)
# Everything behind SCRIPT belongs to the script, its options included.
app.command("run", context_settings={"allow_interspersed_args": False})(run.run)
app.command("sweep")(sweep.sweep)
app.command("inspect", context_settings={"allow_interspersed_args": False})(inspection.inspect)
app.command("recommend")(recommend.recommend)


def _open_closed_streams() -> None:
    """Open what a daemon or a cron job has closed, where nothing is read or kept.

    A file that is opened later would get the number of a standard stream, and be a child's.
    """
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
            os.set_inheritable(descriptor, True)
            setattr(sys, name, open(descriptor, "r" if name == "stdin" else "w"))


def main() -> None:
    """Entry point of the console script."""
    _open_closed_streams()
    given = sys.argv[1:]  # which a script finds changed
    try:
        app(prog_name="negplug")
    except OSError as error:  # of a full disk, say, that the output of a listing goes to
        if not needs_no_traceback(error, given):
            raise
        print(f"negplug: {error}", file=sys.stderr)
        sys.exit(1)
