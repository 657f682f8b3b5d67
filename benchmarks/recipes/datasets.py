"""Data sets of the recipes, by name or by folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluttered_digits import ClutteredDigits
from downloaded import CLASSES, DatasetError, not_loaded, root_of
from torch.utils.data import Dataset
from torchvision import transforms
from torchvision.datasets import ImageFolder

# ImageNet's statistics, the default of both hosts' transforms.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)

# Of the digits that fixed cameras took: each has a background, which tells nothing about the digit.
NUM_CAMERAS = 8


@dataclass(frozen=True)
class DatasetInfo:
    """What a recipe must know about a data set before it loads it.

    Attributes:
        num_classes: Number of classes.
        image_size: Side of the images that the network gets, in pixels.
        mirrored: Whether a mirrored image still shows the same thing (digits do not).
        grey: Whether its images have one channel; the network gets it three times.
    """

    num_classes: int
    image_size: int
    mirrored: bool = True
    grey: bool = False


class First(Dataset[Any]):
    """The first images of a data set.

    torch's ``Subset`` refuses hosts' subclasses, which extend ``__getitem__`` alone.

    Args:
        images: The data set.
        size: How many of its images.
    """

    def __init__(self, images: Any, size: int) -> None:
        self.images = images
        self.size = size

    def __len__(self) -> int:
        """Returns how many there are."""
        return self.size

    def __getitem__(self, index: int) -> Any:
        """Returns an image with its label."""
        if index >= self.size:
            raise IndexError(f"there is no image {index} among the first {self.size}")
        return self.images[index]


_KNOWN = {
    "digits": DatasetInfo(num_classes=10, image_size=32, mirrored=False),
    "cameras": DatasetInfo(num_classes=10, image_size=32, mirrored=False),
    "fashion-mnist": DatasetInfo(num_classes=10, image_size=28, grey=True),
    "cifar10": DatasetInfo(num_classes=10, image_size=32),
    "cifar100": DatasetInfo(num_classes=100, image_size=32),
    "stl10": DatasetInfo(num_classes=10, image_size=96),
}


def dataset_info(name_or_path: str) -> DatasetInfo:
    """Describes a data set without loading its images.

    Args:
        name_or_path: ``"digits"``, ``"cameras"``, ``"fashion-mnist"``, ``"cifar10"``,
            ``"cifar100"``, ``"stl10"``, or a folder with one sub-folder per class in ``train`` and
            in ``val`` or ``test``.

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
        data_root: Folder that holds downloaded data sets. Fashion-MNIST is also found where
            Debian's package puts it.
        download: Whether torchvision may download the data set.
        size: Use only the first ``size`` images. Default: all.
        unlabeled: Whether to add training images without label, labelled -1, where the data set
            has any (STL-10).
        decorate: Applied to the class of the data set before it is instantiated, for hosts that
            extend classes, such as solo-learn's ``dataset_with_index``.

    Raises:
        DatasetError: If the data set is not there, is damaged, or has fewer than ``size`` images.
    """
    decorate = decorate or (lambda cls: cls)
    if name_or_path in ("digits", "cameras"):
        cameras = NUM_CAMERAS if name_or_path == "cameras" else None
        digits: Dataset[Any] = decorate(ClutteredDigits)(
            train=train, size=size, cameras=cameras, transform=transform
        )
        return digits

    # The outermost class gets decorated: indexes then count the images that are in use.
    outermost = (lambda cls: cls) if size else decorate
    if name_or_path in CLASSES:
        options: dict[str, Any] = {"transform": transform, "download": download}
        if name_or_path == "stl10":
            options["split"] = ("train+unlabeled" if unlabeled else "train") if train else "test"
        else:
            options["train"] = train
        if dataset_info(name_or_path).grey:
            colours = [transforms.Grayscale(3), *([transform] if transform else [])]
            options["transform"] = transforms.Compose(colours)
        images = _downloaded(name_or_path, outermost(CLASSES[name_or_path]), data_root, options)
    else:
        root = _image_folder(name_or_path, train)
        try:
            images = outermost(ImageFolder)(root=root, transform=transform)
        except (RuntimeError, FileNotFoundError) as error:
            raise DatasetError(f"{name_or_path!r} could not be loaded: {error}") from error
    if not size:
        whole: Dataset[Any] = images
        return whole
    if size > len(images):
        raise DatasetError(f"{name_or_path} has {len(images)} images, fewer than {size}.")
    part: Dataset[Any] = decorate(First)(images, size)
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


def _downloaded(name: str, cls: type, data_root: str, options: dict[str, Any]) -> Any:
    with root_of(name, data_root) as root:
        try:
            return cls(root=root, **options)
        # Of a damaged file its parser may say anything.
        except (RuntimeError, OSError, ValueError, TypeError, AssertionError, EOFError) as error:
            sentence = not_loaded(name, root, options["download"], error)
            raise DatasetError(sentence) from error
