"""``false_negatives`` in the hosts' recipes: the paper's loss, in the host's own step."""

from __future__ import annotations

import hosts
import pytest
import torch

from negplug import inject

pytestmark = pytest.mark.filterwarnings("ignore")


def test_a_recipe_is_given_the_loss_of_the_paper():
    torch.manual_seed(0)
    control = hosts.negative_control()("false_negatives(top=2, threshold=-1)")
    calls, values = [], []

    class Keep(hosts.lightning().Callback):
        def on_train_batch_start(self, *_):
            (treated,) = control.injection.losses.values()
            treated.loss.witness = lambda *given: calls.append(given)
            treated.watcher = lambda _, loss: values.append(loss.detach())

    trainer = hosts.trainer(callbacks=[control, Keep()], max_steps=2, log_every_n_steps=1)
    trainer.fit(hosts.recipe(temperature=0.2), hosts.loader(batch_size=8))
    (treated,) = control.injection.losses.values()
    assert treated.loss.observed["num_false_negatives"] == 2
    assert treated.loss.observed["num_negatives"] == 12
    for (batch, (part,)), value in zip(calls, values, strict=True):
        logits = batch.anchors.embeddings.detach() @ part.rows.embeddings.detach().T / 0.2
        losses = []
        for i, row in enumerate(logits):
            pulled = [c for c in batch.positives[i].tolist() if c >= 0] + part.attracted[i].tolist()
            every = [j for j in range(16) if j != i]
            losses.append(row[every].logsumexp(0) - row[pulled].mean())
        torch.testing.assert_close(value, torch.stack(losses).mean(), rtol=1e-5, atol=0)


def test_a_method_that_has_one_teacher_refuses():
    if hosts.solo_generation() is None:
        pytest.skip("ReSSL is solo-learn's")
    model = hosts.solo_method("ReSSL", queue_size=24)
    inject(model, "false_negatives(action='eliminate', top=2)").remove()
    control = hosts.negative_control()("false_negatives(top=2, threshold=-1)")
    trainer = hosts.trainer(callbacks=[control], max_steps=2)
    with pytest.raises(ValueError, match=r"ReSSL's relational objective.*cannot take those that"):
        trainer.fit(model, hosts.loader())
