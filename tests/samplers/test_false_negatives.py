"""``false_negatives``: value and gradient against loops, what is refused, and what is logged."""

from __future__ import annotations

from dataclasses import replace

import naive
import pytest
import torch
from device import DEVICE

from negplug import ContrastiveBatch, ContrastiveLoss, NegativeSampler, make_sampler
from negplug.loss.temperature import LearnedTemperature
from negplug.samplers.false_negatives import FalseNegatives
from negplug.samplers.in_batch import InBatch

TAU = 0.3


def looped(anchors, keys, support, own, candidates, top, threshold, attract):
    """The loss of Huynh et al. 2022, an anchor at a time; ``own`` are columns of the positives."""
    losses, found = [], 0
    for i, anchor in enumerate(anchors):
        scores = {j: max(float(s @ keys[j].detach()) for s in support[i]) for j in candidates[i]}
        nearest = sorted(scores, key=lambda j: (-scores[j], j))[:top]
        false = [j for j in nearest if scores[j] > threshold]
        found += len(false)
        kept = [j for j in candidates[i] if j not in false]
        positives = own[i] + (false if attract else [])
        logits = keys @ anchor / TAU
        losses.append(logits[positives + kept].logsumexp(0) - logits[positives].mean())
    return torch.stack(losses).mean(), found / len(anchors)


def of_views(z, top, threshold, attract, views=None):
    rows = torch.nn.functional.normalize(torch.cat(list(z)), dim=1)
    count, size = len(z), len(z[0])
    # The views behind the anchor's, and those before it.
    own = [[(i + n * size) % len(rows) for n in range(1, count)] for i in range(len(rows))]
    support = [rows.detach()[[i, *own[i]][:views]] for i in range(len(rows))]
    others = [[j for j in range(len(rows)) if j % size != i % size] for i in range(len(rows))]
    return looped(rows, rows, support, own, others, top, threshold, attract)


@pytest.mark.parametrize("support", [1, 2, None])
def test_padded_positives_support_as_others_do(support):
    """Of a host that names samples by ids, whose positives have a place for the anchor itself."""
    z = naive.embeddings(3, 6)
    rows = torch.nn.functional.normalize(torch.cat(z), dim=1)
    padded = ContrastiveBatch.from_ids(rows, torch.arange(6).repeat(3).to(DEVICE))
    assert (padded.positives < 0).any()
    # In the order of the views, as ids have them.
    views = ContrastiveBatch.from_views(z)
    views = replace(views, positives=views.positives.sort(1).values)
    sampler = make_sampler(f"false_negatives(top=4, threshold=0.2, support_views={support})")
    one, other = sampler(padded)[0].attracted, sampler(views)[0].attracted
    assert torch.equal(one.sort(1).values, other.sort(1).values)
    with pytest.raises(ValueError, match="support_views=4 is more than the 3 views"):
        make_sampler("false_negatives(support_views=4)")(padded)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("action", ["attract", "eliminate"])
@pytest.mark.parametrize(
    ("views", "top", "threshold", "support"),
    [(2, 3, -1.0, None), (2, 6, 0.2, 1), (3, 4, 0.4, None), (4, 5, 0.5, 2)],
)
def test_views_equal_a_loop(action, views, top, threshold, support):
    z = naive.embeddings(views, 8)
    reference, found = of_views(z, top, threshold, action == "attract", support)
    assert 0 < found
    assert threshold < 0 or found < top  # some anchors have fewer
    given = "" if support is None else f", support_views={support}"
    sampler = f"false_negatives({action!r}, top={top}, threshold={threshold}{given})"
    # One positive of each anchor is the same in all forms; several combine as the paper says.
    objective = "infonce()" if action == "attract" else "infonce(positives='mean')"
    loss_fn = ContrastiveLoss(sampler, objective, TAU)
    loss_fn.observe = True
    ours = loss_fn(*z)
    torch.testing.assert_close(ours, reference, rtol=1e-12, atol=0)
    assert naive.relative(naive.gradients(ours, z), naive.gradients(reference, z)) < 1e-12
    assert loss_fn.observed["num_false_negatives"] == pytest.approx(found)
    assert loss_fn.observed["num_negatives"] == pytest.approx(views * 7 - found)


class Barred(NegativeSampler):
    """All keys but those that one of the views may not have."""

    def sample(self, batch):
        mask = torch.ones(16, 16, dtype=torch.bool, device=DEVICE)
        mask[5] = False
        return batch.all_keys().masked(mask)


def permuted(batch):
    """Positives that are views of other samples, in one of the views."""
    shifted = 8 + (batch.positives + 1) % 8
    positives = batch.positives.where(batch.positives < 8, shifted)
    return replace(batch, positives=positives, unpadded=positives)


def renamed(batch):
    """A row that goes by the name of another sample."""
    ids = batch.anchors.ids.clone()
    ids[10] = ids[3]
    return replace(batch, anchors=replace(batch.anchors, ids=ids))


@pytest.mark.parametrize("source", [InBatch, Barred])
@pytest.mark.parametrize("change", [permuted, renamed, replace])
def test_views_of_a_sample_that_are_not_alike_have_their_own_false_negatives(source, change):
    batch = change(ContrastiveBatch.from_views(naive.embeddings(2, 8)))
    sampler = FalseNegatives(top=3, threshold=-1.0, source=source())
    attracted = sampler(batch)[0].attracted
    rows, serving = batch.keys.embeddings.detach(), source()(batch)[0].serving(batch.anchors)
    for i, own in enumerate(batch.positives[:, 0].tolist()):
        scores = torch.maximum(rows @ rows[i], rows @ rows[own]).where(serving[i], -torch.inf)
        wanted = [j for j in scores.argsort(descending=True)[:3].tolist() if serving[i, j]]
        assert [j for j in attracted[i].tolist() if j >= 0] == wanted


@pytest.mark.parametrize("source", ["queue(size=20)", "hierarchical(in_batch(), queue(size=20))"])
def test_pairs_and_a_queue_equal_a_loop(source):
    loss_fn = ContrastiveLoss(
        f"false_negatives(top=6, threshold=0.3, source={source})", temperature=TAU
    )
    batches = [naive.embeddings(2, 7, seed=seed) for seed in range(3)]
    past = []
    for number, z in enumerate(batches):
        query, key = (torch.nn.functional.normalize(each, dim=1) for each in z)
        ours = loss_fn.contrast(ContrastiveBatch.from_pairs(*z))
        if number == 2:
            keys = torch.cat([key, *past])
            own = [[i] for i in range(7)]
            support = [torch.stack([query[i], key[i]]).detach() for i in range(7)]
            queued = list(range(7, 21))[-14:]
            batch = [list(range(7)) if "in_batch" in source else [] for _ in range(7)]
            candidates = [[j for j in batch[i] if j != i] + queued for i in range(7)]
            reference, found = looped(query, keys, support, own, candidates, 6, 0.3, attract=True)
            assert 1 < found < 6
            torch.testing.assert_close(ours, reference, rtol=1e-12, atol=0)
            assert naive.relative(naive.gradients(ours, z), naive.gradients(reference, z)) < 1e-12
        ours.backward()
        loss_fn.end_step()
        past.append(key.detach())


def test_ties_go_to_the_smaller_column():
    axes = torch.eye(4, dtype=torch.float64, device=DEVICE)
    batch = ContrastiveBatch.from_pairs(axes, axes)
    (part,) = make_sampler("false_negatives(top=2, threshold=-1, support_views=1)")(batch)
    assert part.attracted.sort(1).values.tolist() == [[1, 2], [0, 2], [0, 1], [0, 1]]
    # Nothing is above a threshold that it equals.
    (none,) = make_sampler("false_negatives(top=2, threshold=0)")(batch)
    assert none.attracted.tolist() == [[-1, -1]] * 4
    assert none.counts(batch.anchors).tolist() == [3] * 4


@pytest.mark.parametrize("form", ["sum", "each", "mean"])
def test_a_form_that_was_asked_for_stays(form):
    z = naive.embeddings(2, 8)
    batch = ContrastiveBatch.from_views(z)
    sampler = make_sampler("false_negatives(top=3, threshold=0.1)")
    (part,) = sampler(batch)
    ours = ContrastiveLoss(sampler, f"infonce(positives={form!r})", TAU)(*z)
    losses = []
    for i, logits in enumerate(batch.keys.embeddings @ batch.anchors.embeddings.T / TAU):
        pulled = [(i + 8) % 16, *(j for j in part.attracted[i].tolist() if j >= 0)]
        push = logits[part.serving(batch.anchors)[i]].logsumexp(0)
        pulls = logits[pulled]
        if form == "each":
            losses.append((torch.logaddexp(pulls, push) - pulls).mean())
        else:
            pull = pulls.logsumexp(0) if form == "sum" else pulls.mean()
            losses.append(torch.logaddexp(pulls.logsumexp(0), push) - pull)
    torch.testing.assert_close(ours, torch.stack(losses).mean(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("source", ["in_batch()", "queue(size=30)"])
def test_a_temperature_that_learns_gets_its_gradient(source):
    def loss_of(temperature):
        sampler = f"false_negatives(top=3, threshold=0.1, source={source})"
        loss_fn = ContrastiveLoss(sampler, temperature=temperature, seed=0)
        for seed in range(2):
            loss = loss_fn(*naive.embeddings(2, 8, seed=seed))
            loss.backward(retain_graph=seed == 1)
            loss_fn.end_step()
        return loss

    learned = LearnedTemperature(0.3)
    loss = loss_of(learned)
    learned.logit_scale.grad = None
    loss.backward()
    torch.testing.assert_close(loss, loss_of(0.3), rtol=1e-6, atol=0)
    step = 1e-4
    slope = (loss_of(0.3 + step) - loss_of(0.3 - step)) / (2 * step)
    # By t = −log τ.
    wanted = (-0.3 * slope).float().cpu()
    torch.testing.assert_close(learned.logit_scale.grad, wanted, rtol=1e-3, atol=0)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ("'push'", ValueError, r"action must be one of \('attract', 'eliminate'\), got 'push'"),
        ("top=0", ValueError, "top must be at least 1, got 0"),
        ("top=2.5", TypeError, "top must be an integer"),
        ("threshold=1", ValueError, r"threshold must be in \[-1, 1\), got 1"),
        ("threshold='near'", TypeError, "threshold must be a number, got 'near'"),
        ("support_views=0", ValueError, "support_views must be at least 1, got 0"),
        ("source=3", TypeError, "source must be a sampler, got 3"),
    ],
)
def test_arguments_that_cannot_be_used(arguments, error, message):
    with pytest.raises(error, match=f"false_negatives: {message}"):
        make_sampler(f"false_negatives({arguments})")


def test_more_views_than_there_are():
    loss_fn = ContrastiveLoss("false_negatives(top=2, support_views=3)")
    loss_fn(*naive.embeddings(3, 8))
    with pytest.raises(ValueError, match="support_views=3 is more than the 2 views"):
        loss_fn(*naive.embeddings(2, 8))


def test_a_batch_whose_negatives_may_all_be_false_is_said():
    with pytest.warns(UserWarning, match="top=10 may take all of the 6 negatives"):
        ContrastiveLoss("false_negatives()")(*naive.embeddings(2, 4))
