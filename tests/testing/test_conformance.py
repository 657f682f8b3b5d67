"""Every built-in sampler conforms, and a third party's."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from device import DEVICE
from distributions import CHECKOUT, install, python
from systems import IS_LINUX

from negplug.plugins.manager import plugins
from negplug.testing import (
    Subject,
    check_sampler,
    processes,
    ranks,
)
from negplug.testing.subject import difference

# Ragged batches and labels drawn at random are short of negatives now and then.
pytestmark = pytest.mark.filterwarnings("ignore:.*all of them are used")
# 16 samples in two views: a memory of 70 rows keeps two steps of one rank, one of two ranks.
EXAMPLES = {
    "in_batch": ["in_batch()", "in_batch(views='cross')"],
    "gather": ["gather()", "gather(ring=True)"],
    "uniform": [
        "uniform(num_negatives=4)",
        "uniform(num_negatives=4, correction=True)",
        "uniform(num_negatives=4, shared=True, correction=True)",
        "uniform(num_negatives=4, source=gather())",
        "uniform(num_negatives=3, source=uniform(num_negatives=9))",
    ],
    "queue": [
        "queue(size=70)",
        "queue(size=70, gather=False)",
        "queue(size=70, num_negatives=5)",
    ],
    "memory_bank": [
        "memory_bank(momentum=0.5)",
        "memory_bank(momentum=0.5, num_negatives=5, size=48)",
        "memory_bank(gather=False)",
    ],
    "hierarchical": [
        "hierarchical(in_batch(), queue(size=70))",
        "hierarchical(uniform(num_negatives=4), uniform(num_negatives=8, source=queue(size=70)))",
    ],
    "schedule": [
        "schedule(uniform(num_negatives=4), hard(4, source=memory_bank()), from_steps=(0, 1))",
    ],
    "stratified": [
        "stratified(num_negatives=6)",
        "stratified(num_negatives=6, correction=True, source=queue(size=70))",
    ],
    "hard": ["hard(num_negatives=4)", "hard(num_negatives=4, skip=3, source=queue(size=70))"],
    "filtered": [
        "filtered(by='labels')",
        "filtered(relative_margin=0.5, source=memory_bank())",
        "hard(num_negatives=4, source=filtered(by='labels', source=gather()))",
    ],
    "false_negatives": [
        "false_negatives(top=3, threshold=0.2, source=gather())",
        "false_negatives(top=3, threshold=0.5, source=queue(size=70))",
    ],
    "synthetic": [
        "synthetic(num_mixed=4, num_mixed_with_anchor=2, num_hardest=8, num_noisy=3, sigma=0.1)",
        "synthetic(num_mixed=4, num_hardest=8, source=queue(size=70))",
    ],
    "gumbel_max": [
        "gumbel_max()",
        "gumbel_max(num_negatives=3, source=queue(size=70))",
        "gumbel_max(num_negatives=3, source=hierarchical(hard(num_negatives=4), memory_bank()))",
    ],
    "emc2": [
        "emc2()",
        "emc2(burn_in=3, out_of_batch='recompute', size=48)",
        "emc2(burn_in=0, out_of_batch='drop', source=queue(size=70))",
    ],
    "isir": [
        "isir()",
        "isir(out_of_batch='recompute', source=memory_bank())",
        "isir(out_of_batch='drop')",
    ],
}


def test_every_built_in_sampler_has_an_example():
    built_in = {
        provided.spec.name
        for provided in plugins().provided("sampler")
        if provided.plugin.distribution == "negplug"
    }
    assert built_in == set(EXAMPLES)


@pytest.mark.parametrize("expression", [each for name in EXAMPLES for each in EXAMPLES[name]])
def test_a_built_in_sampler_conforms(expression):
    check_sampler(expression, device=DEVICE)


def test_strata_from_a_file_conform(tmp_path):
    np.save(tmp_path / "strata.npy", np.arange(48) // 12)
    check_sampler(f"stratified(num_negatives=6, by={str(tmp_path / 'strata.npy')!r})", ranks=1)


def test_the_example_distribution_passes_its_own_tests(tmp_path):
    """Built, installed, and tested as its author would, away from this checkout."""
    example = CHECKOUT / "examples" / "negplug_nearest"
    site = install(example, tmp_path)
    shutil.copytree(example / "tests", tmp_path / "tests")
    done = python("-m", "pytest", "-q", "-p", "no:cacheprovider", sites=(site,), cwd=tmp_path)
    assert done.returncode == 0, done.stdout


@pytest.mark.skipif(not IS_LINUX, reason="ranks are spawned here in any case")
def test_spawned_ranks_do_as_forked_ones_do():
    """Outside Linux there is no fork server that could fork."""
    subject = Subject("uniform(num_negatives=4, source=queue(size=70))")
    spawned, forked = (
        processes.run(ranks._train, 2, subject, start_method=method)
        for method in ("spawn", "forkserver")
    )
    assert difference(spawned, forked) is None
