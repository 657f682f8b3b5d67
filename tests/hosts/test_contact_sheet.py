"""``ContactSheet`` on the installed host: what it writes, and that a run does not notice it."""

from __future__ import annotations

import random
from html.parser import HTMLParser

import hosts
import pytest
import torch
from moments import callback
from resumable import same_state

pytest.importorskip("matplotlib")
pytestmark = pytest.mark.filterwarnings("ignore")

UNIFORM = "uniform(num_negatives=5)"


class Augmented(hosts.Pairs):
    """Draws from the global generators in every sample, as augmentations do."""

    def __getitem__(self, index):
        shift = torch.rand(()) + random.random()
        sample = list(super().__getitem__(index))
        place = 0 if hosts.site_name() == "criterion" else 1
        sample[place] = [view + shift for view in sample[place]]
        return tuple(sample)


class Parsed(HTMLParser):
    """The pictures of a page, and the classes of its figures."""

    def __init__(self, path):
        super().__init__()
        self.sources, self.figures = [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        assert tag not in ("script", "link", "iframe")
        if tag == "img":
            self.sources.append(dict(attrs)["src"])
        if tag == "figure":
            self.figures.append(dict(attrs)["class"])


def fit(*callbacks, sampler=UNIFORM, module=None, **settings):
    hosts.lightning().seed_everything(0)
    random.seed(0)
    module = module or hosts.recipe()
    control = hosts.negative_control()(sampler)
    trainer = hosts.trainer(callbacks=[control, *callbacks], **settings)
    trainer.fit(module, torch.utils.data.DataLoader(Augmented(), batch_size=8, drop_last=True))
    return module, control, trainer


@pytest.mark.parametrize(
    ("sampler", "from_dataset"),
    [(UNIFORM, False), ("queue(size=16)", True), ("emc2()", False)],
)
def test_a_run_does_not_notice_it(tmp_path, sampler, from_dataset):
    module, control, _ = fit(sampler=sampler, max_epochs=2)
    generators = torch.get_rng_state(), random.getstate()
    sheet = callback("ContactSheet", 2, 4, every=1, directory=tmp_path)
    watched, watched_control, _ = fit(sheet, sampler=sampler, max_epochs=2)
    assert torch.equal(hosts.parameters(module), hosts.parameters(watched))
    assert torch.equal(generators[0], torch.get_rng_state())
    assert generators[1] == random.getstate()
    plain, seen = control.state_dict()["losses"], watched_control.state_dict()["losses"]
    assert same_state(plain, seen)
    name = hosts.site_name()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"epoch={epoch:04d}-{name}.{end}" for epoch in range(2) for end in ("html", "png")
    ]
    text = (tmp_path / f"epoch=0001-{name}.html").read_text(encoding="utf-8")
    assert ("as the data set gives them now" in text) == from_dataset
    assert "no picture" not in text


def test_the_sheet_shows_the_steps_own_draws(tmp_path):
    taken = []

    class Spying(hosts.lightning().Callback):
        def on_train_batch_start(self, trainer, *_):
            if trainer.is_last_batch:
                control = next(c for c in trainer.callbacks if hasattr(c, "injection"))
                loss = control.injection.losses[hosts.site_name()].loss
                loss.sampler.register_forward_hook(lambda _, __, given: taken.append(given))

    sheet = callback("ContactSheet", num_anchors=3, num_negatives=5, directory=tmp_path)
    fit(Spying(), sheet)
    assert len(taken) == 1  # no second draw
    (part,) = taken[0]
    page = Parsed(tmp_path / f"epoch=0000-{hosts.site_name()}.html")
    labels = torch.arange(16, 24).remainder(4).repeat(2)
    false = sum(
        int(labels[column] == labels[anchor])
        for anchor in range(3)
        for column in part.choice.columns[anchor].tolist()
    )
    assert page.figures.count("negative false") == false
    assert page.figures.count("negative false") + page.figures.count("negative") == 15
    assert page.figures.count("anchor") == page.figures.count("positive") == 3
    assert len(page.sources) == 21
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)


def test_after_every_so_many_epochs_and_the_last(tmp_path):
    sheet = callback("ContactSheet", 1, 2, every=2, directory=tmp_path)
    fit(sheet, max_epochs=3, limit_train_batches=1)
    epochs = sorted(path.name[:10] for path in tmp_path.glob("*.html"))
    assert epochs == ["epoch=0001", "epoch=0002"]


def test_a_run_that_ends_by_steps_has_a_sheet(tmp_path):
    sheet = callback("ContactSheet", 1, 2, directory=tmp_path)
    fit(sheet, max_epochs=9, max_steps=2)
    assert len(list(tmp_path.glob("*.html"))) == 1


def test_an_exception_lets_go_of_the_loss(tmp_path):
    module = hosts.recipe()
    step = type(module).training_step

    def failing(self, batch, batch_idx):
        step(self, batch, batch_idx)
        raise RuntimeError("out of luck")

    module.training_step = failing.__get__(module)
    kept = []

    class Keeping(hosts.lightning().Callback):
        def on_train_start(self, trainer, *_):
            control = next(c for c in trainer.callbacks if hasattr(c, "injection"))
            kept.append(control.injection.losses[hosts.site_name()].loss)

    sheet = callback("ContactSheet", 1, 2, directory=tmp_path)
    with pytest.raises(RuntimeError, match="out of luck"):
        fit(Keeping(), sheet, module=module, limit_train_batches=1)
    assert kept[0].witness is None
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_refused_and_one_without_room_ends_no_training(
    tmp_path, caplog
):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="contact sheets cannot be written to"):
        fit(callback("ContactSheet", 1, 2, directory=tmp_path / "file" / "sheets"))
    (page := tmp_path / "sheets" / f"epoch=0000-{hosts.site_name()}.html").mkdir(parents=True)
    _, _, trainer = fit(callback("ContactSheet", 1, 2, directory=page.parent), max_epochs=1)
    assert trainer.global_step == 3
    assert any("could not write the contact sheet" in text for text in caplog.messages)
    assert [each.name for each in page.parent.iterdir()] == [page.name]  # no half of a sheet


def test_the_default_folder_is_the_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("NEGPLUG_DIAGNOSTICS", "contact_sheet")
    fit(default_root_dir=tmp_path, limit_train_batches=1)
    assert list((tmp_path / "contact_sheets").glob("*.html"))
    with pytest.raises(ValueError, match="names 'contact_sheet' and the recipe passes"):
        callback("ContactSheet")


def test_an_untreated_recipe_is_refused_or_left_alone(tmp_path, monkeypatch, caplog):
    loader = hosts.loader()
    trainer = hosts.trainer(callbacks=[callback("ContactSheet", directory=tmp_path)])
    with pytest.raises(ValueError, match="is treated, and ContactSheet shows treated ones"):
        trainer.fit(hosts.recipe(), loader)
    monkeypatch.setenv("NEGPLUG_DIAGNOSTICS", "contact_sheet")
    hosts.trainer(default_root_dir=tmp_path).fit(hosts.recipe(), loader)
    assert "writes no contact sheets: no loss of" in caplog.text
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["num_anchors", "num_negatives", "every"])
def test_numbers_out_of_range_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        callback("ContactSheet", **{name: 0})
