"""The loss over draws of ``gumbel_max``, what it needs, and what it refuses."""

from __future__ import annotations

from dataclasses import replace

import naive
import pytest
import torch
from device import DEVICE
from pools import only
from softmax_draws import Given, batch_of, draws_of, offered, unit
from torch.utils._python_dispatch import TorchDispatchMode

from negplug import (
    ContrastiveLoss,
    Mixtures,
    Negatives,
    Rows,
    make_objective,
    make_sampler,
)
from negplug.contract.negatives import total_counts
from negplug.samplers.gumbel_max import GumbelMax


def test_the_loss_is_the_mean_logit_of_the_draws_less_the_positive():
    batch = batch_of(6, 0.3, torch.float64)
    source = offered(batch, "two parts", torch.float64)
    drawn = GumbelMax(7, Given(*source)).sample(batch)
    pools = [part.rows.embeddings for part in source]
    wanted = []
    for i, row in enumerate(draws_of(drawn)):
        assert len(row) == 7
        push = sum(batch.anchors.embeddings[i] @ pools[part][column] for part, column in row) / 7
        pull = batch.anchors.embeddings[i] @ batch.keys.embeddings[batch.positives[i, 0]]
        wanted.append((push - pull) / 0.3)
    torch.testing.assert_close(make_objective("infonce()")(batch, drawn, 0.3), torch.stack(wanted))


def test_the_loss_hands_over_its_temperature():
    # So cold that the most similar negative is the draw, and so hot that it seldom is.
    for temperature, least, most in ((1e-3, 1.0, 1.0), (100.0, 0.0, 0.5)):
        loss_fn = ContrastiveLoss("gumbel_max(num_negatives=50)", temperature=temperature)
        seen = []
        hook = loss_fn.objective.register_forward_pre_hook(
            lambda _, given, seen=seen: seen.append(given)
        )
        loss_fn(*naive.embeddings(2, 8))
        hook.remove()
        batch, drawn, _ = seen[0]
        nearest = only(make_sampler("hard(num_negatives=1)")(batch)).choice.columns
        share = float((only(drawn).choice.columns == nearest).double().mean())
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
    assert total_counts(drawn, batch.anchors).tolist() == [4] * 12


def test_an_anchor_without_negatives_draws_nothing():
    batch = batch_of(6, dtype=torch.float64)
    for form in ("masked", "chosen"):
        part = only(offered(batch, form, torch.float64))
        part = part if form == "masked" else part.masked(torch.ones(12, 11, device=DEVICE) > 0)
        part.mask[2] = False
        drawn = GumbelMax(3, Given(part)).sample(batch)
        assert total_counts(drawn, batch.anchors).tolist() == [3, 3, 0] + [3] * 9
        losses = make_objective("infonce()")(batch, drawn, batch.temperature)
        assert (losses == 0).tolist() == [False, False, True] + [False] * 9


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
    source = Negatives(Rows.unknown(unit(8000, 8)))
    with Largest() as seen:
        GumbelMax(2, Given(source)).sample(batch)
    # A tile of 512 × 1024, where all pairs are 1000 × 8000.
    assert seen.most <= 512 * 1024


def test_what_cannot_be_drawn_from_is_refused():
    batch = batch_of(4)
    part = only(offered(batch, "chosen"))
    columns = part.choice.columns
    with pytest.raises(ValueError, match=r"(?s)gumbel_max: .* already draws from the softmax"):
        GumbelMax(2, Given(replace(part, estimator="posterior"))).sample(batch)
    mixed = replace(part, choice=Mixtures(columns, columns, torch.ones(8, 11, 2)))
    with pytest.raises(ValueError, match="are mixtures, no rows of a pool to choose among"):
        GumbelMax(2, Given(mixed)).sample(batch)
    with pytest.raises(ValueError, match="num_negatives must be at least 1, got 0"):
        GumbelMax(0)
    with pytest.raises(TypeError, match=r"num_negatives must be an integer, got 1\.5"):
        GumbelMax(1.5)
    with pytest.raises(TypeError, match="source must be a sampler, got 'queue'"):
        GumbelMax(source="queue")
