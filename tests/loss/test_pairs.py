"""``ContrastiveLoss.pairs``: two encoders, given hard negatives, both directions or one."""

from __future__ import annotations

import naive
import pytest
import ranks
import torch
from device import DEVICE
from torch.nn.functional import cross_entropy, normalize

from negplug import ContrastiveLoss, LearnedTemperature
from negplug.contract.pairs import batch_of_pairs


def towers(size=6, hard=0, width=8, seed=0):
    """Queries, documents and, of each query, some hard negatives ``[B, M, d]``."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(size, width), (size, width), (size, hard, width)][: 3 if hard else 2]
    draw = {"generator": generator, "dtype": torch.float64}
    return [torch.randn(shape, **draw).to(DEVICE).requires_grad_() for shape in shapes]


def clip(queries, documents, scale):
    """Radford et al. 2021, figure 3."""
    logits = normalize(queries, dim=1) @ normalize(documents, dim=1).T * scale
    own = torch.arange(len(logits), device=logits.device)
    return (cross_entropy(logits, own) + cross_entropy(logits.T, own)) / 2


def ranking(queries, documents, hard, scale):
    """MultipleNegativesRankingLoss: each query among all documents and all hard negatives."""
    documents = torch.cat([documents, *hard.unbind(1)])
    logits = normalize(queries, dim=1) @ normalize(documents, dim=1).T * scale
    return cross_entropy(logits, torch.arange(len(logits), device=logits.device))


def assert_same(ours, theirs, inputs):
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    wanted = naive.gradients(theirs, inputs)
    assert naive.relative(naive.gradients(ours, inputs), wanted) < 1e-12


@pytest.mark.parametrize("temperature", [1.0, 0.07, 0.01])
def test_both_directions_are_clips(temperature):
    z = towers()
    ours = ContrastiveLoss(temperature=temperature).pairs(*z)
    assert_same(ours, clip(*z, 1 / temperature), z)


@pytest.mark.parametrize("flat", [False, True])
def test_hard_negatives_of_each_query_serve_all(flat):
    z = towers(hard=3)
    given = z[2].flatten(end_dim=1) if flat else z[2]
    ours = ContrastiveLoss(temperature=0.05).pairs(*z[:2], given, symmetric=False)
    assert_same(ours, ranking(*z, 20.0), z)


def test_both_directions_with_hard_negatives_of_the_queries():
    z = towers(hard=2)
    ours = ContrastiveLoss(temperature=0.1).pairs(*z)
    back = cross_entropy(
        normalize(z[1], dim=1) @ normalize(z[0], dim=1).T * 10, torch.arange(6, device=DEVICE)
    )
    assert_same(ours, (ranking(*z, 10.0) + back) / 2, z)


SAMPLERS = [
    "in_batch()",
    "in_batch(views='cross')",
    "gather()",
    "uniform(num_negatives=4)",
    "uniform(num_negatives=4, shared=True, correction=True)",
    "queue(size=40)",
    "hard(num_negatives=3)",
    "stratified(num_negatives=3, same=0.0)",
    "filtered(by='labels')",
    "synthetic(num_mixed=3, num_hardest=4)",
    "gumbel_max(num_negatives=3)",
    "hierarchical(in_batch(), queue(size=40))",
]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_takes_hard_negatives_for_negatives_alone(sampler):
    loss_fn = ContrastiveLoss(sampler)
    for step in range(3):
        z = towers(hard=2, seed=step)
        names = torch.arange(6, device=DEVICE) + 6 * step
        loss = loss_fn.pairs(*z, indexes=names, labels=names % 5)
        loss.backward()
        assert loss.isfinite()
    assert z[0].grad.norm() > 0
    batch = batch_of_pairs(*towers(hard=2), indexes=names, labels=names % 5)
    assert (batch.positives.flatten() == torch.arange(6, device=DEVICE)).all()
    for part in loss_fn.sampler(batch):
        serving = part.serving(batch.anchors)
        columns = getattr(part.choice, "columns", None)
        if part.rows.same_as(batch.keys) and columns is None:
            assert serving[:, 6:].all()  # of all queries
            assert not serving[:, :6].diagonal().any()
        elif part.rows.same_as(batch.keys):
            own = columns == torch.arange(6, device=DEVICE)[:, None]
            assert not (own & serving).any()


@pytest.mark.parametrize("sampler", ["memory_bank()", "emc2()", "isir()"])
def test_samplers_by_index_take_pairs(sampler):
    loss_fn = ContrastiveLoss(sampler)
    for step in range(3):
        names = (torch.arange(6, device=DEVICE) + 3 * step) % 12
        loss = loss_fn.pairs(*towers(seed=step), indexes=names)
        loss.backward()
        assert loss.isfinite()


@pytest.mark.parametrize("sampler", ["emc2()", "isir()", "memory_bank()", "memory_bank(size=9)"])
def test_what_keeps_something_by_sample_refuses_rows_that_are_none(sampler):
    with pytest.raises(ValueError, match="but one is -1; given hard negatives, being no samples"):
        ContrastiveLoss(sampler).pairs(*towers(hard=2), indexes=torch.arange(6, device=DEVICE))


def test_each_direction_remembers_the_other_encoder_alone():
    """In training, and in the evaluation that follows."""
    loss_fn = ContrastiveLoss("queue(size=12)", temperature=0.5)
    queries, documents = towers()
    loss_fn.pairs(queries, documents).backward()
    loss_fn.end_step()
    with torch.no_grad():
        found = loss_fn.pairs(*towers(seed=1))
    past = [normalize(rows.detach(), dim=1) for rows in (documents, queries)]
    expected = 0.0
    one = [normalize(view.detach(), dim=1) for view in towers(seed=1)]
    for anchors, keys, rows in ((*one, past[0]), (*one[::-1], past[1])):
        logits = torch.cat([(anchors * keys).sum(1)[:, None], anchors @ rows.T], dim=1) / 0.5
        expected += (logits.logsumexp(1) - logits[:, 0]).mean() / 2
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("sampler", ["queue(size=20)", "uniform(2, source=memory_bank(size=9))"])
def test_both_directions_go_on_where_they_stopped(sampler):
    def trained(loss_fn, steps):
        found = []
        for step in steps:
            z = towers(seed=step)
            names = (torch.arange(6, device=DEVICE) + 3 * step) % 9
            found.append(loss_fn.pairs(*z, indexes=names))
            found += torch.autograd.grad(found[-1], [*z, *loss_fn.parameters()])
            loss_fn.end_step()
        return found

    def new():
        return ContrastiveLoss(sampler, temperature=LearnedTemperature(0.2), seed=1).to(DEVICE)

    stopped, resumed = new(), new()
    expected = trained(new(), range(5))[-8:]
    trained(stopped, range(3))
    resumed.load_state_dict(stopped.state_dict())
    found = trained(resumed, range(3, 5))
    assert all(one.equal(other) for one, other in zip(found, expected, strict=True))


def on_a_rank(rank, world):
    cuts = {1: [0, 6], 4: [0, 1, 3, 4, 6]}[world]
    z = towers(hard=2)
    own = [view.detach()[cuts[rank] : cuts[rank + 1]].requires_grad_() for view in z]
    learned = LearnedTemperature(0.2).double()
    loss = ContrastiveLoss("gather()", temperature=learned).pairs(*own)
    *found, slope = torch.autograd.grad(loss, [*own, learned.logit_scale])
    return [each / world for each in found], slope / world


def test_ranks_equal_one_process():
    alone, slope = on_a_rank(0, 1)
    together, slopes = zip(*ranks.run(on_a_rank, 4), strict=True)
    assert abs(sum(slopes) - slope) < 1e-12
    for number, expected in enumerate(alone):
        found = torch.cat([each[number] for each in together])
        assert naive.relative(found, expected) < 1e-12


def test_steps_need_no_value():
    loss_fn = ContrastiveLoss("queue(size=40)", temperature=LearnedTemperature()).to("meta")
    for _ in range(3):
        loss_fn.pairs(*(z.detach().to("meta").requires_grad_() for z in towers(hard=2))).backward()


def test_what_cannot_be_used_is_refused():
    pairs = ContrastiveLoss().pairs
    queries, documents, hard = towers(hard=2)
    with pytest.raises(TypeError, match="queries must be a tensor"):
        pairs([1.0], documents)
    with pytest.raises(ValueError, match=r"queries and documents must have one shape \[B, d\]"):
        pairs(queries, documents[:3])
    with pytest.raises(ValueError, match="documents holds NaN or infinite"):
        pairs(queries, documents / 0)
    for wrong in (hard[:3], hard[..., :4], hard.flatten(end_dim=1)[:5]):
        with pytest.raises(ValueError, match=r"hard_negatives must have shape \[6, M, 8\] or"):
            pairs(queries, documents, wrong)
    with pytest.raises(TypeError, match="hard_negatives and documents must both be"):
        pairs(queries, documents, hard.float())
    with pytest.raises(TypeError, match="documents and queries must both be"):
        pairs(queries, documents.half())
    with pytest.raises(ValueError, match="hard_negatives must be on the device of documents, cpu"):
        pairs(queries.cpu(), documents.cpu(), hard.to("meta"))
    with pytest.raises(ValueError, match="z1 must be on the device of z0, cpu, got meta"):
        ContrastiveLoss()(queries.cpu(), documents.to("meta"))
    with pytest.raises(TypeError, match="hard_negatives must be a tensor"):
        pairs(queries, documents, [1.0])
    with pytest.raises(ValueError, match="hard_negatives holds NaN or infinite"):
        pairs(queries, documents, hard / 0)
