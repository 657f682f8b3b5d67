"""A script that injects a sampler itself, while the environment asks for another."""

from __future__ import annotations

import armed
import hosts
import pytest

import negplug

SCRIPT = """
import torch
import negplug
negplug.inject(torch.nn.Linear(2, 2), "in_batch()")
"""


@pytest.mark.parametrize("theirs", ["in_batch()", "gather()", "uniform(num_negatives=2)"])
def test_both_are_an_error(theirs, monkeypatch):
    monkeypatch.setenv("NEGPLUG_SAMPLER", "hard(num_negatives=2)")
    with pytest.raises(ValueError, match=r"NEGPLUG_SAMPLER .* calls inject\(\) too; drop"):
        negplug.inject(hosts.recipe(), theirs)
    monkeypatch.setenv("NEGPLUG_SAMPLER", "")
    negplug.inject(hosts.recipe(), theirs).remove()


def test_the_option_is_not_ignored(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    given = ("run", "--sampler", "hard(num_negatives=3)", "script.py")
    done = armed.run(tmp_path, "-m", "negplug", *given)
    assert done.returncode == 1
    assert "the script calls inject() too" in done.stderr
