"""An unmodified recipe of the installed host with a third party's sampler."""

from __future__ import annotations

import importlib.util
import json
import math
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
from distributions import python
from example_plugins import BROKEN, FAULTS, succeeded

# Recipes as users write them: they know nothing of negplug. Each defines `model`, which logs
# `train_nce_loss` and projects with `model.projector`, and `loader`.
LIGHTLY = """
from lightly.loss import NTXentLoss

class Recipe(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.projector = torch.nn.Linear(8, 4)
        self.criterion = NTXentLoss(temperature=0.2)
    def training_step(self, views, batch_idx):
        loss = self.criterion(*[self.projector(view) for view in views])
        self.log("train_nce_loss", loss, on_step=True, on_epoch=True)
        return loss
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

model = Recipe()
loader = torch.utils.data.DataLoader(
    [(torch.randn(8), torch.randn(8)) for _ in range(16)], batch_size=8
)
"""
SOLO = """
from solo.methods import SimCLR

model = SimCLR(
    proj_output_dim=16, proj_hidden_dim=32, temperature=0.2, supervised=False,
    encoder="resnet18", backbone_args={"zero_init_residual": True, "cifar": True},
    num_classes=3, no_labels=False, num_large_crops=2, num_small_crops=0,
    num_crops_per_aug=[2, 0], max_epochs=1, batch_size=8, accumulate_grad_batches=1,
    optimizer="sgd", extra_optimizer_args={"momentum": 0.9}, lars=False, lr=0.01, eta_lars=0.02,
    grad_clip_lars=False, exclude_bias_n_norm=False, weight_decay=0.0, classifier_lr=0.1,
    scheduler="none", min_lr=0.0, warmup_start_lr=0.0, warmup_epochs=0, lr_decay_steps=None,
    disable_knn_eval=True,
)
loader = torch.utils.data.DataLoader(
    [(i, [torch.randn(3, 32, 32) for _ in range(2)], i % 3) for i in range(16)], batch_size=8
)
"""
TRAIN = """
import json
import torch
try:
    import pytorch_lightning as pl
except ImportError:
    import lightning.pytorch as pl

torch.manual_seed(0)
{recipe}
class Record(pl.Callback):
    def on_train_batch_end(self, trainer, *_):
        views = [view.tolist() for view in projected[-2:]]
        loss = float(trainer.callback_metrics["train_nce_loss_step"])
        steps.append({{"views": views, "loss": loss}})

projected, steps = [], []
model.projector.register_forward_hook(lambda module, given, got: projected.append(got.detach()))
trainer = pl.Trainer(
    accelerator="cpu", devices=1, max_epochs=1, logger=False, callbacks=[Record()],
    enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
)
trainer.fit(model, loader)
print(json.dumps(steps))
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    """Return a training script for the host that is installed."""
    if importlib.util.find_spec("lightly"):
        text = LIGHTLY
    elif solo_version() == "1.0.2":
        text = SOLO
    else:
        pytest.skip("needs lightly or solo-learn 1.0.2")
    script = tmp_path_factory.mktemp("recipe") / "recipe.py"
    script.write_text(TRAIN.format(recipe=text))
    return script


def solo_version() -> str | None:
    try:
        return version("solo-learn")
    except PackageNotFoundError:
        return None


def naive_loss(views: list[list[list[float]]], similarity: float | None) -> float:
    """Mean InfoNCE at τ = 0.2 against the three negatives nearest to `similarity`, or all."""
    rows = [row for view in views for row in view]
    rows = [[x / math.hypot(*row) for x in row] for row in rows]
    size = len(views[0])
    losses = []
    for i, anchor in enumerate(rows):
        cosine = [sum(a * b for a, b in zip(anchor, row, strict=True)) for row in rows]
        negatives = [cosine[j] for j in range(len(rows)) if j % size != i % size]
        if similarity is not None:
            negatives = sorted(negatives, key=lambda s: abs(s - similarity))[:3]
        positive = math.exp(cosine[(i + size) % len(rows)] / 0.2)
        total = positive + sum(math.exp(s / 0.2) for s in negatives)
        losses.append(-math.log(positive / total))
    return sum(losses) / len(losses)


def test_an_unmodified_recipe_trains_with_a_third_partys_sampler(recipe, installed, tmp_path):
    sampler = "nearest(num_negatives=3, similarity=0.1)"
    sites = (installed["nearest"],)
    done = succeeded(python(str(recipe), sites=sites, cwd=tmp_path, NEGPLUG_SAMPLER=sampler))
    steps = json.loads(done.stdout.splitlines()[-1])
    assert len(steps) == 2
    for step in steps:
        assert step["loss"] == pytest.approx(naive_loss(step["views"], 0.1), rel=1e-4)
        assert abs(step["loss"] - naive_loss(step["views"], None)) > 0.1
    assert "faulty plugin" not in done.stderr


def test_a_recipe_whose_sampler_fails_ends_with_the_plugins_name(recipe, installed, tmp_path):
    sites = (installed["broken"],)
    done = python(str(recipe), sites=sites, cwd=tmp_path, NEGPLUG_SAMPLER="stumbling()")
    assert done.returncode != 0
    cause = "ZeroDivisionError: stumbled over the batch"
    first, _, rest = done.stderr.rpartition(
        "The above exception was the direct cause of the following exception:"
    )
    assert "stumbles.py" in first
    assert cause in first
    assert f"PluginError: plugin stumbles {BROKEN} failed in sample(): {cause}" in rest
    # Each fault of the distribution was reported once, on the way.
    for name in FAULTS:
        assert done.stderr.count(f"without a faulty plugin: plugin {name} {BROKEN}") == 1
