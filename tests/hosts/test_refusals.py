"""Samplers that make no sense for a host's method are refused in its first step, with the reason.

Others of the kind are in the tests of the methods: a single negative for ReSSL, a queue without a
size, a sample without a class for SupCon, a weight function of the user's own for DCL.
"""

from __future__ import annotations

import importlib.util

import hosts
import pytest

from negplug import NegativeSampler
from negplug.contract.negatives import Negatives

GENERATION = hosts.solo_generation()
HAS_LIGHTLY = importlib.util.find_spec("lightly") is not None
if not (HAS_LIGHTLY or GENERATION):
    pytest.skip("no host is installed", allow_module_level=True)

lightly_only = pytest.mark.skipif(not HAS_LIGHTLY, reason="of Lightly")
solo_only = pytest.mark.skipif(GENERATION is None, reason="of solo-learn")
main_only = pytest.mark.skipif(GENERATION != "main", reason="of solo-learn main")
pytestmark = pytest.mark.filterwarnings("ignore")


def refused(model, sampler, match, **kwargs):
    control = hosts.negative_control()(sampler, **kwargs)
    with pytest.raises(ValueError, match=match):
        hosts.trainer(callbacks=[control]).fit(model, hosts.loader())
    assert "training_step" not in vars(model)  # given back as it was


# ------------------------------------------------------------------ Lightly: rows of regions


@lightly_only
@pytest.mark.parametrize(
    "sampler",
    [
        "memory_bank()",
        "memory_bank(num_negatives=4)",
        "hard(num_negatives=4, source=memory_bank())",
        "hierarchical(in_batch(), memory_bank())",
        "stratified(num_negatives=2, by={strata!r})",
    ],
)
def test_regions_have_no_index(sampler, tmp_path):
    import numpy as np
    from lightly_methods import build

    np.save(tmp_path / "strata.npy", np.arange(24) % 3)
    sampler = sampler.format(strata=str(tmp_path / "strata.npy"))
    model = build("DenseCL")
    reason = "needs the data set index of every sample, but its 128 rows are not the 8 samples"
    refused(model, sampler, reason, target="criterion_local")
    assert "forward" not in vars(model.criterion_local)


@lightly_only
@pytest.mark.parametrize("sampler", ["stratified(num_negatives=2)", "filtered(by='labels')"])
def test_regions_have_no_label(sampler):
    from lightly_methods import build

    refused(build("DenseCL"), sampler, "needs the label of every sample", target="criterion_local")


# ------------------------------------------------------------------ solo-learn: ReSSL, SupCon


def ressl():
    return hosts.solo_method("ReSSL", queue_size=24)


@solo_only
@pytest.mark.parametrize(
    "sampler",
    ["hard(num_negatives=1)", "queue(num_negatives=1)", "memory_bank(num_negatives=1)"],
)
def test_a_single_negative_has_one_relation(sampler):
    refused(ressl(), sampler, "for a single one, so nothing would be learned; give it two")


class Drawn(NegativeSampler):
    """Draws from the softmax, in form."""

    def sample(self, batch):
        return Negatives(batch.keys, estimator="posterior")


@solo_only
def test_draws_from_a_softmax_are_of_another_one():
    reason = "ReSSL compares two softmax distributions .* denominator, got the 'posterior'"
    refused(ressl(), Drawn(), reason)


@solo_only
@pytest.mark.parametrize("sampler", ["stratified(num_negatives=4{})", "filtered(by='labels'{})"])
def test_the_rows_of_ressls_own_queue_have_no_label(sampler):
    refused(ressl(), sampler.format(""), r"the rows of in_batch\(\) have none: this host's loss")
    # Those of a queue of ours have.
    control = hosts.negative_control()(sampler.format(", source=queue(size=24)"))
    hosts.trainer(callbacks=[control]).fit(ressl(), hosts.loader())
    assert control.injection.losses["ressl_loss_func"].calls == 3


@main_only
def test_an_anchors_class_holds_no_negatives_of_supcons():
    reason = "asks for 2 negatives of the anchor's own stratum, but no anchor .* more than 0"
    refused(hosts.solo_method("SupCon"), "stratified(num_negatives=4)", reason)
