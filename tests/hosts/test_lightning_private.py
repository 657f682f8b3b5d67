"""Canaries of the installed Lightnings: each private thing exists and does what we rely on.

A failure names the distribution, its version and what changed; see
``negplug.hosts.trainer.private``.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from importlib.metadata import version

import pytest
import torch
from counted_batches import Batches, SizedBatches, fit, loader

from negplug.hosts.trainer import private
from negplug.hosts.trainer.indexes.recorder import IndexRecorder

DISTRIBUTIONS = {"lightning.pytorch": "lightning", "pytorch_lightning": "pytorch-lightning"}
INSTALLED = [n for n in DISTRIBUTIONS if importlib.util.find_spec(n.partition(".")[0])]
if not INSTALLED:
    pytest.skip("no Lightning is installed in this environment", allow_module_level=True)

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(params=INSTALLED)
def lightning(request):
    return importlib.import_module(request.param)


def require(holds, what, reader, trainer):
    """Fail with the sentence that the library itself would say."""
    if not holds:
        pytest.fail(str(private.changed(trainer, what, reader)), pytrace=False)


def test_loader_hook(lightning):
    data, calls = loader(), []

    def hook(trainer, given):
        calls.append((given, trainer.training, data.batch_sampler.drawn))
        return given

    trainer, _ = fit(lightning, data, hook=hook)
    require(calls, "process_dataloader is not called for the loader", "loader_hook", trainer)
    given, training, drawn = calls[0]
    what = "process_dataloader is called with something else than the training loader"
    require(given is data and training, what, "loader_hook", trainer)
    what = "process_dataloader is called after the loader is iterated"
    require(drawn == 0, what, "loader_hook", trainer)


def test_setting_the_loader_hook(lightning):
    trainer = lightning.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    before = private.loader_hook(trainer)
    what = "a strategy has a process_dataloader of its own from the start"
    require(private.own_loader_hook(trainer) is None, what, "own_loader_hook", trainer)
    private.set_loader_hook(trainer, print)
    assert private.loader_hook(trainer) is private.own_loader_hook(trainer) is print
    private.set_loader_hook(trainer, None)
    assert private.own_loader_hook(trainer) is None
    assert private.loader_hook(trainer) == before


def test_training_loader(lightning):
    data, found = loader(), []
    trainer, _ = fit(lightning, data, lambda t, _: found.append(private.training_loader(t)))
    what = "train_dataloader is not the loader that is trained on"
    require(all(f is data for f in found) and len(found) == 4, what, "training_loader", trainer)


def test_a_collection_is_no_loader(lightning):
    data, found = [loader(), loader()], []
    trainer, _ = fit(lightning, data, lambda t, _: found.append(private.training_loader(t)))
    # Of iterators in place of the loaders, before 2.0.
    same = all(isinstance(f, list) and len(f) == 2 for f in found)
    what = "train_dataloader does not say what is in a collection of loaders"
    require(same and found, what, "training_loader", trainer)


def test_epochs_done(lightning):
    counts, early = [], []

    class Ending(lightning.Callback):
        def on_train_epoch_end(self, trainer, module):
            early.append(private.epochs_done(trainer))

    note = lambda t, _: counts.append(private.epochs_done(t))  # noqa: E731
    callbacks = {"callbacks": [Ending()]}
    trainer, _ = fit(lightning, loader(2), max_epochs=2, **callbacks)
    what = "an epoch is not over before its on_train_epoch_end"
    require(early == [1, 2], what, "epochs_done", trainer)
    fit(lightning, loader(2), note, max_epochs=2)
    require(counts == [0, 0, 1, 1], "the epochs are counted in another way", "epochs_done", trainer)


def test_batches_taken(lightning):
    counts = []
    trainer, _ = fit(lightning, loader(), lambda t, _: counts.append(private.batches_taken(t)))
    what = f"batch_progress counts {counts} where four batches are trained on"
    require(counts == [1, 2, 3, 4], what, "batches_taken", trainer)


def test_a_batch_that_is_none_was_taken(lightning):
    counts, data = [], loader(missing=2)
    trainer, _ = fit(lightning, data, lambda t, _: counts.append(private.batches_taken(t)))
    what = f"batch_progress counts {counts} where the second of four batches is None"
    require(counts == [1, 3, 4], what, "batches_taken", trainer)


@pytest.mark.parametrize("kind", [Batches, SizedBatches])
@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("limit", [1.0, 5])
def test_prefetched(lightning, kind, workers, limit):
    data, ahead, said = loader(8, kind, num_workers=workers), [], []

    def note(trainer, module):
        ahead.append(data.batch_sampler.drawn - private.batches_taken(trainer))
        said.append(private.prefetched(trainer, data))

    trainer, _ = fit(lightning, data, note, limit_train_batches=limit)
    # Near the end there is nothing left to draw.
    expected = [min(many, 8 - taken) for taken, many in enumerate(said, 1)]
    how = "of known length" if kind is SizedBatches else "of unknown length"
    what = f"batches of a loader {how} with {workers} workers are drawn {ahead} ahead"
    require(ahead == expected, f"{what}, not {expected}", "prefetched", trainer)


def test_logs_now(lightning):
    said = []
    note = lambda t, _: said.append(private.logs_now(t))  # noqa: E731
    trainer, _ = fit(lightning, loader(), at_end=note, log_every_n_steps=2)
    what = f"should_update_logs says {said} in four steps of which every second is logged"
    require(said == [False, True, False, True], what, "logs_now", trainer)


@pytest.mark.parametrize("precision", [32, 64])
def test_on_device(lightning, precision):
    prepared = []

    def note(trainer, module):
        raw = torch.arange(2.0) + 2 * len(prepared)
        prepared.append(private.on_device(trainer, module, raw))
        converts.append(private.converts_batches(trainer))

    converts = []
    trainer, model = fit(lightning, loader(), note, precision=precision)
    same = all(
        torch.equal(p.double(), s.double()) for p, s in zip(prepared, model.seen, strict=True)
    )
    what = "a batch passes by other hooks on its way to training_step"
    require(same, what, "on_device", trainer)
    alike = all(p.dtype == s.dtype for p, s in zip(prepared, model.seen, strict=True))
    # Before 2.0 the model is wrapped in what converts its batches, which is known and refused.
    old = int(version(DISTRIBUTIONS[lightning.__name__]).partition(".")[0]) < 2
    assert converts == [not old] * 4
    what = f"a batch for precision {precision} is converted elsewhere"
    require(alike or (old and precision == 64), what, "on_device", trainer)


def test_attached_trainer(lightning):
    found = []
    trainer, _ = fit(lightning, loader(), lambda t, m: found.append(private.attached_trainer(m)))
    what = "_trainer is not the Trainer that fits the module"
    # A weak reference to it before 2.0.
    same = all(f.fit_loop is trainer.fit_loop for f in found)
    require(same and found, what, "attached_trainer", trainer)
    alone = private.attached_trainer(lightning.LightningModule())
    require(alone is None, "_trainer is not None without a Trainer", "attached_trainer", trainer)


def test_loss_scaler(lightning):
    assert private.loss_scaler(trainer_of(lightning)) is None
    trainer, scaler = scaling(lightning)
    require(private.loss_scaler(trainer) is scaler, "it scales otherwise", "loss_scaler", trainer)


def scaling(lightning):
    """Return a Trainer in float16, and what scales its losses."""
    plugins = importlib.import_module(f"{lightning.__name__}.plugins")
    kind = getattr(plugins, "MixedPrecision", None) or plugins.MixedPrecisionPlugin
    spelled = "16-mixed" if hasattr(plugins, "MixedPrecision") else "16"
    scaler = torch.amp.GradScaler("cpu")
    return trainer_of(lightning, plugins=[kind(spelled, "cpu", scaler)]), scaler


# ------------------------------------------------------------------ what is said


@pytest.fixture
def sentence(lightning):
    """The beginning of what is said, and the end."""
    distribution = DISTRIBUTIONS[lightning.__name__]
    found = re.escape(f"{distribution} {version(distribution)}: ")
    end = rf"relies on it, so use another version of {distribution} or of negplug$"
    return lambda what: rf"^{found}{what}.*; negplug\.hosts\.trainer\.private\.\w+ {end}"


def trainer_of(lightning, **kwargs):
    quiet = {"logger": False, "enable_checkpointing": False}
    return lightning.Trainer(accelerator="cpu", **quiet, **kwargs)


def test_a_strategy_without_its_hook_is_named(lightning, sentence, monkeypatch):
    trainer = trainer_of(lightning)
    owners = [k for k in type(trainer.strategy).__mro__ if "process_dataloader" in vars(k)]
    for owner in owners:
        monkeypatch.delattr(owner, "process_dataloader")
    assert owners
    with pytest.raises(RuntimeError, match=sentence("a strategy has no process_dataloader")):
        IndexRecorder(trainer)


def test_a_counter_that_is_gone_is_named(lightning, sentence, monkeypatch):
    trainer = trainer_of(lightning)
    monkeypatch.delattr(trainer.fit_loop.epoch_loop, "batch_progress")
    with pytest.raises(RuntimeError, match=sentence("a Trainer counts its batches elsewhere")):
        private.batches_taken(trainer)


def test_a_logger_connector_that_is_gone_is_named(lightning, sentence, monkeypatch):
    trainer = trainer_of(lightning)
    monkeypatch.delattr(trainer, "_logger_connector")
    with pytest.raises(RuntimeError, match=sentence("a Trainer says elsewhere when it logs")):
        private.logs_now(trainer)


def test_a_module_without_its_private_side_is_named(lightning, sentence, monkeypatch):
    model = lightning.LightningModule()
    vars(model).pop("_trainer")
    with pytest.raises(RuntimeError, match=sentence("a LightningModule has no _trainer any more")):
        private.attached_trainer(model)
    owner = next(k for k in type(model).__mro__ if "_on_before_batch_transfer" in vars(k))
    monkeypatch.delattr(owner, "_on_before_batch_transfer")
    with pytest.raises(RuntimeError, match=sentence("a LightningModule has no _on_before")):
        private.on_device(trainer_of(lightning), model, torch.ones(2))


def test_a_scaler_that_is_gone_is_named(lightning, sentence):
    trainer, _ = scaling(lightning)
    del trainer.precision_plugin.scaler
    with pytest.raises(RuntimeError, match=sentence("a mixed precision has no scaler any more")):
        private.loss_scaler(trainer)


def test_a_canary_fails_with_the_sentence(lightning, sentence):
    with pytest.raises(pytest.fail.Exception, match=sentence("it is blue")):
        require(False, "it is blue", "seen", trainer_of(lightning))
