"""Effective number and hardness of negatives, and what a loss call observes, against loops."""

from __future__ import annotations

import math

import naive
import pytest
import torch
from pools import columns_of
from torch.utils._python_dispatch import TorchDispatchMode

from negplug import ContrastiveBatch, ContrastiveLoss, Mixtures
from negplug.contract.negatives import total_counts
from negplug.diagnostics import effective_number, hardness

TAU = 0.2

PARTITION = [
    "in_batch()",
    "uniform(num_negatives=5)",
    "uniform(num_negatives=5, shared=True, correction=True)",
    "queue(size=40)",
    "filtered(source=in_batch(), similarity=0.2)",
    "filtered(source=uniform(num_negatives=8), similarity=0.2)",
    "stratified(num_negatives=4, by='labels')",
    "hierarchical(in_batch(), uniform(num_negatives=4, correction=True, source=queue(size=40)))",
    "hierarchical(in_batch(), queue(size=40))",
    "synthetic(num_mixed=4, num_hardest=8, source=queue(size=40))",
]
POSTERIOR = ["gumbel_max(num_negatives=3)", "isir(out_of_batch='drop')"]


def batch_and_negatives(expression, size=8):
    """A batch and what the sampler gives it, after two steps of training."""
    loss_fn = ContrastiveLoss(expression, temperature=TAU, seed=1)
    indexes, labels = torch.arange(size), torch.arange(size) % 3
    for step in range(3):
        views = naive.embeddings(2, size, seed=step)
        loss_fn(*views, indexes=indexes + step * size, labels=labels).backward()
    loss_fn.end_step()
    views = tuple(naive.embeddings(2, size, seed=3))
    batch = ContrastiveBatch.from_views(views, indexes + 4, labels)
    return batch.detach(), tuple(part.detach() for part in loss_fn.sampler(batch))


def listed(batch, negatives, anchor):
    """(similarity, log weight) of each of an anchor's negatives, in float64."""
    found = []
    a = batch.anchors.embeddings[anchor]
    for part in negatives:
        chosen = columns_of(part)
        columns = range(len(part.rows)) if chosen is None else chosen[anchor].tolist()
        for place, column in enumerate(columns):
            if part.mask is not None and not part.mask[anchor, place]:
                continue
            if chosen is None and part.rows.ids[column] == batch.anchors.ids[anchor]:
                continue
            row = part.rows.embeddings[column]
            if isinstance(part.choice, Mixtures):
                c = part.choice.coefficients[anchor, place]
                row = c[0] * row + c[1] * part.rows.embeddings[part.choice.second[anchor, place]]
            weight = 0.0
            if part.log_weight is not None:
                w = part.log_weight
                weight = float(w.expand(len(batch.anchors), -1)[anchor, place % w.shape[1]])
            found.append((float(a @ row), weight))
    return found


@pytest.mark.parametrize("expression", PARTITION)
def test_effective_number_and_hardness_of_negatives_in_the_denominator(expression):
    batch, negatives = batch_and_negatives(expression)
    effective = effective_number(batch, negatives, TAU)
    hard = hardness(batch, negatives)
    sizes = []
    for i in range(len(batch.anchors)):
        each = listed(batch, negatives, i)
        sizes.append(len(each))
        e = [math.exp(s / TAU + w) for s, w in each]
        expected = sum(e) ** 2 / sum(x * x for x in e) if e else 0.0
        assert effective[i].item() == pytest.approx(expected, rel=1e-6)
        mean = sum(s for s, _ in each) / len(each) if each else math.nan
        assert hard[i].item() == pytest.approx(mean, rel=1e-6, abs=1e-9, nan_ok=True)
    assert sizes == total_counts(negatives, batch.anchors).tolist()
    assert max(sizes) > 1


@pytest.mark.parametrize("expression", POSTERIOR)
def test_draws_from_the_softmax_have_a_hardness_alone(expression):
    batch, negatives = batch_and_negatives(expression)
    hard = hardness(batch, negatives)
    for i in range(len(batch.anchors)):
        each = listed(batch, negatives, i)
        mean = sum(math.exp(w) * s for s, w in each)
        assert hard[i].item() == pytest.approx(mean, rel=1e-6, nan_ok=True)
    with pytest.raises(ValueError, match="got draws from the softmax; see effective_draws"):
        effective_number(batch, negatives, TAU)


def test_the_effective_number_lies_between_one_and_the_number():
    z = torch.eye(6)[[0, 1, 2, 3, 4, 5]]
    batch = ContrastiveBatch.from_views((z, z))
    alike = effective_number(batch, [batch.all_keys()], 0.1)  # all orthogonal
    assert torch.allclose(alike, torch.full((12,), 10.0))
    z = torch.tensor([[1.0, 0.0], [1.0, 0.1], [-1.0, 0.0], [-1.0, 0.5]])
    batch = ContrastiveBatch.from_pairs(z, z)
    one = effective_number(batch, [batch.all_keys()], 0.005)  # e^400 overflows float32
    assert one[0].item() == pytest.approx(1.0)


def observed(expression, views, **kwargs):
    loss_fn = ContrastiveLoss(expression, temperature=TAU, seed=1)
    loss_fn(*views, **kwargs).backward()
    loss_fn.observe = True
    loss_fn(*views, **kwargs)
    return loss_fn.observed


def test_what_a_call_observes():
    views = naive.embeddings(2, 6, seed=4)
    found = observed("in_batch()", views)
    z = torch.cat(views).detach()
    z = z / z.norm(dim=1, keepdim=True)
    other = [(i, j) for i in range(12) for j in range(12) if i % 6 != j % 6]
    apart = [float((z[i] - z[j]) @ (z[i] - z[j])) for i, j in other]
    pairs = [float((z[i] - z[i + 6]) @ (z[i] - z[i + 6])) for i in range(6)]
    effective = []
    for i in range(12):
        e = torch.stack([torch.exp(z[i] @ z[j] / TAU) for k, j in other if k == i])
        effective.append(float(e.sum() ** 2 / (e * e).sum()))
    assert found == pytest.approx(
        {
            "num_negatives": 10,
            "infonce": naive.simclr(views, TAU).item(),
            "effective_negatives": sum(effective) / 12,
            "hardness": sum(float(z[i] @ z[j]) for i, j in other) / len(other),
            "alignment": sum(pairs) / 6,
            "uniformity": math.log(sum(math.exp(-2 * d) for d in apart) / len(apart)),
        },
        rel=1e-6,
    )


def test_what_does_not_exist_is_left_out():
    views = naive.embeddings(2, 1)
    assert observed("in_batch()", views).keys() == {
        "num_negatives",
        "infonce",
        "effective_negatives",
        "alignment",
    }
    drawn = observed("gumbel_max(num_negatives=3)", naive.embeddings(2, 6))
    assert "effective_negatives" not in drawn
    assert -1 <= drawn["hardness"] <= 1


class Largest(TorchDispatchMode):
    """Keeps the largest size among the tensors that operations return."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for each in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(each, torch.Tensor):
                self.numel = max(self.numel, each.numel())
        return out


def test_nothing_dense_appears_for_a_long_queue():
    loss_fn = ContrastiveLoss("queue(size=6000)", temperature=TAU)
    generator = torch.Generator().manual_seed(0)
    loss_fn(*torch.randn(2, 3000, 8, generator=generator, requires_grad=True)).backward()
    views = torch.randn(2, 16, 8, generator=generator, requires_grad=True)
    loss_fn.observe = True
    with Largest() as largest:
        loss_fn(*views)
    assert loss_fn.observed["num_negatives"] == 6000
    assert 6000 * 8 <= largest.numel < 6000 * 32
