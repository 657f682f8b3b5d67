"""Lightly's own tests of its contrastive criteria, unmodified, with every criterion treated.

They need a checkout, named in NEGPLUG_LIGHTLY_SOURCE (its tests run on its own ``lightly``), and
pytest-mock. A criterion gets ``in_batch()``, or ``queue()`` if it has a memory bank; see
``support/treated_criteria.py``.

What they ask for and we refuse, on purpose:

- a negative temperature, which pushes positives apart and pulls negatives together;
- a memory bank smaller than a batch: Lightly's keeps the first keys and drops the rest.

Nothing else may fail that does not fail untreated: a full bank is a full queue. (They do not look
at a bank that is not full, nor at two calls in one step, where ours differs; see
``hosts/lightly/test_memory_bank.py``.)
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import re
from pathlib import Path

import pytest
import suite

pytest.importorskip("lightly", reason="Lightly is not installed in this environment")

CRITERIA = ("ntx_ent", "dcl", "macl", "directclr")

CORRELATED = "test_ntx_ent_loss.py::TestNTXentLoss::test_with_correlated_embedding"
REFUSED = {
    "test_ntx_ent_loss.py::TestNTXentLoss::test_forward_pass_neg_temp": "temperature must be",
} | {
    f"{CORRELATED}[{gathered}-{temperature}-{bank}-{batch}]": (
        f"queue: size={bank} is less than the {batch} keys of one step"
    )
    for gathered, temperature in itertools.product((False, True), (0.1, 1, 7))
    for bank, batch in itertools.product((1, 2, 8, 15, 16, 17), (1, 2, 8, 16))
    if bank < batch
}
"""Test → the error of ours that fails it."""

NO_LOSS = re.compile("gather_distributed|negative_mises_fisher_weights|set_parent_temperature")
"""Tests that compute no loss."""


@pytest.fixture(scope="module")
def files():
    source = os.environ.get("NEGPLUG_LIGHTLY_SOURCE")
    if not source:
        pytest.skip("NEGPLUG_LIGHTLY_SOURCE names no checkout of Lightly")
    if importlib.util.find_spec("pytest_mock") is None:
        pytest.skip("Lightly's tests need pytest-mock, which is not installed")
    return [Path(source) / "tests" / "loss" / f"test_{name}_loss.py" for name in CRITERIA]


def failed(report):
    return {name for name, outcome in report.outcomes.items() if outcome.startswith("failed")}


def test_only_what_is_refused_fails(files, tmp_path):
    for directory in ("untreated", "treated"):
        (tmp_path / directory).mkdir()
    untreated = suite.run(files, tmp_path / "untreated")
    treated = suite.run(files, tmp_path / "treated", "treated_criteria")
    assert not untreated.calls
    assert set(treated.outcomes) == set(untreated.outcomes)

    # A test that is out of step with the installed torch says nothing of ours.
    broken = failed(untreated)
    assert broken.isdisjoint(REFUSED), untreated.output
    assert failed(treated) - broken == set(REFUSED), treated.output
    for name, error in REFUSED.items():
        assert error in treated.outcomes[name]
    for name in broken:
        assert treated.outcomes[name] == untreated.outcomes[name]

    uncalled = {name for name in treated.outcomes if name not in treated.calls}
    skipped = {name for name, outcome in treated.outcomes.items() if outcome == "skipped"}
    assert all(NO_LOSS.search(name.split("::")[-1].split("[")[0]) for name in uncalled - skipped)
