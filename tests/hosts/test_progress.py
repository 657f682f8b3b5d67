"""Where a fit of the installed host stands, told to a display and to a file."""

from __future__ import annotations

import importlib

import hosts
import pytest
import torch

from negplug.hosts.trainer import progress
from negplug.hosts.trainer.recording import last_record

pytestmark = pytest.mark.filterwarnings("ignore")


class Seen:
    """A display that keeps what it is told."""

    def __init__(self):
        self.events, self.records = [], []

    def start(self):
        self.events.append("start")

    def show(self, record):
        self.events.append("show")
        self.records.append(record)

    def stop(self):
        self.events.append("stop")


@pytest.fixture
def seen(monkeypatch):
    """The display of this process, told of every batch."""
    monkeypatch.setattr(progress, "_SECONDS", 0.0)
    display = Seen()
    progress.show_in(display)
    yield display
    progress.show_in(None)


def fit(module=None, **settings):
    hosts.lightning().seed_everything(0)
    module = module or hosts.recipe()
    trainer = hosts.trainer(**({"enable_progress_bar": True} | settings))
    trainer.fit(module, hosts.loader())
    return module, trainer


def loss_of(record):
    """What the recipe logged as its loss, under the host's name."""
    return next(value for name, value in record["metrics"].items() if "loss" in name)


def of_the_fits(callbacks):
    return [each for each in callbacks if type(each).__name__ == "Progress"]


def test_every_batch_is_told_and_the_run_does_not_notice(seen):
    told, trainer = fit(max_epochs=2)
    assert seen.events == ["start", *["show"] * 6, "stop"]
    assert [record["epoch"] for record in seen.records] == [0, 0, 0, 1, 1, 1]
    assert [record["step"] for record in seen.records] == [1, 2, 3, 4, 5, 6]
    assert {record["max_epochs"] for record in seen.records} == {2}
    assert len({loss_of(record) for record in seen.records}) == 6
    left = [record["left"] for record in seen.records]
    assert all(left[:-1])
    assert left[-1] == 0
    progress.show_in(None)
    plain, untold = fit(max_epochs=2, enable_progress_bar=False)
    assert torch.equal(hosts.parameters(plain), hosts.parameters(told))
    assert of_the_fits(trainer.callbacks)
    assert not of_the_fits(untold.callbacks)


def test_it_takes_the_place_of_lightnings_own_bar_for_the_fit_alone(seen):
    enabled = []

    class Watching(hosts.lightning().Callback):
        def on_train_start(self, trainer, *_):
            enabled.append(trainer.progress_bar_callback.is_enabled)

    _, trainer = fit(callbacks=[Watching()], limit_train_batches=1)
    assert enabled == [False]
    assert trainer.progress_bar_callback.is_enabled


def test_a_recipe_without_a_bar_or_with_its_own_has_no_table(seen):
    fit(enable_progress_bar=False, limit_train_batches=1)
    callbacks = importlib.import_module(f"{hosts.framework()}.callbacks")

    class OwnBar(callbacks.TQDMProgressBar):
        pass

    OwnBar.__module__ = "of_the_recipe"
    bar = OwnBar()
    fit(callbacks=[bar], limit_train_batches=1)
    assert seen.events == []
    assert bar.is_enabled


def test_an_exception_ends_the_table(seen):
    module = hosts.recipe()

    def failing(batch, batch_idx):
        raise RuntimeError("out of luck")

    module.training_step = failing
    with pytest.raises(RuntimeError, match="out of luck"):
        fit(module)
    assert seen.events[0] == "start"
    assert seen.events[-1] == "stop"
    assert "show" not in seen.events


@pytest.mark.parametrize(
    "settings",
    [{"max_steps": 4, "max_epochs": 9}, {"max_steps": 4, "max_epochs": -1}],
    ids=["steps and epochs", "steps alone"],
)
def test_time_is_left_until_whatever_ends_the_fit_first(seen, settings):
    fit(**settings)
    assert len(seen.records) == 4
    assert seen.records[0]["left"] > 0
    assert seen.records[-1]["left"] == 0


def test_a_file_holds_the_last_record(tmp_path, monkeypatch):
    file = tmp_path / "progress.json"
    monkeypatch.setenv(progress.PROGRESS_VARIABLE, str(file))
    monkeypatch.setattr(progress, "_SECONDS", 0.0)
    fit(enable_progress_bar=False, max_epochs=2)
    record = last_record(file)
    assert (record["epoch"], record["max_epochs"], record["step"]) == (1, 2, 6)
    assert record["left"] == 0
    assert loss_of(record) > 0
    assert [path.name for path in tmp_path.iterdir()] == ["progress.json"]


def test_a_file_that_cannot_be_written_ends_no_fit(tmp_path, monkeypatch):
    monkeypatch.setenv(progress.PROGRESS_VARIABLE, str(tmp_path / "gone" / "progress.json"))
    monkeypatch.setattr(progress, "_SECONDS", 0.0)
    _, trainer = fit(enable_progress_bar=False)
    assert trainer.global_step == 3
    (tmp_path / "gone").mkdir()
    (tmp_path / "gone" / "progress.json").mkdir()  # the last step fails: nothing stays beside
    fit(enable_progress_bar=False)
    assert [path.name for path in (tmp_path / "gone").iterdir()] == ["progress.json"]
