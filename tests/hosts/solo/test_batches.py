"""What solo-learn's methods make of a batch: classes, predictions, keys."""

from __future__ import annotations

import hosts
import naive
import pytest
import torch
from solo_steps import METHODS, Contrast, batch_for, model_of, step
from torch.nn.functional import cross_entropy, normalize

from negplug import inject

GENERATION = hosts.solo_generation()
if GENERATION is None:
    pytest.skip("solo-learn is not installed in this environment", allow_module_level=True)

from negplug_solo import losses  # noqa: E402

main_only = pytest.mark.skipif(GENERATION != "main", reason="of solo-learn main")
pytestmark = pytest.mark.filterwarnings("ignore")


@main_only
def test_classes_last_and_are_no_negatives_of_their_own():
    model = model_of("SupCon")
    with inject(model, "queue(size=24)") as handle:
        treated = handle.losses["simclr_loss_func"]
        treated.loss.observe = True
        for number in range(2):
            batch = batch_for(number)
            batch[0] = torch.arange(6)  # positions, as DALI gives
            step(model, batch)
            handle.end_step()
    # 12 crops of three classes are remembered; a third of them is of the anchor's class.
    assert treated.loss.observed["num_negatives"] == 8


@main_only
def test_a_sample_without_a_class():
    model = model_of("SupCon")
    batch = batch_for(0)
    batch[2][3] = -1
    with (
        inject(model, "in_batch()"),
        pytest.raises(
            ValueError, match="SupCon needs the class of every sample, got the target -1"
        ),
    ):
        step(model, batch)


def test_nnclr_remembers_predictions():
    one, two = naive.embeddings(2, 5)
    contrast = Contrast("queue(size=10)")
    for _ in range(2):
        value = losses.nnclr(contrast, one.detach(), two, 0.2)
        value.backward()
        contrast.loss.end_step()
    # Nothing says whose the rows are, so the positive is among them too.
    logits = normalize(one) @ normalize(two).T / 0.2
    both = torch.cat([logits.diag()[:, None], logits], 1)
    torch.testing.assert_close(value, cross_entropy(both, torch.zeros(5).long()))


@pytest.mark.parametrize("name", [name for name in METHODS if name != "ReSSL"])
def test_a_queue_needs_a_size_where_the_host_has_none_of_negatives(name):
    model = model_of(name)
    wanted = f"solo-learn .* {name} has no queue of negatives; give size"
    with pytest.raises(ValueError, match=wanted):
        inject(model, "queue()")
