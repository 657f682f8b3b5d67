"""What this study takes from the recipes, the speed benchmarks and the other studies beside it.

Their modules are scripts' helpers, found by their folder; the folders go behind this one.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(1, str(Path(__file__).parents[2] / "recipes"))
sys.path.insert(2, str(Path(__file__).parents[2] / "speed"))
sys.path.insert(3, str(Path(__file__).parents[1] / "shared"))

from datasets import MEAN, STD, build_dataset, dataset_info
from devices import CPU, DeviceOption, results_of
from fashion import batches, fashion, scores, view
from harness import RESULTS, Row, append, machine, show
from intervals import mean, paired
from records import completed

__all__ = [
    "CPU",
    "MEAN",
    "RESULTS",
    "STD",
    "DeviceOption",
    "Row",
    "append",
    "batches",
    "build_dataset",
    "completed",
    "dataset_info",
    "fashion",
    "machine",
    "mean",
    "paired",
    "results_of",
    "scores",
    "show",
    "view",
]
