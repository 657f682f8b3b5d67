"""Data sets of the recipes, by name or by folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluttered_digits import ClutteredDigits
from torch.utils.data import Dataset, Subset
from torchvision import transforms
from torchvision.datasets import CIFAR10, CIFAR100, STL10, ImageFolder

# ImageNet's statistics, the default of both hosts' transforms.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


class DatasetError(ValueError):
    """A data set cannot be found; the message is one sentence that says what to do."""


@dataclass(frozen=True)
class DatasetInfo:
    """What a recipe must know about a data set before it loads it.

    Attributes:
        num_classes: Number of classes.
        image_size: Side of the images that the network gets, in pixels.
        mirrored: Whether a mirrored image still shows the same thing (digits do not).
    """

    num_classes: int
    image_size: int
    mirrored: bool = True


_KNOWN = {
    "digits": DatasetInfo(num_classes=10, image_size=32, mirrored=False),
    "cifar10": DatasetInfo(num_classes=10, image_size=32),
    "cifar100": DatasetInfo(num_classes=100, image_size=32),
    "stl10": DatasetInfo(num_classes=10, image_size=96),
}


def dataset_info(name_or_path: str) -> DatasetInfo:
    """Describes a data set without loading its images.

    Args:
        name_or_path: ``"digits"``, ``"cifar10"``, ``"cifar100"``, ``"stl10"``, or a folder with
            one sub-folder per class in ``train`` and in ``val`` or ``test``.

    Raises:
        DatasetError: If it is neither.
    """
    if name_or_path in _KNOWN:
        return _KNOWN[name_or_path]
    folders = _image_folder(name_or_path, train=True).iterdir()
    return DatasetInfo(num_classes=sum(map(Path.is_dir, folders)), image_size=224)


def build_dataset(
    name_or_path: str,
    train: bool,
    transform: Callable[..., Any] | None = None,
    *,
    data_root: str = "data",
    download: bool = False,
    size: int | None = None,
    unlabeled: bool = False,
    decorate: Callable[[type], type] | None = None,
) -> Dataset[Any]:
    """Loads a data set through torchvision's own classes.

    Args:
        name_or_path: See :func:`dataset_info`.
        train: Whether to load the training or the test images.
        transform: Maps a PIL image to what the data set returns as image.
        data_root: Folder that holds downloaded data sets.
        download: Whether torchvision may download the data set.
        size: Use only the first ``size`` images. Default: all.
        unlabeled: Whether to add training images without label, labelled -1, where the data set
            has any (STL-10).
        decorate: Applied to the class of the data set before it is instantiated, for hosts that
            extend classes, such as solo-learn's ``dataset_with_index``.

    Raises:
        DatasetError: If the data set is not there, or has fewer than ``size`` images.
    """
    decorate = decorate or (lambda cls: cls)
    if name_or_path == "digits":
        digits: Dataset[Any] = decorate(ClutteredDigits)(
            train=train, size=size, transform=transform
        )
        return digits

    options: dict[str, Any] = {"transform": transform}
    if name_or_path in _KNOWN:
        options |= {"root": data_root, "download": download}
    if name_or_path == "stl10":
        cls: type = STL10
        options["split"] = ("train+unlabeled" if unlabeled else "train") if train else "test"
    elif name_or_path in _KNOWN:
        cls = {"cifar10": CIFAR10, "cifar100": CIFAR100}[name_or_path]
        options["train"] = train
    else:
        cls = ImageFolder
        options["root"] = _image_folder(name_or_path, train)

    # The outermost class gets decorated: indexes then count the images that are in use.
    try:
        images = (cls if size else decorate(cls))(**options)
    except (RuntimeError, FileNotFoundError) as error:
        raise DatasetError(_not_loaded(name_or_path, options["root"], download, error)) from error
    if not size:
        whole: Dataset[Any] = images
        return whole
    if size > len(images):
        raise DatasetError(f"{name_or_path} has {len(images)} images, fewer than {size}.")
    part: Dataset[Any] = decorate(Subset)(images, range(size))
    return part


def evaluation_transform(image_size: int) -> Callable[..., Any]:
    """Returns the transform for frozen features: a centre crop, normalised."""
    transform: Callable[..., Any] = transforms.Compose(
        [
            transforms.Resize(image_size),
            transforms.CenterCrop(image_size),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    return transform


def _image_folder(path: str, train: bool) -> Path:
    for name in ("train",) if train else ("val", "test"):
        if (Path(path) / name).is_dir():
            return Path(path) / name
    wanted = "train/" if train else "val/ or test/"
    raise DatasetError(
        f"{path!r} is neither one of {', '.join(_KNOWN)} nor a folder with {wanted} in it."
    )


def _not_loaded(name: str, root: str | Path, download: bool, error: Exception) -> str:
    if name in _KNOWN and not download:
        return f"{name} is not in {str(root)!r}: add --download, or name its folder in --data-root."
    return f"{name} could not be loaded from {str(root)!r}: {error}"
