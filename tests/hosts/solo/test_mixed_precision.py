"""solo-learn's methods in bfloat16, main and 1.0.2: fifty steps stay finite, and are learned from.

Lightly's are in ``hosts/lightly/test_methods.py``.
"""

from __future__ import annotations

import copy

import hosts
import pytest
import torch
from torch import nn

GENERATION = hosts.solo_generation()
if GENERATION is None:
    pytest.skip("solo-learn is not installed in this environment", allow_module_level=True)

pytestmark = pytest.mark.filterwarnings("ignore")

SAMPLES = 24
"""One batch, in every step the same: it can be learned by heart."""

# Method: its settings and the names under which its contrastive losses are logged.
QUEUE = {"queue_size": SAMPLES}  # noise in the first step only
ALL = {
    "SimCLR": ({}, ["train_nce_loss"]),
    "SupCon": ({}, ["train_nce_loss"]),
    "MoCoV2Plus": (QUEUE, ["train_nce_loss"]),
    "MoCoV3": ({}, ["train_contrastive_loss"]),
    "NNCLR": (QUEUE, ["train_nnclr_loss"]),
    "All4One": (QUEUE, ["train_nnclr_loss", "train_att_nnclr_loss"]),
    "ReSSL": (QUEUE, ["train_ressl_loss" if GENERATION == "main" else "ressl_loss"]),
}
OF_MAIN_ONLY = ("SupCon", "MoCoV3", "All4One")
METHODS = [name for name in ALL if GENERATION == "main" or name not in OF_MAIN_ONLY]


def build(name):
    torch.manual_seed(0)
    model = hosts.solo_method(name, **ALL[name][0])
    encoder = "backbone" if GENERATION == "main" else "encoder"
    # An untrained encoder sees all samples alike. Between the same similarities ReSSL has nothing
    # to compare, and its loss, as high as it can be, only grows with the queue.
    apart = nn.Sequential(getattr(model, encoder), nn.BatchNorm1d(512))
    setattr(model, encoder, apart)
    if hasattr(model, f"momentum_{encoder}"):
        setattr(model, f"momentum_{encoder}", copy.deepcopy(apart).requires_grad_(False))
    model.lr = 0.1
    return model


def fit(name, sampler):
    losses = []

    class Losses(hosts.lightning().Callback):
        def on_train_batch_end(self, trainer, pl_module, *args):
            losses.append(sum(float(trainer.callback_metrics[logged]) for logged in ALL[name][1]))

    control = [] if sampler is None else [hosts.negative_control()(sampler)]
    precision = "bf16-mixed" if GENERATION == "main" else "bf16"
    trainer = hosts.trainer(callbacks=[*control, Losses()], precision=precision, max_epochs=50)
    trainer.fit(build(name), hosts.loader(SAMPLES, SAMPLES))
    return torch.tensor(losses)


UNIFORM = "uniform(num_negatives=16)"
# ReSSL's in_batch() is the host's queue, noise at first; a queue of ours holds keys alone.
SAMPLED = [(name, UNIFORM) for name in METHODS if name != "ReSSL"]
SAMPLED += [("ReSSL", "uniform(num_negatives=16, source=queue())"), ("ReSSL", None)]


@pytest.mark.parametrize(("name", "sampler"), SAMPLED)
def test_the_loss_falls_in_half_precision(name, sampler):
    losses = fit(name, sampler)
    assert len(losses) == 50
    assert losses.isfinite().all()
    assert losses[-10:].mean() < 0.8 * losses[:10].mean()
