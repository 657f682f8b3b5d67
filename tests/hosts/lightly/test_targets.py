"""Targets of a recipe's batches, of whatever form: the same labels, or a sentence."""

from __future__ import annotations

import hosts
import pytest
import torch
from queue_contents import names_in
from torch.utils.data import DataLoader, default_collate

pytestmark = pytest.mark.filterwarnings("ignore")
pytest.importorskip("lightly.loss")  # solo-learn's own classifier takes nothing but classes


def fit(sampler, form):
    """Train and validate on targets ``[B]`` of another form; return the remembered labels."""

    def collate(samples):
        batch = list(default_collate(samples))
        batch[1] = form(batch[1])
        return batch

    control = hosts.negative_control()(sampler)
    loader = DataLoader(hosts.Pairs(), batch_size=8, collate_fn=collate)
    module = hosts.recipe()
    step = module.training_step
    module.validation_step = lambda batch, batch_idx: float(step(batch, batch_idx))
    hosts.trainer(callbacks=[control]).fit(module, loader, loader)
    return names_in(control.injection.state_dict()[hosts.site_name()])[2]


@pytest.mark.parametrize(
    "form",
    [
        lambda target: target[:, None],
        lambda target: target.to(torch.uint8),
        lambda target: target.double(),
        lambda target: torch.nn.functional.one_hot(target, 5).float(),
        lambda target: {"boxes": torch.ones(2), "label": target.int()},
        lambda target: target.tolist(),
    ],
)
def test_targets_of_another_form(form):
    labels = fit("queue(size=64)", form)
    assert torch.equal(labels, (torch.arange(24) % 4).view(3, 8).repeat(1, 2).flatten())


@pytest.mark.parametrize(
    ("form", "message"),
    [
        (lambda target: target + 0.5, r"entry of the batch must be integers, got 0\.5"),
        (lambda target: torch.ones(len(target), 3), "must be one-hot, a single 1 in each row"),
        (lambda target: [f"class {n}" for n in target], "must be a tensor of one .* list of str"),
        (lambda target: {"fine": target, "coarse": target}, r"got the fields \['fine', 'coarse'\]"),
    ],
)
def test_targets_that_are_no_labels(form, message):
    assert (fit("queue(size=64)", form) == -1).all()  # which needs none
    with pytest.raises(
        ValueError, match=f"{message}.*; call it with labels=…, hand them to provide"
    ):
        fit('filtered(queue(size=64), by="labels")', form)
