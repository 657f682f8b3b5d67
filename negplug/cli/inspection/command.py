"""The command line of ``negplug inspect``."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from negplug.cli.treatment import check_treatment, fail
from negplug.contract.variables import OF_A_TREATMENT

if TYPE_CHECKING:
    from negplug.diagnostics.saved.states import SavedTreatment

# What a treated run asks for by the environment; here the checkpoint says it.
_SAID = ("SAMPLER", *OF_A_TREATMENT, "DIAGNOSTICS", "METRICS", "PROGRESS")


def inspect(
    checkpoint: Annotated[
        str, typer.Argument(metavar="CHECKPOINT", help="A file of a Trainer, or of torch.save.")
    ],
    script: Annotated[
        str | None,
        typer.Argument(metavar="SCRIPT", help="The training script that wrote CHECKPOINT."),
    ] = None,
    args: Annotated[
        list[str] | None,
        typer.Argument(metavar="ARGS", help="Handed to SCRIPT untouched, options included."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Where the sheets go; by default 'inspection'."),
    ] = None,
    anchors: Annotated[
        int, typer.Option("--anchors", metavar="N", min=1, help="Anchors of a sheet.")
    ] = 8,
    negatives: Annotated[
        int,
        typer.Option("--negatives", metavar="N", min=1, help="Negatives of each, most similar."),
    ] = 12,
    treat: Annotated[
        list[str] | None,
        typer.Option(
            "--treat",
            metavar="PKG.MODULE:CLASS=FORM",
            help="As of negplug run, if the run that wrote CHECKPOINT had it.",
        ),
    ] = None,
    module: Annotated[
        bool, typer.Option("-m", help="SCRIPT is the name of a module, as in python -m.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print what CHECKPOINT says as JSON.")
    ] = False,
) -> None:
    """Say what a checkpoint holds of its negatives; with SCRIPT, draw a contact sheet of it.

    Without SCRIPT no code of CHECKPOINT is run, whatever is pickled in it. With SCRIPT its recipe
    is run up to the first loss, with the saved weights and the samplers' saved state: a sheet shows
    anchors, their positives and what they are given as negatives, with similarity and label. No
    step is trained, and the script's own callbacks and loggers are left out.
    """
    for said in _SAID:  # ahead of torch, whose import starts what they ask for
        os.environ.pop(f"NEGPLUG_{said}", None)
    content = _read(checkpoint)
    from negplug.diagnostics.saved.states import treatments_in

    treatments = treatments_in(content)
    if not treatments:
        fail(f"{checkpoint} holds no state of a treated loss; was the run that wrote it treated?")
    if script is None:
        given = {"--out": out, "--treat": treat or None, "-m": module or None}
        for option in (option for option, value in given.items() if value is not None):
            fail(f"{option} has no effect without SCRIPT; name the script that wrote {checkpoint}.")
        _print(checkpoint, content, treatments, as_json)
        return
    if as_json:
        fail("--json has no effect with SCRIPT; leave one of the two out.")
    check_treatment([], None, None, treat or ())
    from negplug.cli.inspection import sheet

    sheet.draw(
        sheet.Saved(checkpoint, content, treatments),
        sheet.Script(script, args or [], module, treat or []),
        sheet.Pages(out or Path("inspection"), anchors, negatives),
    )


def _read(path: str) -> Any:
    from negplug.diagnostics.saved.file import read_checkpoint

    try:
        return read_checkpoint(path)
    except OSError as error:
        fail(f"{path}: {error.strerror}; name a checkpoint of a treated run.")
    except ValueError as error:
        fail(f"{error}.")


def _print(checkpoint: str, content: Any, treatments: list[SavedTreatment], as_json: bool) -> None:
    from negplug.cli.inspection import printed

    where = printed.progress_of(content)
    if as_json:
        found = {"checkpoint": checkpoint, **where, "treatments": [*map(asdict, treatments)]}
        typer.echo(json.dumps(found, indent=2, default=str))
        return
    for line in printed.lines(checkpoint, where, treatments):
        typer.echo(line)
