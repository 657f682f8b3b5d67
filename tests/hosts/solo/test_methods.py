"""solo-learn's other contrastive methods, main and 1.0.2: treated, each is the same loss."""

from __future__ import annotations

import copy
import importlib
import sys

import hosts
import naive
import pytest
import ranks
import torch
from torch.nn.functional import cross_entropy, normalize

from negplug import ContrastiveLoss, inject
from negplug.contract.adapter import Metadata
from negplug.contract.batch import ContrastiveBatch
from negplug.contract.negatives import Negatives

GENERATION = hosts.solo_generation()
if GENERATION is None:
    pytest.skip("solo-learn is not installed in this environment", allow_module_level=True)

from negplug_solo import losses  # noqa: E402
from negplug_solo.relational import Relational  # noqa: E402

main_only = pytest.mark.skipif(GENERATION != "main", reason="of solo-learn main")
pytestmark = pytest.mark.filterwarnings("ignore")

# Method: its loss function, calls in a step, settings.
ALL = {
    "SupCon": ("simclr_loss_func", 1, {}),
    "MoCoV3": ("mocov3_loss_func", 2, {}),
    "NNCLR": ("nnclr_loss_func", 2, {"queue_size": 24}),
    "All4One": ("nnclr_loss_func", 4, {"queue_size": 24}),
    "ReSSL": ("ressl_loss_func", 1, {"queue_size": 24}),
}
METHODS = [name for name in ALL if GENERATION == "main" or name in ("NNCLR", "ReSSL")]
every_method = pytest.mark.parametrize("name", METHODS)


def model_of(name, temperature=0.2, **kwargs):
    torch.manual_seed(0)
    return hosts.solo_method(name, temperature, **ALL[name][2], **kwargs).double()


def batch_for(number, rank=0, size=6, small_crops=0):
    generator = torch.Generator().manual_seed(10 * number + rank)
    crops = [
        torch.randn(size, 3, 16, 16, generator=generator, dtype=torch.float64)
        for _ in range(2 + small_crops)
    ]
    indexes = torch.arange(size) + 100 * number + 10 * rank  # no sample comes twice
    return [indexes, crops, torch.arange(size) % 3]


def step(model, batch):
    """The host's own training step in float64: its loss and the gradient of every weight."""
    model.log_dict = model.log = lambda *args, **kwargs: None
    torch.manual_seed(1)  # All4One has dropout
    loss = model.training_step(batch, 0)
    weights = [p for p in model.parameters() if p.requires_grad]
    found = torch.autograd.grad(loss, weights, allow_unused=True)
    return loss.detach(), torch.cat([g.flatten() for g in found if g is not None])


def assert_same(ours, theirs):
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-9, atol=0)
    assert naive.relative(ours[1], theirs[1]) < 1e-7
    assert theirs[1].norm() > 0


# ------------------------------------------------------------------ the same loss


@every_method
@pytest.mark.parametrize("temperature", [0.5, 0.05])
def test_in_batch_equals_the_host(name, temperature):
    model = model_of(name, temperature)
    twin = copy.deepcopy(model)
    function, calls, _ = ALL[name]
    with inject(twin, "in_batch()") as handle:
        for number in range(3):  # the hosts' queues move on
            assert_same(step(twin, batch_for(number)), step(model, batch_for(number)))
            handle.end_step()
        assert handle.losses[function].calls == 3 * calls
    assert "training_step" not in vars(twin)


@main_only
def test_supervised_contrast_of_many_crops():
    model = model_of("SupCon", small_crops=3)
    batch = batch_for(0, small_crops=3)
    theirs = step(model, batch)
    with inject(model, "in_batch()"):
        assert_same(step(model, batch), theirs)


@main_only
@pytest.mark.parametrize("objective", [None, "infonce()"])
def test_the_factor_of_moco_v3_follows_the_temperature(objective):
    theirs = step(model_of("MoCoV3", temperature=0.7), batch_for(0))
    with inject(model := model_of("MoCoV3"), "in_batch()", objective, temperature=0.7):
        assert_same(step(model, batch_for(0)), theirs)


def test_a_temperature_for_ressl_is_the_querys():
    theirs = step(model_of("ReSSL", temperature_k=0.08, temperature_q=0.3), batch_for(0))
    with inject(model := model_of("ReSSL", temperature_k=0.08), "in_batch()", temperature=0.3):
        assert_same(step(model, batch_for(0)), theirs)


def test_a_full_queue_is_ressls():
    model = model_of("ReSSL")
    twin = copy.deepcopy(model)
    with inject(twin, "queue()") as handle:
        for number in range(7):
            ours, theirs = step(twin, batch_for(number)), step(model, batch_for(number))
            handle.end_step()
            if number >= 4:  # 24 rows, 6 at a time
                assert_same(ours, theirs)
        (state,) = handle.state_dict().values()
    torch.testing.assert_close(state["sampler._extra_state"]["rows"], model.queue)


# ------------------------------------------------------------------ on ranks


class Contrast:
    """What a treatment of ours calls, outside of a treated model."""

    temperature = None

    def __init__(self, sampler="in_batch()"):
        self.metadata, self.loss = Metadata(), ContrastiveLoss(sampler)

    def __call__(self, batch, *, objective, temperature):
        return self.loss.contrast(batch, objective, temperature)


def _supcon(theirs, one, two):
    z, labels = torch.cat([one, two]), torch.arange(4).repeat(2) % 3
    return theirs(z, labels, 0.2), losses.simclr_by_class(Contrast(), z, labels, 0.2)


def _moco_v3(theirs, one, two):
    return theirs(one, two, 0.3), losses.mocov3(Contrast(), one, two, 0.3)


def _nnclr(theirs, one, two):
    treatment = losses.nnclr_gathered if GENERATION == "main" else losses.nnclr
    return theirs(one, two, 0.2), treatment(Contrast(), one, two, 0.2)


def _ressl(theirs, one, two):
    one, two = normalize(one), normalize(two)
    queue = normalize(naive.embeddings(1, 10, seed=9)[0].detach())
    ours = losses.ressl(Contrast(), one, two, queue, 0.2, 0.05)
    return theirs(one, two, queue, 0.2, 0.05), ours


CALLS = {"SupCon": _supcon, "MoCoV3": _moco_v3, "NNCLR": _nnclr, "ReSSL": _ressl}


def _on_a_rank(rank, world, name):
    z = naive.embeddings(2, 4, seed=10 + rank)
    module = importlib.import_module(f"solo.methods.{name.lower()}")
    found = CALLS[name](getattr(module, ALL[name][0]), *z)
    # A view may have no gradient: momentum keys.
    grads = [torch.autograd.grad(v, z, allow_unused=True, retain_graph=True) for v in found]
    flat = [torch.cat([torch.zeros(64) if g is None else g.flatten() for g in gs]) for gs in grads]
    return [v.detach() for v in found] + flat


@pytest.mark.parametrize("name", [name for name in METHODS if name in CALLS])
def test_the_loss_functions_on_ranks(name):
    alone = [_on_a_rank(rank, 1, name)[0] for rank in range(2)]
    found = ranks.run(_on_a_rank, 2, name)
    for theirs, ours, their_grad, our_grad in found:
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
        assert naive.relative(our_grad, their_grad) < 1e-10
    gathers = name != "ReSSL" and GENERATION == "main"
    assert [value[0] != one for value, one in zip(found, alone, strict=True)] == [gathers] * 2


def _step_on_a_rank(rank, world, name, sampler):
    model = model_of(name)
    twin = copy.deepcopy(model)
    found = []
    with inject(twin, sampler) as handle:
        for number in range(4):
            batch = batch_for(number, rank)
            found.append((step(twin, batch), step(model, batch)))
            handle.end_step()
    return found[2:]


@pytest.mark.parametrize(
    ("name", "sampler"), [*((name, "in_batch()") for name in METHODS), ("ReSSL", "queue()")]
)
def test_the_whole_step_on_ranks(name, sampler):
    for found in ranks.run(_step_on_a_rank, 2, name, sampler):
        for ours, theirs in found:
            assert_same(ours, theirs)


# ------------------------------------------------------------------ what each batch is


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


# ------------------------------------------------------------------ ReSSL's objective


def relational_loop(q, k, negatives, tau_q, tau_k):
    found = []
    for i, columns in enumerate(negatives.columns):
        kept = torch.ones_like(columns, dtype=torch.bool)
        kept = kept if negatives.mask is None else negatives.mask[i]
        rows, weight = negatives.pool[columns[kept]], negatives.log_weight[i][kept].exp()
        teacher = weight * torch.exp(rows @ k[i] / tau_k)
        student = torch.exp(rows @ q[i] / tau_q)
        target = (teacher / teacher.sum()).detach()
        found.append(-(target * torch.log(student / (weight * student).sum())).sum())
    return torch.stack(found)


@pytest.mark.parametrize("tau_k", [0.5, 0.04, 0.002])
def test_relations_to_chosen_weighted_negatives(tau_k):
    q, k = naive.embeddings(2, 6)
    pool = normalize(naive.embeddings(1, 9, seed=3)[0].detach())
    generator = torch.Generator().manual_seed(0)
    negatives = Negatives(
        pool=pool,
        pool_ids=torch.full((9,), -1),
        columns=torch.randint(9, (6, 4), generator=generator),
        mask=torch.tensor([[True, True, i % 2 == 0, True] for i in range(6)]),
        log_weight=torch.randn(6, 4, dtype=torch.float64, generator=generator),
    )
    batch = ContrastiveBatch.from_pairs(q, k.detach())
    ours = Relational(tau_k)(batch, negatives, 0.2)
    theirs = relational_loop(normalize(q), normalize(k), negatives, 0.2, tau_k)
    torch.testing.assert_close(ours, theirs)
    ours, theirs = (naive.gradients(loss.sum(), [q]) for loss in (ours, theirs))
    assert naive.relative(ours, theirs) < 1e-9


@pytest.mark.parametrize("left", [0, 1])
def test_an_anchor_with_fewer_than_two_negatives_learns_nothing(left):
    q, k = naive.embeddings(2, 4)
    offered = Negatives(
        pool=normalize(k.detach()),
        pool_ids=torch.full((4,), -1),
        columns=torch.tensor([[0, 1]] * 4),
        mask=torch.tensor([[left == 1, False]] * 4),
    )
    loss = Relational(0.04)(ContrastiveBatch.from_pairs(q, k.detach()), offered, 0.1)
    torch.testing.assert_close(loss, torch.zeros_like(loss))
    torch.testing.assert_close(naive.gradients(loss.sum(), [q]), torch.zeros(64).double())


@pytest.mark.parametrize("shared", [False, True])
def test_a_single_negative_is_refused(shared):
    model = model_of("ReSSL")
    with (
        inject(model, f"uniform(num_negatives=1, shared={shared})"),
        pytest.raises(ValueError, match="nothing would be learned; give it two negatives or more"),
    ):
        step(model, batch_for(0))


def test_draws_from_the_anchors_softmax_are_refused():
    q, k = naive.embeddings(2, 4)
    offered = Negatives(pool=k, pool_ids=torch.full((4,), -1), estimator="posterior")
    with pytest.raises(ValueError, match=r"ReSSL compares two softmax distributions .*'posterior'"):
        Relational(0.04)(ContrastiveBatch.from_pairs(q, k), offered, 0.1)


# ------------------------------------------------------------------ a Trainer's run


@every_method
@pytest.mark.parametrize("sampler", ["in_batch()", "uniform(num_negatives=4)", "queue(size=16)"])
def test_every_method_trains(name, sampler):
    function, calls, settings = ALL[name]
    seen, control = [], hosts.negative_control()(sampler)

    class Watch(hosts.lightning().Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, *args):
            seen.append(
                (control.injection.losses[function].loss.observed["num_negatives"], outputs["loss"])
            )

    torch.manual_seed(0)
    model = hosts.solo_method(name, **settings)
    before = hosts.parameters(model)
    hosts.trainer(callbacks=[control, Watch()], log_every_n_steps=1).fit(model, hosts.loader())
    assert control.injection.losses[function].calls == 3 * calls
    assert all(loss.isfinite() for _, loss in seen)
    assert hosts.parameters(model).isfinite().all()
    assert not torch.equal(hosts.parameters(model), before)
    counts = [number for number, _ in seen]
    if sampler.startswith("uniform"):
        assert counts == [4, 4, 4]
    elif sampler.startswith("in_batch"):
        # 16 crops of four classes; the other samples; the host's queue.
        assert counts == [{"SupCon": 12, "ReSSL": 24}.get(name, 7)] * 3
    else:
        # SupCon's step has 16 keys; those of the anchor's class are left out.
        assert counts == ([0, 12, 12] if name == "SupCon" else [0, 8, 16])


@every_method
def test_a_changed_loss_function_is_named(name, monkeypatch):
    model, function = model_of(name), ALL[name][0]
    module = sys.modules[f"solo.methods.{name.lower()}"]
    theirs = getattr(module, function)
    wanted = (
        rf"solo-learn .* {name}: {function} takes \(z, mask\) and does not gather, but this "
        rf"adapter expects \(\w+, .*temperature.*\) and .*gather"
    )
    monkeypatch.setattr(module, function, lambda z, mask: None)
    with pytest.raises(ValueError, match=wanted):
        inject(model, "in_batch()")
    monkeypatch.delattr(module, function)
    with pytest.raises(ValueError, match=f"has no {function}, which this adapter expects"):
        inject(model, "in_batch()")
    monkeypatch.setattr(module, function, theirs, raising=False)
    inject(model, "in_batch()").remove()


@main_only
def test_keys_that_are_no_longer_gathered_are_noticed(monkeypatch):
    model = model_of("MoCoV3")
    module = sys.modules["solo.methods.mocov3"]
    monkeypatch.setattr(module, "mocov3_loss_func", lambda query, key, temperature=0.2: None)
    with pytest.raises(ValueError, match=r"does not gather, .* gathers with concat_all_gather"):
        inject(model, "in_batch()")
