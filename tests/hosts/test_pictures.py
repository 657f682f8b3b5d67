"""Pictures and scalars in the loggers of a Trainer: TensorBoard's, CSV's, and one like W&B's."""

from __future__ import annotations

import csv
import importlib
import inspect
import io
from pathlib import Path

import hosts
import pytest
from moments import callback

pytest.importorskip("matplotlib")
pytest.importorskip("tensorboard")
pytestmark = pytest.mark.filterwarnings("ignore")

NAME = f"negplug/{hosts.site_name()}"


def loggers():
    return importlib.import_module(f"{hosts.framework()}.loggers")


def wandb_like(**kwargs):
    """A logger that takes pictures as Lightning's ``WandbLogger`` does."""

    class Keeping(loggers().CSVLogger):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.pictures = []

        def log_image(self, key, images, step=None):
            # The arguments are those of the real one.
            inspect.signature(loggers().WandbLogger.log_image).bind(self, key, images, step=step)
            assert isinstance(images, list)
            self.pictures.append((key, images, step))

    return Keeping(**kwargs)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """A fit of two epochs of three steps with all loggers, none of whose steps is logged."""
    folder = tmp_path_factory.mktemp("run")
    made = [
        loggers().TensorBoardLogger(folder / "tensorboard"),
        loggers().CSVLogger(folder / "csv"),
        wandb_like(save_dir=folder / "like"),
    ]
    sheet = callback("ContactSheet", num_anchors=2, num_negatives=3, every=1)
    trainer = hosts.trainer(
        callbacks=[hosts.negative_control()("in_batch()"), sheet], logger=made, max_epochs=2
    )
    trainer.fit(hosts.recipe(), hosts.loader())
    return made


def picture_of(logger, epoch):
    from matplotlib.image import imread

    (path,) = logger.glob(f"**/contact_sheets/epoch={epoch:04d}-{hosts.site_name()}.png")
    return (imread(path)[..., :3] * 255).round().astype("uint8")


def test_tensorboard_has_pictures_and_scalars(fitted):
    from matplotlib.image import imread
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = Path(fitted[0].log_dir)
    events = EventAccumulator(str(folder), size_guidance={"images": 0, "scalars": 0})
    events.Reload()
    shown = events.Images(f"{NAME}/contact_sheet")
    assert [event.step for event in shown] == [3, 6]
    for epoch, event in enumerate(shown):
        image = imread(io.BytesIO(event.encoded_image_string), format="png")
        decoded = (image[..., :3] * 255).round().astype("uint8")
        assert (decoded == picture_of(folder, epoch)).all()
    for scalar in ("false_negatives", "false_negative_share"):
        values = [event.value for event in events.Scalars(f"{NAME}/{scalar}")]
        assert len(values) == 2
        assert all(0 < value < 1 for value in values)


def test_csv_has_the_scalars_alone(fitted):
    with open(f"{fitted[1].log_dir}/metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    values = [
        float(row[f"{NAME}/false_negatives"]) for row in rows if row[f"{NAME}/false_negatives"]
    ]
    # Of the 14 negatives of each anchor two have its label: of 8 samples, 2 have each of 4.
    assert values == pytest.approx([2 / 14] * 2)
    assert not any("contact_sheet" in name for name in rows[0])


def test_a_logger_with_log_image_gets_the_picture(fitted):
    pictures = fitted[2].pictures
    assert [(key, step) for key, _, step in pictures] == [
        (f"{NAME}/contact_sheet", 3),
        (f"{NAME}/contact_sheet", 6),
    ]
    for epoch, (_, (image,), _) in enumerate(pictures):
        assert (image == picture_of(Path(fitted[0].log_dir), epoch)).all()
