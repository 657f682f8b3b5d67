"""What this study takes from the recipes, the speed benchmarks and the other studies beside it.

Their modules are scripts' helpers, found by their folder; the folders go behind this one.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(1, str(Path(__file__).parents[2] / "recipes"))
sys.path.insert(2, str(Path(__file__).parents[2] / "speed"))
sys.path.insert(3, str(Path(__file__).parents[1] / "shared"))

from devices import CPU, DeviceOption, results_of
from fashion import Fashion, batches, fashion, scores, view
from harness import RESULTS, Row, machine
from intervals import Interval, mean, paired, rank_correlation
from pages import TABLES, with_tables
from records import completed, stored

__all__ = [
    "CPU",
    "RESULTS",
    "TABLES",
    "DeviceOption",
    "Fashion",
    "Interval",
    "Row",
    "batches",
    "completed",
    "fashion",
    "machine",
    "mean",
    "paired",
    "rank_correlation",
    "results_of",
    "scores",
    "stored",
    "view",
    "with_tables",
]
