"""Standard streams that a daemon or a cron job has closed, or that lead to a full disk."""

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


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is full")
def test_a_full_disk_that_a_listing_goes_to_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["negplug", "samplers"])
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        with pytest.raises(SystemExit) as caught:
            cli.main()
        assert caught.value.code == 1
        assert capsys.readouterr().err == "negplug: [Errno 28] No space left on device\n"
        os.dup2(os.open(os.devnull, os.O_WRONLY), full.fileno())  # for what is left of it
