"""Standard streams that a daemon or a cron job has closed."""

from __future__ import annotations

import os
import sys

import pytest

from negplug import cli


def test_streams_that_are_closed_are_opened_to_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    cli._open_closed_streams()
    print("out")
    print("err", file=sys.stderr)
    assert not sys.stdout.isatty()  # as the table of a sweep asks
    assert sys.stdin.read() == ""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        assert os.get_inheritable(stream.fileno())
        stream.close()


def test_streams_that_are_open_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    before = sys.stdin, sys.stdout, sys.stderr
    cli._open_closed_streams()
    assert (sys.stdin, sys.stdout, sys.stderr) == before
