"""Recipes that train with Hugging Face's Accelerator: by its launcher, and on ranks of torchrun."""

from __future__ import annotations

import armed
import pytest

pytest.importorskip("accelerate")
pytest.importorskip("lightly")

SCRIPT = """
import torch
import torch.distributed.nn  # before there is a group, which its default arguments would keep
from accelerate import Accelerator
from lightly.loss import NTXentLoss
from torch import nn

accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
torch.manual_seed(0)
model, criterion = nn.Linear(6, 4), NTXentLoss()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
samples = torch.utils.data.TensorDataset(torch.randn(64, 6))
loader = torch.utils.data.DataLoader(samples, batch_size=8)
model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
for (x,) in loader:
    with accelerator.accumulate(model):
        loss = criterion(*model(torch.cat([x, x + 0.1])).chunk(2))
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
# Every batch is a step; the last one is still open.
sampler = criterion.forward.contrast.loss.sampler
print(f"rank {accelerator.process_index} took in {sampler.count}\\n", end="", flush=True)
del model, optimizer
accelerator.end_training()
"""
ALONE = ["accelerate.commands.launch", "--cpu", "--num_processes", "1", "--num_machines", "1"]
LAUNCHERS = {
    "accelerate": [*ALONE, "--mixed_precision", "no", "--dynamo_backend", "no"],
    "torchrun": ["torch.distributed.run", "--standalone", "--nproc-per-node", "2"],
}
TOOK_IN = {
    "accelerate": ["rank 0 took in 112"],
    "torchrun": ["rank 0 took in 96", "rank 1 took in 96"],
}


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_every_process_is_treated(tmp_path, launcher):
    (tmp_path / "recipe.py").write_text(SCRIPT)
    run = ["negplug", "run", "--sampler", "queue(size=256)", "recipe.py"]
    done = armed.run(tmp_path, "-m", *LAUNCHERS[launcher], "-m", *run)
    assert done.returncode == 0, done.stderr
    assert sorted(filter(None, done.stdout.splitlines())) == TOOK_IN[launcher]
    assert done.stderr.count("negplug treats NTXentLoss") == 1
    assert "goes on with an earlier" not in done.stderr
