"""A sampler of one's own over sources that it cannot choose among, and whose refusal it is."""

from __future__ import annotations

import naive
import pytest
import torch

from negplug import ChoosingSampler, ContrastiveLoss, NegativeSampler, enumerated, make_sampler
from negplug.contract.provenance import PluginError, PluginInfo
from negplug.objectives.decoupled import Decoupled


class Last(ChoosingSampler):
    """The last M entries, as docs/start/sampler-author.md has it."""

    def __init__(self, num_negatives, source=None, joins=False):
        super().__init__("last", num_negatives, source)
        self.joins = joins

    def sample(self, batch):
        if self.joins:
            offered = enumerated(self.source(batch), batch.anchors)
        else:
            (offered,) = self.source(batch)
        serving = offered.serving(batch.anchors)
        self.availability.exceeded((offered,), serving.sum(1), batch.first_step)
        place = torch.arange(offered.width, device=serving.device)
        slots = place.where(serving, -1).topk(self.num_negatives).values
        mask = slots >= 0
        slots = slots.clamp(min=0)
        return offered.chosen(offered.columns_at(slots), mask, offered.weight_at(slots))


class Masking(NegativeSampler):
    def __init__(self, source):
        super().__init__()
        self.source = source

    def sample(self, batch):
        return tuple(p.masked(p.serving(batch.anchors)) for p in self.source(batch))


class Unchanged(Masking):
    def sample(self, batch):
        return self.source(batch)


def loss_of(sampler):
    return ContrastiveLoss(sampler)(*naive.embeddings(2, 8), indexes=torch.arange(8))


@pytest.mark.parametrize("source", ["gumbel_max(num_negatives=4)", "isir()", "emc2()"])
@pytest.mark.parametrize("kind", [lambda s: Last(2, s), Masking])
def test_draws_from_the_softmax_stay_together(source, kind):
    sampler = kind(make_sampler(source))
    with pytest.raises(ValueError, match="already draws from the softmax") as caught:
        loss_of(sampler)
    assert str(caught.value).startswith(f"{sampler}: {sampler.source} already draws")
    assert str(caught.value).endswith(f"choose before it does, with {sampler} as its source")
    assert loss_of(Unchanged(make_sampler(source))).isfinite()


class TakingTurns(Masking):
    """Asks a sampler that draws from the softmax too, to keep it warm."""

    def __init__(self):
        super().__init__(make_sampler("isir()"))
        self.other = make_sampler("uniform(num_negatives=3)")

    def sample(self, batch):
        self.source(batch)
        return self.other(batch)


def test_who_only_asks_for_draws_may_return_others():
    assert loss_of(TakingTurns()).isfinite()


def test_several_pools_are_refused_by_name_or_joined():
    tiers = "hierarchical(uniform(num_negatives=3), queue(size=16))"
    sampler = Last(2, make_sampler(tiers))
    with pytest.raises(ValueError, match=r"its source hierarchical.* offers negatives of 2 pools"):
        loss_of(sampler)
    joined = loss_of(Last(2, make_sampler(tiers), joins=True))
    assert joined.isfinite()
    with pytest.raises(ValueError, match=r"^too many values to unpack"):  # of something else
        loss_of(Unpacking(make_sampler(tiers)))


class Unpacking(Masking):
    def sample(self, batch):
        self.source(batch)
        return split()


def split():
    (one,) = 1, 2
    return one


class Stingy(Decoupled):
    def forward(self, batch, negatives, temperature):
        raise ZeroDivisionError("an objective's own fault")


def of_a_plugin(part):
    part.provider = PluginInfo("nearest", "negplug-nearest", "0.1")
    return part


def test_who_refuses_is_named():
    refusing = make_sampler("uniform(num_negatives=99)")
    with pytest.raises(ValueError, match=r"^uniform: num_negatives=99 is more than the 14") as own:
        loss_of(of_a_plugin(Unchanged(refusing)))
    assert not isinstance(own.value, PluginError)
    with pytest.raises(PluginError, match=r"plugin nearest .* failed in sample.*more than the 14"):
        loss_of(of_a_plugin(Last(99)))
    with pytest.raises(PluginError, match=r"plugin nearest .* offers negatives of 2 pools"):
        loss_of(of_a_plugin(Last(2, make_sampler("hierarchical(in_batch(), queue(size=16))"))))
    with pytest.raises(PluginError, match=r"plugin nearest .* failed in the objective: ZeroDivi"):
        ContrastiveLoss(objective=of_a_plugin(Stingy()))(*naive.embeddings(2, 8))
