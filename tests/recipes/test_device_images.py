"""Images on the device: batches are of the indexes that were asked for, on both hosts."""

import hosts
import image_files
import pytest
import torch
from torch import nn

pytest.importorskip("kornia")

pytestmark = pytest.mark.filterwarnings("ignore")

needs_recipe = pytest.mark.skipif(
    hosts.solo_generation() == "main", reason="the recipe is of solo-learn 1.0.2"
)
HOST = "lightly" if hosts.solo_generation() is None else "solo"


def numbered(size=12):
    """Images whose only grey is their number, labelled with a third of it."""
    numbers = torch.arange(size)
    return numbers.to(torch.uint8)[:, None, None, None].repeat(1, 1, 4, 4), numbers // 3


def denormalised(views):
    from datasets import MEAN, STD

    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    return views * std + mean


def test_a_batch_has_the_images_and_labels_of_its_indexes():
    from device_images import DeviceImages
    from device_simclr import for_lightly, for_solo

    images, labels = numbered()
    for arrange in (for_lightly, for_solo):
        dataset = DeviceImages(images, labels, nn.Identity(), arrange)
        seen = []
        for batch in dataset.loader(4):
            *indexes, views, classes = batch
            numbers = [denormalised(view).mul(255).round().long()[:, 0, 0, 0] for view in views]
            assert torch.equal(*numbers)
            assert torch.equal(classes, numbers[0] // 3)
            assert all(torch.equal(given, numbers[0]) for given in indexes)
            assert views[0].shape == (4, 3, 4, 4)
            seen += numbers[0].tolist()
        assert sorted(seen) == list(range(12))


@pytest.mark.parametrize("name", ["digits", "fashion-mnist", "stl10"])
def test_views_are_drawn_anew_and_stay_images(name):
    from datasets import dataset_info
    from device_images import build_augmentation

    info = dataset_info(name)
    side = info.image_size
    augment = build_augmentation(info)
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        images = torch.rand(8, 1 if info.grey else 3, side, side)
        first, second = augment(images), augment(images)
    for view in (first, second):
        assert view.shape == images.shape
        # To rounding: a blur's weights add up to one no more exactly than that.
        assert view.min() >= -1e-6
        assert view.max() <= 1 + 1e-6
    assert ((first - second).flatten(1).norm(dim=1) > 0).all()


def test_frozen_features_get_the_images_themselves():
    from device_images import load, normalised

    images, labels = numbered()
    pairs = list(zip(images, labels.tolist(), strict=True))
    found = normalised(*load(pairs, torch.device("cpu")))
    for (image, label), (got, name) in zip(pairs, found, strict=True):
        assert torch.equal(denormalised(got).mul(255).round(), image.expand(3, -1, -1).float())
        assert label == name


@needs_recipe
@pytest.mark.parametrize(
    "sampler",
    ["memory_bank(num_negatives=4)", "filtered(by='labels')", "emc2(out_of_batch='recompute')"],
)
def test_samplers_know_samples_and_labels(sampler):
    from datasets import dataset_info
    from device_images import DeviceImages, build_augmentation
    from device_simclr import build_model, parser

    info = dataset_info("fashion-mnist")
    images = torch.randint(256, (32, 1, 28, 28), dtype=torch.uint8)
    model, _, arrange = build_model(parser().parse_args(["--host", HOST, "--lr", "1e-3"]), info)
    labels = torch.arange(32) % 10
    dataset = DeviceImages(images, labels, build_augmentation(info), arrange)
    control = hosts.negative_control()(sampler)
    hosts.trainer(callbacks=[control], max_epochs=2).fit(model, dataset.loader(16))
    (treated,) = control.injection.losses.values()
    assert treated.calls == 4


@needs_recipe
def test_the_recipe_trains_on_real_images(tmp_path, monkeypatch, capsys):
    from device_simclr import main, parser

    sizes = ((True, 64), (False, 32))
    splits = [image_files.images_of("fashion-mnist", train, number) for train, number in sizes]
    image_files.write_debians(tmp_path / "package", *splits)
    monkeypatch.setattr("downloaded.DEBIAN", tmp_path / "package")
    asked = ["--host", HOST, "--epochs", "1", "--batch-size", "16", "--train-size", "64"]
    asked += ["--accelerator", "cpu", "--lr", "1e-3", "--data-root", str(tmp_path / "data")]
    main(parser().parse_args(asked))
    said = capsys.readouterr().out
    assert "knn_acc" in said
    assert "trained for" in said
