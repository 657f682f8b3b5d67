"""``ContrastiveLoss`` and the arithmetic: exact, stable, and careful with what is not its own."""

from __future__ import annotations

import naive
import pytest
import torch

from negplug import (
    ContrastiveBatch,
    ContrastiveLoss,
    Negatives,
    NegativeSampler,
    make_objective,
)
from negplug.contract.ids import comparable_ids
from negplug.kernels.pool import pool_logsumexp
from negplug.kernels.pool.symmetric import symmetric_logsumexp
from negplug.objectives.logits import negative_logsumexp

SAMPLERS = [
    "in_batch()",
    "uniform(num_negatives=4)",
    "uniform(num_negatives=4, correction=True)",
    "uniform(num_negatives=4, shared=True)",
    "uniform(num_negatives=4, shared=True, correction=True)",
]


@pytest.mark.parametrize("views", [2, 4])
@pytest.mark.parametrize("temperature", [1.0, 0.1])
def test_in_batch_equals_the_loop(views, temperature):
    z = naive.embeddings(views, 7)
    ours = ContrastiveLoss("in_batch()", temperature=temperature)(*z)
    reference = naive.simclr(z, temperature)
    torch.testing.assert_close(ours, reference, rtol=1e-12, atol=0)
    assert naive.relative(naive.gradients(ours, z), naive.gradients(reference, z)) < 1e-12


@pytest.mark.parametrize("form", ["sum", "each", "mean"])
def test_several_positives_equal_the_loop(form):
    # One class of one: an anchor without positive, which pays nothing and does not count.
    ids = torch.tensor([0, 1, 0, 2, 1, 1, 0, 3])
    (z,) = naive.embeddings(1, 8)
    batch = ContrastiveBatch.from_ids(torch.nn.functional.normalize(z, dim=1), ids)
    ours = ContrastiveLoss(objective=f"infonce(positives={form!r})", temperature=0.3).contrast(
        batch
    )
    reference = naive.supervised(z, ids, 0.3, form)
    torch.testing.assert_close(ours, reference, rtol=1e-12, atol=0)
    assert naive.relative(naive.gradients(ours, [z]), naive.gradients(reference, [z])) < 1e-12


@pytest.mark.parametrize("rows", [5, 512, 1300])
@pytest.mark.parametrize("temperature", [0.5, 0.02])
def test_tiles_equal_the_dense_matrix(rows, temperature):
    (z,) = naive.embeddings(1, rows)
    unit = torch.nn.functional.normalize(z, dim=1)
    ids = torch.randint(0, 1 + rows // 3, (rows,), generator=torch.Generator().manual_seed(1))
    weights = torch.linspace(0.5, 1.5, rows, dtype=torch.float64)
    logits = unit @ unit.T / temperature
    dense = logits.masked_fill(ids[:, None] == ids, -torch.inf).logsumexp(1)
    symmetric = symmetric_logsumexp(unit, ids, temperature)
    streamed = pool_logsumexp(unit, unit, ids, ids, temperature)
    reference = naive.gradients((dense * weights).sum(), [z])
    for ours in (symmetric, streamed):
        torch.testing.assert_close(ours, dense, rtol=1e-12, atol=1e-12)
        gradient = naive.gradients((ours * weights).sum(), [z])
        assert naive.relative(gradient, reference) < 1e-12


@pytest.mark.parametrize("rows_of_weight", [1, 40])
def test_log_weights_reach_every_path(rows_of_weight):
    generator = torch.Generator().manual_seed(2)
    anchors, pool = naive.embeddings(2, 40)
    a, k = (torch.nn.functional.normalize(x, dim=1) for x in (anchors, pool))
    ids = torch.arange(40)
    batch = ContrastiveBatch.from_ids(a, ids, k, ids, lasting=True)
    columns = torch.stack([torch.randperm(40, generator=generator)[:6] for _ in range(40)])
    for chosen, width in ((None, 40), (columns, 6)):
        for columns_of_weight in (1, width):
            weight = torch.randn(
                rows_of_weight, columns_of_weight, dtype=torch.float64, generator=generator
            )
            ours = negative_logsumexp(batch, Negatives(k, ids, chosen, log_weight=weight), 0.4)
            logits = a @ k.T / 0.4
            if chosen is None:
                logits = (logits + weight).masked_fill(ids[:, None] == ids, -torch.inf)
            else:
                logits = logits.gather(1, chosen) + weight
            dense = logits.logsumexp(1)
            torch.testing.assert_close(ours, dense, rtol=1e-12, atol=1e-12)
            both = [anchors, pool]
            assert (
                naive.relative(
                    naive.gradients(ours.sum(), both), naive.gradients(dense.sum(), both)
                )
                < 1e-12
            )


def test_masked_columns_count_for_nothing():
    (z,) = naive.embeddings(1, 6)
    unit = torch.nn.functional.normalize(z, dim=1)
    ids = torch.arange(6)
    batch = ContrastiveBatch.from_ids(unit, ids)
    columns = torch.tensor([[1, 2], [2, 3], [3, 4], [4, 5], [5, 0], [0, 1]])
    mask = torch.tensor([[True, False]] * 5 + [[False, False]])
    ours = negative_logsumexp(batch, Negatives(unit, ids, columns, mask), 0.5)
    reference = (unit[:5] * unit[columns[:5, 0]]).sum(1) / 0.5
    torch.testing.assert_close(ours[:5], reference)
    assert ours[5] == -torch.inf
    assert (
        naive.relative(naive.gradients(ours[:5].sum(), [z]), naive.gradients(reference.sum(), [z]))
        < 1e-12
    )


def test_an_anchor_without_negative_pays_nothing_and_keeps_its_graph():
    z = naive.embeddings(2, 1)
    loss = ContrastiveLoss("in_batch()")(*z)
    assert loss.item() == 0
    assert naive.gradients(loss, z).abs().sum() == 0


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("temperature", [1.0, 0.1, 0.02, 0.01, 1e-3])
@pytest.mark.parametrize("spread", [1.0, 1e-3])
def test_no_temperature_breaks_float32(sampler, temperature, spread):
    z = [v.detach().float().requires_grad_() for v in naive.embeddings(2, 16, spread=spread)]
    loss = ContrastiveLoss(sampler, temperature=temperature)(*z)
    assert loss.isfinite()
    assert naive.gradients(loss, z).isfinite().all()


@pytest.mark.parametrize("temperature", [0.1, 0.05, 0.02])
def test_float32_gradient_is_accurate_on_similar_views(temperature):
    # Relative error against float64 where "probability minus one-hot" loses all digits.
    single = [v.detach().float() for v in naive.embeddings(2, 512, 128, spread=0.05)]
    exact = [v.double().requires_grad_() for v in single]
    single = [v.requires_grad_() for v in single]
    loss_fn = ContrastiveLoss("in_batch()", temperature=temperature)
    wanted = naive.gradients(loss_fn(*exact), exact)
    got = naive.gradients(loss_fn(*single), single).double()
    assert naive.relative(got, wanted) < 3e-6


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_neither_overflows_nor_rounds_the_similarities(sampler, dtype):
    torch.manual_seed(0)
    layer = torch.nn.Linear(16, 16)
    x = torch.randn(2, 12, 16)
    loss_fn = ContrastiveLoss(sampler, temperature=0.01)
    with torch.autocast("cpu", dtype=dtype):
        z = layer(x)
        assert z.dtype == dtype
        loss = loss_fn(z[0], z[1])
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    loss.backward()
    assert layer.weight.grad.isfinite().all()
    outside = ContrastiveLoss(sampler, temperature=0.01)(z[0].float(), z[1].float())
    assert torch.equal(loss, outside)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("temperature", [0.1, 0.01])
def test_a_backward_pass_inside_autocast_is_the_same(sampler, temperature):
    z = [v.detach().float().requires_grad_() for v in naive.embeddings(2, 12)]
    outside = naive.gradients(ContrastiveLoss(sampler, temperature=temperature)(*z), z)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = naive.gradients(ContrastiveLoss(sampler, temperature=temperature)(*z), z)
    assert torch.equal(inside, outside)


class Ring(NegativeSampler):
    """Writes into its pool in place, as a queue does."""

    def __init__(self):
        super().__init__()
        self.register_buffer("pool", torch.nn.functional.normalize(torch.ones(4, 16).double()))

    def sample(self, batch):
        return Negatives(self.pool, torch.full((4,), -1))

    def update(self, batch, negatives):
        self.pool.copy_(batch.keys[:4])


def test_updates_wait_for_the_backward_pass_of_every_call():
    z = naive.embeddings(2, 8)
    loss_fn = ContrastiveLoss(Ring())
    before = loss_fn.sampler.pool.clone()
    batch = ContrastiveBatch.from_views(tuple(z))
    first, second = loss_fn.contrast(batch), loss_fn.contrast(batch)
    assert torch.equal(loss_fn.sampler.pool, before)
    (first + second).backward()
    assert torch.equal(loss_fn.sampler.pool, before)
    loss_fn(*z)
    assert torch.equal(loss_fn.sampler.pool, batch.keys[:4])


def test_a_bad_seed_is_named():
    with pytest.raises(TypeError, match=r"seed must be an integer, got 1\.5"):
        ContrastiveLoss(seed=1.5)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_global_generator_is_not_touched(sampler):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    ContrastiveLoss(sampler)(*naive.embeddings(2, 8)).backward()
    assert torch.equal(before, torch.get_rng_state())


def test_draws_change_with_step_and_seed_and_repeat_with_both():
    z = naive.embeddings(2, 8)

    def values(seed):
        loss_fn = ContrastiveLoss("uniform(num_negatives=2)", seed=seed)
        return [loss_fn(*z).item() for _ in range(3)]

    assert values(0) == values(0)
    assert len(set(values(0)) | set(values(1))) == 6


def test_the_default_seed_is_the_recipes():
    z = naive.embeddings(2, 8)
    values = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        values.append(ContrastiveLoss("uniform(num_negatives=2)")(*z).item())
    assert values[0] == values[1] != values[2]


def test_state_dict_resumes_the_draws_and_loads_without_pickle(tmp_path):
    z = naive.embeddings(2, 8)
    straight = ContrastiveLoss("uniform(num_negatives=2)", seed=0)
    expected = [straight(*z).item() for _ in range(4)]
    first = ContrastiveLoss("uniform(num_negatives=2)", seed=0)
    assert [first(*z).item() for _ in range(2)] == expected[:2]
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second = ContrastiveLoss("uniform(num_negatives=2)", seed=99)
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert [second(*z).item() for _ in range(2)] == expected[2:]


def test_evaluation_samples_but_moves_no_counter():
    z = naive.embeddings(2, 8)
    loss_fn = ContrastiveLoss("uniform(num_negatives=2)", seed=0)
    with torch.no_grad():
        first, second = loss_fn(*z), loss_fn(*z)
    assert first == second == loss_fn(*z)
    assert loss_fn(*z) != first


def test_a_module_that_holds_the_loss_saves_its_state():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2))
    model.criterion = ContrastiveLoss("uniform(num_negatives=2)", seed=4)
    assert model.state_dict()["criterion._extra_state"] == {
        "seed": 4,
        "step": 0,
        "call": 0,
        "further": 0,
    }


Z = torch.ones(4, 3)


@pytest.mark.parametrize(
    ("views", "error", "message"),
    [
        ((Z, Z[:3]), ValueError, r"one shape \[B, d\], got z0 \(4, 3\) and z1 \(3, 3\)"),
        ((Z[0], Z[0]), ValueError, r"z0 must have shape \[B, d\]"),
        ((Z[:0], Z[:0]), ValueError, r"z0 must have shape \[B, d\]"),
        ((Z.long(), Z.long()), TypeError, "z0 must be a floating-point tensor, got torch.int64"),
        ((Z, [1.0]), TypeError, "z1 must be a tensor"),
        ((Z, Z * torch.nan), ValueError, "z1 holds NaN or infinite"),
    ],
)
def test_bad_views(views, error, message):
    with pytest.raises(error, match=message):
        ContrastiveLoss()(*views)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"indexes": torch.arange(3)}, ValueError, r"indexes must be a tensor \[4\]"),
        ({"labels": torch.ones(4)}, TypeError, "labels must be integers"),
        ({"labels": [1, 2, 3, 4]}, ValueError, r"labels must be a tensor \[4\]"),
    ],
)
def test_bad_metadata(given, error, message):
    with pytest.raises(error, match=message):
        ContrastiveLoss()(torch.randn(4, 3), torch.randn(4, 3), **given)


@pytest.mark.parametrize(
    ("temperature", "error"),
    [(0, ValueError), (-0.1, ValueError), (float("nan"), ValueError), ("0.1", TypeError)],
)
def test_bad_temperature(temperature, error):
    with pytest.raises(error, match="temperature must be"):
        ContrastiveLoss(temperature=temperature)


@pytest.mark.parametrize(
    ("expression", "error", "message"),
    [
        ("uniform(num_negatives=0)", ValueError, "num_negatives must be at least 1, got 0"),
        ("uniform(num_negatives=2.5)", TypeError, "num_negatives must be an integer, got 2.5"),
        ("uniform(num_negatives=True)", TypeError, "num_negatives must be an integer"),
        ("uniform(num_negatives=1, shared=1)", TypeError, "shared must be True or False"),
        ("uniform(num_negatives=1, source=3)", TypeError, "source must be a sampler"),
    ],
)
def test_bad_sampler_arguments(expression, error, message):
    with pytest.raises(error, match=message):
        ContrastiveLoss(expression)


def test_bad_objective_argument():
    with pytest.raises(ValueError, match="positives must be one of"):
        make_objective("infonce(positives='all')")


@pytest.mark.parametrize("sampler", ["in_batch()", "uniform(num_negatives=3)"])
def test_anchors_without_identity_are_negatives_of_each_other_but_not_of_themselves(sampler):
    (z,) = naive.embeddings(1, 6)
    unit = torch.nn.functional.normalize(z, dim=1)
    batch = ContrastiveBatch.from_ids(unit, torch.tensor([0, 0, 1, 1, -1, -1]))
    negatives = ContrastiveLoss(sampler).sampler.sample(batch)
    assert negatives.counts(batch.anchor_ids).tolist() == (
        [4, 4, 4, 4, 5, 5] if sampler == "in_batch()" else [3] * 6
    )
    if sampler == "in_batch()":
        ours = ContrastiveLoss(temperature=0.3).contrast(batch)
        reference = naive.supervised(z, torch.tensor([0, 0, 1, 1, 8, 9]), 0.3, "sum")
        torch.testing.assert_close(ours, reference)


def test_unknown_anchor_differs_from_unknown_key():
    assert not (comparable_ids(torch.tensor([-1])) == torch.tensor([-1])).any()


OBJECTIVES = [
    "infonce(positives='sum')",
    "infonce(positives='each')",
    "infonce(positives='mean')",
    "decoupled()",
    "decoupled(sigma=0.5)",
    "debiased(tau_plus=0.1)",
    "debiased(tau_plus=0.0)",
    "debiased(tau_plus=0.1, beta=1.0)",
    "relic()",
]
FORMS = ["chosen", "chosen-masked", "one-weight", "whole", "several-parts"]


def weightless(batch, form):
    """Negatives of which those of anchors 0 and 5 weigh nothing; some of anchor 1's do."""
    count = len(batch.anchors)
    columns = torch.stack([(torch.arange(1, 5) + row) % count for row in range(count)])
    width = {"one-weight": 1, "whole": count}.get(form, 4)
    weight = torch.linspace(-1, 1, count * width, dtype=torch.float64).view(count, width)
    weight[[0, 5]] = -torch.inf
    if width > 1:
        weight[1, :2] = -torch.inf
    mask = None
    if form == "chosen-masked":
        mask = torch.ones(count, 4, dtype=torch.bool)
        mask[[0, 2], 1] = False
    columns = None if form == "whole" else columns
    part = Negatives(batch.keys, batch.key_ids, columns, mask, log_weight=weight)
    if form == "several-parts":
        return Negatives(**vars(part) | {"others": (weightless(batch, "chosen"),)})
    return part


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("temperature", [0.5, 0.02])
def test_anchors_whose_negatives_weigh_nothing_pay_nothing(objective, form, temperature):
    z = naive.embeddings(2, 6)
    batch = ContrastiveBatch.from_views(tuple(z))
    negatives = weightless(batch, form)
    total = negative_logsumexp(batch, negatives, temperature)
    none = torch.zeros(12, dtype=torch.bool)
    none[[0, 5]] = True
    assert torch.equal(total == -torch.inf, none)
    losses = make_objective(objective)(batch, negatives, temperature)
    assert losses.isfinite().all()
    assert (losses[none] == 0).all()
    gradients = naive.gradients(losses.sum(), z)
    assert gradients.isfinite().all()
    assert gradients.norm() > 0
    # The other anchors' losses, and their gradients, are those of a batch without these two.
    paying = naive.gradients(losses[~none].sum(), z)
    torch.testing.assert_close(gradients, paying, rtol=1e-12, atol=1e-15)
    assert naive.gradients(losses[none].sum(), z).abs().sum() == 0


@pytest.mark.parametrize("sampler", ["uniform(num_negatives=10)", "hard(num_negatives=10)"])
def test_a_resumed_run_may_begin_with_a_ragged_batch(sampler):
    straight, resumed = ContrastiveLoss(sampler, seed=0), ContrastiveLoss(sampler, seed=9)
    straight(*naive.embeddings(2, 8)).backward()
    resumed.load_state_dict(straight.state_dict())
    losses = []
    for loss_fn in (straight, resumed):
        with pytest.warns(UserWarning, match="a ragged batch offers 4 negatives instead of num_n"):
            losses.append(loss_fn(*naive.embeddings(2, 3)))
    assert torch.equal(*losses)
    # In a first step it is an error: a full batch has no more.
    with pytest.raises(ValueError, match="num_negatives=10 is more than the 4 negatives"):
        ContrastiveLoss(sampler)(*naive.embeddings(2, 3))
