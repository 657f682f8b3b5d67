"""What this study takes from the recipes, the speed benchmarks and other studies.

Their modules are scripts' helpers, found by their folder; the folders go behind this one.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(1, str(Path(__file__).parents[2] / "recipes"))
sys.path.insert(2, str(Path(__file__).parents[2] / "speed"))
sys.path.insert(3, str(Path(__file__).parents[1] / "shared"))

from cluttered_digits import ClutteredDigits
from datasets import build_dataset, dataset_info
from device_images import DeviceImages, build_augmentation, load, normalised, shape_of
from devices import seconds_of
from evaluation import evaluate
from harness import RESULTS, Row, append, machine, paired_ratio
from intervals import Interval, paired
from pages import with_tables
from records import completed, stored

__all__ = [
    "RESULTS",
    "ClutteredDigits",
    "DeviceImages",
    "Interval",
    "Row",
    "append",
    "build_augmentation",
    "build_dataset",
    "completed",
    "dataset_info",
    "evaluate",
    "load",
    "machine",
    "normalised",
    "paired",
    "paired_ratio",
    "seconds_of",
    "shape_of",
    "stored",
    "with_tables",
]
