"""solo-learn's SimCLR, main and 1.0.2: treated, it is the same loss to the last digit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import hosts
import naive
import pytest
import ranks
import torch
from solo_simclr import batch_for, step

from negplug import ContrastiveLoss, inject
from negplug.contract.adapter import Metadata

GENERATION = hosts.solo_generation()
if GENERATION is None:
    pytest.skip("solo-learn is not installed in this environment", allow_module_level=True)

import solo  # noqa: E402
from solo.losses import simclr as loss_module  # noqa: E402

main_only = pytest.mark.skipif(GENERATION != "main", reason="of solo-learn main")
published_only = pytest.mark.skipif(GENERATION != "1.0.2", reason="of solo-learn 1.0.2")
pytestmark = pytest.mark.filterwarnings("ignore")


class Contrast:
    """What a treatment of ours calls, outside of a treated model."""

    metadata = Metadata()

    def __call__(self, batch, *, objective, temperature):
        return ContrastiveLoss().contrast(batch, objective, temperature)


VARIANTS = [{}, {"small_crops": 3}]
if GENERATION == "1.0.2":
    VARIANTS += [{"supervised": True}, {"supervised": True, "small_crops": 2}]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("temperature", [0.5, 0.1, 0.02])
def test_in_batch_equals_the_host(variant, temperature):
    torch.manual_seed(0)
    model = hosts.recipe(temperature, **variant).double()
    batch = batch_for(model, small_crops=variant.get("small_crops", 0))
    theirs, their_grad = step(model, batch)
    with inject(model, "in_batch()") as handle:
        ours, our_grad = step(model, batch)
        assert handle.losses["simclr_loss_func"].calls == 1
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=0)
    assert naive.relative(our_grad, their_grad) < 1e-7


@pytest.mark.parametrize("variant", VARIANTS)
def test_few_negatives_train_every_variant(variant):
    torch.manual_seed(0)
    model = hosts.recipe(**variant).double()
    batch = batch_for(model, small_crops=variant.get("small_crops", 0))
    theirs, _ = step(model, batch)
    with inject(model, "uniform(num_negatives=1)"):
        ours, gradient = step(model, batch)
    assert gradient.isfinite().all()
    assert ours < theirs


@published_only
def test_published_functions_equal_ours_and_the_loop():
    from negplug_solo import losses

    contrast = Contrast()
    z = naive.embeddings(3, 5)
    ids = torch.arange(15) % 5
    positive = (ids[:, None] == ids).fill_diagonal_(False)
    negative = ids[:, None] != ids
    flat = torch.cat(z)
    theirs = loss_module.manual_simclr_loss_func(flat, positive, negative, 0.2)
    ours = losses.simclr_masks(contrast, flat, positive, negative, 0.2)
    reference = naive.supervised(flat, ids, 0.2, "each")
    torch.testing.assert_close(theirs, reference)
    torch.testing.assert_close(ours, reference, rtol=1e-12, atol=0)
    with pytest.raises(ValueError, match="neg_mask must hold everything but"):
        losses.simclr_masks(contrast, flat, positive, negative & (ids != 0), 0.2)
    lopsided = positive.clone()
    lopsided[0, 1] = True
    with pytest.raises(ValueError, match="divide the batch into classes"):
        losses.simclr_pairs(contrast, z[0], z[1], 0.2, lopsided[:10, :10])


@main_only
def test_duplicate_indexes_are_positives_as_in_the_host():
    from negplug_solo import losses

    contrast = Contrast()
    (z,) = naive.embeddings(1, 8)
    indexes = torch.tensor([0, 1, 1, 2, 0, 1, 1, 2])
    theirs = loss_module.simclr_loss_func(z, indexes, 0.2)
    ours = losses.simclr_by_index(contrast, z, indexes, 0.2)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    torch.testing.assert_close(ours, naive.supervised(z, indexes, 0.2, "sum"))


def _main_on_ranks(rank, world):
    from negplug_solo import losses

    contrast = Contrast()
    everything = naive.embeddings(2, 4 * world, seed=3)
    z = [v.detach()[4 * rank : 4 * rank + 4].requires_grad_() for v in everything]
    indexes = (torch.arange(4) + 4 * rank).repeat(2)
    theirs = loss_module.simclr_loss_func(torch.cat(z), indexes, 0.2)
    their_grad = naive.gradients(theirs, z)
    ours = losses.simclr_by_index(contrast, torch.cat(z), indexes, 0.2)
    return theirs.detach(), their_grad, ours.detach(), naive.gradients(ours, z)


@main_only
def test_gathered_on_two_ranks_is_the_gradient_of_one_process():
    found = ranks.run(_main_on_ranks, 2)
    z = naive.embeddings(2, 8, seed=3)
    whole = naive.gradients(naive.simclr(z, 0.2), z).view(2, 2, 4, -1)
    for rank, (theirs, their_grad, ours, our_grad) in enumerate(found):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
        torch.testing.assert_close(our_grad.view(2, 4, -1) / 2, whole[:, rank])
        torch.testing.assert_close(our_grad, their_grad, rtol=1e-9, atol=1e-14)


def test_the_hosts_temperature_underflow_is_gone():
    # exp without a maximum: main's loss is NaN below 1/88.7, from the self pair alone.
    torch.manual_seed(0)
    model = hosts.recipe(temperature=0.011)
    batch = batch_for(model)
    batch[1] = [crop.float() for crop in batch[1]]
    if GENERATION == "main":
        assert step(model, batch)[0].isnan()
    with inject(model, "in_batch()"):
        loss, gradient = step(model, batch)
    assert loss.isfinite()
    assert gradient.isfinite().all()


def test_the_hosts_own_test_passes_with_the_sampler_in_the_environment(tmp_path):
    # The published wheel ships its tests beside the package.
    theirs = Path(solo.__file__).parents[1] / "tests" / "methods" / "test_simclr.py"
    if not theirs.exists():
        pytest.skip(f"solo-learn's own tests are not installed ({theirs})")
    environment = {**os.environ, "NEGPLUG_SAMPLER": "uniform(num_negatives=1)"}
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-c",
            os.devnull,
            str(theirs),
        ],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    # The callback makes a run fail whose treated loss is not called, multi-crop included.
    assert "1 passed" in done.stdout, done.stdout[-3000:]
