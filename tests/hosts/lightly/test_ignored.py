"""``ignore=`` leaves losses alone by name and by class, wherever it is given."""

from __future__ import annotations

import hosts
import pytest
from torch import nn

from negplug import inject
from negplug.hosts.injection import NoLossFoundError

loss = pytest.importorskip("lightly.loss")
pytestmark = pytest.mark.filterwarnings("ignore")


class Renamed(loss.NTXentLoss):
    """A subclass of the recipe's."""


def model():
    recipe = hosts.recipe()
    recipe.others = nn.ModuleDict({"far": loss.DCLLoss(), "near": Renamed(0.3)})
    return recipe


@pytest.mark.parametrize(
    ("ignore", "left"),
    [
        ((), ["criterion", "others.far", "others.near"]),
        ("DCLLoss", ["criterion", "others.near"]),
        ("NTXentLoss", ["others.far", "others.near"]),
        (["Renamed", "others.far"], ["criterion"]),
    ],
)
def test_by_name_and_by_class(ignore, left):
    with inject(model(), "in_batch()", ignore=ignore) as handle:
        assert list(handle.losses) == left


def test_the_class_of_every_loss_leaves_none():
    with pytest.raises(NoLossFoundError, match=r"ignore=\['NTXentLoss'\] leaves no loss"):
        inject(hosts.recipe(), "in_batch()", ignore="NTXentLoss")


@pytest.mark.parametrize("ways", [("others.far", "others.near"), ("DCLLoss", "Renamed")])
def test_in_a_trainer_what_is_ignored_and_called_is_no_error(ways):
    recipe = model()
    step = recipe.training_step

    def training_step(batch, batch_idx):
        views = [recipe.head(recipe.backbone(view)) for view in batch[0]]
        return step(batch, batch_idx) + sum(each(*views) for each in recipe.others.values())

    recipe.training_step = training_step
    control = hosts.negative_control()("in_batch()", ignore=ways)
    hosts.trainer(callbacks=[control], max_steps=2).fit(recipe, hosts.loader())
    assert list(control.injection.losses) == ["criterion"]
