"""The Lightning callback's part of a checkpoint: resumed bit for bit, or refused."""

from __future__ import annotations

import hosts
import pytest
import torch
from fitted import _full_load, fit

from negplug.samplers.queue import Queue
from negplug.samplers.uniform import Uniform

pytestmark = pytest.mark.filterwarnings("ignore")


def test_resumed_equals_uninterrupted_bit_for_bit(tmp_path):
    sampler = "uniform(num_negatives=2)"
    straight, _, _ = fit(sampler, max_epochs=4)
    _, _, half = fit(sampler, max_epochs=2)
    half.save_checkpoint(tmp_path / "half.ckpt")
    hosts.lightning().seed_everything(123)  # a new process would not have the old seed
    resumed = hosts.recipe()
    callback = hosts.negative_control()(sampler)
    trainer = hosts.trainer(callbacks=[callback], max_epochs=4)
    with _full_load():
        trainer.fit(resumed, hosts.loader(), ckpt_path=str(tmp_path / "half.ckpt"))
    assert torch.equal(hosts.parameters(straight), hosts.parameters(resumed))
    state = callback.state_dict()["losses"][hosts.site_name()]["_extra_state"]
    assert (state["step"], state["call"]) == (12, 0)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (("uniform(num_negatives=3)",), "written with the sampler uniform"),
        (
            ("uniform(num_negatives=2)", "sogclr()"),
            r"written with the objective of the host, this run has sogclr\(\)",
        ),
    ],
)
def test_resuming_with_another_choice_is_refused(tmp_path, choice, message):
    _, _, trainer = fit("uniform(num_negatives=2)")
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    callback = hosts.negative_control()(*choice)
    other = hosts.trainer(callbacks=[callback], max_epochs=2)
    with _full_load(), pytest.raises(ValueError, match=message):
        other.fit(hosts.recipe(), hosts.loader(), ckpt_path=str(tmp_path / "last.ckpt"))


def test_a_checkpoint_of_another_callback_is_complete():
    class Saves(hosts.lightning().Callback):
        def on_train_batch_end(self, trainer, *_):
            (control,) = [c for c in trainer.callbacks if getattr(c, "state_key", "") == "negplug"]
            self.state = control.state_dict()["losses"][hosts.site_name()]["_extra_state"]

    saves = Saves()
    control = hosts.negative_control()("uniform(num_negatives=2)")
    hosts.trainer(callbacks=[saves, control]).fit(hosts.recipe(), hosts.loader())
    assert (saves.state["step"], saves.state["call"]) == (3, 0)


def test_samplers_made_in_python_are_told_apart_in_checkpoints(tmp_path):
    def made(number, size=16):
        return Uniform(number, source=Queue(size))

    _, _, trainer = fit(made(4), limit_train_batches=1)
    path = str(tmp_path / "last.ckpt")
    trainer.save_checkpoint(path)
    for other in (made(8), made(4, 24)):
        control = hosts.negative_control()(other)
        longer = hosts.trainer(callbacks=[control], max_epochs=2, limit_train_batches=1)
        message = r"written with the sampler Uniform\(num_negatives=4, .*queue\(size=16"
        with _full_load(), pytest.raises(ValueError, match=message):
            longer.fit(hosts.recipe(), hosts.loader(), ckpt_path=path)
    control = hosts.negative_control()(made(4))
    longer = hosts.trainer(callbacks=[control], max_epochs=2, limit_train_batches=1)
    with _full_load():
        longer.fit(hosts.recipe(), hosts.loader(), ckpt_path=path)
    assert control.state_dict()["losses"][hosts.site_name()]["_extra_state"]["step"] == 2
