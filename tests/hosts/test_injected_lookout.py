"""Losses beside those that ``inject`` treats in a loop of its own: found in the first steps."""

from __future__ import annotations

import copy
import gc
import weakref

import hosts
import pytest
import torch
from torch import nn

from negplug import ContrastiveLoss, inject
from negplug.hosts.untreated import UntreatedLossError

pytestmark = pytest.mark.filterwarnings("ignore")
SAMPLER = "uniform(num_negatives=2)"


@pytest.fixture(autouse=True)
def alone():
    """Collect the models that other tests have treated and left in cycles: they look out too."""
    gc.collect()


class Own(nn.Module):
    def forward(self, a, b):
        return nn.functional.cross_entropy(a @ b.T, torch.arange(len(a)))


KEPT = {"loss": [Own()]}
LOSSES = {
    "Own": lambda a, b: KEPT["loss"][0](a, b),
    "Made": lambda a, b: type("Made", (Own,), {})()(a, b),
    "TripletMarginLoss": lambda a, b: nn.TripletMarginLoss()(a, b, b.roll(1, 0)),
}


def train(recipe, beside, steps=4, *, ahead=False, shared=True):
    """A plain loop that also trains with another loss, of the same parameters if ``shared``."""
    recipe.log = recipe.log_dict = lambda *_, **__: None
    head = nn.Linear(3 * hosts.IMAGE**2, 8)
    weight = next(p for p in recipe.parameters() if p.requires_grad)
    batches = list(hosts.loader(8))
    for number in range(steps):
        views = next(part for part in batches[0] if isinstance(part, list))
        scale = weight.sum() if shared else 1.0
        rows = [scale * head(view.flatten(1)) for view in views[:2]]
        other = beside(*rows) if ahead else 0.0
        loss = recipe.training_step(batches[0], number)
        loss = loss["loss"] if isinstance(loss, dict) else loss
        other = other if ahead else beside(*rows)
        (loss + other).backward()


def replaced(step, criterion):
    """A loop that gives its model another criterion after some steps, with one layer or another."""
    lightly_loss = pytest.importorskip("lightly.loss")
    model = nn.ModuleDict({"layer": nn.Linear(4, 4), "criterion": lightly_loss.NTXentLoss()})
    z = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with inject(model, SAMPLER):
        for number in range(12):
            if number == step:
                model["criterion"] = criterion(lightly_loss)
            loss = model["criterion"](*map(model["layer"], z))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


@pytest.mark.parametrize("step", [2, 7])  # while first steps are watched, and later
@pytest.mark.parametrize(
    ("criterion", "why"),
    [
        (lambda host: host.NTXentLoss(), "made after the model was treated, .*: make it before"),
        (lambda _: Own(), "that no adapter knows, .*: declare it"),
    ],
    ids=["the host's", "the recipe's own"],
)
def test_a_criterion_in_the_place_of_a_treated_one_is_found(criterion, why, step):
    with pytest.raises(UntreatedLossError, match=rf"criterion \(called at test_injected.*{why}"):
        replaced(step, criterion)


def test_a_criterion_without_negatives_may_take_its_place():
    hooks = len(torch.nn.modules.module._global_forward_hooks)
    replaced(7, lambda host: host.NegativeCosineSimilarity())  # which has no negatives
    assert len(torch.nn.modules.module._global_forward_hooks) == hooks


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_of_the_same_parameters_is_refused(name, ahead):
    hooks = torch.nn.modules.module._global_forward_hooks
    before, recipe = len(hooks), hosts.recipe()
    with inject(recipe, SAMPLER):
        message = rf"{name} \(called at test_injected_lookout\.py:\d+\), a .* no adapter knows"
        with pytest.raises(UntreatedLossError, match=message):
            train(recipe, LOSSES[name], ahead=ahead)
        assert len(hooks) == before
        train(recipe, LOSSES[name])  # said once


@pytest.mark.parametrize("settings", [{"ignore": "Own"}, {"target": True}])
def test_ignore_and_target_leave_it_alone(settings):
    settings = {"target": hosts.site_name()} if "target" in settings else settings
    recipe = hosts.recipe()
    with inject(recipe, SAMPLER, **settings) as handle:
        train(recipe, LOSSES["Own"])
        assert handle.losses[hosts.site_name()].calls == 4


def test_the_environment_leaves_it_alone_too(monkeypatch):
    monkeypatch.setenv("NEGPLUG_IGNORE", "Own")
    recipe = hosts.recipe()
    with inject(recipe, SAMPLER):
        train(recipe, LOSSES["Own"])


def test_another_training_is_no_matter_and_later_steps_are_not_watched():
    hooks = torch.nn.modules.module._global_forward_hooks
    before, recipe = len(hooks), hosts.recipe()
    with inject(recipe, SAMPLER):
        assert len(hooks) == before + 1
        train(recipe, LOSSES["Own"], shared=False)
        assert len(hooks) == before
        train(recipe, LOSSES["Own"])


def test_a_copy_of_a_treated_model_is_trained_by_itself():
    recipe = hosts.recipe()
    with inject(recipe, SAMPLER) as handle:
        twin = copy.deepcopy(handle.losses)
    assert all(treated.watcher is None for treated in twin.values())


def test_a_known_loss_out_of_reach():
    NTXentLoss = pytest.importorskip("lightly.loss").NTXentLoss
    recipe, kept = hosts.recipe(), {"second": NTXentLoss()}
    with inject(recipe, SAMPLER):
        with pytest.raises(UntreatedLossError, match=r"NTXentLoss \(called at .* out of reach"):
            train(recipe, lambda a, b: kept["second"](a, b))
    # Where there are no parameters but those of what the loss is called with.
    layer, criterion = nn.Linear(4, 4), NTXentLoss()
    rows = [layer(z) for z in torch.randn(2, 8, 4)]
    with inject(criterion, SAMPLER):
        criterion(*rows)
        with pytest.raises(UntreatedLossError, match="NTXentLoss"):
            kept["second"](*rows)


def test_a_compiled_loss_of_ours_goes_on_through_the_lookout():
    views = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(0)).unbind()
    with inject(hosts.recipe(), SAMPLER):
        loss_fn = ContrastiveLoss("in_batch()")
        compiled = torch.compile(loss_fn, fullgraph=True, backend="eager")
        value = compiled(*(view.clone().requires_grad_() for view in views))
    torch.testing.assert_close(value, loss_fn(*views))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("module", "hidden"),
    [(Own(), True), (nn.MSELoss(), False), (nn.TripletMarginLoss(), True)],
    ids=lambda each: type(each).__name__,
)
def test_what_is_compiled_stays_whole_and_is_named_if_it_may_be_contrastive(module, hidden, caplog):
    torch._dynamo.reset()  # it counts what is compiled anew, of all cases together
    layer = nn.Linear(3 * hosts.IMAGE**2, 8)
    rest = [torch.ones(4, 8)] if isinstance(module, nn.TripletMarginLoss) else []
    compiled = torch.compile(
        lambda x: module(layer(x), layer(x + 1), *rest), fullgraph=True, backend="eager"
    )
    x = torch.ones(4, 3 * hosts.IMAGE**2)
    recipe = hosts.recipe()
    with inject(recipe, SAMPLER):
        train(recipe, lambda *_: compiled(x))
        train(recipe, lambda *_: compiled(x))
    said = [r.getMessage() for r in caplog.records if "compiled" in r.getMessage()]
    assert len(said) == hidden
    assert all(f"whether {type(module).__name__}, which is compiled" in line for line in said)
    said.clear(), caplog.clear()
    with inject(hosts.recipe(), SAMPLER, ignore=type(module).__name__):
        train(recipe, lambda *_: compiled(x))
    assert "compiled" not in caplog.text


def test_a_model_that_never_trains_takes_the_lookout_with_it():
    hooks, own = torch.nn.modules.module._global_forward_hooks, nn.functional.cross_entropy
    before, recipe = len(hooks), hosts.recipe()
    inject(recipe, SAMPLER)
    assert len(hooks) == before + 1
    assert nn.functional.cross_entropy is not own
    gone = weakref.ref(recipe)
    del recipe
    gc.collect()
    assert gone() is None
    assert len(hooks) == before
    assert nn.functional.cross_entropy is own


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_compiles_beside_the_lookout():
    with inject(hosts.recipe(), SAMPLER):
        scripted = torch.jit.script(nn.CrossEntropyLoss())
    logits, classes = torch.eye(3), torch.arange(3)
    torch.testing.assert_close(scripted(logits, classes), nn.CrossEntropyLoss()(logits, classes))


def test_a_handle_is_copied_without_its_lookout():
    pytest.importorskip("lightly.loss")  # methods of solo-learn cannot be copied
    hooks = torch.nn.modules.module._global_forward_hooks
    recipe = hosts.recipe()
    handle = inject(recipe, SAMPLER)
    before = len(hooks)
    copied = copy.deepcopy(handle)
    copied.remove()
    assert len(hooks) == before  # the original's is still there
    handle.remove()
    assert len(hooks) == before - 1
