"""Data sets of the recipes: read from files, and refused in a sentence where those are amiss."""

import copy
from pathlib import Path
from urllib.error import URLError

import image_files
import numpy as np
import pytest
import torch
from torchvision import transforms

NAMES = sorted(image_files.CLASSES)
TRAIN, TEST = 10, 4


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


@pytest.fixture
def written(name, tmp_path, monkeypatch):
    """The folder of a data set's files; their root is ``tmp_path``."""
    monkeypatch.setattr("downloaded.DEBIAN", tmp_path / "no package")
    return image_files.write(name, tmp_path, *splits(name), monkeypatch)


def splits(name):
    sizes = ((True, TRAIN), (False, TEST))
    return [image_files.images_of(name, train, number) for train, number in sizes]


def read(name, root, train=True, **options):
    from datasets import build_dataset

    bytes_of = transforms.PILToTensor()
    return build_dataset(name, train, bytes_of, data_root=str(root), **options)


def assert_holds(dataset, images, labels):
    assert len(dataset) == len(images)
    for (found, label), image, wanted in zip(dataset, images, labels, strict=True):
        assert label == wanted
        # Grey images come with three equal channels.
        image = np.broadcast_to(image, (*image.shape[:2], 3)).copy()
        torch.testing.assert_close(found, torch.from_numpy(image).permute(2, 0, 1), rtol=0, atol=0)


def refusal(name, root, **options):
    """Return the sentence with which a data set is refused."""
    from datasets import DatasetError

    with pytest.raises(DatasetError) as caught:
        read(name, root, **options)
    sentence = str(caught.value)
    assert sentence.startswith(name)
    assert sentence.endswith(".")
    assert "\n" not in sentence
    return sentence


def spoil(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "truncated":
        del content[len(content) // 2 :]
    elif how == "emptied":
        content.clear()
    else:
        content[-20] ^= 0xFF
    path.write_bytes(content)


@pytest.mark.usefixtures("written")
def test_a_data_set_is_read_from_its_files(name, tmp_path):
    from datasets import dataset_info

    for train, (images, labels) in zip((True, False), splits(name), strict=True):
        assert_holds(read(name, tmp_path, train), images, labels)
        assert_holds(read(name, tmp_path, train, size=3), images[:3], labels[:3])
    assert dataset_info(name).num_classes == image_files.CLASSES[name]


@pytest.mark.usefixtures("written")
def test_a_hosts_subclass_reads_the_same_files(name, tmp_path):
    def with_index(cls):
        class Numbered(cls):
            def __getitem__(self, index):
                return index, *super().__getitem__(index)

        return Numbered

    for size in (None, 3):
        dataset = read(name, tmp_path, size=size, decorate=with_index)
        assert [dataset[place][0] for place in range(3)] == [0, 1, 2]
    copy.deepcopy(dataset)


def test_images_without_labels_are_added_where_there_are_any(tmp_path, monkeypatch):
    image_files.write("stl10", tmp_path, *splits("stl10"), monkeypatch)
    whole = read("stl10", tmp_path, unlabeled=True)
    assert [label for _, label in whole][TRAIN:] == [-1] * TRAIN


@pytest.mark.parametrize("how", ["truncated", "emptied", "another byte"])
def test_a_damaged_file_is_named(name, how, written, tmp_path):
    if name == "fashion-mnist" and how == "another byte":
        pytest.skip("unpacked, it has no checksum")
    file = sorted([*written.glob("*train*"), *written.glob("data_batch*")])[0]
    spoil(file, how)
    sentence = refusal(name, tmp_path)
    assert f"{str(file)!r} is truncated or damaged" in sentence
    assert "--download" in sentence


def test_a_missing_part_is_named(name, written, tmp_path):
    file = sorted(written.iterdir())[-1]
    file.unlink()
    sentence = refusal(name, tmp_path)
    assert f"lacks {file.name}: add --download" in sentence


@pytest.mark.usefixtures("written")
def test_a_data_set_that_is_not_there_can_be_downloaded(name, tmp_path):
    assert "add --download" in refusal(name, tmp_path / "elsewhere")


def test_a_download_that_fails_is_one_sentence(name, tmp_path, monkeypatch):
    def offline(*_, **__):
        raise URLError("no route\nto host")

    module = {"fashion-mnist": "mnist", "stl10": "stl10"}.get(name, "cifar")
    monkeypatch.setattr(f"torchvision.datasets.{module}.download_and_extract_archive", offline)
    monkeypatch.setattr("downloaded.DEBIAN", tmp_path / "no package")
    sentence = refusal(name, tmp_path, download=True)
    assert "could not be downloaded" in sentence
    assert "no route" in sentence


def test_more_images_than_there_are_is_an_error(tmp_path, monkeypatch):
    image_files.write("cifar10", tmp_path, *splits("cifar10"), monkeypatch)
    assert f"has {TRAIN} images" in refusal("cifar10", tmp_path, size=TRAIN + 1)


class TestDebiansPackage:
    """Fashion-MNIST without a download."""

    @pytest.fixture(autouse=True)
    def package(self, tmp_path, monkeypatch):
        folder = tmp_path / "package"
        image_files.write_debians(folder, *splits("fashion-mnist"))
        monkeypatch.setattr("downloaded.DEBIAN", folder)
        return folder

    def test_it_is_read_and_nothing_is_left_behind(self, tmp_path):
        for train, (images, labels) in zip((True, False), splits("fashion-mnist"), strict=True):
            assert_holds(read("fashion-mnist", tmp_path / "data", train), images, labels)
        assert not (tmp_path / "data").exists()

    def test_a_downloaded_copy_comes_first(self, tmp_path, monkeypatch):
        other = image_files.images_of("fashion-mnist", True, 2)
        image_files.write("fashion-mnist", tmp_path, other, other, monkeypatch)
        assert_holds(read("fashion-mnist", tmp_path), *other)

    @pytest.mark.parametrize("how", ["truncated", "emptied", "another byte"])
    def test_a_damaged_file_is_named(self, how, package, tmp_path):
        file = package / "train-images-idx3-ubyte.gz"
        spoil(file, how)
        sentence = refusal("fashion-mnist", tmp_path)
        assert f"{str(file)!r} is truncated or damaged" in sentence
        assert "reinstall" in sentence

    def test_a_missing_part_is_named(self, package, tmp_path):
        (package / "t10k-labels-idx1-ubyte.gz").unlink()
        assert "lacks t10k-labels-idx1-ubyte.gz" in refusal("fashion-mnist", tmp_path)
