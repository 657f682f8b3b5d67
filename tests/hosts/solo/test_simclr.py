"""solo-learn's SimCLR, main and 1.0.2: treated, it is the same loss to the last digit."""

from __future__ import annotations

import copy
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import hosts
import naive
import pytest
import ranks
import torch

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


def batch_for(model, size=6, small_crops=0, classes=3):
    generator = torch.Generator().manual_seed(5)
    crops = [
        torch.randn(size, 3, 16, 16, generator=generator, dtype=torch.float64)
        for _ in range(2 + small_crops)
    ]
    return [torch.arange(size) + 100, crops, torch.arange(size) % classes]


def step(model, batch):
    """The host's own training step in float64, its logging silenced: loss and gradients."""
    model.log_dict = model.log = lambda *args, **kwargs: None
    loss = model.training_step(batch, 0)
    weights = [p for p in model.parameters() if p.requires_grad]
    found = torch.autograd.grad(loss, weights, allow_unused=True)
    return loss.detach(), torch.cat([g.flatten() for g in found if g is not None])


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


def test_a_subclass_that_calls_super_is_reached_and_restored():
    kind = type(hosts.recipe())

    class Mine(kind):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch, batch_idx) * 2

    torch.manual_seed(0)
    model = hosts.recipe().double()
    model.__class__ = Mine
    before = dict(vars(sys.modules[kind.__module__]))
    with inject(model, "uniform(num_negatives=2)") as handle:
        step(model, batch_for(model))
        assert handle.losses["simclr_loss_func"].calls == 1
    assert "training_step" not in vars(model)
    assert dict(vars(sys.modules[kind.__module__])) == before


def test_another_model_in_the_same_process_stays_untreated():
    torch.manual_seed(0)
    treated, untouched = hosts.recipe().double(), hosts.recipe().double()
    wanted, _ = step(untouched, batch_for(untouched))
    with inject(treated, "uniform(num_negatives=1)") as handle:
        got, _ = step(untouched, batch_for(untouched))
        assert handle.losses["simclr_loss_func"].calls == 0
    assert torch.equal(got, wanted)


def test_remove_puts_back_a_step_of_the_instance():
    model = hosts.recipe()
    own = model.training_step = lambda batch, batch_idx: None
    keys = list(model.state_dict())
    handle = inject(model, "in_batch()")
    assert list(model.state_dict()) == keys
    with pytest.raises(ValueError, match="the model is treated already"):
        inject(model, "in_batch()")
    handle.remove()
    assert vars(model)["training_step"] is own


def test_a_treated_model_can_be_copied_and_pickled():
    torch.manual_seed(0)
    model = hosts.recipe().double()
    batch = batch_for(model)
    wanted, _ = step(copy.deepcopy(model), batch)
    with inject(model, "uniform(num_negatives=10)"):
        for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            torch.testing.assert_close(step(twin, batch)[0], wanted)


def test_a_changed_host_is_named(monkeypatch):
    model = hosts.recipe()
    module = sys.modules[type(model).__module__]
    monkeypatch.setattr(module, "simclr_loss_func", lambda z, mask: None)
    with pytest.raises(ValueError, match=r"solo-learn .* simclr_loss_func takes \(z, mask\)"):
        inject(model, "in_batch()")
    for name in ("simclr_loss_func", "manual_simclr_loss_func"):
        monkeypatch.delattr(module, name, raising=False)
    with pytest.raises(ValueError, match="has no simclr_loss_func, which this adapter expects"):
        inject(model, "in_batch()")


class Positions:
    """Batches as DALI's loader gives them: of no torch DataLoader, indexes being positions."""

    def __init__(self, first=0, step=0):
        self.first, self.step = first, step

    def __len__(self):
        return 3

    def __iter__(self):
        for number in range(3):
            _, crops, targets = next(iter(hosts.loader()))
            yield [torch.arange(8) + self.first + self.step * number, crops, targets]


def fit_on(loader, sampler):
    torch.manual_seed(0)
    control = hosts.negative_control()(sampler)
    hosts.trainer(callbacks=[control]).fit(hosts.recipe(), loader)
    return control.injection.losses["simclr_loss_func"]


def test_positions_in_the_batch_are_no_indexes():
    wanted = "memory_bank: needs the data set index of every sample, but .* DALI does; set encode_"
    with pytest.raises(ValueError, match=wanted):
        fit_on(Positions(), "memory_bank()")
    # What needs no indexes trains on them.
    assert fit_on(Positions(), "uniform(num_negatives=2)").calls == 3


def _positions_on_a_rank(rank, world):
    try:
        fit_on(Positions(first=8 * rank), "memory_bank()")
    except ValueError as error:
        return str(error)
    return "no error"


def test_positions_are_known_on_every_rank():
    for message in ranks.run(_positions_on_a_rank, 2):
        assert "gives positions in the batch in place of indexes" in message


@pytest.mark.parametrize(
    ("loader", "first"),
    [(hosts.loader(), 0), (Positions(first=8, step=8), 8)],
    ids=["torch", "DALI with indexes in its labels"],
)
def test_indexes_are_believed_where_they_are_some(loader, first):
    # torch's are not shuffled, so the first batch's are 0 … 7 as well.
    treated = fit_on(loader, "memory_bank()")
    assert treated.calls == 3
    _, indexes, labels = treated.loss.state_dict()["sampler._extra_state"]["names"]
    assert torch.equal(indexes, torch.arange(24) + first)
    assert torch.equal(labels, indexes % 4)


@pytest.mark.parametrize(
    ("batch", "indexes", "labels", "reason"),
    [
        ([torch.arange(4), [], torch.ones(4).long()], True, True, ""),
        ((torch.arange(4), [], torch.ones(4).long()), True, True, ""),
        ([torch.arange(4), [], torch.ones(4)], True, False, ""),
        ([torch.arange(4.0), [], torch.ones(4).long()], False, True, "no integer indexes"),
        ([list("abcd"), [], torch.ones(4).long()], False, True, "no integer indexes"),
        ([torch.arange(4), []], False, False, r"is not \[indexes, crops, targets\]"),
        (None, False, False, r"is not \[indexes, crops, targets\]"),
    ],
)
def test_what_a_batch_tells(batch, indexes, labels, reason):
    from negplug_solo.metadata import read_metadata

    found = read_metadata(hosts.recipe(), batch, Metadata())
    assert (found.indexes is not None, found.labels is not None) == (indexes, labels)
    assert re.search(reason, found.unindexed)
    assert bool(found.unindexed) == (not indexes)


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


def test_the_report_tells_the_truth():
    from negplug_solo.plugin import report_methods

    of_main = {"All4One", "MoCoV3", "SupCon"} if GENERATION == "main" else set()
    contrastive = {"SimCLR", "MoCoV2Plus", "NNCLR", "ReSSL"} | of_main
    reports = {report.method: report for report in report_methods()}
    assert {name for name, report in reports.items() if report.treatable} == contrastive
    assert {"BYOL", "NNBYOL", "SwAV"} < set(reports) - contrastive
    for name in contrastive:
        settings = {} if name in ("SimCLR", "MoCoV3", "SupCon") else {"queue_size": 8}
        with inject(hosts.solo_method(name, **settings), "in_batch()") as handle:
            assert len(handle.losses) == 1


@published_only
@pytest.mark.parametrize("small_crops", [0, 2])
@pytest.mark.parametrize("supervised", [False, True])
def test_ids_mean_the_same_in_every_batch(supervised, small_crops):
    """Also where a batch holds every label once, so that labels and samples divide it alike."""
    model = hosts.recipe(0.2, supervised=supervised, small_crops=small_crops).double()
    with inject(model, "queue(size=64)") as handle:
        for classes in (4, 2):
            batch = batch_for(model, 4, small_crops, classes)
            step(model, batch)
            (treated,) = handle.losses.values()
            treated.loss.end_step()
            expected = batch[2 if supervised else 0].repeat(2 + small_crops)
            names = treated.loss.state_dict()["sampler._extra_state"]["names"]
            assert torch.equal(names[0, -len(expected) :], expected)


def test_what_the_user_provides_goes_before_what_the_batch_says():
    model = hosts.recipe(0.2).double()
    with inject(model, "memory_bank()") as handle:
        batch = batch_for(model)
        handle.provide(indexes=batch[0] + 1000)
        step(model, batch)
        handle.end_step()
        step(model, batch)
        handle.end_step()
    (state,) = handle.state_dict().values()
    names = state["sampler._extra_state"]["names"]
    assert sorted(names[1].tolist()) == [*range(100, 106), *range(1100, 1106)]
