"""solo-learn's own tests of its methods, unmodified, with a sampler in the environment.

Those of main need a checkout, named in NEGPLUG_SOLO_SOURCE, and what it needs installed; those of
1.0.2 come with its wheel. (Its tests of methods with a momentum encoder fail on the Lightning that
today's torch needs, treated or not.)
"""

from __future__ import annotations

import os
from pathlib import Path

import hosts
import pytest
import suite

GENERATION = hosts.solo_generation()

# Method: how many Trainers its test makes, one batch each, times the calls in a step.
OF_MAIN = {
    "simclr": 3 * 1,
    "supcon": 3 * 1,
    "mocov2plus": 2 * 2,
    "mocov3": 2 * 2,
    "nnclr": 2 * 2,
    "all4one": 2 * 4,
    "ressl": 2 * 1,
}
PUBLISHED = {"simclr": 3 * 1, "nnclr": 2 * 2}

ANY = ("in_batch()", "queue(size=64)")
# A single key has one relation only, from which ReSSL learns nothing: it is refused.
ONE, TWO = "uniform(num_negatives=1)", "uniform(num_negatives=2)"


def check(directory, calls, sampler, scratch):
    files = [directory / f"test_{method}.py" for method in calls]
    report = suite.run(files, scratch, NEGPLUG_SAMPLER=sampler)
    assert set(report.outcomes.values()) == {"passed"}, report.output
    by_method = {name.split("::")[0][5:-3]: number for name, number in report.calls.items()}
    assert by_method == calls


@pytest.mark.skipif(GENERATION != "main", reason="needs an environment of solo-learn main")
@pytest.mark.parametrize(
    ("methods", "sampler"),
    [
        *((tuple(OF_MAIN), sampler) for sampler in ANY),
        (tuple(name for name in OF_MAIN if name != "ressl"), ONE),
        (("ressl",), TWO),
    ],
)
def test_of_main(methods, sampler, tmp_path):
    source = os.environ.get("NEGPLUG_SOLO_SOURCE")
    if not source:
        pytest.skip("NEGPLUG_SOLO_SOURCE names no checkout of solo-learn main")
    calls = {name: OF_MAIN[name] for name in methods}
    check(Path(source) / "tests" / "methods", calls, sampler, tmp_path)


@pytest.mark.skipif(GENERATION != "1.0.2", reason="of solo-learn 1.0.2")
@pytest.mark.parametrize(
    ("methods", "sampler"),
    # SimCLR's with a single negative is in hosts/solo/test_simclr.py.
    [*((tuple(PUBLISHED), sampler) for sampler in ANY), (("nnclr",), ONE)],
)
def test_of_the_published_wheel(methods, sampler, tmp_path):
    import solo

    directory = Path(solo.__file__).parents[1] / "tests" / "methods"
    if not directory.exists():
        pytest.skip(f"solo-learn's own tests are not installed ({directory})")
    check(directory, {name: PUBLISHED[name] for name in methods}, sampler, tmp_path)
