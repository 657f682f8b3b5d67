"""The callback's part of a checkpoint that was tampered with: one sentence, and no other error."""

from __future__ import annotations

import copy

import hosts
import pytest
import torch
from fitted import _full_load, fit

pytestmark = pytest.mark.filterwarnings("ignore")

SAMPLER = "queue(size=64, gather=False)"


@pytest.fixture(scope="module")
def saved():
    _, control, _ = fit(SAMPLER)
    return control.state_dict()


@pytest.mark.parametrize(
    "state",
    [None, [], {}, {"sampler": SAMPLER}, {"losses": {}}, "text", torch.zeros(3)],
    ids=lambda state: type(state).__name__,
)
def test_what_is_no_state_is_refused(state):
    with pytest.raises(ValueError, match="the file is damaged"):
        hosts.negative_control()(SAMPLER).load_state_dict(state)


ENTRIES = ["losses", "ranks", "sampler", "objective"]
IN_PLACE = [[1], [None], [[]], 3, "text", [{"name": {}}] * 5, torch.zeros(2)]


@pytest.mark.parametrize("entry", ENTRIES)
def test_each_entry_is_checked_before_training(saved, entry):
    for value in IN_PLACE:
        state = copy.deepcopy(saved) | {entry: value}
        with pytest.raises(ValueError, match=r"the checkpoint('s state of negplug| was| holds)"):
            hosts.negative_control()(SAMPLER).load_state_dict(state)
    for missing in set(ENTRIES) - {"ranks"}:
        state = copy.deepcopy(saved)
        del state[missing]
        with pytest.raises(ValueError, match="the file is damaged"):
            hosts.negative_control()(SAMPLER).load_state_dict(state)


@pytest.mark.parametrize("losses", [{"nobody": {}}, {"name": None}, {"name": {}}, {"name": []}])
def test_losses_that_do_not_fit_are_refused_when_the_fit_starts(tmp_path, losses):
    _, control, trainer = fit(SAMPLER)
    path = tmp_path / "last.ckpt"
    trainer.save_checkpoint(path)
    checkpoint = torch.load(path, weights_only=False)
    kept = {hosts.site_name() if name == "name" else name: loss for name, loss in losses.items()}
    checkpoint["callbacks"][control.state_key] |= {"ranks": [kept]}
    torch.save(checkpoint, path)
    other = hosts.trainer(callbacks=[hosts.negative_control()(SAMPLER)], max_epochs=2)
    with _full_load(), pytest.raises((ValueError, TypeError), match=r"saved|dict-like"):
        other.fit(hosts.recipe(), hosts.loader(), ckpt_path=str(path))
