"""Runs of the installed host's recipe with a queue of its own."""

from __future__ import annotations

import importlib.util

import hosts
import pytest

HAS_LIGHTLY = importlib.util.find_spec("lightly") is not None
HAS_SOLO = hosts.solo_generation() is not None
pytestmark = [
    pytest.mark.skipif(not (HAS_LIGHTLY or HAS_SOLO), reason="no host is installed"),
    pytest.mark.filterwarnings("ignore"),
]


def fit_and_count(sampler, **options):
    """Negatives per anchor in each step of two epochs over 24 samples, in batches of 8."""
    counts, control = [], hosts.negative_control()(sampler)

    class Count(hosts.lightning().Callback):
        def on_train_batch_end(self, trainer, pl_module, *args):
            counts.append(
                control.injection.losses[hosts.queue_site_name()].loss.observed["num_negatives"]
            )

    hosts.lightning().seed_everything(0)
    model = hosts.queue_recipe(48)
    trainer = hosts.trainer(callbacks=[control, Count()], max_epochs=2, log_every_n_steps=1)
    trainer.fit(model, hosts.loader(), **options)
    return counts, control


def test_in_a_run_an_anchors_own_past_is_no_negative():
    counts, control = fit_and_count("queue()")  # the host's size, twice the data set
    assert counts == [0, 8, 16, 24 - 1, 32 - 1, 40 - 1]
    treated = control.injection.losses[hosts.queue_site_name()]
    assert treated.calls == (6 if HAS_LIGHTLY else 12)
    assert treated.loss.sampler.size == 48
    assert len(treated.loss.further) == (0 if HAS_LIGHTLY else 1)


def test_in_a_run_few_negatives_are_drawn_from_the_hosts_queue():
    counts, _ = fit_and_count("queue(num_negatives=10)")
    assert counts == [0, 8, 10, 10, 10, 10]


def test_in_a_run_a_memory_bank_is_keyed_by_the_data_set():
    counts, _ = fit_and_count("memory_bank()")
    assert counts == [0, 8, 16, 23, 23, 23]
