"""Small data sets in the files that torchvision reads, with random images."""

from __future__ import annotations

import gzip
import hashlib
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torchvision.datasets as published

CLASSES = {"cifar10": 10, "cifar100": 100, "stl10": 10, "fashion-mnist": 10}
"""Data set → number of classes."""

Split = tuple[np.ndarray, np.ndarray]


def images_of(name: str, train: bool, number: int) -> Split:
    """Return images ``[n, height, width, channels]`` and labels."""
    side, channels = {"stl10": (96, 3), "fashion-mnist": (28, 1)}.get(name, (32, 3))
    draw = np.random.default_rng([train, side])
    shape = (number, side, side, channels)
    images = draw.integers(256, size=shape, dtype=np.uint8)
    return images, draw.integers(CLASSES[name], size=number).astype(np.uint8)


def write(name: str, root: Path, train: Split, test: Split, patch: pytest.MonkeyPatch) -> Path:
    """Write a data set's files, tell torchvision their checksums, and return their folder."""
    if name == "fashion-mnist":
        folder = root / "FashionMNIST" / "raw"
        for file, content in idx_files(train, test).items():
            _write(folder / file, content)
        return folder
    cls = {"cifar10": published.CIFAR10, "cifar100": published.CIFAR100, "stl10": published.STL10}
    contents = _stl10(train, test) if name == "stl10" else _cifar(name, train, test)
    folder = root / cls[name].base_folder
    for file, content in contents.items():
        _write(folder / file, content)
    sums = {file: hashlib.md5(content).hexdigest() for file, content in contents.items()}
    for attribute in ("train_list", "test_list"):
        listed = [[file, sums[file]] for file, _ in getattr(cls[name], attribute)]
        patch.setattr(cls[name], attribute, listed)
    if name != "stl10":
        meta = cls[name].meta
        patch.setattr(cls[name], "meta", {**meta, "md5": sums[meta["filename"]]})
    return folder


def idx_files(train: Split, test: Split) -> dict[str, bytes]:
    """Return the four files of Fashion-MNIST, unpacked."""
    return {
        f"{split}-{kind}-ubyte": struct.pack(
            f">BBBB{len(values.shape)}I", 0, 0, 8, len(values.shape), *values.shape
        )
        + values.tobytes()
        for split, (images, labels) in (("train", train), ("t10k", test))
        for kind, values in (("images-idx3", images[..., 0]), ("labels-idx1", labels))
    }


def write_debians(folder: Path, train: Split, test: Split) -> None:
    """Write Fashion-MNIST as Debian's package has it: packed, and in no folder of torchvision's."""
    for file, content in idx_files(train, test).items():
        _write(folder / f"{file}.gz", gzip.compress(content, mtime=0))


def _cifar(name: str, train: Split, test: Split) -> dict[str, bytes]:
    fine = "fine_labels" if name == "cifar100" else "labels"

    def batch(images: np.ndarray, labels: np.ndarray) -> bytes:
        rows = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
        return pickle.dumps({"data": rows, fine: labels.tolist()})

    names = [f"class {number}" for number in range(CLASSES[name])]
    if name == "cifar100":
        meta = pickle.dumps({"fine_label_names": names})
        return {"train": batch(*train), "test": batch(*test), "meta": meta}
    parts = zip(*(np.array_split(values, 5) for values in train), strict=True)
    batches = {f"data_batch_{number}": batch(*part) for number, part in enumerate(parts, start=1)}
    return {
        **batches,
        "test_batch": batch(*test),
        "batches.meta": pickle.dumps({"label_names": names}),
    }


def _stl10(train: Split, test: Split) -> dict[str, bytes]:
    def columns(images: np.ndarray) -> bytes:
        return images.transpose(0, 3, 2, 1).tobytes()

    return {
        "train_X.bin": columns(train[0]),
        "train_y.bin": (train[1] + 1).tobytes(),
        "unlabeled_X.bin": columns(train[0][::-1]),
        "test_X.bin": columns(test[0]),
        "test_y.bin": (test[1] + 1).tobytes(),
    }


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
