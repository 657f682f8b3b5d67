"""What `negplug doctor` says first, and that listings are whole where no terminal limits them."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from negplug.cli import app
from negplug.contract import provenance
from negplug.plugins.manager import plugins


def lines(*command):
    return CliRunner().invoke(app, list(command)).stdout.splitlines()


def test_first_it_says_that_nothing_is_wrong(monkeypatch):
    for name in ("NEGPLUG_TEST_DEVICE", "NEGPLUG_COVERAGE"):
        monkeypatch.setenv(name, "1")
    first, second, *_ = lines("doctor")
    assert first == "Nothing is wrong."
    assert second.startswith("Hosts that can be treated here: ")
    assert json.loads("".join(lines("doctor", "--json")))["problems"] == []


@pytest.mark.parametrize("command", [["doctor"], ["run", "--sampler", "in_batch()", "a.py"]])
def test_a_folder_on_the_path_is_no_installation(monkeypatch, command):
    def version(name):
        raise provenance.PackageNotFoundError(name)

    monkeypatch.setattr(provenance, "version", version)
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 1
    assert "negplug is not installed in it" in done.stderr


def test_what_a_plugin_prints_is_no_part_of_a_listing(monkeypatch):
    from negplug.plugins import manager

    def load():
        print("welcome to my plugin")
        return plugins()

    monkeypatch.setattr(manager, "plugins", load)
    done = CliRunner().invoke(app, ["samplers", "--json"])
    assert json.loads(done.stdout)
    assert done.stderr == "welcome to my plugin\n"


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("NEGPLUG_SAMPLR", "in_batch()", "is no variable of negplug and has no effect; did you me"),
        ("NEGPLUG_SAMPLER", "unifrom()", "NEGPLUG_SAMPLER: unknown sampler 'unifrom'; did you me"),
        ("NEGPLUG_SAMPLER", "baseline", "NEGPLUG_SAMPLER='baseline' is a word of negplug's comman"),
        ("NEGPLUG_TEMPERATURE", "0.1", "has no effect without NEGPLUG_SAMPLER; set that too"),
        ("NEGPLUG_ACCUMULATE", "0", "NEGPLUG_ACCUMULATE must be a number of micro-batches"),
        ("NEGPLUG_DIAGNOSTICS", "snr", "NEGPLUG_DIAGNOSTICS names 'snr'; there are gradient_snr"),
        ("NEGPLUG_TREAT", "InfoNCE", "NEGPLUG_TREAT: 'InfoNCE' must be of the form"),
        ("NEGPLUG_BACKEND", "cuda", "NEGPLUG_BACKEND must be one of"),
    ],
)
def test_first_it_says_what_is_wrong(monkeypatch, variable, value, said):
    monkeypatch.setenv(variable, value)
    first, *others = lines("doctor")
    assert first.endswith(" to mend:")
    assert any(line.startswith("- ") and said in line for line in others[:4])


@pytest.mark.parametrize("command", ["samplers", "doctor"])
def test_no_line_is_cut_where_there_is_no_terminal(monkeypatch, command):
    monkeypatch.delenv("COLUMNS", raising=False)
    text = "\n".join(lines(command))
    assert "…" not in text.replace("=…", "")
    kinds = ("sampler", "objective", "composer")
    for entry in (entry for kind in kinds for entry in plugins().provided(kind)):
        assert command == "doctor" or entry.spec.summary in text, entry.spec.name


def test_no_word_is_lost_on_a_narrow_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = "".join(lines("samplers"))
    assert "…" not in text.replace("=…", "")
