"""What this study takes from the recipes, the speed benchmarks and other studies.

Their modules are scripts' helpers, found by their folder; these folders go behind this one.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(1, str(Path(__file__).parents[2] / "recipes"))
sys.path.insert(2, str(Path(__file__).parents[2] / "speed"))
sys.path.insert(3, str(Path(__file__).parents[1]))

from cluttered_digits import ClutteredDigits
from datasets import MEAN, STD
from harness import RESULTS, Row, append, machine, show

__all__ = ["MEAN", "RESULTS", "STD", "ClutteredDigits", "Row", "append", "machine", "show"]
