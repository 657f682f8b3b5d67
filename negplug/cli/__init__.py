"""The ``negplug`` command.

Nothing heavy is imported here: torch, Lightning, Optuna and matplotlib load inside the commands
that need them, so ``negplug --help`` answers at once.
"""

from __future__ import annotations

import sys
from io import TextIOWrapper

import typer

from negplug.cli import listing, run
from negplug.cli.inspection import command as inspection
from negplug.cli.recommend import main as recommend
from negplug.cli.sweep import main as sweep

app = typer.Typer(
    name="negplug",
    help="Control the negatives of contrastive recipes without editing the recipe.",
    no_args_is_help=True,
    add_completion=False,
    # A script's own traceback has to look as `python script.py` would show it.
    pretty_exceptions_enable=False,
)


@app.callback()
def _any_output_encoding(context: typer.Context) -> None:
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


def main() -> None:
    """Entry point of the console script."""
    app(prog_name="negplug")
