"""Errors of the system: one sentence on what was given, a traceback of what may be our fault."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import pytest
import typer

from negplug import cli
from negplug.cli.os_errors import needs_no_traceback
from negplug.cli.sweep.faults import one_sentence


def error(number: int, *names: str | int | None) -> OSError:
    return OSError(number, os.strerror(number), *names)


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        (error(errno.ENOENT, "given/run.ckpt"), True),
        (error(errno.EACCES, "given"), True),  # on the way to it
        (error(errno.ENOTDIR, os.path.abspath("given/sheets/a.png"), None, "elsewhere"), True),
        (error(errno.ENOSPC), True),
        (error(errno.EMFILE, "ours.toml"), True),
        (error(errno.ENOENT, "ours.toml"), False),
        (error(errno.EBADF, 7), False),
        (error(errno.EINVAL), False),
    ],
    ids=str,
)
def test_which_errors_are_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], raised: OSError, told: bool
) -> None:
    def ends(prog_name: str) -> None:
        sys.argv = ["script.py"]  # as a script that runs inside finds it
        raise raised

    monkeypatch.setattr(cli, "app", ends)
    arguments = ["negplug", "inspect", "given/run.ckpt", "--out=given/sheets"]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit if told else OSError) as caught:
        cli.main()
    if told:
        assert caught.value.code == 1
        assert capsys.readouterr().err == f"negplug: {raised}\n"
    else:
        assert caught.value is raised


def test_a_sweep_tells_them_apart_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["negplug", "sweep", "train.py"])
    inside, ours = error(errno.EACCES, str(tmp_path / "runs")), error(errno.ENOENT, "/ours.toml")
    with pytest.raises(FileNotFoundError) as caught, one_sentence(tmp_path, ""):
        raise ours
    assert caught.value is ours
    with pytest.raises(typer.Exit), one_sentence(tmp_path, ""):
        raise inside
    assert f"--out {tmp_path}: {tmp_path / 'runs'}: Permission denied; once" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize("given", [["--out", "runs/lr=0.1"], ["--out=runs/lr=0.1"]])
def test_a_path_may_hold_a_sign_of_equality(given: list[str]) -> None:
    assert needs_no_traceback(error(errno.EACCES, "runs/lr=0.1/study.db"), given)
    assert not needs_no_traceback(error(errno.EACCES, "runs/lr=0.2/study.db"), given)


def test_a_working_directory_that_is_gone_hides_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (gone := tmp_path / "gone").mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert not needs_no_traceback(error(errno.EACCES, "file"), ["here"])
