"""stable-pretraining's losses, treated, in its own modules under a Trainer too."""

from __future__ import annotations

import naive
import pytest
import torch
from torch import nn

from negplug import inject

losses = pytest.importorskip("stable_pretraining.losses")
import lightning.pytorch as pl  # noqa: E402
from negplug_adapters import NegativeControl  # noqa: E402
from stable_pretraining import Module  # noqa: E402
from stable_pretraining.forward import simclr  # noqa: E402


@pytest.mark.parametrize("name", ["NTXEntLoss", "CLIPLoss"])
@pytest.mark.parametrize("temperature", [0.5, 0.05])
def test_in_batch_equals_the_host(name, temperature):
    z, host = naive.embeddings(2, 17), getattr(losses, name)(temperature)
    theirs = host(*z)
    with inject(host, "in_batch()") as handle:
        ours = host(*z)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=0)
    assert naive.relative(naive.gradients(ours, z), naive.gradients(theirs, z)) < 1e-9
    assert handle.losses[name].calls == (2 if name == "CLIPLoss" else 1)


def test_a_scale_that_learns_gets_its_gradient():
    z, host = naive.embeddings(2, 8), losses.CLIPLoss()
    scale = nn.Parameter(torch.tensor(0.2, dtype=torch.float64))
    inputs = [*z, scale]
    wanted = naive.gradients(host(*z, logit_scale=scale), inputs)
    with inject(host, "in_batch()"):
        found = naive.gradients(host(*z, logit_scale=scale), inputs)
    assert naive.relative(found, wanted) < 1e-9


class Views(torch.utils.data.Dataset):
    def __len__(self):
        return 24

    def __getitem__(self, index):
        image = torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(index))
        return {"views": [{"image": image + 0.1 * v, "label": index % 4} for v in range(2)]}


def trained(*callbacks):
    """Return the weights of a module of the host after an epoch."""
    torch.manual_seed(0)
    model = Module(
        forward=simclr,
        backbone=nn.Sequential(nn.Flatten(), nn.Linear(48, 16)),
        projector=nn.Linear(16, 8),
        simclr_loss=losses.NTXEntLoss(0.5),
        optim={"optimizer": {"type": "SGD", "lr": 0.1}, "scheduler": {"type": "ConstantLR"}},
    )
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    quiet |= {"enable_model_summary": False, "accelerator": "cpu", "max_epochs": 1}
    loader = torch.utils.data.DataLoader(Views(), batch_size=8)
    pl.Trainer(callbacks=list(callbacks), **quiet).fit(model, loader)
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_a_trainer_of_the_host_s_own_module():
    own, same = trained(), trained(NegativeControl("in_batch()"))
    torch.testing.assert_close(same, own, rtol=1e-4, atol=1e-6)
    for sampler in ("memory_bank()", "stratified(num_negatives=4, same=0.0)"):
        control = NegativeControl(sampler)
        assert not torch.allclose(trained(control), own, rtol=1e-3)
        assert control.injection.losses["simclr_loss"].calls == 3
