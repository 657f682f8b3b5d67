"""Samples outside the batch, embedded by the recipe itself, on the installed host."""

from __future__ import annotations

import copy
import random
from contextlib import nullcontext

import hosts
import numpy
import pytest
import ranks
import torch
from device import DEVICE
from encoding import (
    OUTSIDE,
    Encoding,
    Noisy,
    ahead,
    by_the_sample_alone,
    every_recipe,
    fit,
    forgotten,
    network,
    spelled,
    with_batchnorm,
)
from torch import nn

from negplug import Negatives, Rows, inject
from negplug.hosts.trainer.dry_run import quiet
from negplug.samplers.chains.absent import embedded

pytestmark = pytest.mark.filterwarnings("ignore")


def projected(module, images):
    head = module.projector if hosts.solo_generation() else module.head
    return head(getattr(module, network(module))(images))


def gradients(value, module):
    weights = torch.linspace(-1, 1, value.numel(), dtype=value.dtype, device=value.device)
    given = [p for p in module.parameters() if p.requires_grad]
    return torch.autograd.grad(
        (value * weights.view_as(value)).sum(), given, retain_graph=True, allow_unused=True
    )


def agree(found, wanted, **tolerance):
    assert any(grad is not None and grad.abs().max() > 0 for grad in wanted)
    for a, b in zip(found, wanted, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, **tolerance)


# ------------------------------------------------------------------ the right embeddings


@pytest.mark.parametrize("precision", ["32", "bf16-mixed"])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_samples_of_the_batch_are_embedded_as_the_batch_itself(precision, accumulate):
    """Value and gradient, bit for bit: no layer here depends on the batch or on chance."""
    seen, modules = [], []

    def build():
        modules.append(hosts.recipe())
        return modules[0]

    def look(batch):
        views = batch.context.dataset.encode(batch.anchors.indexes[:8])
        keys = torch.cat(views)
        assert len(views) == 2
        assert torch.equal(keys, batch.keys.embeddings)
        agree(
            gradients(keys, modules[0]),
            gradients(batch.keys.embeddings, modules[0]),
            rtol=0,
            atol=0,
        )
        assert batch.context.dataset.size == 24
        seen.append(keys)

    fit(look, build, precision=spelled(precision), accumulate_grad_batches=accumulate)
    assert len(seen) == 3


RECIPES = every_recipe()


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_embeds_as_it_does_its_batch(name):
    """Each call of a step gets the keys of its own, and the host's own queue stays as it is."""
    modules, seen = [], []

    def build():
        modules.append(by_the_sample_alone(RECIPES[name]()))
        return modules[0]

    def look(batch):
        before = {name: value.clone() for name, value in modules[0].state_dict().items()}
        keys = torch.cat(batch.context.dataset.encode(batch.anchors.indexes[:8]))
        assert torch.equal(keys, batch.keys.embeddings)
        for name, value in modules[0].state_dict().items():
            assert torch.equal(value, before[name]), name
        seen.append(batch.context.draws.call)

    fit(look, build, hosts.Pairs(24, views=4 if name == "crops" else 2))
    assert len(seen) >= 3
    assert max(seen) == {"NNCLR": 1, "MoCoV2Plus": 1, "MoCoV3": 1, "All4One": 3}.get(name, 0)


def test_batchnorm_uses_its_running_statistics():
    modules, seen = [], []

    def build():
        modules.append(with_batchnorm())
        getattr(modules[0], network(modules[0]))[3].p = 0.0
        return modules[0]

    def look(batch):
        (module,) = modules
        views = torch.stack(batch.context.dataset.encode(OUTSIDE))
        data = hosts.Pairs()
        images = torch.stack([data.images[i] + data.noise[i] for i in OUTSIDE]).to(
            views
        )  # [n, V, …]
        norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
        assert all(norm.training for norm in norms)
        for norm in norms:
            norm.eval()
        wanted = [projected(module, images[:, view]) for view in range(2)]
        wanted = nn.functional.normalize(torch.stack(wanted), dim=-1)
        for norm in norms:
            norm.train()
        close = {"rtol": 1e-4, "atol": 1e-6}
        if DEVICE.type != "cpu":
            # Of another number of images other convolutions, which may round to TF32.
            close = {"rtol": 1e-2, "atol": 1e-3}
        torch.testing.assert_close(views, wanted, **close)
        agree(gradients(views, module), gradients(wanted, module), **close)
        seen.append(views)

    fit(look, build)
    assert len(seen) == 3
    assert not torch.allclose(seen[0], seen[2])  # of the current parameters


def test_training_after_the_encoding_does_not_reach_its_gradient():
    norm = nn.BatchNorm1d(4)
    norm(torch.randn(8, 4))
    rows = torch.randn(3, 4, requires_grad=True)
    with quiet(norm):
        value = norm(rows)
    (wanted,) = torch.autograd.grad(value.square().sum(), rows, retain_graph=True)
    norm(9 * torch.randn(8, 4))
    (found,) = torch.autograd.grad(value.square().sum(), rows)
    assert torch.equal(found, wanted)


# ------------------------------------------------------------------ nothing else happens


def test_a_run_that_encodes_and_forgets_is_the_run_that_does_not():
    """Weights, statistics, metrics, attributes, and the global generators, to the last bit."""

    runs = []
    for look in (forgotten, "in_batch()"):
        module, trainer, control = fit(look, counting, Noisy(48), max_epochs=2)
        assert module.steps == 12
        generators = [torch.get_rng_state(), random.getstate(), str(numpy.random.get_state())]
        logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
        state = [treated.calls for treated in control.injection.losses.values()]
        modes = [part.training for part in module.modules()]
        runs.append((module.state_dict(), vars(module).keys(), modes, logged, state, generators))
    (weights, *rest), (others, *others_rest) = runs
    for name in weights:
        assert torch.equal(weights[name], others[name]), name
    assert torch.equal(rest[4].pop(0), others_rest[4].pop(0))
    assert rest == others_rest
    assert rest[2]


def counting():
    """It also assigns an attribute and a buffer, and logs, ahead of the loss."""
    module = with_batchnorm()
    module.steps = 0
    module.register_buffer("last", torch.zeros(()), persistent=True)

    def count(module):
        module.steps += 1
        module.last = module.last + 1
        module.log("steps_so_far", float(module.steps))

    return ahead(module, count)


def test_a_copy_of_the_model_leaves_the_trainer_behind():
    copies = []

    class Copying(hosts.lightning().Callback):
        def on_train_batch_end(self, trainer, module, *_):
            # As Lightning 1.9 copies a model; 2 always leaves the Trainer out.
            prevent = getattr(module, "_prevent_trainer_and_dataloaders_deepcopy", nullcontext)
            with prevent():
                copies.append(copy.deepcopy(module))

    fit(forgotten, callbacks=[Copying()])
    assert len(copies) == 3


# ------------------------------------------------------------------ several ranks


class Ranks(hosts.lightning().Callback):
    """Writes down what each rank ends with."""

    def __init__(self, folder):
        self.folder = folder

    def on_train_end(self, trainer, module):
        torch.save(hosts.parameters(module), self.folder / str(trainer.global_rank))


def gathering():
    """The recipe with the keys of all ranks, as solo-learn's main has them."""
    module = hosts.recipe()
    if not hosts.solo_generation():
        module.criterion.gather_distributed = True
    return module


@pytest.mark.parametrize("uses", [True, False])
def test_one_rank_may_encode_more_than_the_other(tmp_path, uses):
    def look(batch):
        embedded("test", batch, batch.anchors.indexes[:1], 0)
        if batch.context.draws.rank == 0 or not uses:
            return None
        rows = embedded("test", batch, OUTSIDE[1:], 0).flatten(0, 1)
        views = len(rows) // 3
        return Negatives(Rows(rows, OUTSIDE[1:].repeat(views)))

    def train(sampler, folder):
        kwargs = {"max_epochs": 2, "strategy": "ddp_fork", "devices": 2}
        fit(sampler, gathering, batch_size=4, callbacks=[Ranks(folder)], **kwargs)

    ranks.apart(lambda: train(look, tmp_path))
    first, second = (torch.load(tmp_path / str(rank), weights_only=True) for rank in range(2))
    assert torch.equal(first, second)
    if uses:
        alone = tmp_path / "without"
        alone.mkdir()
        ranks.apart(lambda: train("in_batch()", alone))
        without = torch.load(alone / "0", weights_only=True)
        assert first.isfinite().all()
        assert (first - without).norm() > 1e-4


def test_a_plain_loop_gives_the_encoder_itself():
    """Once: it is kept, while what is said of a step is not."""
    found = []
    model = hosts.recipe()
    batches = [batch for batch in hosts.loader()]
    with inject(model, Encoding(lambda batch: found.append(batch.context.dataset))) as handle:
        if hosts.solo_generation():
            pytest.skip("solo-learn's methods train in a Trainer")
        for number, batch in enumerate(batches):
            if number == 1:
                handle.provide(encode=lambda indexes: (indexes,))
            model.criterion(*(model.head(model.backbone(view)) for view in batch[0])).backward()
            handle.end_step()
    assert [access.encode is None for access in found] == [True, False, False]
    assert "has to call provide(encode=…)" in found[0].unencoded


# ------------------------------------------------------------------ the samplers that ask


@pytest.mark.parametrize("sampler", ["emc2(burn_in=0, {})", "isir({})"])
def test_a_recipe_trains_with_chains_over_its_data_set(sampler):
    outside = []

    class Record(hosts.lightning().Callback):
        def on_train_batch_end(self, trainer, *_):
            (control,) = (c for c in trainer.callbacks if hasattr(c, "injection"))
            outside.append(control.injection.losses[hosts.site_name()].loss.observed["outside"])

    module, _, _ = fit(
        sampler.format("out_of_batch='recompute'"),
        with_batchnorm,
        Noisy(48),
        shuffle=True,
        max_epochs=3,
        log_every_n_steps=1,
        callbacks=[Record()],
    )
    assert hosts.parameters(module).isfinite().all()
    assert outside[0] == 0
    assert max(outside) > 0
