"""A script run up to its first loss, for the contact sheet of its checkpoint."""

from __future__ import annotations

import math
import os
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import typer

from negplug.cli.leaving import checked_leaving
from negplug.cli.script import execute, look_first_in, script_exists
from negplug.cli.treatment import fail
from negplug.contract.variables import TREAT_VARIABLE

if TYPE_CHECKING:
    from negplug.diagnostics.saved.states import SavedTreatment


class Saved(NamedTuple):
    """A checkpoint.

    Attributes:
        name: As it was given.
        content: What was read.
        treatments: What it says of its negatives.
    """

    name: str
    content: Any
    treatments: list[SavedTreatment]


class Script(NamedTuple):
    """What is run.

    Attributes:
        name: Path of a file, or name of a module.
        args: Its own.
        module: Whether it is a module.
        treat: Declarations of classes.
    """

    name: str
    args: list[str]
    module: bool
    treat: list[str]


class Pages(NamedTuple):
    """What is to be written.

    Attributes:
        directory: Where.
        num_anchors: How many anchors a sheet shows.
        num_negatives: How many negatives of each.
    """

    directory: Path
    num_anchors: int
    num_negatives: int


def draw(saved: Saved, script: Script, pages: Pages) -> None:
    """Run a script up to its first treated loss, and say what was written."""
    _check(saved)
    if find_spec("matplotlib") is None:
        fail("contact sheets need matplotlib; install negplug[diagnostics].", code=1)
    if script.module:
        look_first_in(os.getcwd())  # as python -m does
    if not script_exists(script.name, script.module):
        kind = "module" if script.module else "file"
        fail(f"SCRIPT {script.name!r} is no {kind}; check its name.")
    try:
        pages.directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        fail(f"--out {pages.directory}: {error.strerror}; give another folder.")
    if script.treat:
        os.environ[TREAT_VARIABLE] = ",".join(script.treat)
    from negplug.hosts.trainer import inspection

    asked = inspection.Asked(
        name=Path(saved.name).name,
        checkpoint=saved.content,
        treatments=tuple(each for each in saved.treatments if each.key),
        directory=pages.directory.absolute(),  # scripts change the working directory
        num_anchors=pages.num_anchors,
        num_negatives=pages.num_negatives,
    )
    inspection.ask(asked)

    def problem() -> str | None:
        if asked.written:
            return None
        return (
            f"{script.name} ended without a contact sheet: no Trainer of this process called a "
            f"loss that negplug treats in its first training step; run the script that wrote "
            f"{saved.name}"
        )

    with checked_leaving(problem):
        execute(*script[:3])
    for page, sheet in asked.written:
        typer.echo(f"{page.with_suffix('.html')}: {sheet.title}")
        if math.isfinite(sheet.false_negatives):
            typer.echo(
                f"  {sheet.false_negatives:.1%} of the negatives of these {len(sheet.strips)} "
                f"anchors have their label, and take {sheet.false_negative_share:.1%} of the "
                f"softmax over the negatives."
            )
        else:
            typer.echo("  The batch has no labels, so only the pictures tell false negatives.")


def _check(saved: Saved) -> None:
    """End the command unless the checkpoint is a Trainer's, written by one rank."""
    ours = [each for each in saved.treatments if each.key]
    counts = [saved.content.get(name) for name in ("epoch", "global_step")]
    if not (ours and "state_dict" in saved.content and all(type(n) is int for n in counts)):
        fail(
            f"{saved.name} was written by no Trainer, so nothing says which model its state is of; "
            f"leave SCRIPT out to see what it holds."
        )
    ranks = max(each.world_size for each in ours)
    if ranks > 1:
        fail(
            f"{saved.name} holds the sampler state of {ranks} ranks, and a sheet is drawn in one "
            f"process, where that state means another batch; leave SCRIPT out to see what it holds."
        )
