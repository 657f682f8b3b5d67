"""Data sets that torchvision reads from files: where those are, and what is wrong with them."""

from __future__ import annotations

import contextlib
import gzip
import math
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from torchvision import datasets
from torchvision.datasets.utils import check_integrity

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package dataset-fashion-mnist puts the packed files."""


class DatasetError(ValueError):
    """A data set cannot be found; the message is one sentence that says what to do."""


class FashionMNIST(datasets.FashionMNIST):
    """torchvision's; a host's subclass of it looks for the files in the same folder."""

    @property
    def raw_folder(self) -> str:
        """The folder of the unpacked files."""
        return str(Path(self.root, "FashionMNIST", "raw"))


CLASSES: dict[str, type] = {
    "fashion-mnist": FashionMNIST,
    "cifar10": datasets.CIFAR10,
    "cifar100": datasets.CIFAR100,
    "stl10": datasets.STL10,
}
"""Name → torchvision's class."""


@contextlib.contextmanager
def root_of(name: str, data_root: str) -> Iterator[str]:
    """Give the root for torchvision's class, for as long as it loads.

    That is ``data_root``, unless Fashion-MNIST is not there and Debian's package is installed: its
    files are then unpacked for the moment, since torchvision keeps the images in memory.

    Raises:
        DatasetError: If a file of the package is missing or damaged.
    """
    if name != "fashion-mnist" or Path(data_root, "FashionMNIST").exists() or not DEBIAN.exists():
        yield data_root
        return
    with tempfile.TemporaryDirectory() as folder:
        _unpack(Path(folder, "FashionMNIST", "raw"))
        yield folder


def not_loaded(name: str, root: str, download: bool, error: Exception) -> str:
    """Return the sentence that says why torchvision could not load a data set.

    Args:
        name: Of the data set.
        root: Its root.
        download: Whether torchvision was to download what is not there.
        error: What it raised.
    """
    files = _files(name, Path(root))
    missing = [path for path, _ in files if not path.is_file()]
    damaged = next((path for path, checksum in files if _is_damaged(path, checksum)), None)
    if damaged:
        return (
            f"{name}: {str(damaged)!r} is truncated or damaged: delete it and add --download, "
            "which fetches it anew."
        )
    if download:
        return f"{name} could not be downloaded to {root!r}: {' '.join(str(error).split())}."
    if missing and len(missing) < len(files):
        return f"{name} in {root!r} lacks {missing[0].name}: add --download, which fetches it."
    if missing:
        package = ", install Debian's dataset-fashion-mnist," if name == "fashion-mnist" else ""
        return (
            f"{name} is not in {root!r}: add --download{package} or name its folder in --data-root."
        )
    return f"{name} could not be loaded from {root!r}: {' '.join(str(error).split())}."


def _unpack(folder: Path) -> None:
    folder.mkdir(parents=True)
    for name, _ in FashionMNIST.resources:
        source = DEBIAN / name
        if not source.is_file():
            raise DatasetError(
                f"fashion-mnist in {str(DEBIAN)!r} lacks {name}: reinstall dataset-fashion-mnist."
            )
        if not _unpacks(source, folder / source.stem):
            raise DatasetError(
                f"fashion-mnist: {str(source)!r} is truncated or damaged: "
                "reinstall dataset-fashion-mnist."
            )


def _unpacks(source: Path, file: Path) -> bool:
    """Unpack a file and return whether it is whole; gzip has a checksum of its own."""
    try:
        with gzip.open(source) as packed, file.open("wb") as unpacked:
            shutil.copyfileobj(packed, unpacked)
    except (EOFError, gzip.BadGzipFile, zlib.error):
        return False
    return _is_whole(file)


def _files(name: str, root: Path) -> list[tuple[Path, str | None]]:
    """Return the files that torchvision reads, each with its published checksum, if it has one."""
    known = CLASSES[name]
    if name == "fashion-mnist":
        folder = root / "FashionMNIST" / "raw"
        return [(folder / Path(packed).stem, None) for packed, _ in known.resources]
    listed = [*known.train_list, *known.test_list]
    if hasattr(known, "meta"):
        listed.append((known.meta["filename"], known.meta["md5"]))
    return [(root / known.base_folder / file, checksum) for file, checksum in listed]


def _is_damaged(path: Path, checksum: str | None) -> bool:
    if not path.is_file():
        return False
    return not (check_integrity(path, checksum) if checksum else _is_whole(path))


def _is_whole(path: Path) -> bool:
    """Return whether a file in MNIST's format has the bytes that its head announces.

    The head is two zero bytes, the type (8: unsigned bytes), the number of dimensions, and their
    sizes, four bytes each.
    """
    with path.open("rb") as file:
        magic = file.read(4)
        if len(magic) < 4 or magic[:3] != b"\0\0\x08":
            return False
        head = file.read(4 * magic[3])
    sizes = [int.from_bytes(head[place : place + 4], "big") for place in range(0, len(head), 4)]
    return len(sizes) == magic[3] and path.stat().st_size == 4 + len(head) + math.prod(sizes)
