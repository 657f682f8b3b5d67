"""``emc2()`` and ``isir()`` in the recipes of the installed host."""

from __future__ import annotations

import hosts
import pytest
import resumable
import torch
from torch.utils.data import DataLoader

from negplug.samplers.chains.sampler import ChainSampler

pytestmark = pytest.mark.filterwarnings("ignore")

SAMPLES = 24
LIGHTLY = hosts.solo_generation() is None


def lightlys_methods():
    import lightly_methods

    return lightly_methods.METHODS


def model_of(name):
    torch.manual_seed(0)
    if name == "SimCLR with crops":
        return hosts.recipe(small_crops=2)
    if name == "supervised SimCLR":
        return hosts.recipe(supervised=True)
    if LIGHTLY:
        return lightlys_methods()[name]()
    settings = {"queue_size": 24} if name in ("MoCoV2Plus", "NNCLR", "All4One", "ReSSL") else {}
    return hosts.solo_method(name, **settings)


TRAINED = {
    None: ["SimCLR", "DirectCLR", "DCL", "DCLW", "NNCLR", "MoCo"],
    "main": ["SimCLR", "SimCLR with crops", "SupCon", "MoCoV2Plus", "MoCoV3", "NNCLR", "All4One"],
    "1.0.2": ["SimCLR", "SimCLR with crops", "supervised SimCLR", "MoCoV2Plus", "NNCLR"],
}[hosts.solo_generation()]


def fit(name, sampler, epochs=3, **kwargs):
    """Train; return the model, the callback and the Trainer."""
    control = hosts.negative_control()(sampler, **kwargs)
    model = model_of(name)
    trainer = hosts.trainer(callbacks=[control], max_epochs=epochs, log_every_n_steps=1)
    samples = resumable.Views(SAMPLES, views=4 if "crops" in name else 2)
    shuffled = resumable.Shuffled(samples)
    trainer.fit(model, DataLoader(samples, batch_size=8, sampler=shuffled, drop_last=True))
    return model, control, trainer


def chains_of(control):
    """The chain samplers of every loss and of every call of a step, with a state."""
    for name, treated in control.injection.losses.items():
        for module in treated.loss.modules():
            if isinstance(module, ChainSampler):
                yield name, module


RUN_AGAIN = [name for name in TRAINED if not (LIGHTLY and name in ("NNCLR", "MoCo"))]
"""Methods whose step writes nothing before it calls the loss."""

SAMPLERS = [
    (name, sampler)
    for name in TRAINED
    for sampler in ("emc2()", "emc2(out_of_batch='drop')", "isir('recompute')")
    if name in RUN_AGAIN or "recompute" not in sampler
]


@pytest.mark.parametrize(("name", "sampler"), SAMPLERS)
def test_every_method_trains(name, sampler):
    """Chains of every view in every call; what is measured is logged."""
    model, control, trainer = fit(name, sampler)
    assert hosts.parameters(model).isfinite().all()
    assert not torch.equal(hosts.parameters(model), hosts.parameters(model_of(name)))
    for site, chains in chains_of(control):
        state = chains.chains.state[:, : chains.samples]
        assert state.shape[1] == SAMPLES
        assert (state >= 0).all()
        own = torch.arange(SAMPLES, device=state.device)
        assert not (state == own).any()
        if "sup" in name.lower():
            assert not (state % 4 == own % 4).any()
        measured = {
            value: float(trainer.logged_metrics[f"negplug/{site}/{value}"])
            for value in ("acceptance", "outside", "staleness", "effective_draws")
        }
        assert 0 < measured["acceptance"] <= 1
        assert (0 if "isir" in sampler else -1) < measured["outside"] < 1
        assert measured["staleness"] > 0
        assert measured["effective_draws"] >= 1


REFUSED = {
    None: [
        ("MACL", "emc2()", r"MACLLoss.* estimate the denominator, got the 'posterior' estimator"),
        ("DenseCL", "emc2()", r"its 128 rows are not the 8 samples of the batch"),
        ("MoCo", "isir('recompute')", r"writes to backbone_momentum.*; use out_of_batch='cached'"),
        ("NNCLR", "isir('recompute')", r"writes to memory_bank.*; use out_of_batch='cached'"),
    ]
}.get(
    hosts.solo_generation(),
    [("ReSSL", "emc2()", r"ReSSL compares two softmax distributions .*'posterior'")],
)


@pytest.mark.parametrize(("name", "sampler", "message"), REFUSED)
def test_methods_that_draws_cannot_serve_are_refused(name, sampler, message):
    with pytest.raises(ValueError, match=message):
        fit(name, sampler)


@pytest.mark.skipif(not LIGHTLY, reason="of Lightly")
def test_the_samples_of_dense_contrast_are_served():
    _, control, _ = fit("DenseCL", "emc2()", target="criterion_global")
    ((_, chains),) = chains_of(control)
    assert (chains.chains.state[:, : chains.samples] >= 0).all()


def test_nothing_is_logged_that_is_not_known():
    """In the first step no chain has a state, so none is stale."""

    class Watch(hosts.lightning().Callback):
        def on_train_batch_end(self, trainer, *_):
            found.append({key.rpartition("/")[2] for key in trainer.logged_metrics})

    found = []
    resumable.fit("isir()", 2, callbacks=[Watch()], log_every_n_steps=1)
    assert "staleness" not in found[0]
    assert {"acceptance", "outside", "effective_draws"} <= found[0]
    assert "staleness" in found[-1]


@pytest.mark.parametrize("sampler", ["emc2(0.25, 'recompute')", "isir('recompute')"])
def test_recomputing_resumes_bit_for_bit(tmp_path, sampler):
    weights, control, _ = resumable.fit(sampler, 4)
    halfway, _, trainer = resumable.fit(sampler, 2)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    resumed, after, _ = resumable.fit(sampler, 4, seed=123, resume=tmp_path / "half.ckpt")
    assert not torch.equal(halfway, weights)
    assert torch.equal(resumed, weights)
    assert resumable.same_state(after.state_dict(), control.state_dict())
