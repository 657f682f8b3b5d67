"""A Trainer's contrastive losses that nobody treats: found by their calls, named, refused."""

from __future__ import annotations

import importlib.util
import logging

import hosts
import pytest
import torch
from beside import fit
from torch import nn

from negplug.hosts.untreated import UntreatedLossError

pytestmark = pytest.mark.filterwarnings("ignore")
lightly_only = pytest.mark.skipif(
    importlib.util.find_spec("lightly") is None, reason="a host whose losses are modules"
)


class Own(nn.Module):
    """A contrastive loss of the recipe's own."""

    def forward(self, a, b):
        logits = nn.functional.normalize(a, dim=1) @ nn.functional.normalize(b, dim=1).T
        return nn.functional.cross_entropy(logits / 0.1, torch.arange(len(a), device=a.device))


def another(module, a, b, _):
    module.another(a, b)


def test_a_loss_of_the_recipes_own_is_named_with_the_place_of_its_call():
    with pytest.raises(UntreatedLossError, match=r"treats \S+ of .*another \(called at test_untr"):
        fit(another, attribute=Own())


@pytest.mark.parametrize("settings", [{"ignore": "another"}, {"ignore": ["Own"]}])
def test_ignore_leaves_it_alone(settings):
    assert fit(another, attribute=Own(), **settings).injection is not None


def test_target_leaves_others_alone():
    fit(another, attribute=Own(), target=hosts.site_name())


def test_a_loss_that_takes_turns_is_found():
    def third(module, a, b, batch_idx):
        if batch_idx == 2:
            Own()(a, b)

    with pytest.raises(UntreatedLossError, match="Own"):
        fit(third)


def test_a_loss_that_begins_in_a_later_epoch_is_found():
    def later(module, a, b, batch_idx):
        if module.current_epoch == 2:
            Own()(a, b)

    with pytest.raises(UntreatedLossError, match="Own"):
        fit(later, epochs=3)


def test_what_has_no_negatives_is_no_matter():
    def others(module, a, b, _):
        nn.MSELoss()(a, b)
        nn.CrossEntropyLoss()(a, torch.zeros(len(a), dtype=torch.long, device=a.device))

    before = len(torch.nn.modules.module._global_forward_hooks)
    fit(others)
    assert len(torch.nn.modules.module._global_forward_hooks) == before


def test_what_is_treated_is_said_once(caplog):
    caplog.set_level(logging.INFO, "negplug")
    fit(lambda *_: None)
    (line,) = [r.getMessage() for r in caplog.records if "negplug treats" in r.getMessage()]
    assert hosts.site_name() in line
    assert "uniform(num_negatives=2)" in line


class HardestTriplet(nn.Module):
    """As libraries of metric learning have it: of tuples, by a name."""

    def forward(self, a, b):
        return (0.2 + (a - b).norm(dim=1) - (a - b.roll(1, 0)).norm(dim=1)).relu().mean()


class ContrastiveTripletLoss(HardestTriplet):
    pass


OF_TUPLES = {
    "TripletMarginLoss": lambda a, b: nn.TripletMarginLoss()(a, b, b.roll(1, 0)),
    "MarginRankingLoss": lambda a, b: nn.MarginRankingLoss()(
        a.sum(1), b.sum(1), torch.ones_like(a[:, 0])
    ),
    "CosineEmbeddingLoss": lambda a, b: nn.CosineEmbeddingLoss()(a, b, -torch.ones_like(a[:, 0])),
    "ContrastiveTripletLoss": lambda a, b: ContrastiveTripletLoss()(a, b),
}


@pytest.mark.parametrize("name", OF_TUPLES)
def test_losses_of_tuples_that_the_recipe_chooses_are_named(name, caplog):
    kept = {"closure": OF_TUPLES[name]}
    message = rf"{name} \(called at test_untreated\.py:\d+\), a \S+{name} that no adapter knows"
    with pytest.raises(UntreatedLossError, match=message):
        fit(lambda module, a, b, _: kept["closure"](a, b))
    fit(lambda module, a, b, _: kept["closure"](a, b), ignore=name)
    assert "by functions" not in caplog.text


class PerSample(nn.Module):
    """Its values are averaged elsewhere."""

    def forward(self, a, b):
        return nn.functional.cross_entropy(a @ b.T, torch.arange(len(a)), reduction="none")


class Wrapped(PerSample):
    """Returns its loss among other things."""

    def __init__(self, wrap):
        super().__init__()
        self.wrap = wrap

    def forward(self, a, b):
        return self.wrap(super().forward(a, b).mean(), a @ b.T)


RETURNED = {
    "of each sample": (PerSample(), lambda out: out.mean()),
    "of one entry": (Wrapped(lambda loss, _: loss[None]), lambda out: out.sum()),
    "in a tuple": (Wrapped(lambda loss, logits: (loss, logits)), lambda out: out[0]),
    "in a dictionary": (
        Wrapped(lambda loss, logits: {"logits": logits, "loss": loss}),
        lambda out: out["loss"],
    ),
}


@pytest.mark.parametrize("name", RETURNED)
def test_a_loss_is_seen_however_it_is_returned(name, watch):
    other, loss_of = RETURNED[name]
    kept, named = [other], type(other).__name__
    with pytest.raises(UntreatedLossError, match=named):
        fit(lambda module, a, b, _: loss_of(kept[0](a, b)))
    watch("in_batch()")
    with pytest.raises(UntreatedLossError, match=rf"^{named}, called at test_untreated\.py:\d+"):
        other(*(torch.ones(4, 3, requires_grad=True) * 1 for _ in range(2)))


def test_what_else_returns_values_of_samples_is_no_matter():
    class Scores(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(8, 1)

        def forward(self, a):
            scores = self.layer(a).sigmoid().squeeze(1)
            return scores, {"scores": scores}

    fit(lambda module, a, b, _: (module.another(a)[0].mean(), nn.Flatten(0)(a)), attribute=Scores())


def ways_to(loss):
    """Ways to a loss that lead over no attribute of the module that is a module."""
    listed, mapped = [loss], {"local": (loss,)}
    return {
        "list": lambda: listed[0],
        "tuple in a dictionary": lambda: mapped["local"][0],
        "closure": lambda: loss,
        "made in the step": type(loss),
    }


@lightly_only
@pytest.mark.parametrize("way", ways_to(None))
def test_a_known_loss_out_of_the_modules_reach(way):
    from lightly.loss import NTXentLoss

    get = ways_to(NTXentLoss())[way]
    with pytest.raises(UntreatedLossError, match=r"NTXentLoss \(called at test_untreated\.py:\d+"):
        fit(lambda module, a, b, _: get()(a, b))


@lightly_only
def test_losses_of_the_host_without_negatives_and_a_module_around_a_treated_loss():
    from lightly import loss

    class Around(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = loss.NTXentLoss()

        def forward(self, a, b):
            return self.inner(a, b) + (a - b).pow(2).mean()

    def others(module, a, b, _):
        module.another(a, b)
        loss.BarlowTwinsLoss()(a, b)
        loss.NegativeCosineSimilarity()(a, b)

    control = fit(others, attribute=Around())
    assert control.injection.losses["another.inner"].calls == 3
