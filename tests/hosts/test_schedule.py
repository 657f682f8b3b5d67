"""A schedule inside a recipe: a Trainer says the epochs, a plain loop too."""

from __future__ import annotations

import hosts
import pytest
import resumable
import torch

import negplug

pytestmark = pytest.mark.filterwarnings("ignore")

TEXT = "schedule(in_batch(), hard(num_negatives=3), queue(size=32), {})"


class Turns(hosts.lightning().Callback):
    """Notes whose turn each step was."""

    def __init__(self, control):
        self.control = control
        self.found = []

    def on_train_batch_end(self, trainer, *_):
        (treated,) = self.control.injection.losses.values()
        treated.loss.end_step()
        self.found.append((trainer.current_epoch, treated.loss.sampler.turn))


@pytest.mark.parametrize("starts", ["from_epochs=(0, 1, 2)", "from_steps=(0, 3, 6)"])
def test_the_recipe_switches_with_its_epochs(starts):
    hosts.lightning().seed_everything(0)
    control = hosts.negative_control()(TEXT.format(starts))
    turns = Turns(control)
    module = hosts.recipe()
    hosts.trainer(callbacks=[control, turns], max_epochs=3).fit(module, hosts.loader())
    assert turns.found == [(epoch, epoch) for epoch in range(3) for _ in range(3)]
    (treated,) = control.injection.losses.values()
    queue = treated.loss.sampler.samplers[2]
    assert len({int(index) for index in queue.names[1]}) == 16  # of the last two batches


def test_a_second_trainer_begins_its_epochs_anew():
    hosts.lightning().seed_everything(0)
    control, module = hosts.negative_control()(TEXT.format("from_epochs=(0, 1, 2)")), hosts.recipe()
    for _ in range(2):
        turns = Turns(control)
        hosts.trainer(callbacks=[control, turns], max_epochs=3).fit(module, hosts.loader())
        assert [turn for _, turn in turns.found] == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_a_plain_loop_says_the_epoch_to_the_handle():
    torch.manual_seed(0)
    module = hosts.recipe()
    z = [torch.randn(8, 16, requires_grad=True) for _ in range(2)]
    with negplug.inject(module, TEXT.format("from_epochs=(0, 1, 2)")) as handle:
        (treated,) = handle.losses.values()
        with pytest.raises(ValueError, match=r"call set_epoch\(epoch\)"):
            treated.loss(*z).backward()
        for epoch in range(3):
            handle.set_epoch(epoch)
            treated.loss(*z).backward()
            handle.end_step()
            assert treated.loss.sampler.turn == epoch
        with pytest.raises(ValueError, match="set_epoch: epoch must be at least 0, got -1"):
            handle.set_epoch(-1)


@pytest.mark.parametrize("later", ["queue(size=40)", "uniform(num_negatives=3)"])
def test_a_run_resumes_to_the_last_bit_before_the_epoch_that_switches(tmp_path, later):
    text = f"schedule(uniform(num_negatives=4), {later}, from_epochs=(0, 3))"
    whole, control, _ = resumable.fit(text, 4)
    _, _, trainer = resumable.fit(text, 2)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    weights, resumed, _ = resumable.fit(text, 4, seed=123, resume=tmp_path / "half.ckpt")
    assert torch.equal(weights, whole)
    assert resumable.same_state(resumed.state_dict(), control.state_dict())
