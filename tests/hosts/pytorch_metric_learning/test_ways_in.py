"""pytorch-metric-learning's losses in loops of plain PyTorch, treated from outside."""

from __future__ import annotations

import armed
import naive
import pytest
import torch

from negplug.hosts.untreated import Judge

losses = pytest.importorskip("pytorch_metric_learning.losses")


def test_the_loss_inside_of_a_wrapper_is_the_one_that_is_treated(watch):
    watching = watch("uniform(num_negatives=3)")
    z = naive.embeddings(2, 16)
    host = losses.SelfSupervisedLoss(losses.NTXentLoss(0.2))
    whole = losses.NTXentLoss(0.2).forward(torch.cat(z), torch.arange(16).repeat(2))
    for step in range(1, 4):
        loss = host(*z)
        assert loss < whole - 0.1
        loss.backward()
        (treated,) = watching.injections["NTXentLoss"].losses.values()
        assert treated.calls == step


def test_a_memory_takes_a_batch_in_once(watch):
    watch("in_batch()")
    host = losses.CrossBatchMemory(losses.NTXentLoss(0.2), 16, memory_size=32).double()
    own = losses.CrossBatchMemory(losses.NTXentLoss(0.2), 16, memory_size=32).double()
    for step in range(3):
        (z,), y = naive.embeddings(1, 8, seed=step), torch.arange(8) % 3
        ours = host(z, y)
        with torch.no_grad():
            torch.testing.assert_close(ours.detach(), own(z, y), rtol=1e-10, atol=0)
        ours.backward()
    assert host.queue_idx == 24


def test_what_cannot_be_treated_stops_the_loop(watch):
    watch("in_batch()")
    (z,), y = naive.embeddings(1, 8), torch.arange(8) % 3
    with pytest.raises(ValueError, match="TripletMarginLoss' cannot be treated: contrastive"):
        losses.TripletMarginLoss()(z, y)


def test_losses_without_negatives_are_left_alone(watch):
    watching = watch("in_batch()")
    (z,), y = naive.embeddings(1, 8), torch.arange(8) % 3
    arcface = losses.ArcFaceLoss(3, 16).double()
    arcface(z, y).backward()
    assert not watching.injections
    assert Judge().leaves_alone(arcface)
    assert not Judge().leaves_alone(losses.TripletMarginLoss())


SCRIPT = """
import torch
from torch import nn
from pytorch_metric_learning import losses

torch.manual_seed(0)
model, data = nn.Linear(6, 4), torch.randn(32, 6)
criterion = losses.NTXentLoss(temperature=0.5)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for step in range(4):
    loss = criterion(model(data), torch.arange(32) % 8)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    print(f"{loss.item():.5f}")
"""


def test_a_script_as_it_is(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    own = armed.run(tmp_path, "script.py")
    same = armed.run(tmp_path, "script.py", NEGPLUG_SAMPLER="in_batch()")
    run = ("-m", "negplug", "run", "--sampler", "uniform(num_negatives=2)", "script.py")
    fewer = armed.run(tmp_path, *run)
    assert own.stdout == same.stdout
    assert own.stdout != fewer.stdout
    assert fewer.returncode == 0, fewer.stderr
    assert "negplug treats NTXentLoss (pytorch-metric-learning" in fewer.stderr
