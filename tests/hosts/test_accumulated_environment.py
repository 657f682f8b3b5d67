"""Micro-batches for unmodified scripts: by the command line and by the environment."""

from __future__ import annotations

import armed
import hosts
import pytest

from negplug.hosts import environment

TRAINED = f"""
import sys
sys.path.insert(0, {str(hosts.__file__.rpartition("/")[0])!r})
import hosts

module, rows = hosts.recipe(), set()
head = getattr(module, "projector", None) or module.head
head.register_forward_pre_hook(lambda _, given: rows.add(len(given[0])))
hosts.trainer().fit(module, hosts.loader())
print("rows", max(rows))
"""


def test_an_unmodified_recipe_runs_in_micro_batches(tmp_path):
    """The command line sets the variable, and the environment's way in reads it."""
    (tmp_path / "recipe.py").write_text(TRAINED)
    run = ["-m", "negplug", "run", "--sampler", "in_batch()", "--accumulate", "4", "recipe.py"]
    done = armed.run(tmp_path, *run)
    assert done.returncode == 0, done.stderr
    assert "rows 2" in done.stdout  # of 8


@pytest.mark.parametrize("value", ["many", "0", "-1", "2.5", "x" * 9999])
def test_what_is_no_number_of_micro_batches(monkeypatch, value):
    monkeypatch.setenv("NEGPLUG_ACCUMULATE", value)
    with pytest.raises(ValueError, match="NEGPLUG_ACCUMULATE must be a number of micro-") as caught:
        environment.accumulate()
    assert len(str(caught.value)) < 150


def test_without_the_variable_a_step_is_whole(monkeypatch):
    for value in ("", "1"):
        monkeypatch.setenv("NEGPLUG_ACCUMULATE", value)
        assert environment.accumulate() == 1
    monkeypatch.delenv("NEGPLUG_ACCUMULATE")
    assert environment.accumulate() == 1
