"""Lightly's criteria: treated, each is the same loss, and comes back whole."""

from __future__ import annotations

import copy
import importlib
import itertools
import pickle
from functools import partial

import hosts
import naive
import pytest
import ranks
import torch
from resumable import same_state
from torch import nn
from torch.utils.data import DataLoader

import negplug
from negplug import inject

lightly_loss = pytest.importorskip("lightly.loss")
NTXentLoss = lightly_loss.NTXentLoss


@pytest.mark.parametrize("size", [2, 33, 300])
@pytest.mark.parametrize("temperature", [0.5, 0.1, 0.02, 0.01])
@pytest.mark.parametrize("gather_distributed", [False, True])
def test_in_batch_equals_the_host(size, temperature, gather_distributed):
    z = naive.embeddings(2, size)
    criterion = NTXentLoss(temperature=temperature, gather_distributed=gather_distributed)
    theirs = criterion(*z)
    with inject(criterion, "in_batch()"):
        ours = criterion(*z)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    mine, reference = naive.gradients(ours, z), naive.gradients(theirs, z)
    # The host's softmax minus one-hot rounds at 1e-16/τ where the loss is nearly 0.
    assert (mine - reference).norm() < 1e-9 * reference.norm() + 1e-13


def test_uniform_equals_the_loop():
    z = naive.embeddings(2, 12)
    criterion = NTXentLoss(temperature=0.3)
    with inject(criterion, "uniform(num_negatives=22)"):
        torch.testing.assert_close(criterion(*z), naive.simclr(z, 0.3), rtol=1e-12, atol=0)
    with inject(criterion, "uniform(num_negatives=3)") as handle:
        ours = criterion(*z)
    assert handle.losses["NTXentLoss"].calls == 1
    assert ours < naive.simclr(z, 0.3)  # fewer terms in the denominator


def test_temperature_is_read_at_every_call():
    z = naive.embeddings(2, 12)
    criterion = NTXentLoss(temperature=0.5)
    with inject(criterion, "in_batch()"):
        warm = criterion(*z)
        criterion.temperature = 0.1
        cold = criterion(*z)
    torch.testing.assert_close(cold, NTXentLoss(temperature=0.1)(*z))
    assert not torch.equal(warm, cold)
    criterion.temperature = -0.5
    with inject(criterion, "in_batch()"), pytest.raises(ValueError, match="temperature must be"):
        criterion(*z)
    with inject(criterion, "in_batch()", temperature=0.1):
        torch.testing.assert_close(criterion(*z), cold)


class Recipe(nn.Module):
    """Two criteria, one of them registered twice."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.first = NTXentLoss(temperature=0.1)
        self.losses = nn.ModuleList([NTXentLoss(temperature=0.2), self.first])


def test_every_criterion_is_treated_once_with_state_of_its_own():
    model, z = Recipe(), naive.embeddings(2, 8)
    with inject(model, "uniform(num_negatives=2)") as handle:
        assert set(handle.losses) == {"first", "losses.0"}
        model.first(*z), model.first(*z), model.losses[0](*z)
        assert [handle.losses[name].calls for name in ("first", "losses.0")] == [2, 1]
        state = handle.state_dict()
    assert state["first"]["_extra_state"]["call"] == 2
    assert state["losses.0"]["_extra_state"]["call"] == 1
    again = inject(model, "uniform(num_negatives=2)")
    again.load_state_dict(state)
    assert again.state_dict() == state
    with pytest.raises(ValueError, match=r"saved negative state is of \['x'\]"):
        again.load_state_dict({"x": {}})
    again.remove()


def test_target_restricts():
    model = Recipe()
    with inject(model, "in_batch()", target="losses.0") as handle:
        assert set(handle.losses) == {"losses.0"}
        assert "forward" not in vars(model.first)


def test_remove_restores_the_objects():
    model = Recipe()
    modules, keys = dict(model.named_modules()), list(model.state_dict())
    before = {name: dict(vars(module)) for name, module in modules.items()}
    handle = inject(model, "uniform(num_negatives=2)")
    assert list(model.state_dict()) == keys
    assert all(a is b for a, b in zip(model.modules(), modules.values(), strict=True))
    handle.remove()
    handle.remove()  # a second time changes nothing
    for name, module in model.named_modules():
        assert module is modules[name]
        assert vars(module).keys() == before[name].keys()
        assert all(vars(module)[key] is value for key, value in before[name].items())


def test_a_treated_model_can_be_copied_and_pickled():
    model, z = Recipe(), naive.embeddings(2, 8)
    with inject(model, "uniform(num_negatives=14)"):
        for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            twin.first.temperature = 0.3
            torch.testing.assert_close(twin.first(*z), NTXentLoss(temperature=0.3)(*z))


def test_treating_twice_is_an_error_and_leaves_the_first_treatment():
    model = Recipe()
    with inject(model, "in_batch()", target="losses.0") as handle:
        with pytest.raises(ValueError, match=r"'losses.0' is treated already"):
            inject(model, "in_batch()")
        assert "forward" not in vars(model.first)  # the failed call undid its own part
        model.losses[0](*naive.embeddings(2, 4))
        assert handle.losses["losses.0"].calls == 1


DCLLoss, DCLWLoss = lightly_loss.DCLLoss, lightly_loss.DCLWLoss
vmf = importlib.import_module("lightly.loss.dcl_loss").negative_mises_fisher_weights

DECOUPLED = {
    "DCLLoss": partial(DCLLoss, temperature=0.2),
    "DCLLoss, Lightly's weights": partial(DCLLoss, temperature=0.2, weight_fn=vmf),
    "DCLWLoss": partial(DCLWLoss, temperature=0.2, sigma=0.3),
}
# Lightly copies a tensor with torch.tensor(), of which torch disapproves.
copies = pytest.mark.filterwarnings("ignore:To copy construct from a tensor")


@copies
@pytest.mark.parametrize("build", DECOUPLED.values(), ids=DECOUPLED)
@pytest.mark.parametrize("size", [2, 33])
def test_decoupled_criteria_equal_themselves_untreated(build, size):
    z, criterion = naive.embeddings(2, size), build()
    theirs = criterion(*z)
    with inject(criterion, "in_batch()") as handle:
        ours = criterion(*z)
    (treated,) = handle.losses.values()
    assert treated.calls == 1
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=0)
    assert naive.relative(naive.gradients(ours, z), naive.gradients(theirs, z)) < 1e-10


def _decoupled_on_ranks(rank: int, world: int, name: str) -> list[torch.Tensor]:
    z = naive.embeddings(2, 4, seed=rank)
    criterion = DECOUPLED[name](gather_distributed=True)
    theirs = criterion(*z)
    their_grad = naive.gradients(theirs, z)
    with inject(criterion, "in_batch()"):
        ours = criterion(*z)
        return [theirs.detach(), their_grad, ours.detach(), naive.gradients(ours, z)]


@copies
@pytest.mark.parametrize("name", DECOUPLED)
def test_decoupled_criteria_gathered_on_ranks(name):
    found = ranks.run(_decoupled_on_ranks, 2, name)
    for theirs, their_grad, ours, our_grad in found:
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=0)
        assert naive.relative(our_grad, their_grad) < 1e-10
    assert found[0][0] != found[1][0]


def test_weights_are_read_at_every_call_and_replaced_by_an_explicit_objective():
    z, criterion = naive.embeddings(2, 8), DCLWLoss(temperature=0.2, sigma=0.5)
    plain = DCLLoss(temperature=0.2)(*z)
    with inject(criterion, "in_batch()"):
        assert criterion(*z) != plain
        criterion.weight_fn = None
        torch.testing.assert_close(criterion(*z), plain, rtol=1e-10, atol=0)
    criterion = DCLWLoss(temperature=0.2)
    with inject(criterion, "in_batch()", "infonce()"):
        torch.testing.assert_close(criterion(*z), naive.simclr(z, 0.2))


def test_weights_of_the_users_own_are_refused_with_the_reason():
    def mine(out0, out1):
        return ((out0 - out1) ** 2).sum(1)

    model = Recipe()
    model.weighted = DCLLoss(weight_fn=mine)
    with pytest.raises(ValueError, match=r"DCLLoss: weight_fn=<function .*mine.* of your own"):
        inject(model, "in_batch()")
    assert "forward" not in vars(model.first)

    class Mine(DCLLoss):
        def _loss(self, *args):
            return 2 * super()._loss(*args)

    with pytest.raises(ValueError, match="overrides the _loss of DCLLoss"):
        inject(Mine(), "in_batch()")


MACLLoss, DirectCLRLoss = lightly_loss.MACLLoss, lightly_loss.DirectCLRLoss


@pytest.mark.parametrize("spread", [1.0, 0.1])
@pytest.mark.parametrize(
    "settings",
    [{}, {"temperature": 0.5, "alpha": 1.0}, {"alpha": 0.0}, {"alpha": 0.7, "A_0": 0.4}],
    ids=str,
)
def test_model_aware_equals_itself_untreated(settings, spread):
    z, criterion = naive.embeddings(2, 33, spread=spread), MACLLoss(**settings)
    theirs = criterion(*z)
    with inject(criterion, "in_batch()") as handle:
        ours = criterion(z0=z[0], z1=z[1])  # the host's own names
    assert handle.losses["MACLLoss"].calls == 1
    # The host's 1 − P cancels where the positive dominates.
    torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=0)
    assert naive.relative(naive.gradients(ours, z), naive.gradients(theirs, z)) < 1e-8


def test_model_aware_adapts_its_temperature_unless_one_is_given():
    z, criterion = naive.embeddings(2, 12), MACLLoss(temperature=0.2, alpha=0.5)
    alignment = torch.cosine_similarity(*z).mean().detach()
    adapted = float(0.2 * (1 + 0.5 * alignment))
    assert adapted > 0.21
    with inject(criterion, "in_batch()", "infonce()"):
        torch.testing.assert_close(criterion(*z), naive.simclr(z, adapted))
        criterion.alpha = 0.0  # read at every call
        torch.testing.assert_close(criterion(*z), naive.simclr(z, 0.2))
        criterion.alpha = 0.5
    with inject(criterion, "in_batch()", "infonce()", temperature=0.3):
        torch.testing.assert_close(criterion(*z), naive.simclr(z, 0.3))
    fixed = MACLLoss(temperature=0.3, alpha=0.0)(*z)
    with inject(criterion, "in_batch()", temperature=0.3):
        torch.testing.assert_close(criterion(*z), fixed)  # the weights are kept


def test_model_aware_with_fewer_negatives_equals_the_host_on_them():
    # With two samples and one negative drawn, half of the host's denominator is left.
    z, criterion = naive.embeddings(2, 2), MACLLoss(alpha=0.0)
    with inject(criterion, "uniform(num_negatives=1)"):
        ours = criterion(*z)
    unit = [v / v.norm(dim=1, keepdim=True) for v in z]
    candidates = []
    for anchor in range(4):
        view, sample = divmod(anchor, 2)
        a, p = unit[view][sample], unit[1 - view][sample]
        found = []
        for n in (unit[0][1 - sample], unit[1][1 - sample]):
            share = torch.stack([a @ p, a @ n]).div(0.1).softmax(0)[0]
            found.append(float((-share.log() / (1 - share + 1e-8)).detach()))
        candidates.append(found)
    sums = [sum(pick) / 4 for pick in itertools.product(*candidates)]
    assert min(abs(float(ours) - total) for total in sums) < 1e-10


def test_model_aware_is_finite_at_the_extremes():
    z0 = torch.randn(6, 16)
    for z in ([z0.clone(), z0.clone()], [z0.clone(), -z0]):
        z = [v.requires_grad_() for v in z]
        criterion = MACLLoss(temperature=0.01)
        with inject(criterion, "in_batch()"):
            loss = criterion(*z)
            assert loss.isfinite()
            assert naive.gradients(loss, z).isfinite().all()
    with inject(criterion, "queue(size=12)"):
        assert criterion(*z) == 0  # nothing is in the queue yet


@pytest.mark.parametrize("width", [5, 16, 64])
def test_direct_clr_truncates_as_the_host_does(width):
    z, criterion = naive.embeddings(2, 12), DirectCLRLoss(loss_dim=width, temperature=0.2)
    z = [v.view(12, 4, 2, 2) for v in z]  # a feature map, which it flattens
    theirs = criterion(*z)
    with inject(criterion, "in_batch()") as handle:
        ours = criterion(*z)
    assert handle.losses["DirectCLRLoss"].calls == 1
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=0)
    assert naive.relative(naive.gradients(ours, z), naive.gradients(theirs, z)) < 1e-10


def test_direct_clrs_bank_holds_what_is_left():
    criterion = DirectCLRLoss(loss_dim=5, memory_bank_size=(24, 5)).double()
    twin = copy.deepcopy(criterion)
    with inject(twin, "queue()") as handle:
        for step in range(6):
            z = naive.embeddings(2, 6, seed=step)
            theirs, ours = criterion(*z), twin(*z)
            grads = [naive.gradients(loss, z) for loss in (theirs, ours)]
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=0)
        assert naive.relative(*grads) < 1e-10
        rows = handle.state_dict()["DirectCLRLoss"]["sampler._extra_state"]["rows"]
        assert rows.shape == (24, 5)


def _direct_clr_on_ranks(rank: int, world: int) -> list[torch.Tensor]:
    z = naive.embeddings(2, 4, seed=rank)
    criterion = DirectCLRLoss(loss_dim=5, gather_distributed=True)
    theirs = criterion(*z)
    their_grad = naive.gradients(theirs, z)
    with inject(criterion, "in_batch()"):
        ours = criterion(*z)
        return [theirs.detach(), their_grad, ours.detach(), naive.gradients(ours, z)]


def test_direct_clr_gathered_on_ranks():
    for theirs, their_grad, ours, our_grad in ranks.run(_direct_clr_on_ranks, 2):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=0)
        assert naive.relative(our_grad, their_grad) < 1e-10


def _model_aware_on_ranks(rank: int, world: int) -> list[torch.Tensor]:
    z, criterion = naive.embeddings(2, 4, seed=rank), MACLLoss()
    theirs = criterion(*z)
    with inject(criterion, "in_batch()"):
        return [theirs.detach(), criterion(*z).detach()]


def test_model_aware_keeps_to_its_rank():
    found = ranks.run(_model_aware_on_ranks, 2)
    for theirs, ours in found:
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=0)
    assert found[0][0] != found[1][0]


def _site_of(criterion):
    handle = inject(criterion, "in_batch()")
    handle.remove()
    return handle.sites[0]


def test_the_site_knows_the_size_of_the_bank():
    assert _site_of(NTXentLoss(memory_bank_size=(32, 8))).queue_size == 32
    for without in (NTXentLoss(), DCLLoss()):
        assert _site_of(without).queue_size is None
        with pytest.raises(ValueError, match=r"size is required, because lightly .* has no queue"):
            inject(without, "queue()")


def test_labels_of_lightlys_batches():
    labels = _site_of(NTXentLoss()).labels
    view, target = torch.zeros(4, 3, 8, 8), torch.tensor([1, 0, 3, 1])
    assert torch.equal(labels([[view, view], target, ["a", "b", "c", "d"]]), target)
    assert torch.equal(labels((view, target)), target)
    assert labels((view, view)) is None
    assert labels([[view, view], target.float()]) is None
    assert labels([[view, view], target[:3]]) is None
    assert labels([[view, view]]) is None
    assert labels([[], target]) is None
    assert labels(view) is None


def test_labels_reach_the_batch_in_a_run():
    import hosts

    seen = []

    class Watching(negplug.NegativeSampler):
        def sample(self, batch):
            seen.append(batch.labels)
            return negplug.make_sampler("in_batch()").sample(batch)

    trainer = hosts.trainer(callbacks=[hosts.negative_control()(Watching())])
    trainer.fit(hosts.recipe(), hosts.loader())
    wanted = (torch.arange(24) % 4).view(3, 8).repeat(1, 2)  # both views
    assert torch.equal(torch.stack(seen), wanted)


def test_a_changed_host_is_named(monkeypatch):
    criterion = NTXentLoss()
    monkeypatch.setattr(NTXentLoss, "forward", lambda self, out0, out1, weights: None)
    message = r"lightly [\d.]+ NTXentLoss: forward takes .*'weights'.* expects .*'out1'\]"
    with pytest.raises(ValueError, match=message):
        inject(criterion, "in_batch()")


def test_a_subclass_with_a_forward_of_its_own_is_named_rather_than_left_out():
    class Mine(NTXentLoss):
        def forward(self, out0, out1):
            return 2 * super().forward(out0, out1)

    model = Recipe()
    model.mine = Mine()
    with pytest.raises(ValueError, match="'mine' overrides the forward of NTXentLoss"):
        inject(model, "in_batch()")
    with inject(model, "in_batch()", target="first") as handle:
        assert set(handle.losses) == {"first"}


def test_two_criteria_draw_different_negatives():
    model, z = Recipe(), naive.embeddings(2, 32)
    model.first.temperature = model.losses[0].temperature = 0.2
    with inject(model, "uniform(num_negatives=2)"):
        assert model.first(*z) != model.losses[0](*z)


def test_an_explicit_objective_has_state_for_each_site():
    class Counting(negplug.Objective):
        def __init__(self):
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, batch, negatives, temperature):
            self.calls += 1
            return batch.anchors.sum(1)

    model, z = Recipe(), naive.embeddings(2, 8)
    with inject(model, "in_batch()", Counting()) as handle:
        model.first(*z), model.first(*z), model.losses[0](*z)
    state = handle.state_dict()
    assert state["first"]["objective.calls"] == 2
    assert state["losses.0"]["objective.calls"] == 1


def test_temperatures_of_other_types():
    z = naive.embeddings(2, 8)
    criterion = NTXentLoss(temperature=0.2)
    wanted = criterion(*z)
    with inject(criterion, "in_batch()"):
        criterion.temperature = torch.tensor(0.2, dtype=torch.float64)
        torch.testing.assert_close(criterion(*z), wanted)
        criterion.temperature = nn.Parameter(torch.tensor(0.2))
        with pytest.raises(TypeError, match="temperature requires a gradient"):
            criterion(*z)


@pytest.mark.parametrize("sampler", ["in_batch()", "uniform(num_negatives=4)"])
def test_a_compiled_model_is_treated(sampler):
    criterion, z = NTXentLoss(temperature=0.2), naive.embeddings(2, 8)
    with inject(criterion, sampler) as handle:
        compiled = torch.compile(lambda a, b: criterion(a * 2, b * 2), backend="eager")
        for _ in range(3):
            naive.gradients(compiled(*z), z)
        assert handle.losses["NTXentLoss"].calls == 3


def _unequal(rank: int, world: int, sampler: str) -> tuple[torch.Tensor, torch.Tensor]:
    rows = slice(0, 3) if rank == 0 else slice(3, 7)
    z = [v.detach()[rows].requires_grad_() for v in naive.embeddings(2, 7, seed=3)]
    criterion = NTXentLoss(temperature=0.2, gather_distributed=True)
    with inject(criterion, sampler):
        loss = criterion(*z)
        return loss.detach(), naive.gradients(loss, z).view(2, len(z[0]), -1)


@pytest.mark.parametrize("sampler", ["in_batch()", "uniform(num_negatives=12)"])
def test_batches_of_different_sizes_on_ranks_count_by_their_rows(sampler):
    (loss0, grad0), (loss1, grad1) = ranks.run(_unequal, 2, sampler)
    z = naive.embeddings(2, 7, seed=3)
    alone = naive.simclr(z, 0.2)
    # DDP averages: the mean over ranks is the loss, and the gradient, of one process on all rows.
    torch.testing.assert_close((loss0 + loss1) / 2, alone.detach(), rtol=1e-12, atol=0)
    together = torch.cat([grad0, grad1], dim=1) / 2
    torch.testing.assert_close(
        together, naive.gradients(alone, z).view(2, 7, -1), rtol=1e-9, atol=1e-14
    )


def _other_width(rank: int, world: int) -> str:
    z = naive.embeddings(2, 4, width=8 + rank)
    criterion = NTXentLoss(gather_distributed=True)
    with inject(criterion, "in_batch()"):
        try:
            criterion(*z)
        except ValueError as error:
            return str(error)
    return "no error"


def test_embeddings_of_different_widths_on_ranks_are_refused_everywhere():
    for message in ranks.run(_other_width, 2):
        assert "the ranks have embeddings of widths [8, 9]" in message


def test_evaluation_in_no_grad_keeps_the_counters():
    criterion, z = NTXentLoss(), naive.embeddings(2, 8)
    with inject(criterion, "uniform(num_negatives=2)") as handle, torch.no_grad():
        criterion(*z)
    assert handle.state_dict()["NTXentLoss"]["_extra_state"]["call"] == 0


def _gathered(rank: int, world: int, sampler: str) -> dict[str, torch.Tensor]:
    everything = naive.embeddings(2, 4 * world, seed=3)
    z = [v.detach()[4 * rank : 4 * rank + 4].requires_grad_() for v in everything]
    criterion = NTXentLoss(temperature=0.2, gather_distributed=True)
    found = {}
    theirs = criterion(*z)
    found["theirs"], found["their_grad"] = theirs.detach(), naive.gradients(theirs, z)
    with inject(criterion, sampler):
        ours = criterion(*z)
        found["ours"], found["our_grad"] = ours.detach(), naive.gradients(ours, z)
    return found


@pytest.mark.parametrize("world", [2, 4])
def test_gathered_on_ranks_equals_the_host_and_one_process(world):
    found = ranks.run(_gathered, world, "in_batch()")
    z = naive.embeddings(2, 4 * world, seed=3)
    alone = naive.simclr(z, 0.2)
    whole = naive.gradients(alone, z).view(2, world, 4, -1)
    for rank, one in enumerate(found):
        torch.testing.assert_close(one["ours"], one["theirs"], rtol=1e-12, atol=0)
        assert naive.relative(one["our_grad"], one["their_grad"]) < 1e-10
        # DDP averages gradients: the mean over ranks is the gradient of the global mean.
        mine = one["our_grad"].view(2, 4, -1) / world
        torch.testing.assert_close(mine, whole[:, rank], rtol=1e-9, atol=1e-14)
    mean = sum(one["ours"] for one in found) / world
    torch.testing.assert_close(mean, alone.detach(), rtol=1e-12, atol=0)


def test_uniform_on_ranks_draws_from_the_global_batch():
    found = ranks.run(_gathered, 2, "uniform(num_negatives=14)")
    for one in found:  # all 14 of 2·8 − 2: as the whole batch
        torch.testing.assert_close(one["ours"], one["theirs"], rtol=1e-12, atol=0)
    found = ranks.run(_gathered, 2, "uniform(num_negatives=10)")
    for one in found:  # more than the 6 that this rank has alone
        assert one["ours"].isfinite()
        assert one["our_grad"].isfinite().all()


def test_either_lightning_is_treated_and_so_are_both_at_once():
    import hosts

    lightning = pytest.importorskip("lightning.pytorch")
    hosts.lightning()  # both are imported, so the class belongs to both
    from negplug_lightly import NegativeControl

    control = NegativeControl("uniform(num_negatives=2)")
    assert isinstance(control, lightning.Callback)
    assert isinstance(control, hosts.lightning().Callback)

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(16, 8)
            self.criterion = NTXentLoss()

        def training_step(self, batch, batch_idx):
            first = batch[0][0].mean((1, 2))
            return self.criterion(self.layer(first), self.layer(first + 0.1))

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    trainer = lightning.Trainer(
        callbacks=[control],
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Module(), hosts.loader())
    assert control.injection.losses["criterion"].calls == 3


def test_the_report_tells_the_truth():
    from negplug_lightly.plugin import report_methods

    reports = {report.method: report for report in report_methods()}
    for name, report in reports.items():
        if report.treatable:
            with inject(getattr(lightly_loss, name)(), "in_batch()") as handle:
                assert set(handle.losses) == {name}
    assert {name for name, report in reports.items() if report.treatable} == {
        "NTXentLoss",
        "DirectCLRLoss",
        "DCLLoss",
        "DCLWLoss",
        "MACLLoss",
    }
    refused = {name for name, report in reports.items() if "regions of images" in report.note}
    assert refused == {"DetConBLoss", "DetConSLoss"}
    with pytest.raises(ValueError, match="no known contrastive loss found in DetConSLoss"):
        inject(lightly_loss.DetConSLoss(), "in_batch()")


def test_a_plain_loop_needs_nobody_to_close_its_steps():
    criterion = NTXentLoss(memory_bank_size=(64, 16))
    handle = inject(criterion, "queue()")
    for step in range(3):
        z = naive.embeddings(2, 4, seed=step)
        loss = (criterion(*z) + criterion(*reversed(z))) / 2
        loss.backward()
    state = handle.state_dict()["NTXentLoss"]
    assert state["_extra_state"]["further"] == 1
    for name in ("sampler", "further.0.sampler"):
        assert len(state[f"{name}._extra_state"]["rows"]) == 12


PLAIN_LOOP = ["queue(size=64)", "memory_bank()", "uniform(num_negatives=4)"]


@pytest.mark.parametrize("sampler", PLAIN_LOOP)
def test_a_plain_loop_resumes_bit_for_bit_though_nobody_closes_its_steps(sampler):
    def start(seed):
        torch.manual_seed(seed)
        criterion = NTXentLoss()
        return criterion, inject(criterion, sampler)

    def run(criterion, handle, steps):
        losses = []
        for step in steps:
            z = naive.embeddings(2, 4, seed=step)
            if sampler == "memory_bank()":
                handle.provide(indexes=torch.arange(4) + 2 * step)
            loss = criterion(*z)
            loss.backward()
            losses.append(loss.detach())
        return losses

    straight, stopped, resumed = start(0), start(0), start(123)
    losses = run(*straight, range(6))
    assert len(set(map(float, losses))) > 4
    first = run(*stopped, range(3))
    state = copy.deepcopy(stopped[1].state_dict())
    assert state["NTXentLoss"]["_extra_state"]["step"] == 3
    resumed[1].load_state_dict(state)
    assert torch.equal(torch.stack(first + run(*resumed, range(3, 6))), torch.stack(losses))
    assert same_state(resumed[1].state_dict(), straight[1].state_dict())
    # The run that was saved goes on as if it had not been.
    assert torch.equal(torch.stack(run(*stopped, range(3, 6))), torch.stack(losses[3:]))


def test_what_provide_says_holds_for_one_step():
    criterion, z = NTXentLoss(), naive.embeddings(2, 4)
    with inject(criterion, "memory_bank()") as handle:
        with pytest.raises(ValueError, match="nobody said whose samples the batch holds"):
            criterion(*z)
        handle.provide(indexes=torch.arange(4))
        (criterion(*z) + criterion(*reversed(z))).backward()
        with pytest.raises(ValueError, match=r"plain loop has to call provide\(indexes=…\)"):
            criterion(*z)
        handle.provide(indexes=torch.arange(4) + 4)
        criterion(*z).backward()
    state = handle.state_dict()["NTXentLoss"]
    for name, indexes in (("sampler", range(8)), ("further.0.sampler", range(4))):
        assert state[f"{name}._extra_state"]["names"][1].tolist() == list(indexes)


class Unlabelled(hosts.Pairs):
    """Images of another data set, without labels."""

    def __getitem__(self, index):
        views, _, name = super().__getitem__(index)
        return views, name


def _validated(sampler, validation):
    """Fit with a validation loss after every step, if there are data for it."""
    hosts.lightning().seed_everything(0)
    module, losses = hosts.recipe(), []
    if validation is not None:
        step = module.training_step
        module.validation_step = lambda batch, batch_idx: losses.append(
            float(step(batch, batch_idx))
        )
    control = hosts.negative_control()(sampler)
    trainer = hosts.trainer(callbacks=[control], max_epochs=2, val_check_interval=1)
    trainer.fit(module, hosts.loader(), validation and DataLoader(validation, batch_size=10))
    return hosts.parameters(module), control.state_dict(), losses


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize(
    "sampler",
    [
        "memory_bank()",
        "stratified(num_negatives=2, by='labels')",
        "filtered(by='labels')",
        "hard(num_negatives=4, source=filtered(memory_bank(), by='labels'))",
    ],
)
def test_a_validation_loss_changes_nothing(sampler, labelled):
    other = hosts.Pairs(30) if labelled else Unlabelled(30)
    weights, state, losses = _validated(sampler, other)
    # Two batches before training, three after each of 2·3 steps.
    assert len(losses) == 2 + 6 * 3
    assert min(losses[2:]) > 0
    alone, without, _ = _validated(sampler, None)
    assert torch.equal(weights, alone)
    assert same_state(state, without)


@pytest.mark.filterwarnings("ignore")
def test_a_validation_batch_has_its_labels_and_no_index():
    seen = []

    class Watching(negplug.NegativeSampler):
        wants_indexes = True

        def sample(self, batch):
            seen.append((batch.training, batch.labels, batch.indexes))
            return negplug.make_sampler("in_batch()").sample(batch)

    _validated(Watching(), hosts.Pairs(30))
    evaluations = [(labels, indexes) for training, labels, indexes in seen if not training]
    assert len(evaluations) == 2 + 6 * 3
    for number, (labels, indexes) in enumerate(evaluations):
        first = 10 * (number if number < 2 else (number - 2) % 3)
        assert torch.equal(labels, ((torch.arange(10) + first) % 4).repeat(2))
        assert indexes is None
    assert all(indexes is not None for training, _, indexes in seen if training)


def _tuned(sampler):
    """Look for a learning rate; return the callback and the losses of the tuner's steps."""
    tuner = importlib.import_module(f"{hosts.framework()}.tuner")
    module, losses = hosts.recipe(), []
    module.lr = 0.01
    step = module.training_step

    def training_step(batch, batch_idx):
        loss = step(batch, batch_idx)
        losses.append(float(loss))
        return loss

    module.training_step = training_step
    control = hosts.negative_control()(sampler)
    trainer = hosts.trainer(callbacks=[control], max_epochs=10)
    # No early stop: the loss of an empty queue is 0, and no later one is as low.
    search = {"num_training": 6, "early_stop_threshold": None}
    tuner.Tuner(trainer).lr_find(module, hosts.loader(), **search)
    return control, losses


@pytest.mark.filterwarnings("ignore")
def test_a_tuners_steps_are_steps(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the tuner keeps the weights in a file
    control, losses = _tuned("queue(size=1000)")
    state = control.injection.losses["criterion"].loss.state_dict()
    assert state["_extra_state"]["further"] == 0
    assert len(losses) >= 6
    assert losses[0] == 0  # of an empty queue
    assert min(losses[1:]) > 0
    assert len(state["sampler._extra_state"]["rows"]) == 16 * len(losses)


@pytest.mark.filterwarnings("ignore")
def test_a_tuner_cannot_say_which_samples_it_trains_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ValueError, match="a tuner's steps run without the NegativeControl callback"
    ):
        _tuned("memory_bank()")
