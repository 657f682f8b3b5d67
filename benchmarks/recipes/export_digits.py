"""Writes the embedded digits as an image folder, for scripts that read nothing else.

Usage: python benchmarks/recipes/export_digits.py digits

The folder gets ``train`` and ``val`` with one sub-folder per class.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from cluttered_digits import ClutteredDigits


def export(folder: Path, train_size: int, val_size: int) -> None:
    """Writes both halves as PNG files, named by their index.

    Args:
        folder: Where they go.
        train_size: Number of training images.
        val_size: Number of test images.
    """
    for name, size in {"train": train_size, "val": val_size}.items():
        for index, (image, label) in enumerate(ClutteredDigits(train=name == "train", size=size)):
            kind = folder / name / str(label)
            kind.mkdir(parents=True, exist_ok=True)
            image.save(kind / f"{index:05}.png")
            if index + 1 == size:
                break


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--train-size", type=int, default=4000)
    parser.add_argument("--val-size", type=int, default=1000)
    arguments = parser.parse_args()
    export(arguments.folder, arguments.train_size, arguments.val_size)
