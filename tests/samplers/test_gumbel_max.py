"""``gumbel_max``: draws from the softmax itself, against loops and with stated confidence."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import naive
import pytest
import torch
from scipy import stats
from torch.utils._python_dispatch import TorchDispatchMode

from negplug import (
    ContrastiveBatch,
    ContrastiveLoss,
    Draws,
    Negatives,
    NegativeSampler,
    make_objective,
    make_sampler,
)
from negplug.kernels.pool import tiled
from negplug.objectives.logits import negative_term
from negplug.samplers.gumbel_max import GumbelMax, _invert

CONFIDENCE = 1 - 1e-6
ROWS = 23


class Given(NegativeSampler):
    """A source that offers what the test wrote down."""

    def __init__(self, negatives):
        super().__init__()
        self.negatives = negatives

    def sample(self, batch):
        return self.negatives


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def unit(rows, seed, dtype=torch.float32, width=8):
    z = torch.randn(rows, width, dtype=torch.float64, generator=seeded(seed))
    return torch.nn.functional.normalize(z, dim=1).to(dtype)


def batch_of(size, temperature=0.2, dtype=torch.float32, seed=7):
    views = tuple(z.to(dtype) for z in naive.embeddings(2, size, width=8))
    batch = ContrastiveBatch.from_views(views)
    return replace(batch, draws=Draws(seed), temperature=temperature)


def offered(batch, form, dtype=torch.float32):
    """What a source may offer: rows of the anchors' own ids among others, and each row twice."""
    count = len(batch.anchors)
    pool = unit(ROWS, 8, dtype)
    pool[ROWS // 2 + 1 :] = pool[: ROWS // 2]
    ids = torch.cat([batch.anchor_ids, batch.anchor_ids.new_tensor([-1] * count)])
    own = torch.randint(2 * count, (ROWS,), generator=seeded(1))
    whole = Negatives(pool=pool, pool_ids=ids[own])
    weight = 2 * torch.randn(count, ROWS, dtype=dtype, generator=seeded(2))
    mask = torch.rand(count, ROWS, generator=seeded(3)) < 0.7
    columns = torch.rand(count, ROWS, generator=seeded(4)).argsort(1)[:, :11]
    masked = replace(whole, columns=columns, mask=mask[:, :11], log_weight=weight[:1, :11])
    return {
        "whole": whole,
        "weighted": replace(whole, log_weight=weight),
        "masked": replace(whole, mask=mask, log_weight=weight[:1]),
        "chosen": replace(whole, columns=columns),
        "two parts": replace(
            replace(whole, log_weight=weight[:, :1]),
            others=(replace(masked, pool=unit(ROWS, 9, dtype)),),
        ),
    }[form]


def softmax(batch, negatives):
    """Per anchor, the probability of each (pool, column), by loops in float64."""
    logits = [{} for _ in batch.anchors]
    for number, part in enumerate(negatives.parts()):
        similarities = (batch.anchors.double() @ part.pool.double().T).tolist()
        width = len(part.pool) if part.columns is None else part.columns.shape[1]
        weights = torch.zeros(1) if part.log_weight is None else part.log_weight
        weights = weights.expand(len(logits), width).tolist()
        for i, name in enumerate(batch.anchor_ids.tolist()):
            for slot in range(width):
                column = slot if part.columns is None else int(part.columns[i, slot])
                if part.columns is None and int(part.pool_ids[column]) == name != -1:
                    continue
                if part.mask is None or part.mask[i, slot]:
                    logit = similarities[i][column] / batch.temperature + weights[i][slot]
                    logits[i][number, column] = logit
    return [dict(zip(row, _softmax(list(row.values())), strict=True)) for row in logits]


def _softmax(logits):
    return torch.tensor(logits, dtype=torch.float64).softmax(0).tolist()


def draws_of(negatives):
    """Per anchor and draw the (pool, column); every draw is of one pool at most."""
    parts = list(negatives.parts())
    assert all(part.estimator == "posterior" for part in parts)
    every = torch.ones_like(parts[0].columns) > 0
    masks = torch.stack([every if part.mask is None else part.mask for part in parts])
    assert (masks.sum(0) <= 1).all()
    pools = masks.long().argmax(0)
    columns = torch.stack([part.columns for part in parts]).gather(0, pools[None])[0]
    rows = zip(masks.any(0).tolist(), pools.tolist(), columns.tolist(), strict=True)
    return [[(n, k) for there, n, k in zip(*row, strict=True) if there] for row in rows]


def chi_square(pairs):
    """Insist that each Counter follows its probabilities; rare cells are taken together."""
    total, free = 0.0, 0
    for counts, probability in pairs:
        assert counts.keys() <= probability.keys()
        number = counts.total()
        expected = {cell: number * p for cell, p in probability.items()}
        rare = [cell for cell in expected if expected[cell] < 5]
        cells = [(counts[cell], expected[cell]) for cell in expected if cell not in rare]
        seldom = sum(counts[cell] for cell in rare), sum(expected[cell] for cell in rare)
        if seldom[1] >= 5:
            cells.append(seldom)
        else:
            # Too few for χ², but so many of them, or more, are improbable too.
            assert seldom[0] == 0 or stats.poisson.sf(seldom[0] - 1, seldom[1]) > 1 - CONFIDENCE
        total += sum((found - wanted) ** 2 / wanted for found, wanted in cells)
        free += len(cells) - 1
    assert free > 0
    assert total < naive.chi_square_bound(free + 1, CONFIDENCE)


@pytest.fixture
def small_tiles(monkeypatch):
    monkeypatch.setattr(tiled, "_ROWS", 5)
    monkeypatch.setattr(tiled, "_COLUMNS", 4)


@pytest.mark.parametrize("temperature", [1.0, 0.2, 0.07, 1e-3])
@pytest.mark.parametrize("form", ["whole", "weighted", "masked", "chosen", "two parts"])
def test_draws_follow_the_softmax(form, temperature, small_tiles):
    batch = batch_of(6, temperature)
    # Nobody knows who anchor 1 is: rows without a name may be negatives of it.
    number = torch.arange(len(batch.anchors))
    batch = replace(batch, anchor_ids=batch.anchor_ids.where(number != 1, -1))
    source = offered(batch, form)
    drawn = GumbelMax(4000, Given(source)).sample(batch)
    rows = draws_of(drawn)
    assert all(len(row) == 4000 for row in rows)
    chi_square(zip(map(Counter, rows), softmax(batch, source), strict=True))


def test_draws_follow_the_softmax_of_a_large_pool():
    # Three tiles of the real size; columns are counted by fifties.
    batch = batch_of(2)
    source = Negatives(pool=unit(2500, 8), pool_ids=torch.full((2500,), -1))
    expected = []
    for row in softmax(batch, source):
        expected.append(Counter())
        for (_, column), p in row.items():
            expected[-1][column // 50] += p
    rows = draws_of(GumbelMax(10000, Given(source)).sample(batch))
    counts = (Counter(column // 50 for _, column in row) for row in rows)
    chi_square(zip(counts, expected, strict=True))


def test_draws_and_anchors_are_independent(small_tiles, monkeypatch):
    # The same anchor over and over, two draws each: the pairs are of the product distribution,
    # and so are those of two anchors side by side.
    monkeypatch.setattr(tiled, "_ROWS", 500)
    batch, times = batch_of(3), 4000
    source = offered(batch, "whole")
    p = softmax(batch, source)[0]
    batch = replace(
        batch,
        anchors=batch.anchors[:1].expand(times, -1),
        anchor_ids=batch.anchor_ids[:1].expand(times),
    )
    rows = draws_of(GumbelMax(2, Given(source)).sample(batch))
    pairs = {(a, b): p[a] * p[b] for a in p for b in p}
    chi_square([(Counter(map(tuple, rows)), pairs)])
    beside = [(rows[n][0], rows[n + 1][0]) for n in range(0, times, 2)]
    chi_square([(Counter(beside), pairs)])


@pytest.mark.parametrize("form", ["weighted", "two parts"])
def test_the_mean_gradient_is_that_of_the_log_sum_exp(form, small_tiles):
    number, batch = 20000, batch_of(5, 0.5, torch.float64)
    source = offered(batch, form, torch.float64)
    anchors = batch.anchors.detach().requires_grad_()
    batch = replace(batch, anchors=anchors)
    pools = [part.pool.requires_grad_() for part in source.parts()]
    drawn = GumbelMax(number, Given(source)).sample(batch)
    found = torch.autograd.grad(
        negative_term(batch, drawn, batch.temperature).sum(), [anchors, *pools]
    )
    # Exact mean and variance of the gradient of one draw, from the probabilities.
    mean = [torch.zeros_like(x) for x in (anchors, *pools)]
    variance = [torch.zeros_like(x) for x in (anchors, *pools)]
    with torch.no_grad():
        for i, row in enumerate(softmax(batch, source)):
            for (part, column), p in row.items():
                mean[0][i] += p * pools[part][column] / batch.temperature
                variance[0][i] += p * (pools[part][column] / batch.temperature) ** 2
                pull = anchors[i] / batch.temperature
                mean[1 + part][column] += p * pull
                variance[1 + part][column] += p * (1 - p) * pull**2
        variance[0] -= mean[0] ** 2
    entries = sum(x.numel() for x in found)
    bound = stats.norm.ppf(1 - (1 - CONFIDENCE) / (2 * entries))
    for got, wanted, spread in zip(found, mean, variance, strict=True):
        assert (spread > 0).any()
        assert ((got - wanted).abs() <= bound * (spread / number).sqrt() + 1e-12).all()
    # That mean is the gradient of Σ_i log Σ_j w_ij exp(s_ij/τ).
    exact = negative_term(batch, source, batch.temperature).sum()
    for wanted, gradient in zip(mean, torch.autograd.grad(exact, [anchors, *pools]), strict=True):
        torch.testing.assert_close(gradient, wanted)


def test_the_loss_is_the_mean_logit_of_the_draws_less_the_positive():
    batch = batch_of(6, 0.3, torch.float64)
    source = offered(batch, "two parts", torch.float64)
    drawn = GumbelMax(7, Given(source)).sample(batch)
    pools = [part.pool for part in source.parts()]
    wanted = []
    for i, row in enumerate(draws_of(drawn)):
        assert len(row) == 7
        push = sum(batch.anchors[i] @ pools[part][column] for part, column in row) / 7
        pull = batch.anchors[i] @ batch.keys[batch.positives[i, 0]]
        wanted.append((push - pull) / 0.3)
    torch.testing.assert_close(make_objective("infonce()")(batch, drawn, 0.3), torch.stack(wanted))


def test_the_loss_hands_over_its_temperature():
    # So cold that the most similar negative is the draw, and so hot that it seldom is.
    for temperature, least, most in ((1e-3, 1.0, 1.0), (100.0, 0.0, 0.5)):
        loss_fn = ContrastiveLoss("gumbel_max(num_negatives=50)", temperature=temperature)
        seen = []
        hook = loss_fn.objective.register_forward_pre_hook(lambda _, given: seen.append(given))  # noqa: B023
        loss_fn(*naive.embeddings(2, 8))
        hook.remove()
        batch, drawn, _ = seen[0]
        nearest = make_sampler("hard(num_negatives=1)")(batch).columns
        share = float((drawn.columns == nearest).double().mean())
        assert least <= share <= most


def test_a_memory_without_rows_offers_nothing():
    z = naive.embeddings(2, 6)
    loss_fn = ContrastiveLoss("gumbel_max(num_negatives=3, source=queue(size=70))")
    loss = loss_fn(*z)
    assert loss == 0
    assert not naive.gradients(loss, z).any()
    loss.backward()
    later = naive.embeddings(2, 6, seed=1)
    loss = loss_fn(*later)
    assert naive.gradients(loss, later).all()
    # Beside another source, an empty one takes no draws.
    batch = batch_of(6)
    drawn = make_sampler("gumbel_max(4, source=hierarchical(in_batch(), queue(size=70)))")(batch)
    assert drawn.counts(batch.anchor_ids).tolist() == [4] * 12


def test_an_anchor_without_negatives_draws_nothing():
    batch = batch_of(6, dtype=torch.float64)
    source = offered(batch, "masked", torch.float64)
    source.mask[2] = False
    for part in (source, offered(batch, "chosen", torch.float64)):
        part = replace(part, mask=torch.ones(12, 11) > 0) if part.columns is not None else part
        part.mask[2] = False
        drawn = GumbelMax(3, Given(part)).sample(batch)
        assert drawn.counts(batch.anchor_ids).tolist() == [3, 3, 0] + [3] * 9
        losses = make_objective("infonce()")(batch, drawn, batch.temperature)
        assert (losses == 0).tolist() == [False, False, True] + [False] * 9


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_inversion_at_the_ends_of_the_unit_interval(dtype):
    last = 1 - torch.finfo(dtype).eps / 2
    ends = torch.tensor([[0.0, 0.5 - torch.finfo(dtype).eps, 0.5, last]], dtype=dtype)
    logits = torch.full((1, 7), -torch.inf)
    logits[0, [1, 3, 4, 5]] = torch.tensor([1000.0, 850.0, 1000.0, 800.0])
    assert _invert(logits, ends).tolist() == [[1, 1, 4, 4]]
    # Widely spread logits, a third of them excluded.
    logits = 30 * torch.randn(200, 1024, generator=seeded(0))
    logits[torch.rand(logits.shape, generator=seeded(1)) < 1 / 3] = -torch.inf
    uniform = torch.rand(200, 50, dtype=dtype, generator=seeded(2))
    uniform[:, 0], uniform[:, 1] = 0, last
    columns = _invert(logits, uniform)
    p = logits.double().softmax(1)
    assert (p.gather(1, columns) > 0).all()
    above = p.cumsum(1).gather(1, columns)
    assert (above >= uniform - 1e-6).all()
    assert (above - p.gather(1, columns) <= uniform + 1e-6).all()


def test_no_tensor_has_an_entry_for_every_pair():
    class Largest(TorchDispatchMode):
        most = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            for x in out if isinstance(out, (tuple, list)) else [out]:
                if isinstance(x, torch.Tensor):
                    self.most = max(self.most, x.untyped_storage().nbytes() // x.element_size())
            return out

    batch = batch_of(500)
    source = Negatives(pool=unit(8000, 8), pool_ids=torch.full((8000,), -1))
    with Largest() as seen:
        GumbelMax(2, Given(source)).sample(batch)
    # A tile of 512 × 1024, where all pairs are 1000 × 8000.
    assert seen.most <= 512 * 1024


def test_what_cannot_be_drawn_from_is_refused():
    batch = batch_of(4)
    part = offered(batch, "chosen")
    with pytest.raises(ValueError, match=r"(?s)gumbel_max: .* already draws from the softmax"):
        GumbelMax(2, Given(replace(part, estimator="posterior"))).sample(batch)
    mixed = replace(part, partners=part.columns, coefficients=torch.ones(8, 11, 2))
    with pytest.raises(ValueError, match="are mixtures, no rows of a pool to choose among"):
        GumbelMax(2, Given(mixed)).sample(batch)
    with pytest.raises(ValueError, match="num_negatives must be at least 1, got 0"):
        GumbelMax(0)
    with pytest.raises(TypeError, match=r"num_negatives must be an integer, got 1\.5"):
        GumbelMax(1.5)
    with pytest.raises(TypeError, match="source must be a sampler, got 'queue'"):
        GumbelMax(source="queue")
